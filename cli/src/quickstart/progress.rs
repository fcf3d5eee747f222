//! Shows how far a job is, on stderr: a bar on a terminal, otherwise a line for each change.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::output;

/// What the watcher of a job sees.
pub(super) enum Progress {
    Bar(ProgressBar),
    Lines { last: String },
}

impl Progress {
    pub(super) fn begin() -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines { last: String::new() };
        }
        let style = ProgressStyle::with_template("  {spinner} [{bar:24}] {pos}/{len} {wide_msg}");
        let bar = ProgressBar::new(0);
        bar.set_style(style.expect("the template is right"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::Bar(bar)
    }

    pub(super) fn show(&mut self, job: &Value) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(number(job, "total"));
                bar.set_position(number(job, "completed"));
                bar.set_message(describe(job));
            }
            Self::Lines { last } => {
                let (completed, total) = (number(job, "completed"), number(job, "total"));
                let line = format!("  {completed}/{total} {}", describe(job));
                if *last != line {
                    output::note(&line);
                    *last = line;
                }
            }
        }
    }

    /// Leaves the last state to be read.
    pub(super) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
        }
    }
}

fn number(job: &Value, name: &str) -> u64 {
    job["progress"][name].as_u64().unwrap_or(0)
}

/// `waiting at /do/1/pause until 2026-11-21T06:00:00Z`, with what the job says of it.
fn describe(job: &Value) -> String {
    let parts = [("", "status"), (" at ", "task"), (" until ", "due_at")];
    let known = parts.map(|(before, field)| job[field].as_str().map(|value| [before, value]));
    known.into_iter().flatten().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_described_with_what_is_known() {
        assert_eq!(describe(&json!({ "status": "pending", "task": null })), "pending");
        let job = json!({ "status": "waiting", "task": "/do/1/pause", "due_at": "12:00Z" });
        assert_eq!(describe(&job), "waiting at /do/1/pause until 12:00Z");
    }
}
