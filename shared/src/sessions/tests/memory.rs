//! Tokens that are handed out without a look at the database.

use errand_simulator::HttpAnswer;

use super::{
    entra::{HOUR, MINUTE, tenant},
    *,
};
use crate::identity::RequestedClaims;

/// From now on whoever looks at a token's row fails.
const HIDE_ROWS: &str = "alter table access_tokens rename to hidden";
const SHOW_ROWS: &str = "alter table hidden rename to access_tokens";

fn looked_it_up(result: &Result<AccessToken, AcquireError>) -> bool {
    matches!(result, Err(AcquireError::Store(StoreError::Database(_))))
}

#[tokio::test]
async fn a_remembered_token_asks_neither_database_nor_provider_until_its_time_comes() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let bob = story.signed_in("bob", &alice.principal.tenant).await;
    let session = story.claim(&alice).await;
    let first = story.acquire_as(session, &alice, "Partner").await.unwrap();
    let asked = story.asked();
    story.execute(HIDE_ROWS).await;
    for _ in 0..3 {
        let again = story.acquire_as(session, &alice, "Partner").await.unwrap();
        assert_eq!(again.expose(), first.expose());
    }
    // Another user, another API, or a job that was claimed later: nothing of it is theirs.
    let later = ClaimedSession { version: session.version + 1, ..session };
    for (session, caller, api) in
        [(session, &bob, "Partner"), (session, &alice, "Ledger"), (later, &alice, "Partner")]
    {
        assert!(looked_it_up(&story.acquire_as(session, caller, api).await));
    }
    story.advance(54 * MINUTE);
    assert!(story.acquire_as(session, &alice, "Partner").await.is_ok());
    story.advance(2 * MINUTE);
    assert!(looked_it_up(&story.acquire_as(session, &alice, "Partner").await));
    story.execute(SHOW_ROWS).await;
    let renewed = story.acquire_as(session, &alice, "Partner").await.unwrap();
    assert_ne!(renewed.expose(), first.expose());
    assert_eq!(story.asked(), asked + 1);
    story.execute(HIDE_ROWS).await;
    let again = story.acquire_as(session, &alice, "Partner").await.unwrap();
    assert_eq!(again.expose(), renewed.expose());
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_remembered_to_its_end() {
    let story = Story::begin("none").await;
    let alice = story.alice().await;
    drop(story.initiate(&alice, &["Partner"]).await.unwrap());
    let session = story.claim(&alice).await;
    story.acquire_as(session, &alice, "Partner").await.unwrap();
    story.execute(HIDE_ROWS).await;
    story.advance(59 * MINUTE);
    assert!(story.acquire_as(session, &alice, "Partner").await.is_ok());
    story.advance(MINUTE);
    assert!(looked_it_up(&story.acquire_as(session, &alice, "Partner").await));
}

#[tokio::test]
async fn a_rejected_token_is_replaced_in_memory_too() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let session = story.claim(&alice).await;
    for claims in [None, RequestedClaims::from_challenge("eyJhIjoxfQ==")] {
        let first = story.acquire_as(session, &alice, "Partner").await.unwrap();
        let rejected = Rejected { access_token: first.clone(), claims };
        let api = story.api("Partner");
        let acquired = story.sessions.acquire_token(session, &alice.principal, api, Some(rejected));
        let second = acquired.await.unwrap().access_token;
        assert_ne!(second.expose(), first.expose());
        story.execute(HIDE_ROWS).await;
        let third = story.acquire_as(session, &alice, "Partner").await.unwrap();
        assert_eq!(third.expose(), second.expose());
        story.execute(SHOW_ROWS).await;
    }
}

#[tokio::test]
async fn nothing_of_a_stopped_session_serves_a_job_that_is_claimed_later() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let before = story.claim(&alice).await;
    let first = story.acquire_as(before, &alice, "Partner").await.unwrap();
    assert!(story.sessions.stop(&alice.principal, "k").await.unwrap());
    let stopped = story.claim(&alice).await;
    assert!(revoked(&story.acquire_as(stopped, &alice, "Partner").await));
    // That look has shown that nothing is left.
    assert!(revoked(&story.acquire_as(before, &alice, "Partner").await));

    let alice = story.signed_in("alice", &alice.principal.tenant).await;
    let resumed = story.claim(&alice).await;
    let second = story.acquire_as(resumed, &alice, "Partner").await.unwrap();
    assert_ne!(second.expose(), first.expose());
}

