//! What any store must do. Every case runs on SQLite and on PostgreSQL.
//!
//! One more case: an async function that takes a [`TestStore`], and its name in the list at the end.

mod audit;
mod call_slots;
mod gates;
mod model;
mod own_jobs;
mod queue;
mod retention;
mod rotation;
mod state_machine;
mod webhooks;

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use uuid::Uuid;

use self::{
    audit::*, call_slots::*, gates::*, own_jobs::*, queue::*, retention::*, rotation::*,
    state_machine::*, webhooks::*,
};
use super::*;
use crate::{
    config::EncryptionKey,
    identity::{AccessToken, AssertionHash, Principal, RefreshToken, SuspensionReason},
    jobs::{Callback, DefinitionName, Job, JobStatus, Suspension},
    time::Timestamp,
    workflow::Progress,
};

const CLIENT: &str = "11111111-2222-4333-8444-555555555555";
const MINUTE: Duration = Duration::from_mins(1);

/// A store on a database of its own, with the little language the cases are written in.
pub(crate) struct TestStore {
    store: SharedStore,
    database: DatabaseConfig,
    /// Of the jobs it submits.
    callback: Option<Callback>,
    priority: u8,
    _folder: Option<tempfile::TempDir>,
}

impl std::ops::Deref for TestStore {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

/// The life of one job, for tests of what is kept of it.
impl TestStore {
    pub(crate) async fn claim_new(&self) -> Lease {
        self.submit(&alice(), None).await;
        self.claim_one().await.lease
    }

    pub(crate) async fn keep(&self, lease: &Lease, checkpoint: Vec<u8>) {
        let kept = Record { checkpoint, ..record(Next::Continue) };
        self.record_one(lease, &kept).await.unwrap();
    }

    /// Its worker dies, and another comes: what does it find?
    pub(crate) async fn claim_again(&self, lease: &Lease) -> (Lease, Vec<u8>) {
        // However often before.
        self.execute("update jobs set interruptions = 0").await;
        self.interrupt(lease).await.unwrap();
        let claimed = self.claim_one().await;
        (claimed.lease, claimed.checkpoint.unwrap())
    }

