//! How far a job is, and what it did on the way.

use serde::{Deserialize, Serialize};

use super::{
    checkpoint::{ActivityState, BranchState, Checkpoint, End, ListState, TaskState, TryPhase},
    document::{Activity, Task, Workflow},
    parse::push_token,
};

/// How many events one step tells: a loop that only computes would give thousands.
const STEP_EVENTS: usize = 64;

/// What a user may know about a running job: no data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// JSON Pointers of the current tasks, several in a fork; of the failed one after a fault; empty
    /// before the first step and after the last task.
    pub tasks: Vec<String>,
    /// Tasks that are finished or were skipped.
    pub completed: u64,
    /// [`Workflow::total`]
    pub total: Option<u64>,
}

/// One thing that became of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// What.
    pub what: TaskEvent,
    /// JSON Pointer of the task.
    pub task: String,
}

/// What can become of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEvent {
    /// It began.
    Started,
    /// It gave its output.
    Completed,
    /// A `try` begins anew after an error.
    Retried,
    /// It failed, whether or not the error is caught.
    Faulted,
}

impl Checkpoint {
    /// What the steps did since this was last asked, oldest first; of one step 64 events at most.
    ///
    /// It is told once and not written: after a crash between step and record the step is taken
    /// again, and tells it again.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    pub(super) fn note(&mut self, before: usize, what: TaskEvent, task: &str) {
        if self.happened.len() - before < STEP_EVENTS {
            self.happened.push(Happened { what, task: task.to_owned() });
        }
    }

    /// How far this job of `workflow` is.
    pub fn progress(&self, workflow: &Workflow) -> Progress {
        let total = workflow.total();
        if let Some(End::Completed(_)) = self.end {
            // What `end` or `exit` left out counts as skipped.
            return Progress {
                tasks: Vec::new(),
                completed: total.unwrap_or(self.completed),
                total,
            };
        }
        let mut survey = Survey::default();
        if let Some(root) = &self.root {
            survey.list(&workflow.tasks, root, "/do");
        }
        Progress {
            tasks: survey.tasks,
            // Without jumps, all that stands before is done, be it finished or left by `exit`.
            completed: if total.is_some() { survey.before } else { self.completed },
            total,
        }
    }
}

/// The current tasks, and how many tasks are done before them.
#[derive(Default)]
struct Survey {
    tasks: Vec<String>,
    before: u64,
}

impl Survey {
    fn list(&mut self, tasks: &[Task], list: &ListState, pointer: &str) {
        self.before += tasks.iter().take(list.at).map(Task::leaves).sum::<u64>();
        if let Some(task) = tasks.get(list.at) {
            self.task(task, list.task.as_deref(), &task_pointer(pointer, list.at, task));
        }
    }

    fn task(&mut self, task: &Task, state: Option<&TaskState>, pointer: &str) {
        match (&task.activity, state.map(|state| &state.activity)) {
            (Activity::Do(tasks), Some(ActivityState::Do(list))) => {
                self.list(tasks, list, &format!("{pointer}/do"));
            }
            (Activity::For(repeat), Some(ActivityState::For(state))) => match &state.turn {
                Some(list) => self.list(&repeat.tasks, list, &format!("{pointer}/do")),
                None => self.tasks.push(pointer.to_owned()),
            },
            (Activity::Fork(fork), Some(ActivityState::Fork(branches))) => {
                let pointer = format!("{pointer}/fork/branches");
                for (index, (task, branch)) in fork.branches.iter().zip(branches).enumerate() {
                    match branch {
                        BranchState::Done(_) => self.before += task.leaves(),
                        BranchState::Running(state) => {
                            let pointer = task_pointer(&pointer, index, task);
                            self.task(task, state.as_deref(), &pointer);
                        }
                    }
                }
            }
            (Activity::Try(attempt), Some(ActivityState::Try(state))) => match &state.phase {
                TryPhase::Body { list, .. } => {
                    self.list(&attempt.tasks, list, &format!("{pointer}/try"));
                }
                TryPhase::Backoff { .. } => self.tasks.push(pointer.to_owned()),
                TryPhase::Catch { list, .. } => {
                    let before = self.before + task.leaves();
                    if let Some(tasks) = &attempt.handler {
                        self.list(tasks, list, &format!("{pointer}/catch/do"));
                    }
                    self.before = before;
                }
            },
            _ => self.tasks.push(pointer.to_owned()),
        }
    }
}

/// The JSON Pointer of the task at `index` of the list at `list`.
pub(super) fn task_pointer(list: &str, index: usize, task: &Task) -> String {
    let mut pointer = format!("{list}/{index}");
    push_token(&mut pointer, &task.name);
    pointer
}
