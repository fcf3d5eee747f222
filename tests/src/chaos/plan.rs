use std::time::Duration;

use fastrand::Rng;

/// `worker.lease_seconds` of a run.
pub(crate) const LEASE_SECONDS: u32 = 4;

/// What a run does. Faults, jobs and answers come from the seed; when exactly the processes meet them
/// does not.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The same seed, the same faults.
    pub seed: u64,
    /// How long faults happen.
    pub length: Duration,
    /// Jobs submitted in that time.
    pub jobs: usize,
    /// Users who submit them.
    pub users: usize,
    /// Processes of `errand-worker`.
    pub workers: usize,
    /// Whether to measure L1 to L6; takes four minutes more, of a machine that is left alone.
    pub measures: bool,
    /// Rows that wait for tomorrow while timers are measured.
    pub waiting_rows: u32,
    /// `pg_ctl` with the folder of the server, which nobody else uses: it may be killed. None: that
    /// fault is left out.
    pub pg_ctl: Option<String>,
}

impl Plan {
    /// What `./test` runs.
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            length: Duration::from_secs(20),
            jobs: 300,
            users: 6,
            workers: 3,
            measures: false,
            waiting_rows: 0,
            pg_ctl: None,
        }
    }

    /// A generator for one part of the run, whatever the others draw.
    pub(crate) fn random(&self, part: &str) -> Rng {
        let part = part
            .bytes()
            .fold(self.seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Rng::with_seed(part)
    }

    /// How long everything may take to finish once nothing goes wrong any more.
    pub(crate) fn patience(&self) -> Duration {
        self.length.clamp(Duration::from_mins(2), Duration::from_mins(5))
    }

    /// A fault about so often.
    pub(crate) fn pause(&self) -> Duration {
        (self.length / 12).min(Duration::from_secs(4))
    }
}