    pub(crate) async fn complete(&self, lease: &Lease) {
        self.record_one(lease, &record(Next::Complete(json!(null)))).await.unwrap();
    }
}

fn ring(ids: &[&str]) -> EncryptionConfig {
    let key =
        |id: &str| EncryptionKey { id: id.to_owned(), key: [id.as_bytes()[0]; 32].to_vec().into() };
    EncryptionConfig { keys: ids.iter().map(|id| key(id)).collect() }
}

impl TestStore {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("errand.db").display());
        Self::open(url, Some(folder)).await
    }

    pub(crate) async fn postgres() -> Self {
        let server = std::env::var("TEST_DATABASE_URL").expect(
            "TEST_DATABASE_URL is not set: run ./test, which starts a PostgreSQL of its own",
        );
        let name = format!("errand_{}", Uuid::now_v7().simple());
        let admin = sqlx::PgPool::connect(&server).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
            .execute(&admin)
            .await
            .unwrap();
        admin.close().await;
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        Self::open(url.into(), None).await
    }

    async fn open(url: String, folder: Option<tempfile::TempDir>) -> Self {
        let database = DatabaseConfig { url: url.into(), listen: true, prepared_statements: true };
        let store = open(&database, &ring(&["a"])).await.unwrap();
        Self { store, database, callback: None, priority: 0, _folder: folder }
    }

    /// A database that is there already.
    pub(crate) async fn at(url: String) -> Self {
        Self::open(url, None).await
    }

    pub(crate) fn url(&self) -> &str {
        self.database.url.expose_secret()
    }

    /// The same database, opened with other keys.
    async fn under(self, keys: &[&str]) -> Self {
        let store = super::open(&self.database, &ring(keys)).await.unwrap();
        Self { store, ..self }
    }

    /// The database of a version before, as far as its list of migrations says.
    async fn forget_a_migration(&self) {
        self.execute("delete from _sqlx_migrations where version = 3").await;
    }

    /// Writes past the store.
    async fn execute(&self, statement: &'static str) {
        let url = self.url();
        if url.starts_with("sqlite:") {
            let pool = sqlx::SqlitePool::connect(url).await.unwrap();
            sqlx::query(statement).execute(&pool).await.unwrap();
        } else {
            let pool = sqlx::PgPool::connect(url).await.unwrap();
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
    }

    /// Submits a job that acts with `grant`, if given.
    async fn submit(&self, owner: &Principal, grant: Option<Grant<'_>>) -> Uuid {
        let (id, submitted) = self.try_submit(owner, grant, None).await;
        let Submitted::Created(jobs) = submitted else { panic!("{submitted:?}") };
        let [job] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((job.id, job.status), (id, JobStatus::Pending));
        id
    }

    async fn try_submit(
        &self,
        owner: &Principal,
        grant: Option<Grant<'_>>,
        idempotency: Option<IdempotencyKey<'_>>,
    ) -> (Uuid, Submitted) {
        let grants: Vec<Grant<'_>> = grant.into_iter().collect();
        let acting = [(!grants.is_empty()).then_some(0)];
        let id = Uuid::now_v7();
        (id, self.submit_as(owner, grants, idempotency, &acting, &[id]).await)
    }

    /// Submits a batch whose jobs act with these of the grants.
    async fn submit_all(
        &self,
        owner: &Principal,
        grants: Vec<Grant<'_>>,
        idempotency: Option<IdempotencyKey<'_>>,
        acting: &[Option<usize>],
    ) -> Result<Vec<Uuid>, Submitted> {
        let ids: Vec<Uuid> = acting.iter().map(|_| Uuid::now_v7()).collect();
        match self.submit_as(owner, grants, idempotency, acting, &ids).await {
            Submitted::Created(jobs) => {
                assert!(jobs.iter().map(|job| job.id).eq(ids.iter().copied()), "{jobs:?}");
                Ok(ids)
            }
            otherwise => Err(otherwise),
        }
    }

    async fn submit_as(
        &self,
        owner: &Principal,
        grants: Vec<Grant<'_>>,
        idempotency: Option<IdempotencyKey<'_>>,
        acting: &[Option<usize>],
        ids: &[Uuid],
    ) -> Submitted {
        let name = DefinitionName {
            namespace: "acme".into(),
            name: "process-data".into(),
            version: "1.0.0".into(),
        };
        let (definition, input) = (json!({"do": []}), json!({"order": 4711}));
        let tags = BTreeMap::from([("order".to_owned(), "4711".to_owned())]);
        let jobs = ids.iter().zip(acting).map(|(id, grant)| NewJob {
            id: *id,
            grant: *grant,
            name: &name,
            definition: &definition,
            input: &input,
            run_at: None,
            deadline: MINUTE,
            priority: self.priority,
            tags: &tags,
            callback: self.callback.as_ref(),
            warnings: &[],
            total_tasks: Some(3),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        });
        let submission = Submission {
            owner,
            client: Some("client-1"),
            grants,
            idempotency,
            jobs: jobs.collect(),
        };
        self.store.submit(&submission).await.unwrap()
    }

    async fn get(&self, id: Uuid, owner: &Principal) -> Job {
        self.job(id, owner).await.unwrap().unwrap()
    }

    async fn record_one(&self, lease: &Lease, record: &Record) -> Result<(), StoreError> {
        match self.record(&[(lease, record)]).await?[..] {
            [true] => Ok(()),
            _ => Err(StoreError::LeaseLost),
        }
    }

    async fn claim_one(&self) -> ClaimedJob {
        let mut claimed = self.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap();
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    async fn session(&self, owner: &Principal, key: &str) -> KnownSession {
        self.find_session(owner, CLIENT, SessionSelector::Key(key)).await.unwrap().unwrap()
    }

    async fn grant(&self, session: Uuid, owner: &Principal) -> HeldGrant {
        self.grant_for(session, "", owner).await
    }

    async fn grant_for(&self, session: Uuid, api: &str, owner: &Principal) -> HeldGrant {
        self.held_grant(session, api, owner, CLIENT, "read").await.unwrap().unwrap()
    }
}

fn alice() -> Principal {
    Principal { tenant: "contoso".into(), subject: "alice".into() }
}

fn bob() -> Principal {
    Principal { tenant: "contoso".into(), subject: "bob".into() }
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds).unwrap()
}

fn access_token(text: &str) -> NewAccessToken {
    NewAccessToken {
        scope_set: "read".into(),
        access_token: AccessToken::new(text.to_owned()),
        obtained_at: time(1_800_000_000),
        expires_at: time(1_800_003_600),
        refresh_at: None,
    }
}

/// What an exchange of user token number `assertion` brought.
fn new_grant(session_key: Option<&str>, assertion: u8) -> NewGrant {
    NewGrant {
        client_id: CLIENT.into(),
        session_key: session_key.map(Into::into),
        assertion_hash: AssertionHash::from_bytes(&[assertion; 32]).unwrap(),
        tokens: vec![tokens("", assertion)],
    }
}

/// What one exchange of user token number `assertion` brought.
fn tokens(api: &str, assertion: u8) -> NewTokens {
    NewTokens {
        api: api.into(),
        refresh_token: Some(RefreshToken::new(format!("refresh-{api}{assertion}"))),
        access_token: access_token(&format!("access-{api}{assertion}")),
    }
}

fn record(next: Next) -> Record {
    Record {
        checkpoint: b"state".to_vec(),
        progress: Progress { tasks: vec!["/do/1/pause".into()], completed: 1, total: Some(3) },
        attempts: 1,
        throttles: 0,
        calls: Vec::new(),
        events: Vec::new(),
        next,
    }
}

fn suspension() -> Suspension {
    Suspension {
        reason: SuspensionReason::ConsentRequired,
        detail: "consent is missing".into(),
        api: "PartnerAPI".into(),
        scopes: vec!["read".into()],
        claims: None,
        consent_url: None,
    }
}

