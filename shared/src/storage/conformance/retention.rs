//! What nobody needs any more goes, and nothing else.

use super::*;
use crate::jobs::{EventKind, EventPosition};

const HOUR: Duration = Duration::from_hours(1);

async fn complete_all(store: &TestStore) {
    for job in store.claim(Uuid::now_v7(), 100, MINUTE).await.unwrap() {
        store.record_one(&job.lease, &record(Next::Complete(json!(1)))).await.unwrap();
    }
}

async fn stop_idle(store: &TestStore) -> usize {
    store.stop_idle(HOUR, Uuid::nil(), 100).await.unwrap().found.len()
}

async fn state(store: &TestStore, key: &str) -> SessionState {
    store.session(&alice(), key).await.state
}

pub(super) async fn a_job_is_deleted_some_time_after_its_end(mut store: TestStore) {
    let rows = Rows::of(&store).await;
    let key = IdempotencyKey { endpoint: "jobs", key: "k-1", body: b"a" };
    let (first, _) = store.try_submit(&alice(), None, Some(key)).await;
    let others = [store.submit(&bob(), None).await, store.submit(&alice(), None).await];
    complete_all(&store).await;
    let waiting = store.submit(&alice(), None).await;
    rows.pass(61).await;
    let url = "https://hooks.example.com/a".parse().unwrap();
    store.callback = Some(Callback { url, events: vec![EventKind::Cancelled] });
    let told_of = store.submit(&alice(), None).await;
    store.cancel(told_of, &alice()).await.unwrap();
    store.callback = None;
    let recent = store.submit(&alice(), None).await;
    store.cancel(recent, &alice()).await.unwrap();

    assert_eq!(store.delete_finished(HOUR, 2).await.unwrap(), 2);
    assert_eq!(store.delete_finished(HOUR, 2).await.unwrap(), 1);
    assert_eq!(store.delete_finished(HOUR, 2).await.unwrap(), 0);
    for gone in [(first, alice()), (others[0], bob()), (others[1], alice())] {
        assert!(store.job(gone.0, &gone.1).await.unwrap().is_none());
    }
    assert_eq!(store.find_replay(&alice(), &key).await.unwrap(), Replay::New);
    let tagged = JobFilter { tag: Some(("order", "4711")), ..JobFilter::default() };
    let page = Page { before: None, limit: 10 };
    let left: Vec<_> = store.jobs(&alice(), &tagged, page).await.unwrap();
    assert_eq!(left.iter().map(|job| job.id).collect::<Vec<_>>(), [recent, told_of, waiting]);

    // Its submitter was not told yet; but nobody tries for ever.
    rows.pass(61).await;
    assert_eq!(store.delete_finished(HOUR, 9).await.unwrap(), 1);
    assert!(store.job(told_of, &alice()).await.unwrap().is_some());
    let told = store.claim_deliveries(9, MINUTE).await.unwrap();
    store.finish_delivery(&told[0], Tried::Delivered).await.unwrap();
    assert_eq!(store.delete_finished(HOUR, 9).await.unwrap(), 1);
    assert_eq!(store.get(waiting, &alice()).await.status, JobStatus::Pending);
}

pub(super) async fn a_webhook_that_nobody_sends_keeps_no_job_for_ever(mut store: TestStore) {
    let url = "https://hooks.example.com/a".parse().unwrap();
    store.callback = Some(Callback { url, events: vec![EventKind::Cancelled] });
    let id = store.submit(&alice(), None).await;
    store.cancel(id, &alice()).await.unwrap();
    let rows = Rows::of(&store).await;
    rows.pass(4 * 24 * 60).await;
    assert_eq!(store.delete_finished(HOUR, 9).await.unwrap(), 0);
    rows.pass(61).await;
    assert_eq!(store.delete_finished(HOUR, 9).await.unwrap(), 1);
}

