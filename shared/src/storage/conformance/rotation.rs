//! Keys come and go.

use super::*;
use crate::jobs::{CallOutcome, EventKind, SentCall};

fn call(store_time: Timestamp) -> SentCall {
    SentCall {
        task: "/do/0/get".into(),
        api: "PartnerAPI".into(),
        scopes: vec!["read".into()],
        method: "GET".into(),
        path: "/api/process/data".into(),
        attempt: 1,
        at: store_time,
        duration_ms: 7,
        outcome: CallOutcome::Answered,
        status: Some(200),
    }
}

pub(super) async fn a_rotation_leaves_nothing_under_a_former_key(mut store: TestStore) {
    store.callback = Some(Callback {
        url: "https://hooks.example.com/a".parse().unwrap(),
        events: vec![EventKind::Completed],
    });
    let mut grant = new_grant(Some("k"), 1);
    grant.tokens.push(tokens("PartnerAPI", 2));
    let completed = store.submit(&alice(), Some(Grant::New(&grant))).await;
    let claimed = store.claim_one().await;
    let calls = (0..12).map(|_| call(claimed.claimed_at)).collect();
    let called = Record { calls, ..record(Next::Continue) };
    store.record_one(&claimed.lease, &called).await.unwrap();
    store.record_one(&claimed.lease, &record(Next::Complete(json!("done")))).await.unwrap();
    let session = store.session(&alice(), "k").await.id;
    let version = store.grant(session, &alice()).await.version;
    let mut ended = Vec::new();
    for next in [
        Next::Fault(json!({"status": 500})),
        Next::Suspend { suspension: suspension(), session_version: version },
    ] {
        ended.push(store.submit(&alice(), Some(Grant::Known(session))).await);
        store.record_one(&store.claim_one().await.lease, &record(next)).await.unwrap();
    }
    let waiting = store.submit(&alice(), None).await;
    let claimed = store.claim_one().await;
    let due_at = claimed.claimed_at;
    store.record_one(&claimed.lease, &record(Next::Wait { due_at })).await.unwrap();

    let store = store.under(&["b", "a"]).await;
    let rotated = store.rotate().await.unwrap();
    assert!(rotated.undecryptable.is_empty(), "{rotated:?}");
    // Two grants with a token each; definition, input and callback of four jobs; an output, an
    // error, a suspension; the checkpoints of the three that go on or may; calls.
    assert_eq!(rotated.values, 4 + 12 + 3 + 3 + 12);
    assert_eq!(store.rotate().await.unwrap().values, 0);

    let store = store.under(&["b"]).await;
    let sampled = store.sample().await.unwrap();
    assert_eq!((sampled.values, sampled.undecryptable.len()), (34, 0));
    assert_eq!(store.get(completed, &alice()).await.output, Some(json!("done")));
    assert_eq!(store.get(ended[0], &alice()).await.error, Some(json!({"status": 500})));
    assert_eq!(store.get(ended[1], &alice()).await.suspension, Some(suspension()));
    let calls = store.calls(completed, &alice(), 0).await.unwrap();
    assert!(calls.len() == 12 && calls.iter().all(|call| call.path == "/api/process/data"));
    let claimed = store.claim_one().await;
    assert_eq!(claimed.lease.job_id, waiting);
    assert_eq!(claimed.checkpoint.as_deref(), Some(&b"state"[..]));
    let told = store.claim_deliveries(10, MINUTE).await.unwrap();
    assert_eq!(told[0].url, "https://hooks.example.com/a");
    for (api, refresh_token, token) in
        [("", "refresh-1", "access-1"), ("PartnerAPI", "refresh-PartnerAPI2", "access-PartnerAPI2")]
    {
        let held = store.grant_for(session, api, &alice()).await;
        assert_eq!(held.token.unwrap().access_token.expose(), token);
        let begun = store.begin_refresh(session, api, &alice(), held.version, MINUTE).await;
        assert_eq!(begun.unwrap().unwrap().refresh_token.expose(), refresh_token);
    }
}

pub(super) async fn a_rotation_undoes_no_change(store: TestStore) {
    for _ in 0..20 {
        store.submit(&alice(), None).await;
    }
    let worker = Uuid::now_v7();
    let claimed = store.claim(worker, 20, MINUTE).await.unwrap();
    for job in &claimed {
        store.record_one(&job.lease, &record(Next::Continue)).await.unwrap();
    }
    let store = store.under(&["b", "a"]).await;
    let new_state = Record { checkpoint: b"newer".to_vec(), ..record(Next::Continue) };
    let records = claimed.iter().map(|job| store.record_one(&job.lease, &new_state));
    let (rotated, recorded) =
        futures::future::join(store.rotate(), futures::future::try_join_all(records)).await;
    recorded.unwrap();
    assert!(rotated.unwrap().undecryptable.is_empty());

    let store = store.under(&["b"]).await;
    assert_eq!(store.release(worker).await.unwrap(), 20);
    let claimed = store.claim(worker, 20, MINUTE).await.unwrap();
    assert_eq!(claimed.len(), 20);
    for job in claimed {
        assert_eq!(job.checkpoint.as_deref(), Some(&b"newer"[..]));
    }
}

/// On PostgreSQL, where several write at once: a rotation that waited for one row while it holds others
/// could wait for somebody who waits for it.
#[tokio::test]
async fn a_rotation_holds_rows_and_waits_for_none() {
    let store = TestStore::postgres().await;
    let first = store.submit(&alice(), None).await;
    for _ in 0..19 {
        store.submit(&alice(), None).await;
    }
    let store = store.under(&["b", "a"]).await;
    let pool = sqlx::PgPool::connect(store.database.url.expose_secret()).await.unwrap();
    let mut other = pool.begin().await.unwrap();
    let hold = "update jobs set attempts = attempts where id = $1";
    sqlx::query(hold).bind(first).execute(&mut *other).await.unwrap();
    let hold_all = async {
        // After two bytes an envelope has the id of its key.
        let rotated = "select count(*) from jobs where substr(definition, 3, 1) = 'b'";
        while sqlx::query_scalar::<_, i64>(rotated).fetch_one(&pool).await.unwrap() < 19 {
            tokio::task::yield_now().await;
        }
        sqlx::query("update jobs set attempts = attempts").execute(&mut *other).await.unwrap();
        other.commit().await.unwrap();
    };
    let (rotated, ()) = futures::future::join(store.rotate(), hold_all).await;
    assert_eq!(rotated.unwrap().values, 40);
}

pub(super) async fn what_no_key_opens_is_named_and_left(store: TestStore) {
    let hidden = store.submit(&alice(), None).await;
    let store = store.under(&["b"]).await;
    let readable = store.submit(&alice(), None).await;
    for found in [store.rotate().await.unwrap(), store.sample().await.unwrap()] {
        let named = found.undecryptable.iter().map(ToString::to_string);
        let expected = ["definition", "input"]
            .map(|column| format!("`jobs.{column}` of {hidden} cannot be decrypted"));
        // A sample looks from two sides.
        assert_eq!(named.collect::<std::collections::BTreeSet<_>>(), expected.into());
    }
    let store = store.under(&["a", "b"]).await;
    let claimed = store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap();
    let mut ids: Vec<_> = claimed.iter().map(|job| job.lease.job_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [hidden, readable]);
}
