//! Token requests that are held, and grants that are refreshed before anybody needs it.

use super::*;

const PROBE: Duration = Duration::from_secs(10);
/// Of a minute, when some of it has gone.
const ALMOST: Duration = Duration::from_secs(50);
const HELD: GateReason = GateReason::Throttled;

impl TestStore {
    async fn close(&self, tenant: &str, api: &str, length: Duration) {
        self.close_gate(CLIENT, tenant, api, HELD, length).await.unwrap();
    }

    async fn pass(&self, tenant: &str, api: &str) -> Passage {
        self.pass_gates(CLIENT, tenant, api, PROBE).await.unwrap()
    }
}

#[track_caller]
fn assert_held(passage: &Passage, least: Duration, most: Duration) {
    let Passage::Held { length, .. } = passage else { panic!("{passage:?}") };
    assert!((least..=most).contains(length), "{length:?}");
}

fn probed(passage: &Passage) -> Vec<&str> {
    let Passage::Open(probes) = passage else { panic!("{passage:?}") };
    probes.iter().map(|probe| probe.api.as_str()).collect()
}

pub(super) async fn a_gate_holds_what_it_names_and_nothing_else(store: TestStore) {
    let open = Passage::Open(Vec::new());
    assert_eq!(store.pass("contoso", "A").await, open);
    store.close_gate(CLIENT, "contoso", "A", GateReason::Operator, MINUTE).await.unwrap();
    store.close("fabrikam", "", MINUTE).await;

    let held = store.pass("contoso", "A").await;
    assert!(matches!(held, Passage::Held { reason: GateReason::Operator, .. }), "{held:?}");
    assert_held(&held, ALMOST, MINUTE);
    assert_eq!(store.pass("contoso", "B").await, open);
    for api in ["A", "B"] {
        assert_held(&store.pass("fabrikam", api).await, ALMOST, MINUTE);
        let other_client = store.pass_gates("another", "fabrikam", api, PROBE).await.unwrap();
        assert_eq!(other_client, open);
    }
    assert_eq!(store.pass("tailspin", "A").await, open);
}

pub(super) async fn the_first_through_a_gate_opens_it_for_all(store: TestStore) {
    // Closed for no time: it is over.
    store.close("contoso", "", Duration::ZERO).await;
    store.close("contoso", "A", Duration::ZERO).await;
    let asked = (0..8).map(|_| store.pass("contoso", "A"));
    let passages = futures::future::join_all(asked).await;
    let (first, others): (Vec<_>, Vec<_>) =
        passages.into_iter().partition(|passage| matches!(passage, Passage::Open(_)));
    assert_eq!((first.len(), others.len()), (1, 7));
    assert!(others.iter().all(|held| matches!(held, Passage::Held { .. })), "{others:?}");
    let mut gates = probed(&first[0]);
    gates.sort_unstable();
    assert_eq!(gates, ["", "A"]);
    assert_held(&store.pass("contoso", "B").await, Duration::ZERO, PROBE);

    let Passage::Open(probes) = &first[0] else { unreachable!() };
    let (api, whole): (Vec<_>, Vec<_>) = probes.iter().partition(|probe| probe.api == "A");
    store.open_gate(CLIENT, "contoso", whole[0]).await.unwrap();
    assert_eq!(store.pass("contoso", "B").await, Passage::Open(Vec::new()));
    assert_held(&store.pass("contoso", "A").await, Duration::ZERO, PROBE);
    // Refused once more meanwhile: what the first one comes to no longer counts.
    store.close("contoso", "A", MINUTE).await;
    store.open_gate(CLIENT, "contoso", api[0]).await.unwrap();
    assert_held(&store.pass("contoso", "A").await, ALMOST, MINUTE);

    // One who went first and was never heard of again is followed by another.
    store.close("fabrikam", "", Duration::ZERO).await;
    let lost = store.pass_gates(CLIENT, "fabrikam", "A", Duration::ZERO).await.unwrap();
    assert_eq!(probed(&lost), [""]);
    assert_eq!(probed(&store.pass("fabrikam", "A").await), [""]);
}

pub(super) async fn a_gate_is_closed_for_the_longest_that_anybody_was_told(store: TestStore) {
    store.close("contoso", "", 10 * MINUTE).await;
    store.close_gate(CLIENT, "contoso", "", GateReason::Operator, MINUTE).await.unwrap();
    let held = store.pass("contoso", "A").await;
    assert!(matches!(held, Passage::Held { reason: GateReason::Throttled, .. }), "{held:?}");
    assert_held(&held, 9 * MINUTE, 10 * MINUTE);
}

pub(super) async fn a_grant_that_died_in_the_background_leaves_its_access_tokens(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    assert!(store.end_grant(id, "", version, true).await.unwrap());
    let grant = store.grant(id, &alice()).await;
    assert_eq!((grant.state, grant.renewable), (SessionState::Active, false));
    assert_eq!(grant.token.unwrap().access_token.expose(), "access-1");
    assert!(store.begin_refresh(id, "", &alice(), grant.version, MINUTE).await.unwrap().is_none());
    // A submission has nothing to build on.
    let known = KnownGrant { api: String::new(), renewable: false, expires_at: None };
    assert_eq!(store.session(&alice(), "k").await.grants, [known]);
    store.replace_grant(&alice(), &new_grant(Some("k"), 2)).await.unwrap();
    let [revived] = &store.session(&alice(), "k").await.grants[..] else { panic!() };
    assert!(revived.renewable && revived.expires_at.is_some());
}

