//! The cage: expressions that are not tree-shaped, each step's in a child process of its own.
//!
//! jq has no bounds on time, memory or stack, and this process holds tokens. So such an expression
//! is compiled and evaluated in a fresh child, the same program started anew ([`run_if_caged`]). The
//! child has no environment, can open no file, gets expressions and data and nothing else, and the
//! operating system ends it if it takes too much. Whatever happens to it concerns one step of one job.
//!
//! `child.rs` is what runs in there, `process.rs` its life as seen from here, `limits.rs` how much
//! one child may take and how many there may be.
//!
//! Works on every Unix. What differs: only Linux ends a child with its parent (elsewhere its limit of
//! CPU time does) and only there the limit of memory holds for certain. macOS takes that limit
//! without keeping it: an expression may use all the memory it can fill in its two seconds.

mod child;
mod limits;
mod message;
mod process;

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

pub use self::child::run_if_caged;
use self::{
    message::Request,
    process::{Failure, Process},
};
use crate::config::Limits;

/// How long an answer, or a place for a child, is waited for. An expression that has not used up its
/// CPU time by then was kept from it by others.
const PATIENCE: Duration = Duration::from_secs(30);

/// The children of one process: what starts them, and how many there may be at once.
///
/// A process has one of these.
#[derive(Debug)]
pub struct Cages {
    program: PathBuf,
    cpu_seconds: u64,
    patience: Duration,
    free: Mutex<usize>,
    freed: Condvar,
}

/// The one set of children that everything in a process shares.
pub type SharedCages = Arc<Cages>;

/// The machine was too busy for an expression: nothing is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine is too busy to evaluate an expression")]
pub struct Interrupted;

impl Cages {
    /// Children are this program: its `main` begins with [`run_if_caged`].
    pub fn new(limits: &Limits) -> Self {
        // What `current_exe` names is gone after an upgrade; this is the file that runs.
        let running = Path::new("/proc/self/exe");
        let program = if running.exists() {
            running.to_owned()
        } else {
            std::env::current_exe().unwrap_or_else(|_| running.to_owned())
        };
        Self::of(program, limits)
    }

    /// Children are another program, which begins with [`run_if_caged`] too: for tests, whose `main`
    /// is not theirs.
    pub fn of(program: PathBuf, limits: &Limits) -> Self {
        Self {
            program,
            cpu_seconds: limits.evaluation_cpu_seconds,
            patience: PATIENCE,
            free: Mutex::new(limits::places()),
            freed: Condvar::new(),
        }
    }

    /// For tests in this crate, whose program `main` is not ours: `examples/cage.rs`.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let test = std::env::current_exe().expect("the system knows which executable this is");
        // target/debug/deps/errand_shared-0123456789abcdef
        let folder = test.ancestors().nth(2).expect("tests are two folders deep");
        let cages = Self::of(folder.join("examples/cage"), &Limits::default());
        assert!(cages.program.exists(), "{} is missing: run ./test", cages.program.display());
        // Other tests want to compute too.
        Self { patience: Duration::from_mins(2), ..cages }
    }

    /// Waits for a place for one more child.
    fn place(&self) -> Result<Place<'_>, Interrupted> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(free, self.patience, |free| *free == 0);
        let (mut free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1).ok_or(Interrupted)?;
        Ok(Place(self))
    }
}

/// The right to have a child.
struct Place<'c>(&'c Cages);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

/// The cage of one step, or of one document's check. Its child is started by the first expression that
/// needs one, and ends with this.
pub(super) struct Cage<'c> {
    cages: &'c Cages,
    state: RefCell<State<'c>>,
}

#[derive(Default)]
struct State<'c> {
    /// The child first: it ends before its place is free.
    child: Option<(Process, Place<'c>)>,
    is_spent: bool,
    is_interrupted: bool,
}

impl<'c> Cage<'c> {
    pub(super) fn new(cages: &'c Cages) -> Self {
        Self { cages, state: RefCell::default() }
    }

    /// Whether a child died of an expression, or used up much of its CPU time: enough for one step.
    pub(super) fn is_spent(&self) -> bool {
        self.state.borrow().is_spent
    }

    /// Whether an expression was given up because the machine is busy; every later one is at once.
    /// Nothing that was made of its result counts.
    pub(super) fn is_interrupted(&self) -> bool {
        self.state.borrow().is_interrupted
    }

    /// Compiles `source`, which may name `variables`; the error is a sentence for the author.
    pub(super) fn compile(&self, source: &str, variables: &[String]) -> Result<(), String> {
        let compiled = self.ask(&Request { source, variables, evaluate: None });
        compiled.map_err(|why| format!("This expression {why}."))?.map(|_| ())
    }

    /// Evaluates `source` on `data`; `values` are those of `variables`. The error is what the
    /// expression did, as the end of a sentence.
    pub(super) fn evaluate(
        &self,
        source: &str,
        variables: &[String],
        values: &[Cow<'_, Value>],
        data: &Value,
    ) -> Result<Value, String> {
        let values = values.iter().map(AsRef::as_ref).collect();
        self.ask(&Request { source, variables, evaluate: Some((values, data)) })?
    }

    /// What the child answers; or what became of it, as the end of a sentence.
    fn ask(&self, request: &Request) -> Result<Result<Value, String>, String> {
        let mut state = self.state.borrow_mut();
        let asked = if state.is_interrupted {
            Err(Failure::Interrupted)
        } else {
            self.exchange(&mut state, request)
        };
        asked.map_err(|failure| {
            state.child = None;
            match failure {
                Failure::Died(why) => {
                    state.is_spent = true;
                    why
                }
                Failure::Interrupted => {
                    state.is_interrupted = true;
                    "was interrupted".to_owned()
                }
            }
        })
    }

    fn exchange(
        &self,
        state: &mut State<'c>,
        request: &Request,
    ) -> Result<Result<Value, String>, Failure> {
        if state.child.is_none() {
            let place = self.cages.place().map_err(|Interrupted| Failure::Interrupted)?;
            let process = Process::start(&self.cages.program, self.cages.cpu_seconds)?;
            state.child = Some((process, place));
        }
        let Some((process, _)) = &mut state.child else { return Err(Failure::Interrupted) };
        let answer = process.ask(request, Instant::now() + self.cages.patience)?;
        // The limit is for the child's whole life: the next expression is not to pay for this one.
        if answer.cpu_milliseconds >= self.cages.cpu_seconds * 500 {
            state.child = None;
            state.is_spent = true;
        }
        Ok(answer.result)
    }
}

impl fmt::Debug for Cage<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cage").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
