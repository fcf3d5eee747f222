//! How far a job is.

use super::{
    checkpoint::{ActivityState, Checkpoint, End, ListState},
    document::{Activity, Task, Workflow},
    parse::push_token,
};

/// What a user may know about a running job: no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// JSON Pointers of the current tasks; of the failed one after a fault; empty before the first
    /// step and after the last task.
    pub tasks: Vec<String>,
    /// Tasks that are finished or were skipped.
    pub completed: u64,
    /// [`Workflow::total`]
    pub total: Option<u64>,
}

impl Checkpoint {
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
        let mut pointer = "/do".to_owned();
        let mut before = 0;
        let running = self
            .root
            .as_ref()
            .is_some_and(|root| descend(&workflow.tasks, root, &mut pointer, &mut before));
        Progress {
            tasks: if running { vec![pointer] } else { Vec::new() },
            // Without jumps, all that stands before is done, be it finished or left by `exit`.
            completed: if total.is_some() { before } else { self.completed },
            total,
        }
    }
}

/// Extends `pointer` to the current task and adds up the tasks `before` it; false if there is none.
fn descend(tasks: &[Task], list: &ListState, pointer: &mut String, before: &mut u64) -> bool {
    *before += tasks.iter().take(list.at).map(Task::leaves).sum::<u64>();
    let Some(task) = tasks.get(list.at) else {
        return false;
    };
    push_token(pointer, &list.at.to_string());
    push_token(pointer, &task.name);
    let inner = list.task.as_ref().map(|task| &task.activity);
    if let (Activity::Do(tasks), Some(ActivityState::Do(list))) = (&task.activity, inner) {
        push_token(pointer, "do");
        descend(tasks, list, pointer, before);
    }
    true
}
