//! The stream of claimed jobs.
//!
//! Permits first, then exactly that many jobs: nothing is claimed that cannot start at once. The
//! loop is never dropped inside a claim, which would leave rows leased that nobody knows of.

use std::{sync::Arc, time::Duration};

use errand_shared::{
    config::WorkerConfig,
    metrics,
    storage::{ClaimedJob, StoreError},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{Context, leases::HeldLease, retry_delay::retry_delay};

/// How long an idle worker waits before it looks again, if nothing tells it to look sooner.
const POLL: Duration = Duration::from_secs(1);

/// How often a worker looks for jobs whose time has come while there is enough to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Between two looks when a job is due that this worker did not get: another is at it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// Bounds of the pause after the database did not answer.
const DATABASE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A job that was claimed, with its place among those that run at once.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) job: ClaimedJob,
    pub(crate) lease: HeldLease,
    /// When the claim was asked for: the lease held then or later.
    pub(crate) asked: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Claims until `stop` is cancelled.
pub(crate) async fn claim(
    context: Arc<Context>,
    config: WorkerConfig,
    claimed: mpsc::Sender<Claimed>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.concurrency));
    let (mut failures, mut timers) = (0, Timers::unknown());
    while let Some(permits) = take_permits(&slots, &stop).await {
        let wanted = permits.num_permits();
        let asked = Instant::now();
        let jobs = async {
            if timers.are_due() {
                timers.look(&context).await?;
            }
            context.store.claim(context.id, wanted, config.lease).await
        };
        match jobs.await {
            Ok(jobs) => {
                failures = 0;
                let found = jobs.len();
                metrics::jobs_claimed(found);
                hand_out(&context, jobs, asked, permits, &claimed).await;
                // All that was wanted: there may be more.
                if found < wanted {
                    idle(&context, &stop, &mut timers).await;
                }
            }
            Err(error) => {
                failures += 1;
                let pause = retry_delay(DATABASE_PAUSE.0, DATABASE_PAUSE.1, failures);
                tracing::warn!("no jobs could be claimed, next try in {pause:?}: {error}");
                pause_unless(&stop, pause).await;
            }
        }
    }
}

/// Gives back the jobs of dead workers, again and again.
pub(crate) async fn rescue(context: Arc<Context>, lease: Duration) {
    let mut ticks = tokio::time::interval(lease / 4);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match context.store.rescue().await {
            Ok(0) => {}
            Ok(rescued) => {
                metrics::jobs_rescued(rescued);
                tracing::warn!(rescued, "jobs of workers that went away are due again");
                context.store.announce();
            }
            Err(error) => tracing::warn!("no jobs could be rescued: {error}"),
        }
    }
}

/// Takes every free slot, at least one; none once `stop` is cancelled.
async fn take_permits(
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    let mut permits = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        permit = Arc::clone(slots).acquire_owned() => permit.ok()?,
    };
    let more = u32::try_from(slots.available_permits()).unwrap_or(u32::MAX);
    if more > 0
        && let Ok(more) = Arc::clone(slots).try_acquire_many_owned(more)
    {
        permits.merge(more);
    }
    Some(permits)
}

async fn hand_out(
    context: &Context,
    jobs: Vec<ClaimedJob>,
    asked: Instant,
    mut permits: OwnedSemaphorePermit,
    claimed: &mpsc::Sender<Claimed>,
) {
    for job in jobs {
        let lease = context.leases.hold(job.lease.clone(), asked);
        let permit = permits.split(1).expect("no more jobs are claimed than permits were taken");
        // Nobody receives any more: the job is dropped here, and with it the lease.
        let _ = claimed.send(Claimed { job, lease, asked, _permit: permit }).await;
    }
}

/// When jobs that wait are due.
#[derive(Debug)]
struct Timers {
    looked: Instant,
    due: Option<Instant>,
}

impl Timers {
    fn unknown() -> Self {
        let now = Instant::now();
        Self { looked: now, due: Some(now) }
    }

    /// Whether to look before the next claim: there may be enough else to do for long.
    fn are_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now()) || self.looked.elapsed() >= LOOK_EVERY
    }

    /// Makes ready what is due.
    async fn look(&mut self, context: &Context) -> Result<(), StoreError> {
        let looked = Instant::now();
        let due = context.store.wake_due().await?;
        *self = Self { looked, due: due.map(|due| looked + due.max(SHORTEST_PAUSE)) };
        Ok(())
    }
}

/// Waits until there may be something to claim: an announcement, a timer, or what nobody announced.
async fn idle(context: &Context, stop: &CancellationToken, timers: &mut Timers) {
    loop {
        // After the claim, and not before: a job that is announced runs one statement sooner. Should it
        // fail, so will the next claim.
        let looked = timers.look(context).await;
        // Spread: workers that were woken together would look together ever after.
        let poll = Instant::now() + POLL.mul_f64(1.0 + 0.08 * fastrand::f64());
        let due = timers.due.filter(|due| *due < poll);
        let is_over = tokio::select! {
            () = stop.cancelled() => true,
            () = context.store.wait_for_announcement() => true,
            () = tokio::time::sleep_until(due.unwrap_or(poll)) => due.is_some() || looked.is_err(),
        };
        if is_over {
            timers.looked = Instant::now();
            return;
        }
    }
}

async fn pause_unless(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
