//! Sessions at a provider that binds refresh tokens to APIs and rotates them strictly, over HTTP; those
//! at Entra in `entra`; what is remembered of both in `memory`.

mod entra;
mod memory;

use std::time::Duration;

use errand_simulator::{Options, RealmRequest, Reply, ScriptedAnswer, Simulator};
use sqlx::SqlitePool;

use super::*;
use crate::{
    config::Config,
    identity::{AccessToken, Caller, Decision, SuspensionReason, Verifier},
    storage::{self, ClaimedSession, Grant, SessionSelector, SessionState},
    time::{Clock, ManualClock, SystemClock},
};

struct Story {
    simulator: Simulator,
    config: Config,
    clock: Arc<ManualClock>,
    store: SharedStore,
    sessions: Arc<Sessions>,
    _folder: tempfile::TempDir,
}

impl Story {
    /// `refresh` as in the configuration.
    async fn begin(refresh: &str) -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let configuration = configuration(&simulator, refresh);
        Self::begin_with(simulator, &configuration).await
    }

    /// `configuration` without database and keys.
    async fn begin_with(simulator: Simulator, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("errand.toml");
        let storage = format!(
            "database.url = 'sqlite://{}/errand.db'\n\
             encryption.keys = ['k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=']\n",
            folder.path().display()
        );
        std::fs::write(&path, storage + configuration).unwrap();
        let config = Config::load(Some(&path), []).unwrap();
        let store = storage::open(&config.database, &config.encryption).await.unwrap();
        let clock = ManualClock::at(SystemClock.now());
        let sessions = Sessions::new(&config.identity, Arc::clone(&store), clock.clone());
        Self { simulator, config, clock, store, sessions, _folder: folder }
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.simulator.advance_clock(by);
    }

    fn api(&self, name: &str) -> &DownstreamApi {
        &self.config.downstream_apis[name]
    }

    /// Alice, with a fresh token.
    async fn alice(&self) -> Caller {
        self.caller(&self.simulator.realm_user_token("alice")).await
    }

    async fn caller(&self, token: &str) -> Caller {
        let verifier = Verifier::new(&self.config.identity, self.clock.clone());
        verifier.verify(Some(&format!("Bearer {token}"))).await.unwrap()
    }

    async fn initiate(&self, caller: &Caller, apis: &[&str]) -> Result<Initiated, InitiateError> {
        let apis: Vec<&DownstreamApi> = apis.iter().map(|name| self.api(name)).collect();
        let initiated = self.sessions.initiate(caller, Some("k"), &apis, Preflight::First).await?;
        if let Grant::New(grant) = initiated.grant() {
            self.store.replace_grant(&caller.principal, grant).await.unwrap();
        }
        Ok(initiated)
    }

    async fn session(&self, caller: &Caller) -> storage::KnownSession {
        let selector = SessionSelector::Key("k");
        let client_id = &self.config.identity.client_id;
        let found = self.store.find_session(&caller.principal, client_id, selector).await;
        found.unwrap().unwrap()
    }

    /// The session as a job that is claimed now has it.
    async fn claim(&self, caller: &Caller) -> ClaimedSession {
        let id = self.session(caller).await.id;
        let client_id = &self.config.identity.client_id;
        let held = self.store.held_grant(id, "", &caller.principal, client_id, "").await;
        ClaimedSession { id, version: held.unwrap().unwrap().session_version }
    }

    async fn acquire(&self, caller: &Caller, api: &str) -> Result<AccessToken, AcquireError> {
        self.acquire_as(self.claim(caller).await, caller, api).await
    }

    /// As a job that was claimed then.
    async fn acquire_as(
        &self,
        session: ClaimedSession,
        caller: &Caller,
        api: &str,
    ) -> Result<AccessToken, AcquireError> {
        self.sessions
            .acquire_token(session, &caller.principal, self.api(api), None)
            .await
            .map(|token| token.access_token)
    }

    /// Writes past the store.
    async fn execute(&self, statement: &'static str) {
        let url = secrecy::ExposeSecret::expose_secret(&self.config.database.url);
        let pool = SqlitePool::connect(url).await.unwrap();
        sqlx::query(statement).execute(&pool).await.unwrap();
        pool.close().await;
    }

    /// Requests to the token endpoint since number `from`, by their grant type's last word.
    fn requests(&self, from: usize) -> Vec<(String, Option<String>, Option<u16>)> {
        let requests = self.simulator.realm_requests().split_off(from);
        let shown = |request: RealmRequest| {
            let grant_type = request.grant_type.unwrap_or_default();
            let kind = grant_type.rsplit(':').next().unwrap_or_default().to_owned();
            (kind, request.audience, request.status)
        };
        requests.into_iter().map(shown).collect()
    }
}

