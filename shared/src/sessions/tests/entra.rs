//! Sessions of several tenants at Entra: what is held, what is renewed early, what is kept alive.

use errand_simulator::{HttpAnswer, UserTokenRequest};

use super::*;
use crate::storage::{GateReason, KnownGrant};

pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const MINUTE: Duration = Duration::from_mins(1);

impl Story {
    /// User tokens outlast everything, access tokens `lifetime`.
    pub(super) async fn at_entra(lifetime: Duration) -> Self {
        let options = Options {
            access_token_lifetime: lifetime,
            user_token_lifetime: 1000 * HOUR,
            ..Options::default()
        };
        let simulator = Simulator::start(options).await.unwrap();
        let errand = simulator.description();
        let (instance, _) = errand.authority.rsplit_once('/').unwrap();
        let api = |name: &str, path: &str, scope: &str| {
            let base_url = errand.downstream.replace("partner", path);
            format!("[downstream_apis.{name}]\nbase_url = '{base_url}'\nscopes = ['{scope}']\n")
        };
        let configuration = format!(
            "[identity]\ninstance = '{instance}/'\ntenant_id = 'organizations'\n\
             allowed_tenants = ['*']\nclient_id = '{}'\nclient_secret = '{}'\n{}{}",
            errand.client_id,
            errand.client_secret,
            api("Ledger", "ledger", "api://ledger-api-id/read"),
            api("Partner", "partner", &errand.scope),
        );
        Self::begin_with(simulator, &configuration).await
    }

    pub(super) async fn user(&self, name: &str, tenant: &str) -> Caller {
        let tenant = Some(tenant.to_owned());
        let request = UserTokenRequest { tenant, ..UserTokenRequest::named(name) };
        let claims = self.simulator.user_claims(&request);
        self.caller(&self.simulator.sign(&self.simulator.token_header(), &claims)).await
    }

    /// With a session.
    pub(super) async fn signed_in(&self, name: &str, tenant: &str) -> Caller {
        let caller = self.user(name, tenant).await;
        drop(self.initiate(&caller, &["Partner"]).await.unwrap());
        caller
    }

    pub(super) fn asked(&self) -> usize {
        self.simulator.token_requests().len()
    }

    /// Waits for what goes on beside the callers.
    pub(super) async fn settle(&self) {
        self.sessions.tasks.close();
        self.sessions.tasks.wait().await;
        self.sessions.tasks.reopen();
    }
}

pub(super) fn tenant() -> String {
    Uuid::now_v7().to_string()
}

