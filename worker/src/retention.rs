//! Lets go of what nobody needs any more: tokens of sessions without jobs, jobs that ended long ago.
//!
//! Every worker does so, by itself: each passes over what another is at.

use std::{sync::Arc, time::Duration};

use errand_shared::{
    config::RetentionConfig,
    storage::{StoreError, Walked},
    telemetry::chain,
};
use uuid::Uuid;

use crate::Context;

/// Between two sweeps, before jitter.
const ROUND: Duration = Duration::from_mins(1);

/// Jobs, or events, that one transaction deletes.
const ROWS: u32 = 500;

/// Sessions that are looked at at once.
const SESSIONS: u32 = 200;

/// Looks in one sweep, of either kind; the next one goes on from there. So a sweep costs the database
/// less than a second of a minute, however many sessions there are.
const LOOKS: u32 = 250;

/// Between two transactions, for those of others.
const PAUSE: Duration = Duration::from_millis(50);

/// How far the walks over all sessions are.
#[derive(Debug, Default)]
struct Walks {
    idle: Uuid,
    stopped: Uuid,
}

/// Sweeps again and again.
pub(crate) async fn sweep(context: Arc<Context>, config: RetentionConfig) {
    let mut walks = Walks::default();
    loop {
        if let Some(grace) = config.session_grace {
            log("sessions were not stopped", stop_idle(&context, grace, &mut walks.idle).await);
        }
        if let Some(age) = config.finished {
            log("jobs were not deleted", delete_finished(&context, age).await);
            log("events were not deleted", delete_session_events(&context, age).await);
            let deleted = delete_stopped(&context, age, &mut walks.stopped).await;
            log("sessions were not deleted", deleted);
        }
        tokio::time::sleep(ROUND.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

fn log(what: &str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!("{what}, next try in a minute: {}", chain(&error));
    }
}

async fn stop_idle(context: &Context, grace: Duration, after: &mut Uuid) -> Result<(), StoreError> {
    let look = |after| context.sessions.stop_idle(grace, after, SESSIONS);
    let stopped = walk(after, look).await?;
    if stopped > 0 {
        tracing::info!(stopped, "sessions that nothing needed were stopped");
    }
    Ok(())
}

async fn delete_finished(context: &Context, age: Duration) -> Result<(), StoreError> {
    let deleted = delete_all(|| context.store.delete_finished(age, ROWS)).await?;
    if deleted > 0 {
        tracing::info!(deleted, "jobs that ended long ago were deleted");
    }
    Ok(())
}

async fn delete_session_events(context: &Context, age: Duration) -> Result<(), StoreError> {
    let deleted = delete_all(|| context.store.delete_session_events(age, ROWS)).await?;
    if deleted > 0 {
        tracing::info!(deleted, "old events of sessions were deleted");
    }
    Ok(())
}

/// Deletes [`ROWS`] at a time; returns how many there were.
async fn delete_all<F>(delete: impl Fn() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut deleted = 0;
    loop {
        let found = delete().await?;
        deleted += found;
        if found < u64::from(ROWS) {
            return Ok(deleted);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn delete_stopped(
    context: &Context,
    age: Duration,
    after: &mut Uuid,
) -> Result<(), StoreError> {
    let look = |after| context.store.delete_stopped(age, after, SESSIONS);
    let deleted = walk(after, look).await?;
    if deleted > 0 {
        tracing::info!(deleted, "sessions that were stopped long ago were deleted");
    }
    Ok(())
}

/// Goes on over the sessions from where the last sweep ended; returns how many were found.
async fn walk<F>(after: &mut Uuid, look: impl Fn(Uuid) -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<Walked<u64>, StoreError>>,
{
    let mut found = 0;
    for _ in 0..LOOKS {
        let walked = look(*after).await?;
        found += walked.found;
        *after = walked.last.unwrap_or_default();
        if walked.last.is_none() {
            break;
        }
        if walked.found > 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(found)
}
