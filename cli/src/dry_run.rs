//! `errand workflow dry-run`: a document's way from input to output, without a network and without
//! waiting.

use std::time::{Duration, Instant};

use errand_shared::{
    config::Limits,
    time::Timestamp,
    workflow::{
        Call, Checkpoint, Outcome, Reply, Response, Workflow, WorkflowError, cage::Cages, step,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How long a job may take if its submitter does not say.
const DEADLINE: Duration = Duration::from_hours(30 * 24);

/// How often a step is tried for which the machine is too busy.
const TRIES: usize = 3;

/// An answer of the script.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scripted {
    /// Any, if it is left out.
    method: Option<String>,
    /// `*` stands for any text.
    url: String,
    status: u16,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    body: Value,
    /// How often it answers; for ever, if it is left out.
    times: Option<u64>,
}

/// What a dry run came to: what the command prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    status: &'static str,
    output: Option<Value>,
    error: Option<WorkflowError>,
    calls: Vec<Called>,
    waited_seconds: u64,
}

/// A call as it would have been made, and what it was answered.
#[derive(Debug, Serialize)]
struct Called {
    task: String,
    method: String,
    url: String,
    headers: Map<String, Value>,
    body: Option<Value>,
    status: u16,
}

impl Report {
    pub(crate) fn is_completed(&self) -> bool {
        self.error.is_none()
    }
}

/// The machine was too busy for the document's expressions.
#[derive(Debug, thiserror::Error)]
#[error("the machine is too busy to evaluate the document's expressions")]
pub(crate) struct TooBusy;

/// Runs a document to its end. Time passes as the document wishes it to, from `start` on; `responses`
/// answer its calls.
pub(crate) fn dry_run(
    workflow: &Workflow,
    limits: &Limits,
    cages: &Cages,
    input: Value,
    responses: Vec<Scripted>,
    start: Timestamp,
) -> Result<Report, TooBusy> {
    let mut script = Script(responses);
    let mut checkpoint = Checkpoint::start("dry-run", input, start);
    let (mut calls, mut replies) = (Vec::new(), Vec::new());
    let (mut now, mut computed, mut busy) = (start, Duration::ZERO, 0);
    let ended = loop {
        if now >= start + DEADLINE {
            break Err(WorkflowError::timeout("the job's deadline is over"));
        }
        if computed > limits.evaluation_per_job {
            let most = limits.evaluation_per_job.as_secs();
            break Err(WorkflowError::runtime(format!(
                "A job may compute for {most} seconds in all."
            )));
        }
        let began = Instant::now();
        let given: Vec<Reply> = std::mem::take(&mut replies);
        // The same jitter in every run.
        let mut random = || 0.5;
        let outcome =
            step(workflow, limits, cages, &mut checkpoint, given.clone(), now, &mut random);
        computed += began.elapsed();
        match outcome {
            Outcome::Completed(output) => break Ok(output),
            Outcome::Faulted(error) => break Err(error),
            Outcome::Interrupted if busy < TRIES => {
                busy += 1;
                computed = Duration::ZERO;
                replies = given;
            }
            Outcome::Interrupted => return Err(TooBusy),
            Outcome::Pending { calls: wanted, .. } if !wanted.is_empty() => {
                for call in wanted {
                    let (called, response) = script.answer(&call);
                    calls.push(called);
                    replies.push(Reply { call: call.id, result: Ok(response) });
                }
            }
            // Without calls there is a time to wait for.
            Outcome::Pending { wake, .. } => {
                let deadline = start + DEADLINE;
                now = now.max(wake.unwrap_or(deadline).min(deadline));
            }
        }
    };
    let waited_seconds = now.since(start).as_secs();
    Ok(match ended {
        Ok(output) => {
            Report { status: "completed", output: Some(output), error: None, calls, waited_seconds }
        }
        Err(error) => {
            Report { status: "faulted", output: None, error: Some(error), calls, waited_seconds }
        }
    })
}

/// What is left of the script.
struct Script(Vec<Scripted>);