async fn a_job_is_there_for_its_owner_only(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let job = store.get(id, &alice()).await;
    assert_eq!(job.status, JobStatus::Pending);
    assert_eq!(job.tags["order"], "4711");
    assert_eq!(job.progress.total, Some(3));
    assert_eq!(job.deadline_at.since(job.created_at), MINUTE);
    assert!(job.session_key.is_none() && job.started_at.is_none() && job.finished_at.is_none());
    assert!(store.job(id, &bob()).await.unwrap().is_none());
    let other_tenant = Principal { tenant: "fabrikam".into(), ..alice() };
    assert!(store.job(id, &other_tenant).await.unwrap().is_none());
}

async fn a_job_runs_from_claim_to_completion(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    assert_eq!((claimed.lease.job_id, &claimed.lease.owner), (id, &alice()));
    assert_eq!(claimed.input, json!({"order": 4711}));
    assert!(claimed.checkpoint.is_none());
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Running);

    store.record_one(&claimed.lease, &record(Next::Continue)).await.unwrap();
    let running = store.get(id, &alice()).await;
    assert_eq!((running.status, running.attempts), (JobStatus::Running, 1));
    assert_eq!(running.progress.tasks, ["/do/1/pause"]);

    let done = record(Next::Complete(json!({"done": true})));
    store.record_one(&claimed.lease, &done).await.unwrap();
    let job = store.get(id, &alice()).await;
    assert_eq!(job.status, JobStatus::Completed);
    assert_eq!(job.output, Some(json!({"done": true})));
    assert!(job.finished_at.is_some() && job.due_at.is_none());
    assert!(job.revision > running.revision);
    assert!(store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap().is_empty());
    assert!(store.wake_due().await.unwrap().is_none());
}

async fn a_final_state_is_written_once(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    let fault = record(Next::Fault(json!({"status": 500})));
    store.record_one(&claimed.lease, &fault).await.unwrap();
    let again = store.record_one(&claimed.lease, &record(Next::Complete(json!(1)))).await;
    assert!(matches!(again, Err(StoreError::LeaseLost)));
    let job = store.get(id, &alice()).await;
    assert_eq!((job.status, job.error), (JobStatus::Faulted, Some(json!({"status": 500}))));
}

async fn every_job_is_claimed_once_by_many_at_once(store: TestStore) {
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(store.submit(&alice(), None).await);
    }
    let claims = (0..8).map(|_| async {
        let (worker, mut mine) = (Uuid::now_v7(), Vec::new());
        loop {
            let claimed = store.claim(worker, 3, MINUTE).await.unwrap();
            assert!(claimed.len() <= 3);
            if claimed.is_empty() {
                break mine;
            }
            mine.extend(claimed.into_iter().map(|job| job.lease.job_id));
        }
    });
    let mut claimed: Vec<Uuid> = futures::future::join_all(claims).await.concat();
    claimed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(claimed, ids);
}

async fn a_late_worker_changes_nothing(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let dead = Uuid::now_v7();
    let late = store.claim(dead, 1, Duration::ZERO).await.unwrap().remove(0);
    assert_eq!(store.rescue().await.unwrap(), 1);
    assert_eq!(store.rescue().await.unwrap(), 0);
    // Neither before somebody else has it …
    let stale = store.record_one(&late.lease, &record(Next::Complete(json!(1)))).await;
    assert!(matches!(stale, Err(StoreError::LeaseLost)));
    let next = store.claim_one().await;
    assert_eq!(next.lease.job_id, id);
    assert!(next.lease.lease_id > late.lease.lease_id);
    // … nor after.
    for next in [Next::Continue, Next::Complete(json!(1)), Next::Wait { due_at: time(0) }] {
        let stale = store.record_one(&late.lease, &record(next)).await;
        assert!(matches!(stale, Err(StoreError::LeaseLost)));
    }
    store.interrupt(&late.lease).await.unwrap();
    assert_eq!(store.release(dead).await.unwrap(), 0);
    assert!(store.renew(dead, &[id], MINUTE).await.unwrap().is_empty());
    store.record_one(&next.lease, &record(Next::Continue)).await.unwrap();
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Running);
}

async fn a_live_lease_is_not_rescued(store: TestStore) {
    store.submit(&alice(), None).await;
    let worker = Uuid::now_v7();
    let claimed = store.claim(worker, 1, Duration::ZERO).await.unwrap().remove(0);
    let foreign = Uuid::now_v7();
    let renewed = store.renew(worker, &[claimed.lease.job_id, foreign], MINUTE).await.unwrap();
    let Lease { job_id, lease_id, .. } = claimed.lease;
    assert_eq!(renewed, [Renewed { job_id, lease_id }]);
    assert_eq!(store.rescue().await.unwrap(), 0);
}

async fn a_released_job_runs_elsewhere_with_its_checkpoint(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let worker = Uuid::now_v7();
    let claimed = store.claim(worker, 1, MINUTE).await.unwrap().remove(0);
    store.record_one(&claimed.lease, &record(Next::Continue)).await.unwrap();
    assert_eq!(store.release(worker).await.unwrap(), 1);
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Waiting);
    let next = store.claim_one().await;
    assert_eq!(next.checkpoint.as_deref(), Some(&b"state"[..]));
    store.interrupt(&next.lease).await.unwrap();
    assert_eq!(store.claim_one().await.lease.job_id, id);
}

