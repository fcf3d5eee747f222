//! apalis runs the claimed jobs: the one file that knows it.
//!
//! The queue is ours and so are leases, retries and records (`docs/decisions/`); apalis gives a
//! worker that starts each job of a stream in a task of its own and stops gracefully.

use std::{convert::Infallible, sync::Arc};

use apalis::prelude::{ParallelizeExt, WorkerBuilder, WorkerContext};
use errand_shared::config::WorkerConfig;
use futures::{StreamExt, stream};
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Context,
    advance_job::advance_job,
    claims::{self, Claimed},
};

/// Runs until `stop` is cancelled and the jobs have reached their next record.
pub(crate) async fn run(config: &WorkerConfig, context: Arc<Context>, stop: CancellationToken) {
    let renewing = tokio::spawn({
        let leases = context.leases.clone();
        async move { leases.keep().await }
    });
    let watching = tokio::spawn({
        let leases = context.leases.clone();
        async move { leases.watch().await }
    });
    let rescuing = tokio::spawn(claims::rescue(Arc::clone(&context), config.lease));
    let keeping_alive = tokio::spawn(keep_alive(Arc::clone(&context)));
    tracing::info!(worker.id = %context.id, concurrency = config.concurrency, "worker started");

    let (sender, receiver) = mpsc::channel(config.concurrency);
    let claiming =
        tokio::spawn(claims::claim(Arc::clone(&context), config.clone(), sender, stop.clone()));
    let drained = Arc::new(Notify::new());
    let running = AbortOnDropHandle::new(tokio::spawn(run_claimed(
        Arc::clone(&context),
        receiver,
        Arc::clone(&drained),
    )));

    stop.cancelled().await;
    tracing::info!("stopping: jobs are brought to their next record");
    context.stopping.cancel();
    if claiming.await.is_err() {
        tracing::error!("the claim loop panicked");
    }
    drained.notify_one();
    // Renewal goes on meanwhile: a job that drains for long must not be taken for lost.
    if tokio::time::timeout(config.drain, running).await.is_err() {
        tracing::warn!("some jobs did not reach a record in time and are given back");
    }
    renewing.abort();
    watching.abort();
    rescuing.abort();
    keeping_alive.abort();
    context.sessions.finish_refreshes().await;
    context.call_slots.finish_returns().await;
    match context.store.release(context.id).await {
        Ok(released) => {
            context.store.announce_now().await;
            tracing::info!(released, "worker stopped");
        }
        Err(error) => tracing::warn!("jobs were not given back, their leases run out: {error}"),
    }
}

/// Refreshes what jobs will need, and nobody has used for long.
async fn keep_alive(context: Arc<Context>) {
    if let Some(unused) = context.identity.keep_alive {
        context.sessions.keep_alive(unused, &context.downstream_apis).await;
    }
}

/// Runs each job that comes, in a task of its own, until `drained` and the last one has ended.
async fn run_claimed(
    context: Arc<Context>,
    receiver: mpsc::Receiver<Claimed>,
    drained: Arc<Notify>,
) {
    let claimed = stream::unfold(receiver, |mut receiver| async {
        // A stream that errs makes apalis drop every running job: this one cannot.
        receiver.recv().await.map(|claimed| (Ok::<_, Infallible>(claimed), receiver))
    });
    let worker = WorkerBuilder::new(context.id.to_string())
        .backend(claimed.boxed())
        // Aborted when the worker is dropped: a bare `tokio::spawn` would run on after the drain.
        .parallelize(|job| AbortOnDropHandle::new(tokio::spawn(job)))
        .build(move |claimed: Claimed| {
            let context = Arc::clone(&context);
            async move { advance_job(&context, claimed).await }
        });
    // A stream that merely ends would leave the worker waiting for ever.
    let stopped = worker
        .run_with_ctx(move |worker: WorkerContext| {
            let drained = Arc::clone(&drained);
            async move {
                drained.notified().await;
                worker.stop()
            }
        })
        .await;
    if let Err(error) = stopped {
        tracing::error!("the runner ended early: {error}");
    }
}
