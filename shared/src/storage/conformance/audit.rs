//! What is told of a job.

use super::*;
use crate::jobs::{CallOutcome, EventKind, EventPosition, JobEvent, SentCall};

impl TestStore {
    async fn told(&self, id: Uuid) -> Vec<JobEvent> {
        self.events(id, &alice(), EventPosition::default()).await.unwrap()
    }

    async fn kinds(&self, id: Uuid) -> Vec<String> {
        self.told(id).await.into_iter().map(|event| event.kind).collect()
    }
}

pub(super) async fn a_job_tells_its_story_to_its_owner_only(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    store.record_one(&claimed.lease, &record(Next::Continue)).await.unwrap();
    let due_at = claimed.claimed_at;
    store.record_one(&claimed.lease, &record(Next::Wait { due_at })).await.unwrap();
    let claimed = store.claim_one().await;
    let of_task = |kind: EventKind| (kind, json!({ "task": "/do/1/pause" }));
    let events = [EventKind::TaskStarted, EventKind::CallRetried].map(of_task).to_vec();
    let retry = Record { events, ..record(Next::Wait { due_at }) };
    store.record_one(&claimed.lease, &retry).await.unwrap();
    let claimed = store.claim_one().await;
    let fault = record(Next::Fault(json!({"status": 500, "title": "canary-3f1c"})));
    store.record_one(&claimed.lease, &fault).await.unwrap();

    let told = store.told(id).await;
    let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["submitted", "started", "waiting", "task_started", "call_retried", "faulted"]
    );
    assert_eq!(json!(told[0].data), json!({"client": "client-1"}));
    assert_eq!(told[2].data["task"], "/do/1/pause");
    assert_eq!(told[2].data["until"], due_at.to_string());
    assert_eq!(json!(told[5].data), json!({"error": {"status": 500}}));
    assert!(told[5].is_final());
    let job = store.get(id, &alice()).await;
    assert_eq!(told[0].at, job.created_at);
    assert_eq!((job.finished_at, job.updated_at), (Some(told[5].at), told[5].at));

    let rest = store.events(id, &alice(), told[2].position).await.unwrap();
    assert_eq!(rest, told[3..]);
    assert!(store.events(id, &bob(), EventPosition::default()).await.unwrap().is_empty());
}

pub(super) async fn what_a_late_worker_does_is_not_told(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let late = store.claim(Uuid::now_v7(), 1, Duration::ZERO).await.unwrap().remove(0);
    assert_eq!(store.rescue().await.unwrap(), 1);
    assert!(store.record_one(&late.lease, &record(Next::Complete(json!(1)))).await.is_err());
    store.interrupt(&late.lease).await.unwrap();
    assert_eq!(store.kinds(id).await, ["submitted", "started", "interrupted"]);

    let claimed = store.claim_one().await;
    store.interrupt(&claimed.lease).await.unwrap();
    Rows::of(&store).await.pass(1).await;
    store.wake_due().await.unwrap();
    let claimed = store.claim_one().await;
    let done = record(Next::Complete(json!(1)));
    store.record_one(&claimed.lease, &done).await.unwrap();
    assert!(store.record_one(&claimed.lease, &done).await.is_err());
    assert_eq!(
        store.kinds(id).await,
        ["submitted", "started", "interrupted", "interrupted", "completed"]
    );
}

pub(super) async fn suspension_and_return_are_told_in_pairs(store: TestStore) {
    let id = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let session = store.session(&alice(), "k").await;
    let version = store.grant(session.id, &alice()).await.version;
    let claimed = store.claim_one().await;
    let suspend = record(Next::Suspend { suspension: suspension(), session_version: version });
    store.record_one(&claimed.lease, &suspend).await.unwrap();
    store.replace_grant(&alice(), &new_grant(Some("k"), 2)).await.unwrap();
    // Too late: the user is back already.
    let claimed = store.claim_one().await;
    store.record_one(&claimed.lease, &suspend).await.unwrap();

    let told = store.told(id).await;
    let mut kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(told[kinds.iter().position(|kind| *kind == "suspended").unwrap()].data, {
        let missing =
            json!({"reason": "consent_required", "api": "PartnerAPI", "scopes": ["read"]});
        let told = json!({"task": "/do/1/pause", "suspension": missing});
        told.as_object().unwrap().clone()
    });
    // Exchange and wake-up are of one transaction.
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["exchanged", "exchanged", "resumed", "started", "submitted", "suspended", "waiting"]
    );
}

pub(super) async fn the_jobs_of_a_session_are_told_what_becomes_of_its_grant(store: TestStore) {
    let done = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let claimed = store.claim_one().await;
    store.record_one(&claimed.lease, &record(Next::Complete(json!(1)))).await.unwrap();
    let session = store.session(&alice(), "k").await;
    let id = store.submit(&alice(), Some(Grant::Known(session.id))).await;
    let version = store.grant(session.id, &alice()).await.version;
    // Longer than the resolution of either clock.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let token = access_token("fresh");
    store.begin_refresh(session.id, "", &alice(), version, MINUTE).await.unwrap().unwrap();
    assert!(store.finish_refresh(session.id, "", &alice(), version, &token, None).await.unwrap());
    assert!(!store.finish_refresh(session.id, "", &alice(), version, &token, None).await.unwrap());

    let told = store.told(id).await;
    let refreshed = told.iter().find(|event| event.kind == "refreshed").unwrap();
    assert_eq!(json!(refreshed.data), json!({"scopes": ["read"]}));
    assert_eq!(told.iter().filter(|event| event.kind == "refreshed").count(), 1);
    let kinds = store.kinds(done).await;
    assert!(kinds.contains(&"exchanged".to_owned()) && !kinds.contains(&"refreshed".to_owned()));
    // Each position is a place in both sequences.
    for (index, event) in told.iter().enumerate() {
        let rest = store.events(id, &alice(), event.position).await.unwrap();
        assert_eq!(rest, told[index + 1..]);
    }
}

pub(super) async fn calls_are_recorded_with_what_follows_them(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    let call = |path: &str, outcome, status| SentCall {
        task: "/do/0/get".into(),
        api: "PartnerAPI".into(),
        scopes: vec!["read".into()],
        method: "GET".into(),
        path: path.into(),
        attempt: 1,
        at: time(1_800_000_000) + Duration::from_micros(7),
        duration_ms: 12,
        outcome,
        status,
    };
    let calls = [
        call("/pets/ä", CallOutcome::Answered, Some(401)),
        call("/pets/ä", CallOutcome::TimedOut, None),
        call("/other", CallOutcome::Answered, Some(200)),
    ];
    let with = |next, calls: &[SentCall]| Record { calls: calls.to_vec(), ..record(next) };
    store.record_one(&claimed.lease, &with(Next::Continue, &calls[..2])).await.unwrap();
    let done = with(Next::Complete(json!(1)), &calls[2..]);
    store.record_one(&claimed.lease, &done).await.unwrap();
    // Neither the same again nor anybody else's.
    assert!(store.record_one(&claimed.lease, &done).await.is_err());
    assert_eq!(store.calls(id, &alice(), 0).await.unwrap(), calls);
    assert_eq!(store.calls(id, &alice(), 1).await.unwrap(), calls[1..]);
    assert!(store.calls(id, &bob(), 0).await.unwrap().is_empty());
}