pub(super) async fn request_loops_are_counted_until_a_token_comes(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    for loops in 1..=2 {
        let start = store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap().unwrap();
        let abandoned =
            Abandoned { unanswered: false, refused_at: None, looped: true, not_before: None };
        store.abandon_refresh(id, "", version, start.refresher, abandoned).await.unwrap();
        let grant = store.grant(id, &alice()).await;
        assert_eq!((grant.loops, grant.presented, grant.renewable), (loops, 0, true));
    }
    store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap().unwrap();
    let token = access_token("fresh");
    assert!(store.finish_refresh(id, "", &alice(), version, &token, None).await.unwrap());
    assert_eq!(store.grant(id, &alice()).await.loops, 0);
}

pub(super) async fn an_early_refresh_is_taken_on_by_one(store: TestStore) {
    let due = time(1_800_001_800);
    let mut grant = new_grant(Some("k"), 1);
    grant.tokens[0].access_token.refresh_at = Some(due);
    store.submit(&alice(), Some(Grant::New(&grant))).await;
    let id = store.session(&alice(), "k").await.id;
    let held = store.grant(id, &alice()).await;
    assert_eq!(held.token.unwrap().refresh_at, Some(due));
    let next = due + 5 * MINUTE;
    let claims = (0..8).map(|_| store.claim_early_refresh(id, "", "read", due, next));
    let claimed = futures::future::try_join_all(claims).await.unwrap();
    assert_eq!(claimed.iter().filter(|claimed| **claimed).count(), 1);
    assert_eq!(store.grant(id, &alice()).await.token.unwrap().refresh_at, Some(next));

    let later = NewAccessToken { refresh_at: Some(next + MINUTE), ..access_token("fresh") };
    store.begin_refresh(id, "", &alice(), held.version, MINUTE).await.unwrap().unwrap();
    let written = store.finish_refresh(id, "", &alice(), held.version, &later, None).await;
    assert!(written.unwrap());
    let token = store.grant(id, &alice()).await.token.unwrap();
    assert_eq!(token.refresh_at, Some(next + MINUTE));
}

pub(super) async fn a_grant_is_idle_that_a_job_needs_and_nobody_used(store: TestStore) {
    const UNUSED: Duration = Duration::from_hours(30 * 24);
    let idle = async || store.idle_grants(CLIENT, UNUSED, 10).await.unwrap();
    let needed = store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    assert_eq!(idle().await, []);
    // Longer ago than any epoch of either clock can say otherwise.
    if store.database.url.expose_secret().starts_with("sqlite:") {
        store.execute("update grants set refreshed_at = refreshed_at - 31 * 86400000000").await;
    } else {
        store.execute("update grants set refreshed_at = refreshed_at - interval '31 days'").await;
    }
    store.submit(&bob(), Some(Grant::New(&new_grant(Some("k"), 2)))).await;
    assert!(store.idle_grants("another", UNUSED, 10).await.unwrap().is_empty());
    let found = idle().await;
    let session = store.session(&alice(), "k").await.id;
    let version = store.grant(session, &alice()).await.version;
    let expected = IdleGrant {
        session_id: session,
        api: String::new(),
        owner: alice(),
        version,
        scope_set: Some("read".to_owned()),
    };
    assert_eq!(found, [expected]);

    let claims = (0..8).map(|_| store.claim_idle_grant(&found[0], MINUTE));
    let claimed = futures::future::try_join_all(claims).await.unwrap();
    assert_eq!(claimed.iter().filter(|claimed| **claimed).count(), 1);
    assert_eq!(idle().await, []);
    store.execute("update grants set keep_alive_at = null").await;
    assert_eq!(idle().await.len(), 1);
    store.begin_refresh(session, "", &alice(), version, MINUTE).await.unwrap().unwrap();
    let token = access_token("fresh");
    assert!(store.finish_refresh(session, "", &alice(), version, &token, None).await.unwrap());
    assert_eq!(idle().await, []);
    assert!(!store.claim_idle_grant(&found[0], MINUTE).await.unwrap());

    // Nobody needs it any more.
    let claimed = store.claim(Uuid::now_v7(), 10, MINUTE).await.unwrap();
    for job in &claimed {
        let due_at = job.claimed_at + MINUTE;
        let is_hers = job.lease.job_id == needed;
        let next = if is_hers { Next::Complete(json!(1)) } else { Next::Wait { due_at } };
        store.record_one(&job.lease, &record(next)).await.unwrap();
    }
    if store.database.url.expose_secret().starts_with("sqlite:") {
        store.execute("update grants set refreshed_at = refreshed_at - 31 * 86400000000").await;
    } else {
        store.execute("update grants set refreshed_at = refreshed_at - interval '31 days'").await;
    }
    let [his] = &idle().await[..] else { panic!() };
    assert_eq!(his.owner, bob());
}

pub(super) async fn two_tokens_of_a_session_cannot_be_swapped(store: TestStore) {
    store.submit(&alice(), Some(Grant::New(&new_grant(Some("k"), 1)))).await;
    let id = store.session(&alice(), "k").await.id;
    let version = store.grant(id, &alice()).await.version;
    store.begin_refresh(id, "", &alice(), version, MINUTE).await.unwrap().unwrap();
    let other = NewAccessToken { scope_set: "write".into(), ..access_token("write-token") };
    assert!(store.finish_refresh(id, "", &alice(), version, &other, None).await.unwrap());
    assert!(store.grant(id, &alice()).await.token.is_some());
    store
        .execute(
            "update access_tokens set access_token =
                (select access_token from access_tokens where scope_set = 'write')
             where scope_set = 'read'",
        )
        .await;
    let swapped = store.held_grant(id, "", &alice(), CLIENT, "read").await;
    assert!(matches!(swapped, Err(StoreError::Undecryptable { .. })), "{swapped:?}");
}