async fn a_job_that_is_interrupted_again_comes_back_later_each_time(store: TestStore) {
    let rows = Rows::of(&store).await;
    let id = store.submit(&alice(), None).await;
    for (interruptions, pause) in [0, 10, 60, 120, 0].into_iter().enumerate() {
        let dead = store.claim(Uuid::now_v7(), 1, Duration::ZERO).await.unwrap().remove(0);
        assert_eq!(dead.interruptions as usize, interruptions);
        match interruptions % 2 {
            0 => assert_eq!(store.rescue().await.unwrap(), 1),
            _ => store.interrupt(&dead.lease).await.unwrap(),
        }
        let job = store.get(id, &alice()).await;
        let paused = job.due_at.unwrap().since(job.updated_at);
        let pause = Duration::from_secs(pause);
        assert!(pause / 2 <= paused && paused <= pause * 3 / 2, "{interruptions}: {paused:?}");
        rows.pass(8).await;
        store.wake_due().await.unwrap();
    }
    // A graceful stop says nothing about the job.
    let worker = Uuid::now_v7();
    let claimed = store.claim(worker, 1, MINUTE).await.unwrap().remove(0);
    assert_eq!(claimed.interruptions, 5);
    assert_eq!(store.release(worker).await.unwrap(), 1);
    let fault = record(Next::Fault(json!({"status": 500})));
    let claimed = store.claim_one().await;
    assert_eq!(claimed.interruptions, 5);
    store.record_one(&claimed.lease, &fault).await.unwrap();
    assert_eq!(store.retry(id, &alice()).await.unwrap(), Change::Made);
    let claimed = store.claim_one().await;
    assert_eq!(claimed.interruptions, 0);

    // What ends a lease in order is progress, what goes on under it is not.
    store.interrupt(&claimed.lease).await.unwrap();
    let claimed = store.claim_one().await;
    store.record_one(&claimed.lease, &record(Next::Continue)).await.unwrap();
    store.interrupt(&claimed.lease).await.unwrap();
    rows.pass(1).await;
    store.wake_due().await.unwrap();
    let claimed = store.claim_one().await;
    assert_eq!(claimed.interruptions, 2);
    let wait = record(Next::Wait { due_at: claimed.claimed_at });
    store.record_one(&claimed.lease, &wait).await.unwrap();
    assert_eq!(store.claim_one().await.interruptions, 0);
}

async fn jobs_that_were_interrupted_together_come_back_apart(store: TestStore) {
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(store.submit(&alice(), None).await);
    }
    for _ in 0..2 {
        assert_eq!(store.claim(Uuid::now_v7(), 10, Duration::ZERO).await.unwrap().len(), 10);
        assert_eq!(store.rescue().await.unwrap(), 10);
    }
    let mut due_at = Vec::new();
    for id in ids {
        due_at.push(store.get(id, &alice()).await.due_at.unwrap());
    }
    due_at.sort_unstable();
    due_at.dedup();
    assert!(due_at.len() > 5, "{due_at:?}");
}

async fn a_waiting_job_is_claimed_when_it_is_due(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    let due_at = claimed.claimed_at + MINUTE;
    store.record_one(&claimed.lease, &record(Next::Wait { due_at })).await.unwrap();
    let job = store.get(id, &alice()).await;
    assert_eq!((job.status, job.due_at), (JobStatus::Waiting, Some(due_at)));
    assert!(store.claim(Uuid::now_v7(), 1, MINUTE).await.unwrap().is_empty());
    let next = store.wake_due().await.unwrap().unwrap();
    assert!(next > MINUTE / 2 && next <= MINUTE, "{next:?}");

    let other = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    assert_eq!(claimed.lease.job_id, other);
    let past = record(Next::Wait { due_at: claimed.claimed_at });
    store.record_one(&claimed.lease, &past).await.unwrap();
    assert_eq!(store.wake_due().await.unwrap(), Some(Duration::ZERO));
    assert_eq!(store.claim_one().await.lease.job_id, other);
}

async fn a_suspended_job_goes_on_when_its_user_returns(store: TestStore) {
    let id = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let session = store.session(&alice(), "k").await;
    let version = store.grant(session.id, &alice()).await.session_version;
    let claimed = store.claim_one().await;
    assert_eq!(claimed.session.map(|session| session.id), Some(session.id));
    let suspend = record(Next::Suspend { suspension: suspension(), session_version: version });
    store.record_one(&claimed.lease, &suspend).await.unwrap();
    let job = store.get(id, &alice()).await;
    assert_eq!((job.status, job.suspension), (JobStatus::Suspended, Some(suspension())));
    assert_eq!(job.due_at, Some(job.deadline_at));
    assert!(store.claim(Uuid::now_v7(), 1, MINUTE).await.unwrap().is_empty());

    store.replace_grant(&bob(), &new_grant(Some("k"), 9)).await.unwrap();
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Suspended);
    store.replace_grant(&alice(), &new_grant(Some("k"), 2)).await.unwrap();
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Waiting);
    let claimed = store.claim_one().await;
    let version = store.grant(session.id, &alice()).await.session_version;
    let again = record(Next::Suspend { suspension: suspension(), session_version: version });
    store.record_one(&claimed.lease, &again).await.unwrap();

    let another = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 3)))).await;
    let job = store.get(id, &alice()).await;
    assert_eq!((job.status, job.suspension), (JobStatus::Waiting, None));
    let claimed = store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap();
    let ids: Vec<Uuid> = claimed.iter().map(|job| job.lease.job_id).collect();
    assert!(ids.contains(&id) && ids.contains(&another));

    // Suspending for a grant that was replaced meanwhile: the user has acted already.
    let late = claimed.into_iter().find(|job| job.lease.job_id == id).unwrap();
    store.record_one(&late.lease, &suspend).await.unwrap();
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Waiting);
    assert_eq!(store.claim_one().await.lease.job_id, id);
}