pub(super) async fn a_session_is_stopped_some_time_after_its_last_job(store: TestStore) {
    let rows = Rows::of(&store).await;
    for key in ["idle", "used", "needed", "dead"] {
        store.submit(&alice(), Some(Grant::New(&new_grant(Some(key), 1)))).await;
    }
    let dead = store.session(&alice(), "dead").await.id;
    let version = store.grant(dead, &alice()).await.version;
    complete_all(&store).await;
    assert!(store.end_grant(dead, "", version, false).await.unwrap());
    let needed = store.session(&alice(), "needed").await.id;
    let late = store.submit(&alice(), Some(Grant::Known(needed))).await;
    assert_eq!(stop_idle(&store).await, 0);
    rows.pass(61).await;
    store.replace_grant(&alice(), &new_grant(Some("used"), 2)).await.unwrap();

    let idle = store.session(&alice(), "idle").await.id;
    let first = store.stop_idle(HOUR, Uuid::nil(), 1).await.unwrap();
    assert_eq!(first.last, Some(idle));
    let [Retired { owner, client_id, tokens }] = first.found.as_slice() else { panic!() };
    assert_eq!((owner, client_id.as_str()), (&alice(), CLIENT));
    assert_eq!(tokens[0].expose(), "refresh-1");
    let rest = store.stop_idle(HOUR, idle, 9).await.unwrap();
    let [Retired { tokens, .. }] = rest.found.as_slice() else { panic!() };
    assert!(tokens.is_empty());
    assert!(store.stop_idle(HOUR, rest.last.unwrap(), 9).await.unwrap().last.is_none());

    let grant = store.grant(idle, &alice()).await;
    assert_eq!(grant.state, SessionState::Stopped);
    assert!(grant.token.is_none() && !grant.renewable);
    assert!(
        store.begin_refresh(idle, "", &alice(), grant.version, MINUTE).await.unwrap().is_none()
    );
    assert_eq!(state(&store, "dead").await, SessionState::Stopped);
    for key in ["used", "needed"] {
        assert_eq!(state(&store, key).await, SessionState::Active);
    }
    // The hour begins with the end of the last job, whatever its session has done before.
    store.cancel(late, &alice()).await.unwrap();
    assert_eq!(stop_idle(&store).await, 0);
    rows.pass(61).await;
    assert_eq!(stop_idle(&store).await, 2);

    let (_, submitted) = store.try_submit(&alice(), Some(Grant::Known(idle)), None).await;
    assert_eq!(submitted, Submitted::SessionChanged);
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("idle"), 3)))).await;
    assert_eq!(store.session(&alice(), "idle").await.id, idle);
    assert_eq!(state(&store, "idle").await, SessionState::Active);
}

pub(super) async fn an_event_of_a_session_is_deleted_once_it_is_old(store: TestStore) {
    let rows = Rows::of(&store).await;
    let job = store.submit(&alice(), Some(Grant::New(&new_grant(Some("used"), 1)))).await;
    let refresh = async |number| {
        store.replace_grant(&alice(), &new_grant(Some("used"), number)).await.unwrap();
    };
    let sequences = async || {
        let events = store.events(job, &alice(), EventPosition::default()).await.unwrap();
        let mut sequences: Vec<_> = events.iter().map(|event| event.position.session).collect();
        // An event of the job says how far those of the session were read.
        sequences.dedup();
        sequences.retain(|sequence| *sequence > 0);
        sequences
    };
    refresh(2).await;
    refresh(3).await;
    let old = sequences().await;
    rows.pass(61).await;
    refresh(4).await;
    let [.., newest] = sequences().await[..] else { panic!() };
    assert_eq!(store.delete_session_events(2 * HOUR, 9).await.unwrap(), 0);
    assert_eq!(store.delete_session_events(HOUR, 1).await.unwrap(), 1);
    assert_eq!(sequences().await, [&old[1..], &[newest]].concat());
    assert_eq!(store.delete_session_events(HOUR, 9).await.unwrap(), 2);
    assert_eq!(sequences().await, [newest]);
    rows.pass(61).await;
    assert_eq!(store.delete_session_events(HOUR, 9).await.unwrap(), 1);
    // Whoever has read up to the last one that was deleted is told of the next.
    refresh(5).await;
    assert!(sequences().await.iter().all(|sequence| *sequence > newest));
}

pub(super) async fn a_stopped_session_is_deleted_once_no_job_refers_to_it(store: TestStore) {
    let rows = Rows::of(&store).await;
    for key in ["gone", "referred", "active"] {
        store.submit(&alice(), Some(Grant::New(&new_grant(Some(key), 1)))).await;
    }
    let ids =
        [store.session(&alice(), "gone").await.id, store.session(&alice(), "referred").await.id];
    complete_all(&store).await;
    rows.pass(61).await;
    assert_eq!(store.delete_finished(HOUR, 9).await.unwrap(), 3);
    let known = Some(Grant::Known(ids[1]));
    let job = store.submit(&alice(), known).await;
    for key in ["gone", "referred"] {
        store.stop_session(&alice(), CLIENT, key).await.unwrap().unwrap();
    }
    assert_eq!(store.delete_stopped(2 * HOUR, Uuid::nil(), 9).await.unwrap().found, 0);
    let first = store.delete_stopped(HOUR, Uuid::nil(), 1).await.unwrap();
    assert_eq!((first.last, first.found), (Some(ids[0]), 1));
    let rest = store.delete_stopped(HOUR, ids[0], 9).await.unwrap();
    assert_eq!((rest.last, rest.found), (Some(ids[1]), 0));
    let selector = SessionSelector::Key("gone");
    assert!(store.find_session(&alice(), CLIENT, selector).await.unwrap().is_none());
    assert_eq!(state(&store, "active").await, SessionState::Active);
    assert_eq!(store.get(job, &alice()).await.status, JobStatus::Suspended);
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("gone"), 2)))).await;
    assert_ne!(store.session(&alice(), "gone").await.id, ids[0]);
}