fn configuration(simulator: &Simulator, refresh: &str) -> String {
    let (authority, errand) = (simulator.realm_authority(), simulator.description());
    let api = |name: &str, path: &str, audience: &str| {
        format!(
            "[downstream_apis.{name}]\nbase_url = '{}'\nscopes = ['read']\n\
             extra_token_parameters = {{ audience = '{audience}' }}\n",
            errand.downstream.replace("partner", path)
        )
    };
    format!(
        "[identity]\ndialect = 'token-exchange'\nauthority = '{authority}'\n\
         client_id = '{}'\nclient_secret = '{}'\nrefresh = '{refresh}'\n{}{}",
        errand.client_id,
        errand.client_secret,
        api("Partner", "partner", "api://partner-api-id"),
        api("Ledger", "ledger", "api://ledger-api-id"),
    )
}

fn exchange(audience: &str) -> (String, Option<String>, Option<u16>) {
    ("token-exchange".to_owned(), Some(audience.to_owned()), Some(200))
}

fn refresh(audience: &str) -> (String, Option<String>, Option<u16>) {
    ("refresh_token".to_owned(), Some(audience.to_owned()), Some(200))
}

fn revoked(result: &Result<AccessToken, AcquireError>) -> bool {
    matches!(result, Err(AcquireError::Suspend { reason: SuspensionReason::SessionRevoked, .. }))
}

const PARTNER: &str = "api://partner-api-id";
const LEDGER: &str = "api://ledger-api-id";

#[tokio::test]
async fn each_api_is_exchanged_once_and_refreshed_by_itself() {
    for request in ["offline_access", "requested_type"] {
        let story = Story::begin(request).await;
        let alice = story.alice().await;
        let initiated = story.initiate(&alice, &["Partner"]).await.unwrap();
        assert_eq!(initiated.ends_at(), None);
        drop(initiated);
        // The second document names one more: only that one is exchanged.
        drop(story.initiate(&alice, &["Partner", "Ledger"]).await.unwrap());
        let known = story.initiate(&alice, &["Ledger", "Partner"]).await.unwrap();
        assert!(matches!(known.grant(), Grant::Known(_)));
        drop(known);
        assert_eq!(story.requests(0), [exchange(PARTNER), exchange(LEDGER)], "{request}");

        let first = story.acquire(&alice, "Partner").await.unwrap();
        for _ in 0..3 {
            story.advance(Duration::from_mins(56));
            let before = story.simulator.realm_requests().len();
            let apis = ["Partner", "Ledger", "Partner", "Ledger", "Partner"];
            let acquired = apis.iter().map(|api| story.acquire(&alice, api));
            let acquired = futures::future::join_all(acquired).await;
            assert!(acquired.iter().all(Result::is_ok), "{acquired:?}");
            let mut requests = story.requests(before);
            requests.sort_unstable();
            assert_eq!(requests, [refresh(LEDGER), refresh(PARTNER)]);
        }
        let last = story.acquire(&alice, "Partner").await.unwrap();
        assert_ne!(first.expose(), last.expose());
    }
}