async fn two_users_with_one_key_never_meet(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("monday"), 1)))).await;
    store.submit(&bob(), Some(Grant::New(&new_grant(Some("monday"), 2)))).await;
    let (hers, his) =
        (store.session(&alice(), "monday").await, store.session(&bob(), "monday").await);
    assert_ne!(hers.id, his.id);
    assert!(store.held_grant(hers.id, "", &bob(), CLIENT, "read").await.unwrap().is_none());
    let other_client = "99999999-2222-4333-8444-555555555555";
    assert!(store.held_grant(hers.id, "", &alice(), other_client, "read").await.unwrap().is_none());
    assert!(store.begin_refresh(hers.id, "", &bob(), 1, MINUTE).await.unwrap().is_none());
    let (_, submitted) = store.try_submit(&bob(), Some(Grant::Known(hers.id)), None).await;
    assert!(matches!(submitted, Submitted::SessionChanged));
}

async fn an_allocated_key_is_found_by_its_token(store: TestStore) {
    let first = store.submit(&alice(), Some(Grant::New(&new_grant(None, 1)))).await;
    let hash = AssertionHash::from_bytes(&[1; 32]).unwrap();
    let selector = SessionSelector::Allocated(&hash);
    let known = store.find_session(&alice(), CLIENT, selector).await.unwrap().unwrap();
    assert!(store.find_session(&bob(), CLIENT, selector).await.unwrap().is_none());
    let second = store.submit(&alice(), Some(Grant::Known(known.id))).await;
    // Two processes may both have exchanged the token: still one session.
    let third = store.submit(&alice(), Some(Grant::New(&new_grant(None, 1)))).await;
    let other = store.submit(&alice(), Some(Grant::New(&new_grant(None, 2)))).await;
    let mut keys = Vec::new();
    for id in [first, second, third, other] {
        keys.push(store.get(id, &alice()).await.session_key.unwrap());
    }
    assert!(keys[0].starts_with("s_") && keys[0].len() == 24);
    assert_eq!((&keys[0], &keys[0]), (&keys[1], &keys[2]));
    assert_ne!(keys[0], keys[3]);
}

async fn a_new_grant_replaces_the_one_before(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let session = store.session(&alice(), "k").await;
    let before = store.grant(session.id, &alice()).await;
    assert_eq!(before.token.unwrap().access_token.expose(), "access-1");
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 2)))).await;
    let replaced = store.session(&alice(), "k").await;
    assert_eq!((replaced.id, replaced.state), (session.id, SessionState::Active));
    assert_ne!(replaced.assertion_hash, session.assertion_hash);
    let after = store.grant(session.id, &alice()).await;
    assert!(after.version > before.version);
    assert_eq!(after.token.unwrap().access_token.expose(), "access-2");
    let late = store
        .finish_refresh(session.id, "", &alice(), before.version, &access_token("late"), None)
        .await;
    assert!(!late.unwrap());
    assert_eq!(
        store.grant(session.id, &alice()).await.token.unwrap().access_token.expose(),
        "access-2"
    );
}

async fn a_refresh_token_is_presented_by_one_at_a_time(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    let attempts = (0..8)
        .map(|_| async { store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap() });
    let mut started: Vec<RefreshStart> =
        futures::future::join_all(attempts).await.into_iter().flatten().collect();
    assert_eq!(started.len(), 1);
    let start = started.remove(0);
    assert_eq!(start.refresh_token.expose(), "refresh-1");
    assert_eq!(store.grant(id, &alice()).await.presented, 1);

    let new = RefreshToken::new("refresh-2".to_owned());
    let token = access_token("fresh");
    assert!(store.finish_refresh(id, "", &alice(), version, &token, Some(&new)).await.unwrap());
    assert!(!store.finish_refresh(id, "", &alice(), version, &token, Some(&new)).await.unwrap());
    let grant = store.grant(id, &alice()).await;
    assert_eq!((grant.version, grant.presented), (version + 1, 0));
    let next = store.begin_refresh(id, "", &alice(), grant.version, MINUTE).await.unwrap().unwrap();
    assert_eq!(next.refresh_token.expose(), "refresh-2");
    // An answer without a refresh token keeps the old one.
    assert!(store.finish_refresh(id, "", &alice(), grant.version, &token, None).await.unwrap());
    let kept = store.begin_refresh(id, "", &alice(), grant.version + 1, MINUTE).await.unwrap();
    assert_eq!(kept.unwrap().refresh_token.expose(), "refresh-2");
}