impl Script {
    /// The first answer that matches and is not used up; 404 if there is none.
    fn answer(&mut self, call: &Call) -> (Called, Response) {
        let url = match call.path.strip_prefix('/') {
            Some(_) => format!("{}:{}", call.api, call.path),
            // An absolute address stays what the document has.
            None => call.path.clone(),
        };
        let scripted = self.0.iter_mut().find(|scripted| {
            let method = scripted.method.as_ref();
            method.is_none_or(|method| method.eq_ignore_ascii_case(&call.method))
                && scripted.times != Some(0)
                && matches(&scripted.url, &url)
        });
        let response = match scripted {
            Some(scripted) => {
                scripted.times = scripted.times.map(|times| times - 1);
                scripted.response()
            }
            None => Response { status: 404, headers: Vec::new(), body: Vec::new() },
        };
        let headers = call.headers.iter().map(|(name, value)| (name.clone(), value.clone().into()));
        let called = Called {
            task: call.task.clone(),
            method: call.method.clone(),
            url,
            headers: headers.collect(),
            body: call.body.clone(),
            status: response.status,
        };
        (called, response)
    }
}

impl Scripted {
    fn response(&self) -> Response {
        let mut headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) => (name.clone(), text.clone()),
                value => (name.clone(), value.to_string()),
            })
            .collect();
        let content_type =
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let is_json = content_type.is_none_or(|(_, value)| value.contains("json"));
        let body = match &self.body {
            Value::Null => Vec::new(),
            Value::String(text) if !is_json => text.clone().into_bytes(),
            body => body.to_string().into_bytes(),
        };
        if content_type.is_none() && !body.is_empty() {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        Response { status: self.status, headers, body }
    }
}

/// Whether `text` is what `pattern` says, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use errand_shared::workflow::check;
    use serde_json::json;

    use super::*;

    fn run(tasks: &Value, input: Value, responses: Value) -> Value {
        let header = json!({"dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0"});
        let limits = Limits::default();
        let document = json!({"document": header, "do": tasks});
        let workflow = check(&document, &limits, None).unwrap();
        let responses = serde_json::from_value(responses).unwrap();
        let start = Timestamp::from_seconds(1_700_000_000).unwrap();
        let report = dry_run(&workflow, &limits, &Cages::new(&limits), input, responses, start);
        serde_json::to_value(report.unwrap()).unwrap()
    }

    fn get(uri: &str) -> Value {
        let endpoint = json!({"uri": uri, "authentication": {"use": "PartnerAPI"}});
        json!({"call": "http", "with": {"method": "get", "endpoint": endpoint}})
    }

    #[test]
    fn calls_are_answered_by_the_script_and_time_passes_at_once() {
        let tasks = json!([
            {"data": get("api/process/data")},
            {"pause": {"wait": {"minutes": 5}}},
            {"more": get("https://api.example.com/pets/{id}")},
        ]);
        let responses = json!([
            {"method": "POST", "url": "*", "status": 500},
            {"url": "PartnerAPI:/api/process/data", "status": 200, "body": {"id": 7}, "times": 1},
            {"method": "get", "url": "https://*/pets/7", "status": 200, "headers": {"X": 1}},
        ]);
        let report = run(&tasks, json!({}), responses);
        assert_eq!(report["status"], "completed", "{report}");
        assert_eq!((&report["output"], &report["error"]), (&json!(null), &json!(null)));
        assert_eq!(report["waited_seconds"], 300);
        let first = json!({
            "task": "/do/0/data", "method": "GET", "url": "PartnerAPI:/api/process/data",
            "headers": {}, "body": null, "status": 200
        });
        assert_eq!(report["calls"][0], first);
        assert_eq!(report["calls"][1]["url"], "https://api.example.com/pets/7");
    }

    #[test]
    fn what_no_entry_matches_is_not_found() {
        let responses = json!([{"url": "PartnerAPI:/a", "status": 200, "times": 1}]);
        let report = run(&json!([{"x": get("a")}, {"y": get("a")}]), json!({}), responses);
        assert_eq!(report["status"], "faulted");
        assert_eq!((&report["error"]["status"], &report["output"]), (&json!(404), &json!(null)));
        assert_eq!(report["error"]["instance"], "/do/1/y");
        assert_eq!(report["calls"][1]["status"], 404);
    }

    #[test]
    fn a_job_that_waits_too_long_faults() {
        let report = run(&json!([{"w": {"wait": {"days": 31}}}]), json!({}), json!([]));
        assert_eq!(
            (&report["status"], &report["error"]["status"]),
            (&json!("faulted"), &json!(408))
        );
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("ab*ba", "aba", false),
            ("a?b", "a?b", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
