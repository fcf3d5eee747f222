//! Who is told of a job.

use super::*;
use crate::jobs::EventKind;

fn callback(events: &[EventKind]) -> Callback {
    let url = "https://hooks.example.com/a".parse().unwrap();
    Callback { url, events: events.to_vec() }
}

pub(super) async fn a_callback_is_told_what_it_asked_for(mut store: TestStore) {
    let silent = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let silent_job = store.claim_one().await;
    store.callback = Some(callback(&[EventKind::Suspended, EventKind::Resumed]));
    let session = store.session(&alice(), "k").await;
    let version = store.grant(session.id, &alice()).await.version;
    let id = store.submit(&alice(), Some(Grant::Known(session.id))).await;
    let claimed = store.claim_one().await;
    let suspend = record(Next::Suspend { suspension: suspension(), session_version: version });
    store.record_one(&claimed.lease, &suspend).await.unwrap();
    store.record_one(&silent_job.lease, &suspend).await.unwrap();
    // What is not written is not told.
    assert!(store.record_one(&claimed.lease, &suspend).await.is_err());
    store.replace_grant(&alice(), &new_grant(Some("k"), 2)).await.unwrap();
    for job in store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap() {
        store.record_one(&job.lease, &record(Next::Complete(json!(1)))).await.unwrap();
    }
    assert_eq!(store.get(silent, &alice()).await.status, JobStatus::Completed);

    let deliveries = store.claim_deliveries(10, MINUTE).await.unwrap();
    let mut told: Vec<&str> = deliveries.iter().map(|told| told.event.kind.as_str()).collect();
    told.sort_unstable();
    assert_eq!(told, ["resumed", "suspended"]);
    for delivery in &deliveries {
        assert_eq!((delivery.job_id, delivery.attempt), (id, 1));
        assert_eq!(delivery.url, "https://hooks.example.com/a");
        assert_eq!(
            (&*delivery.definition.name, &*delivery.tags["order"]),
            ("process-data", "4711")
        );
    }
}

pub(super) async fn a_delivery_is_tried_by_one_at_a_time(mut store: TestStore) {
    store.callback = Some(callback(&Callback::EVENTS));
    store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    store.record_one(&claimed.lease, &record(Next::Complete(json!(1)))).await.unwrap();

    let claims = (0..4).map(|_| store.claim_deliveries(10, Duration::ZERO));
    // A lease of no length: whoever comes later tries again.
    let first = futures::future::try_join_all(claims).await.unwrap();
    let late = first.into_iter().flatten().next().unwrap();
    let again = loop {
        let mut deliveries = store.claim_deliveries(10, MINUTE).await.unwrap();
        if let Some(delivery) = deliveries.pop() {
            break delivery;
        }
    };
    assert!(again.attempt > late.attempt);
    assert!(store.claim_deliveries(10, MINUTE).await.unwrap().is_empty());
    // Only the try that began last says what became of it.
    store.finish_delivery(&late, Tried::Delivered).await.unwrap();
    let failed = Tried::Failed { again_after: Duration::ZERO };
    store.finish_delivery(&again, failed).await.unwrap();
    let last = store.claim_deliveries(10, MINUTE).await.unwrap().remove(0);
    assert_eq!((last.attempt, last.sequence), (again.attempt + 1, again.sequence));
    store.finish_delivery(&last, Tried::Delivered).await.unwrap();
    store.finish_delivery(&last, failed).await.unwrap();
    assert!(store.claim_deliveries(10, MINUTE).await.unwrap().is_empty());
}
