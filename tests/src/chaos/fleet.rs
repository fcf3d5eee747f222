//! Errand's processes, and somebody who starts again what has ended, as a container platform does.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{downstream::Downstream, plan::Plan};
use crate::{PATIENCE, Program, TestApp, free_address};

/// Before a process that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(300);

/// A process that ends sooner never worked: its database was away.
const NEVER_WORKED: Duration = Duration::from_secs(8);

/// Jobs that a worker runs at once.
pub(crate) const CONCURRENCY: usize = 32;

pub(crate) struct Fleet {
    pub(crate) apis: Vec<Member>,
    pub(crate) workers: Vec<Member>,
    /// Asked to end, and still at it.
    stopping: Vec<(Program, Instant)>,
    /// Ends that nobody asked for, by their logs.
    unasked_ends: Vec<String>,
    addresses: Vec<String>,
}

/// One process, and those that came after it.
pub(crate) struct Member {
    binary: &'static str,
    environment: Vec<(String, String)>,
    program: Option<Program>,
    pub(crate) is_paused: bool,
    started: Instant,
    starts_at: Instant,
}

impl Fleet {
    pub(crate) fn start(app: &mut TestApp, downstream: &Downstream, plan: &Plan) -> Self {
        let second = free_address();
        let addresses = vec![app.address().to_owned(), format!("http://{second}")];
        let listen = ("ERRAND__API__LISTEN".to_owned(), second.to_string());
        let mut first = Member::new("errand-api", Vec::new());
        first.program = Some(app.take_api());
        let apis = vec![first, Member::new("errand-api", vec![listen])];
        let workers = (1..=plan.workers).map(|number| {
            let mut environment = downstream.variables(&format!("w{number}"));
            environment.push(("ERRAND__WORKER__CONCURRENCY".to_owned(), CONCURRENCY.to_string()));
            Member::new("errand-worker", environment)
        });
        let workers = workers.collect();
        let (stopping, unasked_ends) = (Vec::new(), Vec::new());
        let mut fleet = Self { apis, workers, stopping, unasked_ends, addresses };
        fleet.keep_up(app);
        fleet
    }

    pub(crate) fn api_addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Starts what is to run and does not.
    pub(crate) fn keep_up(&mut self, app: &TestApp) {
        for member in self.apis.iter_mut().chain(&mut self.workers) {
            if let Some(program) = &mut member.program
                && program.has_ended()
            {
                if member.started.elapsed() > NEVER_WORKED {
                    self.unasked_ends.push(last_lines(&program.log()));
                }
                member.program = None;
                member.starts_at = Instant::now() + RESTART_PAUSE;
            }
            if member.program.is_none() && member.starts_at <= Instant::now() {
                member.start(app);
            }
        }
        self.stopping.retain_mut(|(program, asked)| {
            if program.has_ended() {
                return false;
            }
            let is_late = asked.elapsed() > PATIENCE * 4;
            if is_late {
                self.unasked_ends.push(format!("did not stop: {}", last_lines(&program.log())));
            }
            !is_late
        });
    }

    /// SIGTERM; another one takes its place at once.
    pub(crate) async fn stop_worker(&mut self, index: usize) {
        let member = &mut self.workers[index];
        if let Some(mut program) = member.program.take() {
            if program.has_ended() {
                member.program = Some(program);
                return;
            }
            program.signal("TERM").await;
            self.stopping.push((program, Instant::now()));
        }
        member.starts_at = Instant::now();
    }

    /// Whether every process is the one that was started, and runs.
    pub(crate) fn all_run(&mut self) -> bool {
        let mut members = self.apis.iter_mut().chain(&mut self.workers);
        members.all(|member| member.program.as_mut().is_some_and(|program| !program.has_ended()))
    }

    /// SIGTERM to all. Returns the ends that nobody asked for.
    pub(crate) async fn retire(self) -> Vec<String> {
        let mut unasked_ends = self.unasked_ends;
        let members = self.apis.into_iter().chain(self.workers);
        let programs = members.filter_map(|member| member.program);
        for mut program in programs.chain(self.stopping.into_iter().map(|(program, _)| program)) {
            if !program.has_ended() {
                match program.terminate().await {
                    Some(0) => {}
                    code => unasked_ends.push(format!("SIGTERM was answered with {code:?}")),
                }
            }
        }
        unasked_ends
    }
}

impl Member {
    fn new(binary: &'static str, environment: Vec<(String, String)>) -> Self {
        let now = Instant::now();
        Self { binary, environment, program: None, is_paused: false, started: now, starts_at: now }
    }

    fn start(&mut self, app: &TestApp) {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        self.program = Some(app.start_program(self.binary, &[], &environment));
        self.started = Instant::now();
        self.is_paused = false;
    }

    /// SIGKILL; started again after `pause`.
    pub(crate) async fn kill(&mut self, pause: Duration) {
        if let Some(program) = self.program.take() {
            program.kill().await;
        }
        self.is_paused = false;
        self.starts_at = Instant::now() + pause;
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) async fn pause(&mut self, pause: bool) {
        if let Some(program) = &mut self.program
            && !program.has_ended()
        {
            program.signal(if pause { "STOP" } else { "CONT" }).await;
            self.is_paused = pause;
        }
    }

    /// The id under which a worker holds its leases, by its log; none if it has not come so far.
    pub(crate) fn worker_id(&self) -> Option<Uuid> {
        let log = self.program.as_ref()?.log();
        let (_, id) = log.split_once("worker.id=")?;
        id.get(..36)?.parse().ok()
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
