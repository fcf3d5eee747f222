//! Shows how far a job is, on stderr: a bar on a terminal, otherwise a line for each change.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::output;

/// What the watcher of a job sees.
pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { last: String },
}

impl Progress {
    pub(crate) fn begin(job: &Value) -> Self {
        let mut progress = if io::stderr().is_terminal() {
            Self::Bar(bar())
        } else {
            Self::Lines { last: String::new() }
        };
        progress.show(job);
        progress
    }

    pub(crate) fn show(&mut self, job: &Value) {
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
    pub(crate) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
            // The cursor stays behind the bar.
            output::note("");
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("  {spinner} [{bar:24}] {pos}/{len} {wide_msg}");
    let bar = ProgressBar::no_length();
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn number(job: &Value, name: &str) -> u64 {
    job["progress"][name].as_u64().unwrap_or(0)
}

/// `waiting at /do/1/pause until 06:00:00 UTC`, with what the job says of it.
fn describe(job: &Value) -> String {
    let status = job["status"].as_str().unwrap_or_default();
    let task = job["task"].as_str().map(|task| format!(" at {task}"));
    let due_at = job["due_at"].as_str().filter(|_| status == "waiting");
    let until = due_at.and_then(time_of_day).map(|time| format!(" until {time} UTC"));
    [status, &task.unwrap_or_default(), &until.unwrap_or_default()].concat()
}

/// To the second, of an RFC 3339 time in UTC.
fn time_of_day(time: &str) -> Option<&str> {
    time.split_once('T')?.1.split(['.', 'Z']).next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_described_with_what_is_known() {
        assert_eq!(describe(&json!({ "status": "pending", "task": null })), "pending");
        let job = json!({
            "status": "waiting", "task": "/do/1/pause", "due_at": "2026-11-21T06:00:00.25Z",
        });
        assert_eq!(describe(&job), "waiting at /do/1/pause until 06:00:00 UTC");
    }
}