async fn an_unanswered_presentation_is_counted_and_a_lost_refresher_replaced(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    let lost =
        store.begin_refresh(id, "", &alice(), version, Duration::ZERO).await.unwrap().unwrap();
    let start = store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap().unwrap();
    let abandoned =
        Abandoned { unanswered: true, refused_at: None, looped: false, not_before: None };
    store.abandon_refresh(id, "", version, lost.refresher, abandoned).await.unwrap();
    assert!(store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap().is_none());

    let not_sent =
        Abandoned { unanswered: false, not_before: Some(time(1_900_000_000)), ..abandoned };
    store.abandon_refresh(id, "", version, start.refresher, not_sent).await.unwrap();
    let grant = store.grant(id, &alice()).await;
    assert_eq!((grant.presented, grant.not_before), (1, Some(time(1_900_000_000))));
    assert!(store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap().is_some());
}

async fn a_dead_grant_leaves_no_token_behind(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    assert!(!store.end_grant(id, "", version - 1, false).await.unwrap());
    assert!(store.end_grant(id, "", version, false).await.unwrap());
    let grant = store.grant(id, &alice()).await;
    assert_eq!(grant.state, SessionState::InteractionRequired);
    assert!(grant.token.is_none());
    assert!(store.begin_refresh(id, "", &alice(), grant.version, MINUTE).await.unwrap().is_none());
    let (_, submitted) = store.try_submit(&alice(), Some(Grant::Known(id)), None).await;
    assert!(matches!(submitted, Submitted::SessionChanged));
    // A new exchange under the key revives it.
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 2)))).await;
    assert_eq!(store.session(&alice(), "k").await.state, SessionState::Active);
}

