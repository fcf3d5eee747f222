//! What users and operators do to jobs that are there.

use super::*;
use crate::jobs::EventKind;

fn page(limit: u32) -> Page {
    Page { before: None, limit }
}

async fn ids(store: &TestStore, owner: &Principal, filter: JobFilter<'_>) -> Vec<Uuid> {
    let jobs = store.jobs(owner, &filter, page(100)).await.unwrap();
    jobs.iter().map(|job| job.id).collect()
}

fn kinds(events: &[crate::jobs::JobEvent]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

async fn faulted(store: &TestStore) -> Uuid {
    let id = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    let fault = record(Next::Fault(json!({"status": 500})));
    store.record_one(&claimed.lease, &fault).await.unwrap();
    id
}

pub(super) async fn jobs_are_listed_newest_first_by_what_is_asked_for(store: TestStore) {
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(store.submit(&alice(), None).await);
    }
    all.push(store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await);
    let other = store.submit(&bob(), None).await;
    // One of another status: the list is one, however it is put together.
    assert_eq!(store.cancel(all[1], &alice()).await.unwrap(), Change::Made);
    all.reverse();

    let mut listed = Vec::new();
    let mut before = None;
    loop {
        let part = Page { before, limit: 3 };
        let jobs = store.jobs(&alice(), &JobFilter::default(), part).await.unwrap();
        listed.extend(jobs.iter().map(|job| job.id));
        let Some(last) = jobs.last().filter(|_| jobs.len() == 3) else { break };
        before = Some(last.id);
    }
    assert_eq!(listed, all);
    assert_eq!(ids(&store, &bob(), JobFilter::default()).await, [other]);

    let cancelled = JobFilter { status: Some(JobStatus::Cancelled), ..JobFilter::default() };
    assert_eq!(ids(&store, &alice(), cancelled).await, [all[2]]);
    let of_session = JobFilter { session_key: Some("k"), ..JobFilter::default() };
    assert_eq!(ids(&store, &alice(), of_session).await, [all[0]]);
    assert!(ids(&store, &bob(), of_session).await.is_empty());
    let tagged = JobFilter { tag: Some(("order", "4711")), ..JobFilter::default() };
    assert_eq!(ids(&store, &alice(), tagged).await, all);
    assert_eq!(ids(&store, &alice(), JobFilter { tag: tagged.tag, ..cancelled }).await, [all[2]]);
    let of_both = JobFilter { tag: tagged.tag, ..of_session };
    assert_eq!(ids(&store, &alice(), of_both).await, [all[0]]);
    for tag in [("order", "4712"), ("orde", "r4711"), ("4711", "order")] {
        let other = JobFilter { tag: Some(tag), ..JobFilter::default() };
        assert!(ids(&store, &alice(), other).await.is_empty(), "{tag:?}");
    }
    let known = store.jobs_by_id(&alice(), &[all[0], other, Uuid::now_v7()]).await.unwrap();
    assert_eq!(known.iter().map(|job| job.id).collect::<Vec<_>>(), [all[0]]);
}

pub(super) async fn a_cancelled_job_is_nobodys_to_go_on_with(store: TestStore) {
    let id = store.submit(&alice(), None).await;
    let worker = Uuid::now_v7();
    let claimed = store.claim(worker, 1, MINUTE).await.unwrap().remove(0);
    let Lease { job_id, lease_id, .. } = claimed.lease;
    assert_eq!(store.held(worker).await.unwrap(), [Renewed { job_id, lease_id }]);
    assert_eq!(store.cancel(id, &bob()).await.unwrap(), Change::Unknown);
    assert_eq!(store.cancel(id, &alice()).await.unwrap(), Change::Made);
    assert_eq!(store.cancel(id, &alice()).await.unwrap(), Change::NotAllowed);

    assert!(store.held(worker).await.unwrap().is_empty());
    let late = store.record_one(&claimed.lease, &record(Next::Continue)).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    store.interrupt(&claimed.lease).await.unwrap();
    assert_eq!(store.release(worker).await.unwrap(), 0);
    let job = store.get(id, &alice()).await;
    assert_eq!(job.status, JobStatus::Cancelled);
    assert!(job.finished_at.is_some() && job.due_at.is_none());
    let events = store.events(id, &alice(), crate::jobs::EventPosition::default()).await.unwrap();
    assert_eq!(kinds(&events), ["submitted", "started", "cancelled"]);
    assert!(store.claim(worker, 1, MINUTE).await.unwrap().is_empty());
}