#[tokio::test]
async fn a_refresh_that_ends_after_a_stop_and_a_return_brings_nothing_into_memory() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let before = story.claim(&alice).await;
    story.advance(56 * MINUTE);
    // Much longer than a stop and a return take on a busy machine.
    let slow = ScriptedAnswer { delay: Duration::from_secs(5), ..Reply::Usual.into() };
    story.simulator.script_token_answer(slow);
    let asked = story.asked();
    let refresh = story.acquire_as(before, &alice, "Partner");
    let meanwhile = async {
        while story.asked() == asked {
            tokio::task::yield_now().await;
        }
        story.sessions.stop(&alice.principal, "k").await.unwrap();
        let alice = story.signed_in("alice", &alice.principal.tenant).await;
        (story.claim(&alice).await, story.acquire(&alice, "Partner").await.unwrap())
    };
    let (refreshed, (resumed, token)) = tokio::join!(refresh, meanwhile);
    assert_eq!(refreshed.unwrap().expose(), token.expose());
    story.execute(HIDE_ROWS).await;
    let remembered = story.acquire_as(resumed, &alice, "Partner").await.unwrap();
    assert_eq!(remembered.expose(), token.expose());
}

#[tokio::test]
async fn the_tokens_of_a_grant_that_is_found_dead_leave_the_memory() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let session = story.claim(&alice).await;
    story.acquire_as(session, &alice, "Partner").await.unwrap();
    story.simulator.script_token_answer(story.simulator.entra_error(50_173));
    assert!(revoked(&story.acquire_as(session, &alice, "Ledger").await));
    assert!(revoked(&story.acquire_as(session, &alice, "Partner").await));
}

#[tokio::test]
async fn an_early_renewal_replaces_what_is_remembered() {
    let story = Story::at_entra(6 * HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let session = story.claim(&alice).await;
    let first = story.acquire_as(session, &alice, "Partner").await.unwrap();
    story.advance(3 * HOUR + 6 * MINUTE);
    // Refused, so it is put off, and until then nobody asks.
    story.simulator.script_token_answer(HttpAnswer::text(503, ""));
    story.acquire_as(session, &alice, "Partner").await.unwrap();
    story.settle().await;
    story.acquire_as(session, &alice, "Partner").await.unwrap();
    story.execute(HIDE_ROWS).await;
    let again = story.acquire_as(session, &alice, "Partner").await.unwrap();
    assert_eq!(again.expose(), first.expose());
    story.advance(6 * MINUTE);
    assert!(looked_it_up(&story.acquire_as(session, &alice, "Partner").await));
    story.execute(SHOW_ROWS).await;
    story.acquire_as(session, &alice, "Partner").await.unwrap();
    story.settle().await;
    story.execute(HIDE_ROWS).await;
    let renewed = story.acquire_as(session, &alice, "Partner").await.unwrap();
    assert_ne!(renewed.expose(), first.expose());
}

#[tokio::test]
async fn a_session_that_was_found_lately_is_looked_at_again_when_told_to() {
    let story = Story::at_entra(HOUR).await;
    let alice = story.signed_in("alice", &tenant()).await;
    let bob = story.signed_in("bob", &alice.principal.tenant).await;
    let is_known = async |caller: &Caller| {
        let apis = [story.api("Partner")];
        let initiating = story.sessions.initiate(caller, Some("k"), &apis, Preflight::First);
        let grant = initiating.await.map(|initiated| matches!(initiated.grant(), Grant::Known(_)));
        grant.map_err(|error| matches!(error, InitiateError::Store(_)))
    };
    assert_eq!(is_known(&alice).await, Ok(true), "found in its row");
    story.execute("alter table sessions rename to hidden").await;
    assert_eq!(is_known(&alice).await, Ok(true), "remembered");
    assert_eq!(is_known(&bob).await, Err(true), "another user's key");
    let again = story.user("alice", &alice.principal.tenant).await;
    assert_eq!(is_known(&again).await, Err(true), "another token under the key");
    story.sessions.look_again(&alice, Some("k"));
    assert_eq!(is_known(&alice).await, Err(true));
    story.execute("alter table hidden rename to sessions").await;
    assert_eq!(is_known(&alice).await, Ok(true));
}
