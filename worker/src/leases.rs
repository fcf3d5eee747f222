//! The leases a worker holds: renewed in one statement while jobs run, given up when they end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use errand_shared::{
    metrics,
    storage::{Lease, Renewed, SharedStore, StoreError},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::retry_delay::retry_delay;

/// Bounds of the pause after a renewal failed that somebody waits for.
const RENEWAL_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// No call of a cancelled job runs for two seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// All leases of this worker.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    store: SharedStore,
    worker: Uuid,
    length: Duration,
    /// Once cancelled, what is dropped is given back with the rest and is no interruption.
    stopping: CancellationToken,
    held: Arc<Mutex<HashMap<Uuid, Held>>>,
}

#[derive(Debug, Clone)]
struct Held {
    lease_id: i64,
    /// Nobody else gets the job before this, whatever the database says afterwards.
    until: Instant,
    lost: CancellationToken,
}

/// A lease in the hands of one job's task.
///
/// Dropped before [`HeldLease::settle`] (the task panicked or was aborted) it is given back as an
/// interruption.
#[derive(Debug)]
pub(crate) struct HeldLease {
    lease: Lease,
    lost: CancellationToken,
    leases: Leases,
    settled: bool,
}

impl Leases {
    pub(crate) fn new(
        store: SharedStore,
        worker: Uuid,
        length: Duration,
        stopping: CancellationToken,
    ) -> Self {
        Self { store, worker, length, stopping, held: Arc::default() }
    }

    /// From now on the lease, which was asked for at `asked`, is renewed.
    pub(crate) fn hold(&self, lease: Lease, asked: Instant) -> HeldLease {
        let until = asked + self.length;
        let held = Held { lease_id: lease.lease_id, until, lost: CancellationToken::new() };
        let lost = held.lost.clone();
        // Claimed anew after its lease was lost: whoever still works under the old one stops.
        if let Some(former) = self.lock().insert(lease.job_id, held) {
            former.lost.cancel();
        }
        HeldLease { lease, lost, leases: self.clone(), settled: false }
    }

    /// Looks every second whether the leases are still this worker's, until it is dropped: a job that
    /// was cancelled, or whose session was stopped, is left at once, its call given up.
    pub(crate) async fn watch(&self) {
        let mut ticks = tokio::time::interval(WATCH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held = self.lock().clone();
            if held.is_empty() {
                continue;
            }
            match self.store.held(self.worker).await {
                Ok(leases) => self.give_up_all_but(&leases, &held),
                Err(error) => tracing::debug!("leases were not looked at: {error}"),
            }
        }
    }

    /// Renews until it is dropped, three times per lease, so that two may fail.
    pub(crate) async fn keep(&self) {
        let mut ticks = tokio::time::interval(self.length / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held = self.lock().clone();
            if held.is_empty() {
                continue;
            }
            if let Err(error) = self.renew(&held).await {
                tracing::warn!("leases were not renewed: {error}");
            }
        }
    }

    async fn renew(&self, held: &HashMap<Uuid, Held>) -> Result<(), StoreError> {
        let jobs: Vec<Uuid> = held.keys().copied().collect();
        let asked = Instant::now();
        let renewed = self.store.renew(self.worker, &jobs, self.length).await?;
        let until = asked + self.length;
        let mut now = self.lock();
        for Renewed { job_id, lease_id } in &renewed {
            if let Some(held) = now.get_mut(job_id).filter(|held| held.lease_id == *lease_id) {
                held.until = held.until.max(until);
            }
        }
        drop(now);
        self.give_up_all_but(&renewed, held);
        Ok(())
    }

    /// Tells the tasks of those that were `held` before and are not among `leases`.
    fn give_up_all_but(&self, leases: &[Renewed], held: &HashMap<Uuid, Held>) {
        let leases: HashMap<Uuid, i64> =
            leases.iter().map(|lease| (lease.job_id, lease.lease_id)).collect();
        let now = self.lock();
        for (job_id, held) in held {
            // One that has ended meanwhile was not lost.
            let is_held = now.get(job_id).is_some_and(|now| now.lease_id == held.lease_id);
            if is_held && leases.get(job_id) != Some(&held.lease_id) {
                metrics::lease_lost();
                held.lost.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Held>> {
        self.held.lock().expect("nothing panics while it holds the map")
    }

    /// The entry of `lease` if its time is over as far as this process knows.
    fn find_over(&self, lease: &Lease) -> Option<HashMap<Uuid, Held>> {
        let held = self.lock().get(&lease.job_id).cloned()?;
        let is_over = held.lease_id == lease.lease_id && held.until <= Instant::now();
        is_over.then(|| HashMap::from([(lease.job_id, held)]))
    }

    /// Unless the job was claimed anew meanwhile: then the entry belongs to the new lease.
    fn forget(&self, lease: &Lease) {
        let mut held = self.lock();
        if held.get(&lease.job_id).is_some_and(|held| held.lease_id == lease.lease_id) {
            held.remove(&lease.job_id);
        }
    }
}

impl HeldLease {
    /// Returns when a renewal found that the lease is somebody else's.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns once nobody else can have the job: at once, unless this process stood still for longer
    /// than its leases last, or could not renew them. Never if the lease is lost.
    ///
    /// To be asked before what cannot be taken back.
    pub(crate) async fn assure(&self) {
        let mut failures = 0;
        loop {
            if self.lost.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let Some(over) = self.leases.find_over(&self.lease) else { return };
            if let Err(error) = self.leases.renew(&over).await {
                failures += 1;
                let pause = retry_delay(RENEWAL_PAUSE.0, RENEWAL_PAUSE.1, failures);
                tracing::warn!("a lease was not renewed, next try in {pause:?}: {error}");
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// What became of the job is recorded, or is somebody else's to record.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.forget(&self.lease);
        if self.settled || self.leases.stopping.is_cancelled() {
            return;
        }
        let (store, lease) = (Arc::clone(&self.leases.store), self.lease.clone());
        // Lost if the runtime is going down: then the lease runs out by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = store.interrupt(&lease).await {
                    tracing::warn!(job.id = %lease.job_id, "a job was not given back: {error}");
                }
            });
        }
    }
}