pub(super) async fn a_faulted_job_goes_on_from_where_it_was(store: TestStore) {
    let id = faulted(&store).await;
    let before = store.get(id, &alice()).await;
    assert_eq!(store.retry(id, &bob()).await.unwrap(), Change::Unknown);
    assert_eq!(store.retry(id, &alice()).await.unwrap(), Change::Made);
    assert_eq!(store.retry(id, &alice()).await.unwrap(), Change::NotAllowed);
    let job = store.get(id, &alice()).await;
    assert_eq!((job.status, job.error, job.finished_at), (JobStatus::Waiting, None, None));
    assert_eq!(job.progress.tasks, ["/do/1/pause"]);
    // As long as it was, from now.
    assert!(job.deadline_at > before.deadline_at);
    assert_eq!(job.deadline_at.since(job.updated_at), MINUTE);

    let claimed = store.claim_one().await;
    assert_eq!(claimed.checkpoint.as_deref(), Some(&b"state"[..]));
    let fault = record(Next::Fault(json!({"status": 500})));
    store.record_one(&claimed.lease, &fault).await.unwrap();
    assert_eq!(store.retry(id, &alice()).await.unwrap(), Change::Made);
    let job = store.get(id, &alice()).await;
    assert_eq!(job.deadline_at.since(job.updated_at), MINUTE, "and again as long");

    let claimed = store.claim_one().await;
    store.record_one(&claimed.lease, &record(Next::Complete(json!(1)))).await.unwrap();
    assert_eq!(store.retry(id, &alice()).await.unwrap(), Change::NotAllowed);
    let events = store.events(id, &alice(), crate::jobs::EventPosition::default()).await.unwrap();
    let expected =
        ["submitted", "started", "faulted", "retried", "faulted", "retried", "completed"];
    assert_eq!(kinds(&events), expected);
}

pub(super) async fn a_deleted_job_leaves_nothing(mut store: TestStore) {
    let url = "https://hooks.example.com/a".parse().unwrap();
    store.callback = Some(Callback { url, events: vec![EventKind::Cancelled] });
    let key = IdempotencyKey { endpoint: "jobs", key: "k-1", body: b"a" };
    let (id, _) = store.try_submit(&alice(), None, Some(key)).await;
    assert_eq!(store.delete(id, &alice()).await.unwrap(), Change::NotAllowed);
    assert_eq!(store.cancel(id, &alice()).await.unwrap(), Change::Made);
    assert_eq!(store.delete(id, &bob()).await.unwrap(), Change::Unknown);
    assert_eq!(store.delete(id, &alice()).await.unwrap(), Change::Made);
    assert_eq!(store.delete(id, &alice()).await.unwrap(), Change::Unknown);
    assert!(store.job(id, &alice()).await.unwrap().is_none());
    assert_eq!(store.find_replay(&alice(), &key).await.unwrap(), Replay::New);
    assert!(store.claim_deliveries(10, MINUTE).await.unwrap().is_empty());
    let tagged = JobFilter { tag: Some(("order", "4711")), ..JobFilter::default() };
    assert!(ids(&store, &alice(), tagged).await.is_empty());
}