#[tokio::test]
async fn without_a_refresh_token_a_session_lives_as_long_as_its_access_token() {
    let story = Story::begin("none").await;
    let alice = story.alice().await;
    let began = story.clock.now();
    let initiated = story.initiate(&alice, &["Partner", "Ledger"]).await.unwrap();
    assert_eq!(initiated.ends_at(), Some(began + Duration::from_hours(1)));
    drop(initiated);
    let known = story.initiate(&alice, &["Partner"]).await.unwrap();
    assert_eq!(known.ends_at(), Some(began + Duration::from_hours(1)));
    drop(known);

    story.advance(Duration::from_mins(59));
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    story.advance(Duration::from_mins(1));
    assert!(revoked(&story.acquire(&alice, "Partner").await));
    assert!(revoked(&story.acquire(&alice, "Ledger").await));

    // The user is back for one API, and all of them are renewed.
    let alice = story.alice().await;
    let apis = &story.config.downstream_apis;
    story.sessions.resume(&alice, "k", story.api("Ledger"), apis).await.unwrap();
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    assert!(story.acquire(&alice, "Ledger").await.is_ok());
    assert_eq!(story.requests(2), [exchange(LEDGER), exchange(PARTNER)]);
}

#[tokio::test]
async fn a_refused_refresh_token_is_dead_at_once() {
    let story = Story::begin("offline_access").await;
    let alice = story.alice().await;
    drop(story.initiate(&alice, &["Partner", "Ledger"]).await.unwrap());
    story.simulator.end_realm_sessions();
    story.advance(Duration::from_mins(56));
    assert!(revoked(&story.acquire(&alice, "Partner").await));
    assert!(revoked(&story.acquire(&alice, "Partner").await));
    assert_eq!(story.requests(2).len(), 1);
    assert_eq!(story.session(&alice).await.state, SessionState::Active);
    assert!(revoked(&story.acquire(&alice, "Ledger").await));
    assert_eq!(story.session(&alice).await.state, SessionState::InteractionRequired);

    let alice = story.alice().await;
    drop(story.initiate(&alice, &["Partner"]).await.unwrap());
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    assert!(revoked(&story.acquire(&alice, "Ledger").await));
}

#[tokio::test]
async fn an_answer_that_is_lost_after_rotation_costs_this_api_only() {
    let story = Story::begin("offline_access").await;
    let alice = story.alice().await;
    drop(story.initiate(&alice, &["Partner", "Ledger"]).await.unwrap());
    story.advance(Duration::from_mins(56));
    let lost = ScriptedAnswer { after_processing: true, ..Reply::Dropped.into() };
    story.simulator.script_token_answer(lost);
    assert!(revoked(&story.acquire(&alice, "Partner").await));
    // Presented once more at once, which a strict provider takes for theft.
    let statuses: Vec<_> = story.requests(2).into_iter().map(|(_, _, status)| status).collect();
    assert_eq!(statuses, [None, Some(400)]);
    assert!(story.acquire(&alice, "Ledger").await.is_ok());
}

#[tokio::test]
async fn a_refused_exchange_names_its_api_and_stores_nothing() {
    let mut story = Story::begin("offline_access").await;
    let ledger = story.config.downstream_apis.get_mut("Ledger").unwrap();
    ledger.extra_token_parameters.insert("audience".to_owned(), "unknown".to_owned());
    let alice = story.alice().await;
    let error = story.initiate(&alice, &["Partner", "Ledger"]).await.unwrap_err();
    let InitiateError::Refused { api, source } = error else { panic!("{error}") };
    assert_eq!((api.name.as_str(), source.decision), ("Ledger", Decision::Operator));
    let selector = SessionSelector::Key("k");
    let client_id = &story.config.identity.client_id;
    let found = story.store.find_session(&alice.principal, client_id, selector).await.unwrap();
    assert_eq!(found, None);
}