/// What comes while a session is being stopped or deleted is in time, or sees that it is not.
pub(super) async fn what_comes_at_the_last_moment_finds_its_session_or_a_new_one(store: TestStore) {
    let rows = Rows::of(&store).await;
    let owner = alice();
    let (mut in_time, mut too_late) = (0, 0);
    for round in 0..60 {
        let key = format!("k-{round}");
        store.submit(&owner, Some(Grant::New(&new_grant(Some(&key), 1)))).await;
        let faulted = store.claim_one().await;
        let fault = record(Next::Fault(json!({"status": 500})));
        store.record_one(&faulted.lease, &fault).await.unwrap();
        rows.pass(61).await;
        let id = store.session(&owner, &key).await.id;
        let idle = store.stop_idle(HOUR, Uuid::nil(), 100);
        let is_active = match round % 3 {
            0 => {
                let (_, (_, submitted)) = futures::future::join(
                    idle,
                    store.try_submit(&owner, Some(Grant::Known(id)), None),
                )
                .await;
                match submitted {
                    Submitted::Created(_) => true,
                    Submitted::SessionChanged => false,
                    otherwise => panic!("{otherwise:?}"),
                }
            }
            1 => {
                let grant = new_grant(Some(&key), 2);
                let (_, replaced) =
                    futures::future::join(idle, store.replace_grant(&owner, &grant)).await;
                replaced.unwrap();
                true
            }
            // It goes on with the session as it finds it.
            _ => {
                let (_, retried) =
                    futures::future::join(idle, store.retry(faulted.lease.job_id, &owner)).await;
                assert_eq!(retried.unwrap(), Change::Made);
                state(&store, &key).await == SessionState::Active
            }
        };
        let grant = store.grant(id, &owner).await;
        let expected = if is_active { SessionState::Active } else { SessionState::Stopped };
        assert_eq!((grant.state, grant.renewable), (expected, is_active), "{round}");
        *(if is_active { &mut in_time } else { &mut too_late }) += 1;
        // Nothing is left that the next round could see.
        rows.execute("delete from jobs").await;
        rows.execute("update sessions set state = 'stopped'").await;
        rows.pass(61).await;
        let grant = new_grant(Some(&key), 3);
        let (deleted, submitted) = futures::future::join(
            store.delete_stopped(HOUR, Uuid::nil(), 100),
            store.try_submit(&owner, Some(Grant::New(&grant)), None),
        )
        .await;
        deleted.unwrap();
        let (job, submitted) = submitted;
        assert!(matches!(submitted, Submitted::Created(_)), "{submitted:?}");
        let claimed = store.claim_one().await;
        assert_eq!(claimed.lease.job_id, job);
        let session = claimed.session.unwrap().id;
        assert!(store.grant(session, &owner).await.renewable, "{round}");
        store.cancel(job, &owner).await.unwrap();
        rows.execute("delete from jobs").await;
        rows.execute("delete from sessions").await;
    }
    assert!(in_time > 0 && in_time + too_late == 60, "{in_time} {too_late}");
}

/// On PostgreSQL, where a submission can be between its lock and its commit.
#[tokio::test]
async fn a_session_that_a_submission_has_locked_is_passed_over() {
    let store = TestStore::postgres().await;
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    complete_all(&store).await;
    Rows::of(&store).await.pass(61).await;
    let pool = sqlx::PgPool::connect(store.database.url.expose_secret()).await.unwrap();
    let mut submission = pool.begin().await.unwrap();
    sqlx::query("select 1 from sessions for share").execute(&mut *submission).await.unwrap();
    assert_eq!(stop_idle(&store).await, 0);
    submission.commit().await.unwrap();
    assert_eq!(stop_idle(&store).await, 1);
}

/// An index with a condition serves only who asks with it.
#[tokio::test]
async fn the_indexes_serve_what_a_sweep_asks() {
    let store = TestStore::postgres().await;
    let pool = sqlx::PgPool::connect(store.database.url.expose_secret()).await.unwrap();
    for (query, index) in [
        (
            "select id from jobs where finished_at <= now() order by finished_at limit 500",
            "jobs_finished",
        ),
        (
            "select 1 from jobs where session_id = gen_random_uuid() and finished_at is null",
            "jobs_session",
        ),
        (
            "select 1 from jobs where session_id = gen_random_uuid() and finished_at > now()",
            "jobs_session",
        ),
        ("select id from sessions where state <> 'stopped' order by id limit 9", "sessions_held"),
        ("select id from sessions where state = 'stopped' order by id limit 9", "sessions_stopped"),
    ] {
        let mut connection = pool.acquire().await.unwrap();
        // The tables are empty: else the planner would rightly read them whole.
        for setting in ["seqscan", "bitmapscan", "sort"] {
            let off = sqlx::AssertSqlSafe(format!("set enable_{setting} = off"));
            sqlx::query(off).execute(&mut *connection).await.unwrap();
        }
        let explain = sqlx::AssertSqlSafe(format!("explain {query}"));
        let plan: Vec<String> =
            sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
        assert!(plan.iter().any(|line| line.contains(index)), "{query}: {plan:#?}");
    }
}