pub(super) async fn a_batch_is_all_or_nothing(store: TestStore) {
    let owner = alice();
    let key = |body| IdempotencyKey { endpoint: "batch", key: "k-1", body };
    let (first, second) = (new_grant(Some("a"), 1), new_grant(Some("b"), 1));
    let grants = || vec![Grant::New(&first), Grant::New(&second)];
    let ids = store.submit_all(&owner, grants(), Some(key(b"a")), &[Some(1), None, Some(0)]).await;
    let ids = ids.unwrap();
    let sessions: Vec<_> = store
        .jobs_by_id(&owner, &ids)
        .await
        .unwrap()
        .into_iter()
        .map(|job| job.session_key)
        .collect();
    assert_eq!(sessions, [Some("b".to_owned()), None, Some("a".to_owned())]);
    let replayed = store.submit_all(&owner, grants(), Some(key(b"a")), &[None, None]).await;
    assert_eq!(replayed.unwrap_err(), Submitted::Replayed(ids.clone()));
    let other = store.submit_all(&owner, grants(), Some(key(b"b")), &[None, None]).await;
    assert_eq!(other.unwrap_err(), Submitted::KeyReused);
    // One of its sessions is no longer active: none of it is written.
    let known = Grant::Known(store.session(&owner, "a").await.id);
    store.stop_session(&owner, CLIENT, "a").await.unwrap().unwrap();
    let third = new_grant(Some("c"), 1);
    let grants = vec![Grant::New(&third), known];
    let stopped = store.submit_all(&owner, grants, None, &[Some(0), Some(1)]).await;
    assert_eq!(stopped.unwrap_err(), Submitted::SessionChanged);
    let selector = SessionSelector::Key("c");
    assert!(store.find_session(&owner, CLIENT, selector).await.unwrap().is_none());
    assert_eq!(store.jobs(&owner, &JobFilter::default(), page(9)).await.unwrap().len(), 3);

    assert_eq!(store.cancel(ids[2], &owner).await.unwrap(), Change::Made);
    assert_eq!(store.delete(ids[2], &owner).await.unwrap(), Change::Made);
    assert_eq!(store.find_replay(&owner, &key(b"a")).await.unwrap(), Replay::New);
}

pub(super) async fn a_priority_orders_its_owners_jobs_and_no_others(mut store: TestStore) {
    let first = store.submit(&alice(), None).await;
    let foreign = store.submit(&bob(), None).await;
    store.priority = 5;
    let preferred = store.submit(&alice(), None).await;
    store.priority = 9;
    let most_preferred = store.submit(&alice(), None).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let claimed = store.claim(Uuid::now_v7(), 1, MINUTE).await.unwrap();
        order.push(claimed[0].lease.job_id);
    }
    // The two take turns, whoever begins.
    assert!(order[..2].contains(&foreign));
    order.retain(|id| *id != foreign);
    assert_eq!(order, [most_preferred, preferred, first]);
}

pub(super) async fn an_operator_sees_the_jobs_of_a_tenant(store: TestStore) {
    let id = faulted(&store).await;
    let pending = store.submit(&bob(), None).await;
    let fabrikam = Principal { tenant: "fabrikam".into(), ..alice() };
    store.submit(&fabrikam, None).await;
    let jobs = store.tenant_jobs("contoso", None, page(9)).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [pending, id]);
    assert_eq!(jobs[1].subject, "alice");
    assert_eq!(jobs[1].error, Some(json!({"status": 500})));
    let some = store.tenant_jobs("contoso", Some(JobStatus::Pending), page(9)).await.unwrap();
    assert_eq!(some.len(), 1);
    let rest = Page { before: Some(pending), limit: 1 };
    assert_eq!(store.tenant_jobs("contoso", None, rest).await.unwrap()[0].id, id);
    assert!(store.tenant_job(id, "fabrikam").await.unwrap().is_none());
    assert_eq!(store.tenant_job(id, "contoso").await.unwrap().unwrap().status, JobStatus::Faulted);
}

pub(super) async fn the_backlog_is_counted(store: TestStore) {
    assert_eq!(store.backlog().await.unwrap(), Backlog::default());
    for _ in 0..3 {
        store.submit(&alice(), None).await;
    }
    let claimed = store.claim(Uuid::now_v7(), 2, MINUTE).await.unwrap();
    let wait = record(Next::Wait { due_at: claimed[0].claimed_at + 2 * MINUTE });
    store.record_one(&claimed[0].lease, &wait).await.unwrap();
    let backlog = store.backlog().await.unwrap();
    let counted: Vec<_> = backlog.jobs.into_iter().collect();
    let expected = [(JobStatus::Pending, 1), (JobStatus::Running, 1), (JobStatus::Waiting, 1)];
    assert_eq!(counted, expected);
    assert!(backlog.lag.unwrap() < MINUTE);
}
