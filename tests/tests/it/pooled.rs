//! PostgreSQL behind PgBouncer in transaction mode: what is true without it is true with it.

use errand_tests::{Database, Settings, TestApp, has_pgbouncer, run_to_end};

use crate::{
    crashes, idempotency, key_rotation, many_jobs, own_jobs, retention, suspension, webhooks,
};

macro_rules! behind_pgbouncer {
    ($($room:ident::$story:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $story() {
            if has_pgbouncer() {
                $room::$story(Database::Pooled).await;
            }
        })*
    };
}

behind_pgbouncer! {
    crashes::a_job_whose_worker_dies_in_a_call_goes_on_with_that_call
    idempotency::submissions_with_one_key_that_arrive_together_are_one_job
    key_rotation::a_rotation_that_is_killed_is_brought_to_its_end_by_the_next
    many_jobs::refresh_one_session
    many_jobs::share_a_thousand_jobs
    own_jobs::a_batch_is_submitted_as_one
    own_jobs::a_cancelled_job_stops_its_call_and_starts_no_other
    own_jobs::priorities_order_ones_own_jobs
    retention::a_finished_job_is_deleted_once_it_is_old
    retention::a_session_ends_with_its_last_job_and_its_next_job_brings_it_back
    suspension::a_job_whose_grant_does_not_do_waits_for_its_user
    suspension::a_resume_wakes_every_suspended_job_of_the_session
    webhooks::a_submitter_is_told_of_what_it_asked_for
}

#[tokio::test]
async fn the_schema_is_brought_up_to_date_and_examined() {
    if !has_pgbouncer() {
        return;
    }
    let app = TestApp::start_with(Database::Pooled, Settings::default()).await;
    let path = app.configuration();
    let migrate = || async {
        let arguments = ["migrate", "--config", path.to_str().unwrap()];
        let ended = run_to_end("errand", &arguments, &[]).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    };
    // More of them than PgBouncer has connections: a lock that one left behind would keep the others.
    futures::future::join_all((0..8).map(|_| migrate())).await;
    let doctor = ["doctor", "--config", path.to_str().unwrap()];
    let ended = run_to_end("errand", &doctor, &[]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    app.finish().await;
}