async fn each_api_can_have_a_grant_of_its_own(store: TestStore) {
    let bound = |apis: &[&str], assertion| NewGrant {
        tokens: apis.iter().map(|api| tokens(api, assertion)).collect(),
        ..new_grant(Some("k"), assertion)
    };
    store.submit(&alice(), Some(Grant::New(&bound(&["A", "B"], 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let (a, b) =
        (store.grant_for(id, "A", &alice()).await, store.grant_for(id, "B", &alice()).await);
    assert_eq!(a.token.unwrap().access_token.expose(), "access-A1");
    assert_eq!(b.token.unwrap().access_token.expose(), "access-B1");
    let none = store.grant(id, &alice()).await;
    assert!(!none.renewable && none.token.is_none() && none.state == SessionState::Active);

    // Two leases at once, and one refresh does not disturb the other.
    let start_a = store.begin_refresh(id, "A", &alice(), a.version, MINUTE).await.unwrap().unwrap();
    let start_b = store.begin_refresh(id, "B", &alice(), b.version, MINUTE).await.unwrap().unwrap();
    assert_eq!(start_a.refresh_token.expose(), "refresh-A1");
    assert_eq!(start_b.refresh_token.expose(), "refresh-B1");
    let fresh = access_token("fresh");
    assert!(store.finish_refresh(id, "A", &alice(), a.version, &fresh, None).await.unwrap());
    assert_eq!(store.grant_for(id, "B", &alice()).await.version, b.version);

    // One grant dies: the session lives on with the other, until that dies too.
    assert!(store.end_grant(id, "B", b.version, false).await.unwrap());
    let dead = store.grant_for(id, "B", &alice()).await;
    assert!(!dead.renewable && dead.token.is_none());
    let late = store.finish_refresh(id, "B", &alice(), b.version, &fresh, None).await;
    assert!(!late.unwrap());
    let session = store.session(&alice(), "k").await;
    assert_eq!(session.state, SessionState::Active);
    let known =
        |api: &str, renewable, expires_at| KnownGrant { api: api.into(), renewable, expires_at };
    let end = Some(time(1_800_003_600));
    assert_eq!(session.grants, [known("A", true, end), known("B", false, None)]);

    // The user returns for B only: A stays as it is, every suspended job is woken.
    let before = store.grant_for(id, "A", &alice()).await;
    store.replace_grant(&alice(), &bound(&["B"], 2)).await.unwrap();
    let after = store.grant_for(id, "A", &alice()).await;
    assert_eq!(after.version, before.version);
    assert!(after.session_version > before.session_version);
    let renewed = store.grant_for(id, "B", &alice()).await;
    assert!(renewed.version > dead.version);
    assert_eq!(renewed.token.unwrap().access_token.expose(), "access-B2");

    assert!(store.end_grant(id, "A", after.version, false).await.unwrap());
    assert!(store.end_grant(id, "B", renewed.version, false).await.unwrap());
    let state = store.session(&alice(), "k").await.state;
    assert_eq!(state, SessionState::InteractionRequired);
}

async fn a_grant_without_a_refresh_token_has_nothing_to_present(store: TestStore) {
    let unrenewable = NewTokens { refresh_token: None, ..tokens("A", 1) };
    let grant = NewGrant { tokens: vec![unrenewable], ..new_grant(Some("k"), 1) };
    store.submit(&alice(), Some(Grant::New(&grant))).await;
    let id = store.session(&alice(), "k").await.id;
    let grant = store.grant_for(id, "A", &alice()).await;
    assert!(!grant.renewable && grant.token.is_some());
    let start = store.begin_refresh(id, "A", &alice(), grant.version, MINUTE).await.unwrap();
    assert!(start.is_none());
}

async fn nobody_else_refreshes_a_grant(store: TestStore) {
    let both = NewGrant { tokens: vec![tokens("A", 1), tokens("B", 1)], ..new_grant(Some("k"), 1) };
    store.submit(&alice(), Some(Grant::New(&both))).await;
    let id = store.session(&alice(), "k").await.id;
    let grant = store.grant_for(id, "A", &alice()).await;
    assert!(store.begin_refresh(id, "A", &bob(), grant.version, MINUTE).await.unwrap().is_none());
    let token = access_token("foreign");
    assert!(!store.finish_refresh(id, "A", &bob(), grant.version, &token, None).await.unwrap());
    assert_eq!(store.grant_for(id, "A", &alice()).await.version, grant.version);
}

async fn a_stopped_session_keeps_nothing_and_starts_nothing(store: TestStore) {
    let running = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let claimed = store.claim_one().await;
    let pending = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    let refresh = store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap();
    assert!(refresh.is_some());
    assert_eq!(
        store.stop_session(&bob(), CLIENT, "k").await.unwrap().map(|tokens| tokens.len()),
        None
    );

    let tokens = store.stop_session(&alice(), CLIENT, "k").await.unwrap().unwrap();
    assert_eq!(tokens[0].expose(), "refresh-1");
    assert!(store.stop_session(&alice(), CLIENT, "k").await.unwrap().is_none());
    for job in [running, pending] {
        let job = store.get(job, &alice()).await;
        assert_eq!((job.status, job.suspension), (JobStatus::Suspended, None));
    }
    // Neither a call nor a refresh that was under way brings anything back.
    let late = store.record_one(&claimed.lease, &record(Next::Continue)).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    let token = access_token("late");
    let new = RefreshToken::new("refresh-2");
    let late = store.finish_refresh(id, "", &alice(), version, &token, Some(&new)).await;
    assert!(!late.unwrap());
    let grant = store.grant(id, &alice()).await;
    assert_eq!(grant.state, SessionState::Stopped);
    assert!(grant.token.is_none() && !grant.renewable);

    let views = store.sessions(&alice(), CLIENT).await.unwrap();
    assert_eq!((views[0].key.as_str(), views[0].state), ("k", SessionState::Stopped));
    assert_eq!(views[0].jobs[&JobStatus::Suspended], 2);
    assert!(store.sessions(&bob(), CLIENT).await.unwrap().is_empty());
    store.replace_grant(&alice(), &new_grant(Some("k"), 2)).await.unwrap();
    assert_eq!(store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap().len(), 2);
}

async fn an_idempotency_key_makes_one_job(store: TestStore) {
    let key = |body| IdempotencyKey { endpoint: "jobs", key: "k-1", body };
    assert_eq!(store.find_replay(&alice(), &key(b"a")).await.unwrap(), Replay::New);
    let owner = alice();
    let submissions = (0..8).map(|_| store.try_submit(&owner, None, Some(key(b"a"))));
    let submitted = futures::future::join_all(submissions).await;
    let created: Vec<Uuid> = submitted
        .iter()
        .filter(|(_, submitted)| matches!(submitted, Submitted::Created(_)))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(created.len(), 1);
    for (id, submitted) in submitted {
        assert!(id == created[0] || submitted == Submitted::Replayed(created.clone()));
    }
    assert_eq!(store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap().len(), 1);
    assert_eq!(
        store.find_replay(&alice(), &key(b"a")).await.unwrap(),
        Replay::Same(created.clone())
    );
    assert_eq!(store.find_replay(&alice(), &key(b"b")).await.unwrap(), Replay::Different);
    let (_, other_body) = store.try_submit(&alice(), None, Some(key(b"b"))).await;
    assert!(matches!(other_body, Submitted::KeyReused));
    assert_eq!(store.find_replay(&bob(), &key(b"b")).await.unwrap(), Replay::New);
}

async fn a_job_that_cannot_be_decrypted_keeps_no_other_from_running(store: TestStore) {
    let hidden = store.submit(&alice(), None).await;
    let store = store.under(&["b"]).await;
    let readable = store.submit(&alice(), None).await;
    assert_eq!(store.claim_one().await.lease.job_id, readable);
    let job = store.get(hidden, &alice()).await;
    assert_eq!(job.status, JobStatus::Waiting);
    assert!(job.due_at.unwrap() > job.updated_at);
}

async fn an_inspection_sees_the_schema_and_leaves_it(store: TestStore) {
    let keys = ring(&["a"]);
    assert_eq!(inspect(&store.database, &keys).await.unwrap().0, SchemaState::UpToDate);
    store.forget_a_migration().await;
    for _ in 0..2 {
        assert_eq!(inspect(&store.database, &keys).await.unwrap().0, SchemaState::Behind);
    }
}

async fn several_processes_may_open_one_new_database(store: TestStore) {
    let keys = ring(&["a"]);
    let opened = (0..4).map(|_| super::open(&store.database, &keys));
    for opened in futures::future::join_all(opened).await {
        opened.unwrap().ping().await.unwrap();
    }
}

async fn an_announcement_is_not_lost_between_looking_and_waiting(store: TestStore) {
    store.announce();
    tokio::time::timeout(MINUTE, store.wait_for_announcement()).await.unwrap();
}

/// On PostgreSQL, where connections can be waited for; on SQLite one writes, and readers never wait.
#[tokio::test]
async fn leases_are_kept_while_all_other_connections_wait() {
    let store = TestStore::postgres().await;
    let id = store.submit(&alice(), None).await;
    let worker = Uuid::now_v7();
    assert_eq!(store.claim(worker, 1, MINUTE).await.unwrap().len(), 1);
    let url = store.database.url.expose_secret();
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("lock table sessions in access exclusive mode").execute(&mut *lock).await.unwrap();

    let owner = alice();
    let looks = (0..64).map(|_| store.sessions(&owner, CLIENT));
    let keep = async {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
        // One of the sixteen listens.
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap() < 15 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(store.renew(worker, &[id], MINUTE).await.unwrap().len(), 1);
        assert_eq!(store.rescue().await.unwrap(), 0);
    };
    tokio::select! {
        _ = futures::future::join_all(looks) => panic!("somebody looked at a locked table"),
        () = keep => {}
    }
}

macro_rules! on_both {
    ($($case:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $case() {
                super::$case(super::TestStore::sqlite().await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $case() {
                super::$case(super::TestStore::postgres().await).await;
            })*
        }
    };
}

on_both! {
    a_job_is_there_for_its_owner_only
    a_job_runs_from_claim_to_completion
    a_final_state_is_written_once
    every_job_is_claimed_once_by_many_at_once
    nobodys_thousand_jobs_stand_before_anothers_one
    turns_go_on_where_the_last_claim_ended
    records_are_written_together_each_under_its_own_lease
    a_suspension_beside_other_records_sees_the_users_return
    a_late_worker_changes_nothing
    a_live_lease_is_not_rescued
    a_released_job_runs_elsewhere_with_its_checkpoint
    a_job_that_is_interrupted_again_comes_back_later_each_time
    jobs_that_were_interrupted_together_come_back_apart
    a_waiting_job_is_claimed_when_it_is_due
    a_suspended_job_goes_on_when_its_user_returns
    two_users_with_one_key_never_meet
    an_allocated_key_is_found_by_its_token
    a_new_grant_replaces_the_one_before
    a_refresh_token_is_presented_by_one_at_a_time
    an_unanswered_presentation_is_counted_and_a_lost_refresher_replaced
    a_dead_grant_leaves_no_token_behind
    a_grant_that_died_in_the_background_leaves_its_access_tokens
    request_loops_are_counted_until_a_token_comes
    an_early_refresh_is_taken_on_by_one
    a_grant_is_idle_that_a_job_needs_and_nobody_used
    two_tokens_of_a_session_cannot_be_swapped
    a_gate_holds_what_it_names_and_nothing_else
    the_first_through_a_gate_opens_it_for_all
    a_gate_is_closed_for_the_longest_that_anybody_was_told
    no_more_call_slots_are_held_than_there_are
    a_call_slot_is_free_when_it_is_given_back_or_its_time_is_over
    each_api_can_have_a_grant_of_its_own
    a_grant_without_a_refresh_token_has_nothing_to_present
    nobody_else_refreshes_a_grant
    a_stopped_session_keeps_nothing_and_starts_nothing
    an_idempotency_key_makes_one_job
    a_job_that_cannot_be_decrypted_keeps_no_other_from_running
    an_inspection_sees_the_schema_and_leaves_it
    several_processes_may_open_one_new_database
    an_announcement_is_not_lost_between_looking_and_waiting
    a_job_tells_its_story_to_its_owner_only
    what_a_late_worker_does_is_not_told
    suspension_and_return_are_told_in_pairs
    the_jobs_of_a_session_are_told_what_becomes_of_its_grant
    calls_are_recorded_with_what_follows_them
    jobs_are_listed_newest_first_by_what_is_asked_for
    a_cancelled_job_is_nobodys_to_go_on_with
    a_faulted_job_goes_on_from_where_it_was
    a_deleted_job_leaves_nothing
    a_batch_is_all_or_nothing
    a_priority_orders_its_owners_jobs_and_no_others
    an_operator_sees_the_jobs_of_a_tenant
    the_backlog_is_counted
    a_callback_is_told_what_it_asked_for
    a_delivery_is_tried_by_one_at_a_time
    any_commands_come_to_what_a_small_model_says
    two_at_once_come_to_what_they_do_one_after_the_other
    a_job_is_deleted_some_time_after_its_end
    a_webhook_that_nobody_sends_keeps_no_job_for_ever
    a_session_is_stopped_some_time_after_its_last_job
    a_stopped_session_is_deleted_once_no_job_refers_to_it
    an_event_of_a_session_is_deleted_once_it_is_old
    what_comes_at_the_last_moment_finds_its_session_or_a_new_one
    a_rotation_leaves_nothing_under_a_former_key
    a_rotation_undoes_no_change
    what_no_key_opens_is_named_and_left
}