/// How long a request has to wait that was refused for itself, or like others.
fn wait(result: Result<AccessToken, AcquireError>) -> Duration {
    match result.unwrap_err() {
        AcquireError::Unavailable { after } => after.unwrap(),
        AcquireError::Held { after } => after,
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_request_loop_makes_its_session_wait_longer_each_time() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    story.advance(56 * MINUTE);
    for minutes in [5, 10, 20, 40, 60, 60] {
        story.simulator.script_token_answer(story.simulator.entra_error(50_196));
        let asked = story.asked();
        assert_eq!(wait(story.acquire(&alice, "Partner").await), minutes * MINUTE);
        story.advance((minutes - 1) * MINUTE);
        assert_eq!(wait(story.acquire(&alice, "Partner").await), MINUTE);
        assert_eq!(story.asked(), asked + 1);
        story.advance(MINUTE);
    }
    // Only its own: and the refresh token was never dead.
    let bob = story.signed_in("bob", &alice.principal.tenant).await;
    assert!(story.acquire(&bob, "Partner").await.is_ok());
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    story.advance(56 * MINUTE);
    story.simulator.script_token_answer(story.simulator.entra_error(50_196));
    assert_eq!(wait(story.acquire(&alice, "Partner").await), 5 * MINUTE);
}

#[tokio::test]
async fn a_throttle_holds_the_refreshes_and_exchanges_of_its_tenant() {
    let story = Story::at_entra(HOUR).await;
    let (contoso, fabrikam) = (tenant(), tenant());
    let alice = story.signed_in("alice", &contoso).await;
    let bob = story.signed_in("bob", &contoso).await;
    let carol = story.signed_in("carol", &fabrikam).await;
    story.advance(56 * MINUTE);
    let asked = story.asked();
    let throttled = HttpAnswer::text(429, "").with_header("retry-after", "600");
    story.simulator.script_token_answer(throttled);
    for caller in [&alice, &bob, &alice] {
        let result = story.acquire(caller, "Partner").await;
        assert!(matches!(result, Err(AcquireError::Held { .. })), "{result:?}");
        // Ten minutes, less what the database's clock has gone, and spread.
        let wait = wait(result);
        assert!((9 * MINUTE..=11 * MINUTE).contains(&wait), "{wait:?}");
    }
    let dora = story.user("dora", &contoso).await;
    let refused = story.initiate(&dora, &["Ledger"]).await.unwrap_err();
    let InitiateError::Held { reason, retry_after } = refused else { panic!("{refused}") };
    assert_eq!(reason, GateReason::Throttled);
    assert!(retry_after <= 10 * MINUTE && retry_after > 9 * MINUTE, "{retry_after:?}");
    assert_eq!(story.asked(), asked + 1);
    assert!(story.acquire(&carol, "Partner").await.is_ok());

    // The time is over, and the first one is refused again: nobody else asks.
    story.execute("update gates set not_before = 0").await;
    story.simulator.script_token_answer(HttpAnswer::text(429, ""));
    let asked = story.asked();
    for caller in [&bob, &alice] {
        let wait = wait(story.acquire(caller, "Partner").await);
        assert!((50..=75).contains(&wait.as_secs()), "{wait:?}");
    }
    assert_eq!(story.asked(), asked + 1);
    story.execute("update gates set not_before = 0").await;
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    assert!(story.acquire(&bob, "Partner").await.is_ok());
    assert!(story.initiate(&dora, &["Partner"]).await.is_ok());
}

#[tokio::test]
async fn a_refused_client_holds_its_tenant_and_a_refused_api_only_itself() {
    let story = Story::at_entra(HOUR).await;
    let (contoso, fabrikam) = (tenant(), tenant());
    let alice = story.signed_in("alice", &contoso).await;
    let bob = story.signed_in("bob", &contoso).await;
    let carol = story.signed_in("carol", &fabrikam).await;
    let held = |result: &Result<AccessToken, AcquireError>| {
        matches!(result, Err(AcquireError::Held { .. }))
    };
    story.simulator.script_token_answer(story.simulator.entra_error(500_011));
    let asked = story.asked();
    assert!(held(&story.acquire(&alice, "Ledger").await));
    assert!(held(&story.acquire(&bob, "Ledger").await));
    assert_eq!(story.asked(), asked + 1);
    assert!(story.acquire(&carol, "Ledger").await.is_ok());
    story.advance(56 * MINUTE);
    assert!(story.acquire(&alice, "Partner").await.is_ok());

    story.simulator.script_token_answer(story.simulator.entra_error(7_000_215));
    let asked = story.asked();
    assert!(held(&story.acquire(&bob, "Partner").await));
    assert!(held(&story.acquire(&bob, "Ledger").await));
    assert_eq!(story.asked(), asked + 1);
    // What needs no request is not held.
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    assert_eq!(story.asked(), asked + 1);
    let dora = story.user("dora", &contoso).await;
    let refused = story.initiate(&dora, &["Partner"]).await.unwrap_err();
    let expected = GateReason::Operator;
    assert!(matches!(refused, InitiateError::Held { reason, .. } if reason == expected));
    assert!(story.acquire(&carol, "Partner").await.is_ok());
}

#[tokio::test]
async fn a_token_past_the_providers_hint_is_handed_out_and_renewed_beside_it_once() {
    let story = Story::at_entra(6 * HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let first = story.acquire(&alice, "Partner").await.unwrap();
    // The hint is half of the life; five minutes later the latest has begun to renew.
    story.advance(179 * MINUTE);
    story.acquire(&alice, "Partner").await.unwrap();
    story.settle().await;
    assert_eq!(story.asked(), 1);
    story.advance(6 * MINUTE);
    let other =
        Sessions::new(&story.config.identity, Arc::clone(&story.store), story.clock.clone());
    let session = story.claim(&alice).await;
    let acquired = (0..10).map(|number| {
        let sessions = if number % 2 == 0 { &story.sessions } else { &other };
        sessions.acquire_token(session, &alice.principal, story.api("Partner"), None)
    });
    for acquired in futures::future::join_all(acquired).await {
        assert_eq!(acquired.unwrap().access_token.expose(), first.expose());
    }
    story.settle().await;
    other.finish_refreshes().await;
    assert_eq!(story.asked(), 2);
    // Whoever did not renew it may remember the old one, which is good for hours; one that comes new
    // does not.
    let third =
        Sessions::new(&story.config.identity, Arc::clone(&story.store), story.clock.clone());
    let renewed = third.acquire_token(session, &alice.principal, story.api("Partner"), None).await;
    assert_ne!(renewed.unwrap().access_token.expose(), first.expose());
    assert_eq!(story.asked(), 2);
}

#[tokio::test]
async fn an_early_renewal_that_fails_changes_nothing_for_who_holds_a_good_token() {
    let story = Story::at_entra(6 * HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let first = story.acquire(&alice, "Partner").await.unwrap();
    story.advance(3 * HOUR + 5 * MINUTE);
    // Consent was withdrawn: five minutes later it is tried again, and not before.
    story.simulator.script_token_answer(story.simulator.entra_error(65_001));
    for _ in 0..3 {
        assert_eq!(story.acquire(&alice, "Partner").await.unwrap().expose(), first.expose());
        story.settle().await;
    }
    assert_eq!(story.asked(), 2);

    // The refresh token is dead: never sent again, and the access token is good until it ends.
    story.advance(5 * MINUTE);
    story.simulator.script_token_answer(story.simulator.entra_error(50_173));
    for _ in 0..3 {
        assert_eq!(story.acquire(&alice, "Partner").await.unwrap().expose(), first.expose());
        story.settle().await;
        story.advance(10 * MINUTE);
    }
    assert_eq!(story.asked(), 3);
    assert_eq!(story.session(&alice).await.state, SessionState::Active);

    // A new submission, even with the same token, brings another grant.
    let initiated = story.initiate(&alice, &["Partner"]).await.unwrap();
    assert!(matches!(initiated.grant(), Grant::New(_)));
    drop(initiated);
    let [grant] = &story.session(&alice).await.grants[..] else { panic!() };
    assert!(matches!(grant, KnownGrant { renewable: true, expires_at: Some(_), .. }));
    assert_ne!(story.acquire(&alice, "Partner").await.unwrap().expose(), first.expose());
}

#[tokio::test]
async fn without_its_refresh_token_a_session_ends_with_its_access_token() {
    let story = Story::at_entra(6 * HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    story.advance(3 * HOUR + 5 * MINUTE);
    story.simulator.script_token_answer(story.simulator.entra_error(50_173));
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    story.settle().await;
    let asked = story.asked();
    story.advance(174 * MINUTE);
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    assert!(revoked(&story.acquire(&alice, "Ledger").await));
    story.advance(2 * MINUTE);
    assert!(revoked(&story.acquire(&alice, "Partner").await));
    assert_eq!(story.asked(), asked);
}

#[tokio::test]
async fn a_session_that_a_job_needs_is_refreshed_once_in_a_while() {
    let story = Story::at_entra(HOUR).await;
    let (alice, bob) =
        (story.signed_in("alice", &tenant()).await, story.signed_in("bob", &tenant()).await);
    let unused = 30 * 24 * HOUR;
    let apis = &story.config.downstream_apis;
    let other =
        Sessions::new(&story.config.identity, Arc::clone(&story.store), story.clock.clone());
    let round = async || {
        let rounds = [&story.sessions, &other].map(|it| it.keep_alive_once(unused, apis));
        futures::future::try_join_all(rounds).await.unwrap();
    };
    // Of alice's; nobody needs bob's.
    story
        .execute(
            "insert into jobs (id, tenant, subject, session_id, status, due_at, namespace, name,
                               version, definition, input, progress, tags, warnings, traceparent,
                               created_at, updated_at, deadline_at)
             select id, tenant, subject, id, 'waiting', 9000000000000000, 'a', 'b', '1.0.0', x'00',
                    x'00', '{}', '{}', '[]', '', 0, 0, 9000000000000000
             from sessions order by id limit 1",
        )
        .await;
    round().await;
    assert_eq!(story.asked(), 2);
    story.execute("update grants set refreshed_at = refreshed_at - 30 * 86400000000").await;
    round().await;
    round().await;
    let requests = story.simulator.token_requests().split_off(2);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].grant_type, "refresh_token");
    // For the API that it served, although another comes first in the configuration.
    assert!(story.acquire(&alice, "Partner").await.is_ok());
    assert!(story.acquire(&bob, "Partner").await.is_ok());
    assert_eq!(story.asked(), 3);

    // One that fails is left for a while, and loses nothing.
    story.execute("update grants set refreshed_at = refreshed_at - 30 * 86400000000").await;
    story.execute("update grants set keep_alive_at = null").await;
    story.simulator.script_token_answer(HttpAnswer::text(503, "").with_header("retry-after", "9"));
    round().await;
    round().await;
    assert_eq!(story.asked(), 4);
    assert!(story.acquire(&alice, "Partner").await.is_ok());
}

#[test]
fn an_early_renewal_is_spread_and_never_near_the_end() {
    let at = |seconds: i64| Timestamp::from_seconds(1_800_000_000 + seconds).unwrap();
    for (hint, life, most) in [(3600, 7200, 300), (100, 7200, 50), (7100, 7200, 50)] {
        let response = crate::identity::TokenResponse {
            access_token: AccessToken::new("a".to_owned()),
            expires_at: at(life),
            refresh_at: Some(at(hint)),
            refresh_token: None,
            granted_scopes: Vec::new(),
        };
        let spread: Vec<Timestamp> = (0..100)
            .map(|_| new_access_token(String::new(), at(0), &response).refresh_at.unwrap())
            .collect();
        assert!(spread.iter().all(|due| (at(hint)..=at(hint + most)).contains(due)), "{spread:?}");
        assert!(spread.iter().any(|due| *due != spread[0]));
    }
}
