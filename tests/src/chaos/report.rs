use std::{collections::BTreeMap, fmt};

use super::{Plan, Stage, faults};

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// What happened in it.
    pub facts: Facts,
    /// One for each promise.
    pub lines: Vec<Line>,
}

/// What happened in a run.
#[derive(Debug)]
pub struct Facts {
    /// As planned.
    pub seed: u64,
    /// Jobs that were acknowledged while things went wrong.
    pub jobs: usize,
    /// Calls that the downstream API saw meanwhile.
    pub requests: usize,
    /// Faults by name, and how often.
    pub faults: BTreeMap<&'static str, u32>,
    /// Faults that this run does not know.
    pub left_out: Vec<&'static str>,
    /// The last words of processes that ended without being asked to.
    pub unasked_ends: Vec<String>,
    /// How long it took.
    pub seconds: u64,
}

/// One promise of `docs/chaos.md`, and what became of it.
#[derive(Debug, Clone)]
pub struct Line {
    /// `S1` …
    pub name: &'static str,
    /// What is counted or measured.
    pub what: &'static str,
    /// What it came to.
    pub figure: String,
    /// What it may come to.
    pub bound: String,
    /// Whether it does.
    pub verdict: Verdict,
    /// The first cases of what should not be.
    pub cases: Vec<String>,
}

/// Whether a promise was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Pass,
    /// It was not.
    Fail,
    /// Nothing was promised, or this run cannot say.
    Open,
}

/// Cases of one line that are printed.
const CASES: usize = 5;

impl Line {
    /// Things of which there should be none, among so many.
    pub(crate) fn none(
        name: &'static str,
        what: &'static str,
        among: usize,
        cases: Vec<String>,
    ) -> Self {
        Self {
            name,
            what,
            figure: format!("{} of {among}", cases.len()),
            bound: "0".to_owned(),
            verdict: if cases.is_empty() { Verdict::Pass } else { Verdict::Fail },
            cases,
        }
    }

    /// A figure that is good or not.
    pub(crate) fn measured(
        name: &'static str,
        what: &'static str,
        figure: String,
        bound: &str,
        is_good: bool,
    ) -> Self {
        let verdict = if is_good { Verdict::Pass } else { Verdict::Fail };
        Self { name, what, figure, bound: bound.to_owned(), verdict, cases: Vec::new() }
    }

    /// Nothing is known, for this reason.
    pub(crate) fn not_measured(name: &'static str, what: &'static str, why: &str) -> Self {
        Self::noted(name, what, format!("not measured: {why}"))
    }

    /// A figure without a promise.
    pub(crate) fn noted(name: &'static str, what: &'static str, figure: String) -> Self {
        let verdict = Verdict::Open;
        Self { name, what, figure, bound: String::new(), verdict, cases: Vec::new() }
    }
}

impl Facts {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            seed: plan.seed,
            jobs: plan.jobs,
            requests: 0,
            faults: BTreeMap::new(),
            left_out: faults::left_out(plan.pg_ctl.is_some()),
            unasked_ends: Vec::new(),
            seconds: 0,
        }
    }
}

impl Report {
    /// Whether no promise was broken.
    pub fn passed(&self) -> bool {
        self.facts.unasked_ends.is_empty()
            && self.lines.iter().all(|line| line.verdict != Verdict::Fail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { seed, jobs, requests, faults, left_out, unasked_ends, seconds } = &self.facts;
        writeln!(formatter, "seed {seed}: {jobs} jobs, {requests} calls, {seconds} s")?;
        for (name, count) in faults {
            writeln!(formatter, "  {count:4} x {name}")?;
        }
        for name in left_out {
            writeln!(formatter, "     left out: {name} (the server is not this run's own)")?;
        }
        writeln!(formatter)?;
        for line in &self.lines {
            let Line { name, what, figure, bound, verdict, cases } = line;
            let verdict = match verdict {
                Verdict::Pass => "PASS",
                Verdict::Fail => "FAIL",
                Verdict::Open => "-",
            };
            writeln!(formatter, "{verdict:4}  {name}  {what:62} {figure:>32}   {bound}")?;
            for case in cases.iter().take(CASES) {
                writeln!(formatter, "          {case}")?;
            }
        }
        for end in unasked_ends {
            writeln!(formatter, "FAIL  a process ended by itself: {end}")?;
        }
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        write!(formatter, "\n{verdict}")
    }
}

/// Says where to look.
#[expect(clippy::print_stderr, reason = "whoever reads a failure wants the logs and the rows")]
pub(crate) fn keep_what_was_written(stage: Stage) {
    let database = stage.app.database.name().to_owned();
    let folder = stage.app.keep();
    eprintln!("logs: {}, database: {database}", folder.display());
}
