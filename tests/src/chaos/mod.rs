//! Proof that Errand loses nothing: real processes under load, faults at random, and then a checker
//! that reads what three witnesses have written: the downstream API, the identity provider, and a
//! journal that PostgreSQL itself keeps of every change of a job's state.
//!
//! What is promised stands in `docs/chaos.md`, with the name of each line of the report.

mod checker;
mod client;
mod downstream;
mod faults;
mod fleet;
mod journal;
mod measures;
mod plan;
mod report;
mod workload;

use std::sync::atomic::{AtomicBool, Ordering};

use errand_simulator::{Hostility, Options};
use tokio::time::Instant;

use self::{client::Client, downstream::Downstream, fleet::Fleet, journal::Journal, report::Facts};
pub use self::{
    plan::Plan,
    report::{Line, Report, Verdict},
};
use crate::{Database, Settings, TestApp};

/// Life of an access token: many jobs need another one on their way.
const TOKEN_LIFE: std::time::Duration = std::time::Duration::from_secs(6);

/// Longer than any run: what a provider grants to whoever did not get its answer.
const REUSE_LEEWAY: std::time::Duration = std::time::Duration::from_hours(2);

/// Everything that is there during a run, but the processes.
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) app: TestApp,
    pub(crate) downstream: Downstream,
    pub(crate) client: Client,
    pub(crate) journal: Journal,
}

/// Works, breaks, lets everything finish, measures, and checks.
pub async fn run(plan: Plan) -> Report {
    let began = Instant::now();
    let (stage, mut fleet) = set_up(plan).await;
    let mut facts = Facts::new(&stage.plan);

    let before = measures::throughput(&stage, &mut fleet).await;

    let measuring = stage.downstream.log().len();
    stage.be_hostile(true);
    let (submitted, finished) = (AtomicBool::new(false), AtomicBool::new(false));
    let submit = async {
        let jobs = workload::submit_all(&stage).await;
        submitted.store(true, Ordering::Relaxed);
        jobs
    };
    let storm = async {
        facts.faults = faults::storm(&stage, &mut fleet, &submitted).await;
        stage.be_hostile(false);
        // What nobody has met in the storm would hit a job that is measured, and nobody returns for it.
        stage.app.simulator.forget_token_answers();
        let unfinished = faults::calm(&stage, &mut fleet).await;
        finished.store(true, Ordering::Relaxed);
        unfinished
    };
    let return_ = workload::users_return(&stage, &finished);
    let (jobs, unfinished, ()) = tokio::join!(submit, storm, return_);

    facts.requests = stage.downstream.log().len() - measuring;
    let measured = measures::all(&stage, &mut fleet, before).await;
    facts.unasked_ends = fleet.retire().await;
    let checked = checker::check(&stage, &jobs, unfinished).await;
    facts.seconds = began.elapsed().as_secs();
    let report = Report { facts, lines: checked.into_iter().chain(measured).collect() };
    if report.passed() {
        stage.app.discard().await;
    } else {
        report::keep_what_was_written(stage);
    }
    report
}

async fn set_up(plan: Plan) -> (Stage, Fleet) {
    let downstream = Downstream::start(plan.seed).await;
    let settings = Settings {
        simulator: Options {
            reuse_detection: true,
            reuse_leeway: REUSE_LEEWAY,
            access_token_lifetime: TOKEN_LIFE,
            ..Options::default()
        },
        workers: 0,
        lease_seconds: plan::LEASE_SECONDS,
        drain_seconds: 1,
        more: downstream.configuration(),
        ..Settings::default()
    };
    let mut app = TestApp::start_with(Database::Postgres, settings).await;
    let fleet = Fleet::start(&mut app, &downstream, &plan);
    let journal = Journal::create(&app.database.url).await;
    let client = Client::new(&app, fleet.api_addresses(), plan.seed);
    (Stage { plan, app, downstream, client, journal }, fleet)
}

impl Stage {
    /// Whether the two parties that Errand talks to behave badly.
    fn be_hostile(&self, hostile: bool) {
        self.downstream.be_hostile(hostile);
        self.app.simulator.set_hostility(hostile.then(|| Hostility {
            seed: self.plan.seed,
            lost_requests: 4,
            lost_answers: 6,
            unavailable: 5,
            max_delay: std::time::Duration::from_millis(300),
        }));
    }
}
