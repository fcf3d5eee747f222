//! Who comes next, and what is written together.

use super::*;
use crate::jobs::{EventKind, EventPosition};

fn user(number: usize) -> Principal {
    Principal { tenant: "contoso".into(), subject: format!("user-{number}") }
}

impl TestStore {
    async fn claimed_owners(&self, limit: usize) -> Vec<String> {
        let claimed = self.claim(Uuid::now_v7(), limit, MINUTE).await.unwrap();
        claimed.into_iter().map(|job| job.lease.owner.subject).collect()
    }
}

pub(super) async fn nobodys_thousand_jobs_stand_before_anothers_one(store: TestStore) {
    for _ in 0..100 {
        store.submit(&alice(), None).await;
    }
    for number in 0..5 {
        store.submit(&user(number), None).await;
    }
    // Two claims go once around, wherever they begin.
    let mut owners = [store.claimed_owners(4).await, store.claimed_owners(4).await].concat();
    assert_eq!(owners.len(), 8);
    owners.retain(|owner| owner != "alice");
    owners.sort_unstable();
    assert_eq!(owners, ["user-0", "user-1", "user-2", "user-3", "user-4"]);
    // Whoever is alone has all places.
    assert_eq!(store.claimed_owners(50).await, ["alice"; 50]);
}

pub(super) async fn turns_go_on_where_the_last_claim_ended(store: TestStore) {
    for number in (0..7).cycle().take(21) {
        store.submit(&user(number), None).await;
    }
    let mut served = Vec::new();
    while served.len() < 21 {
        served.extend(store.claimed_owners(3).await);
    }
    // Three claims of three places serve all seven; so after 9 places each was served once, and so on.
    for round in 1..=2 {
        let of_round = &served[..round * 9];
        for number in 0..7 {
            let times = of_round.iter().filter(|owner| **owner == user(number).subject).count();
            assert!(times >= round, "user {number} had {times} turns of {round}: {served:?}");
        }
    }
}

pub(super) async fn records_are_written_together_each_under_its_own_lease(store: TestStore) {
    let mut ids = Vec::new();
    for user in [alice(), bob(), alice(), bob()] {
        ids.push(store.submit(&user, None).await);
    }
    let mut claimed = store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap();
    claimed.sort_unstable_by_key(|job| job.lease.job_id);
    assert_eq!(claimed.iter().map(|job| job.lease.job_id).collect::<Vec<_>>(), ids);
    // The second is no longer this worker's.
    store.interrupt(&claimed[1].lease).await.unwrap();
    let tomorrow = claimed[0].claimed_at + 24 * 60 * MINUTE;
    let events = vec![
        (EventKind::TaskStarted, json!({ "task": "/do/0/a" })),
        (EventKind::TaskCompleted, json!({ "task": "/do/0/a" })),
    ];
    let records = [
        record(Next::Wait { due_at: tomorrow }),
        record(Next::Complete(json!("late"))),
        Record { events, ..record(Next::Continue) },
        record(Next::Complete(json!("fourth"))),
    ];
    // In any order.
    let together: Vec<_> =
        [3, 1, 0, 2].map(|index| (&claimed[index].lease, &records[index])).to_vec();
    assert_eq!(store.record(&together).await.unwrap(), [true, false, true, true]);

    let jobs = [
        store.get(ids[0], &alice()).await,
        store.get(ids[1], &bob()).await,
        store.get(ids[2], &alice()).await,
        store.get(ids[3], &bob()).await,
    ];
    let statuses = jobs.each_ref().map(|job| job.status);
    assert_eq!(statuses.map(JobStatus::as_str), ["waiting", "waiting", "running", "completed"]);
    assert_eq!(jobs[0].due_at, Some(tomorrow));
    assert_eq!(jobs[3].output, Some(json!("fourth")));
    let told = store.events(ids[2], &alice(), EventPosition::default()).await.unwrap();
    let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["submitted", "started", "task_started", "task_completed"]);
    assert!(store.record(&[]).await.unwrap().is_empty());
}

pub(super) async fn a_suspension_beside_other_records_sees_the_users_return(store: TestStore) {
    let id = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let other = store.submit(&bob(), Some(Grant::New(&new_grant(Some("k"), 2)))).await;
    let done = store.submit(&bob(), None).await;
    let suspend =
        |version| record(Next::Suspend { suspension: suspension(), session_version: version });
    let mut claimed = store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap();
    claimed.sort_unstable_by_key(|job| job.lease.job_id);
    let versions: Vec<i64> = claimed[..2].iter().map(|job| job.session.unwrap().version).collect();
    store.replace_grant(&alice(), &new_grant(Some("k"), 3)).await.unwrap();
    let records = [suspend(versions[0]), suspend(versions[1]), record(Next::Complete(json!(1)))];
    let together: Vec<_> = claimed.iter().map(|job| &job.lease).zip(&records).collect();
    assert_eq!(store.record(&together).await.unwrap(), [true; 3]);
    assert_eq!(store.get(id, &alice()).await.status, JobStatus::Waiting);
    assert_eq!(store.get(other, &bob()).await.status, JobStatus::Suspended);
    assert_eq!(store.get(done, &bob()).await.status, JobStatus::Completed);
}
