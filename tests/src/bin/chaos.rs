//! `./chaos`: a run as long as one likes; see `docs/chaos.md`.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use errand_tests::chaos::{Plan, run};

/// Works under faults at random and says of each promise whether it was kept.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults happen.
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// The same seed, the same faults, jobs and answers; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Jobs in that time; by default 500 a minute.
    #[arg(long)]
    jobs: Option<usize>,
    /// Processes of errand-worker.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Rows that wait for tomorrow while timers are measured.
    #[arg(long, default_value_t = 1_000_000)]
    waiting_rows: u32,
    /// `pg_ctl` with the folder of the server of `TEST_DATABASE_URL`, which may then be killed.
    #[arg(long, env = "CHAOS_PG_CTL")]
    pg_ctl: Option<String>,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = run(Plan {
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        length: Duration::from_mins(arguments.minutes.into()),
        jobs: arguments.jobs.unwrap_or(500 * arguments.minutes as usize),
        users: 12,
        workers: arguments.workers,
        measures: true,
        waiting_rows: arguments.waiting_rows,
        pg_ctl: arguments.pg_ctl,
    })
    .await;
    println!("{report}");
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
