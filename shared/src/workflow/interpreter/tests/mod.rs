mod activities;
mod attempts;
mod conformance;
mod crashes;

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    config::DownstreamApis,
    workflow::{
        address::tests::api,
        call::Response,
        check,
        checkpoint::CHECKPOINT_FORMAT,
        parse::parse_json,
        progress::{Happened, Progress},
    },
};

fn apis() -> DownstreamApis {
    [
        ("PartnerAPI".to_owned(), api("https://partnerapi.example.com")),
        ("PetStore".to_owned(), api("https://petstore.swagger.io/v2")),
    ]
    .into()
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_700_000_000).unwrap()
}

/// A workflow of these tasks.
fn workflow(tasks: &Value) -> Workflow {
    document(&json!({ "do": tasks }))
}

fn document(rest: &Value) -> Workflow {
    let header = json!({ "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0" });
    let mut document = json!({ "document": header });
    for (key, value) in rest.as_object().unwrap() {
        document[key] = value.clone();
    }
    check(&document, &Limits::default(), Some(&apis())).unwrap()
}

/// A call to `uri` of the partner API, with `more` arguments.
fn call_to(uri: &str, more: &Value) -> Value {
    let endpoint = json!({ "uri": uri, "authentication": { "use": "PartnerAPI" } });
    let mut with = json!({ "method": "post", "endpoint": endpoint });
    for (key, value) in more.as_object().unwrap() {
        with[key] = value.clone();
    }
    json!({ "call": "http", "with": with })
}

/// A job that is asked everything twice: from memory and from what was written.
struct Driver {
    workflow: Workflow,
    limits: Limits,
    cages: Cages,
    checkpoint: Checkpoint,
    now: Timestamp,
    happened: Vec<Happened>,
}

impl Driver {
    fn new(workflow: Workflow, input: Value) -> Self {
        let checkpoint = Checkpoint::start("job", input, now());
        let limits = Limits::default();
        let cages = Cages::for_tests();
        Self { workflow, limits, cages, checkpoint, now: now(), happened: Vec::new() }
    }

    fn step(&mut self, reply: Option<Reply>) -> Outcome {
        let written = serde_json::to_string(&self.checkpoint).unwrap();
        let mut read: Checkpoint = serde_json::from_str(&written).unwrap();
        assert_eq!(read, self.checkpoint);
        let replies: Vec<_> = reply.into_iter().collect();
        let step = |checkpoint: &mut Checkpoint, replies| {
            step(
                &self.workflow,
                &self.limits,
                &self.cages,
                checkpoint,
                replies,
                self.now,
                &mut || 0.5,
            )
        };
        let outcome = step(&mut self.checkpoint, replies.clone());
        let again = step(&mut read, replies);
        assert_eq!(again, outcome);
        assert_eq!(read, self.checkpoint);
        self.happened.extend(self.checkpoint.take_happened());
        read.take_happened();
        // It is level-triggered, but for a step that was only long.
        if outcome != waits(self.now) {
            let same = step(&mut read, Vec::new());
            assert_eq!(same, outcome);
            assert_eq!(read, self.checkpoint);
        }
        outcome
    }

    /// Lets time pass.
    fn after(&mut self, seconds: u64) -> Outcome {
        self.now = self.now + Duration::from_secs(seconds);
        self.step(None)
    }

    /// Ids and paths of the calls it wants, and in how many seconds it wakes.
    #[track_caller]
    fn wants(&mut self) -> (Vec<(u64, String)>, Option<u64>) {
        match self.step(None) {
            Outcome::Pending { calls, wake } => (
                calls.into_iter().map(|call| (call.id, call.path)).collect(),
                wake.map(|wake| wake.since(self.now).as_secs()),
            ),
            other => panic!("not pending: {other:?}"),
        }
    }

    /// What happened since this was last asked, as `what pointer`.
    fn events(&mut self) -> Vec<String> {
        let happened = std::mem::take(&mut self.happened);
        happened.iter().map(|event| format!("{:?} {}", event.what, event.task)).collect()
    }

    fn call(&mut self) -> Call {
        match self.step(None) {
            Outcome::Pending { mut calls, wake: None } if calls.len() == 1 => calls.remove(0),
            other => panic!("no call: {other:?}"),
        }
    }

    fn answer(&mut self, call: u64, status: u16, body: &Value) -> Outcome {
        self.answer_with(&[("Set-Cookie", "a=b"), ("X", "1"), ("x", "2")], call, status, body)
    }

    fn answer_with(
        &mut self,
        headers: &[(&str, &str)],
        call: u64,
        status: u16,
        body: &Value,
    ) -> Outcome {
        let headers = [&[("Content-Type", "application/json")], headers].concat().into_iter();
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let response = Response { status, headers, body: body.to_string().into_bytes() };
        self.step(Some(Reply { call, result: Ok(response) }))
    }

    fn progress(&self) -> Progress {
        self.checkpoint.progress(&self.workflow)
    }
}

fn waits(until: Timestamp) -> Outcome {
    Outcome::Pending { calls: Vec::new(), wake: Some(until) }
}

fn wants(call: Call) -> Outcome {
    Outcome::Pending { calls: vec![call], wake: None }
}

/// Runs a workflow that needs nothing from outside.
fn run(workflow: Workflow, input: Value) -> Outcome {
    Driver::new(workflow, input).step(None)
}

#[track_caller]
fn faulted(outcome: Outcome) -> WorkflowError {
    match outcome {
        Outcome::Faulted(error) => error,
        other => panic!("no fault: {other:?}"),
    }
}

#[test]
fn get_wait_post_runs_to_its_end() {
    let mut get = call_to("api/process/data", &json!({}));
    get["with"]["method"] = json!("get");
    let tasks = json!([
        { "getData": get },
        { "pause": { "wait": { "minutes": 5 } } },
        { "complete": call_to("api/process/complete", &json!({ "body": "${ . }" })) }
    ]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    assert_eq!(job.progress(), Progress { tasks: vec![], completed: 0, total: Some(3) });
    let call = job.call();
    assert_eq!(
        (call.id, call.task.as_str(), call.api.as_str()),
        (1, "/do/0/getData", "PartnerAPI")
    );
    assert_eq!((call.method.as_str(), call.path.as_str()), ("GET", "/api/process/data"));
    assert_eq!(job.progress().tasks, ["/do/0/getData"]);
    // A late reply to another call changes nothing.
    assert_eq!(job.answer(7, 200, &json!(0)), wants(call));

    let until = job.now + Duration::from_mins(5);
    assert_eq!(job.answer(1, 200, &json!({"n": 1})), waits(until));
    assert_eq!(
        job.progress(),
        Progress { tasks: vec!["/do/1/pause".into()], completed: 1, total: Some(3) }
    );
    job.now = until - Duration::from_micros(1);
    assert_eq!(job.step(None), waits(until));
    job.now = until;
    let call = job.call();
    assert_eq!((call.id, call.body), (2, Some(json!({"n": 1}))));
    assert_eq!(job.progress().completed, 2);
    assert_eq!(
        job.answer(2, 201, &json!({"done": true})),
        Outcome::Completed(json!({"done": true}))
    );
    assert_eq!(job.progress(), Progress { tasks: vec![], completed: 3, total: Some(3) });
}

#[test]
fn data_flows_as_specified() {
    let tasks = json!([
        { "first": {
            "input": { "from": ".user" },
            "set": { "name": "${ .name }", "raw": "${ $task.input.user.id }", "in": "${ $input.name }" },
            "output": { "as": "{ n: .name, raw, in, own: $task.output.raw }" },
            "export": { "as": { "out": "${ $output.n }", "ref": "${ $task.reference }" } }
        } },
        { "second": { "set": { "all": "${ [., $context, $workflow.id, $workflow.definition.document.name] }" } } },
        { "third": { "wait": "PT0S", "export": { "as": "$context + { more: $workflow.input.user.id }" } } }
    ]);
    let workflow = document(&json!({
        "input": { "from": "{ user }" }, "do": tasks, "output": { "as": "[., $context, $runtime.name]" }
    }));
    let output = run(workflow, json!({ "user": { "name": "Ada", "id": 7 }, "other": 1 }));
    let context = json!({"out": "Ada", "ref": "/do/0/first"});
    let first = json!({"n": "Ada", "raw": 7, "in": "Ada", "own": 7});
    let expected = json!([
        { "all": [first, context, "job", "b"] },
        { "out": "Ada", "ref": "/do/0/first", "more": 7 },
        "errand"
    ]);
    assert_eq!(output, Outcome::Completed(expected));
}

#[test]
fn expressions_in_data_stay_data() {
    let workflow = workflow(&json!([{ "a": { "set": { "x": "${ .evil }" } } }]));
    let output = run(workflow, json!({ "evil": "${ $workflow.id }" }));
    assert_eq!(output, Outcome::Completed(json!({ "x": "${ $workflow.id }" })));
}

#[test]
fn then_leads_on_as_specified() {
    let set = |colour: &str, then: &str| json!({ "set": { "c": format!("${{ .c + [\"{colour}\"] }}") }, "then": then });
    let red_blue_green = json!([
        { "red": set("red", "green") }, { "blue": set("blue", "end") }, { "green": set("green", "blue") }
    ]);
    let output = run(workflow(&red_blue_green), json!({}));
    assert_eq!(output, Outcome::Completed(json!({ "c": ["red", "green", "blue"] })));

    let inner = |then: &str| {
        json!([
            { "a": { "do": [ { "b": set("b", then) }, { "c": set("c", "continue") } ] } },
            { "d": set("d", "continue") }
        ])
    };
    for (then, expected) in
        [("exit", json!(["b", "d"])), ("end", json!(["b"])), ("continue", json!(["b", "c", "d"]))]
    {
        let mut job = Driver::new(workflow(&inner(then)), json!({}));
        assert_eq!(job.step(None), Outcome::Completed(json!({ "c": expected })), "{then}");
        assert_eq!(job.progress().completed, 3);
    }
}

#[test]
fn a_skipped_task_hands_its_raw_input_on_and_its_then_is_not_followed() {
    let tasks = json!([
        { "never": { "if": ".n > 1", "input": { "from": "{ n: .n, x: 1 }" }, "set": { "n": 5 }, "then": "end" } },
        { "always": { "if": "${ .n == 1 }", "set": { "m": "${ .n }" } } }
    ]);
    assert_eq!(run(workflow(&tasks), json!({ "n": 1 })), Outcome::Completed(json!({ "m": 1 })));
}

#[test]
fn a_request_is_built_from_the_input() {
    let more = json!({
        "headers": { "X-Id": "${ .id }", "X-None": "${ .none }" },
        "query": "${ .query }",
        "body": { "deep": [{ "id": "${ .id }" }, "literal"] }
    });
    let tasks = json!([{ "a": call_to("api/{id}/x?y={y}", &more) }]);
    let input = json!({ "id": "ä b", "y": true, "query": { "q": "1&2", "n": 3 } });
    let call = Driver::new(workflow(&tasks), input).call();
    assert_eq!(call.path, "/api/%C3%A4%20b/x?y=true&n=3&q=1%262");
    assert_eq!(call.headers, [("X-Id".to_owned(), "ä b".to_owned())].into());
    assert_eq!(call.body, Some(json!({ "deep": [{ "id": "ä b" }, "literal"] })));
}

#[test]
fn computed_addresses_and_headers_are_decided_at_the_call() {
    let tasks = json!([{ "a": call_to("${ .uri }", &json!({ "headers": "${ .headers }" })) }]);
    let start = |uri: &str, headers: Value| {
        Driver::new(workflow(&tasks), json!({ "uri": uri, "headers": headers })).step(None)
    };
    assert!(
        matches!(start("api/x", json!({})), Outcome::Pending { calls, .. } if calls.len() == 1)
    );
    for (uri, headers, status) in [
        ("https://evil.example/api", json!({}), 403),
        ("api/%2e%2e/x", json!({}), 403),
        ("api/x", json!({ "Authorization": "x" }), 403),
        ("api/x", json!({ "x": "a\r\nb" }), 400),
        ("api/x", json!({ "x": [] }), 400),
        ("api/x", json!("x"), 400),
        ("", json!({}), 400),
    ] {
        let error = faulted(start(uri, headers));
        assert_eq!((error.status, error.instance.as_deref()), (status, Some("/do/0/a")), "{uri}");
    }
    let template = json!([{ "a": call_to("api/{id}", &json!({})) }]);
    let error = faulted(run(workflow(&template), json!({ "id": "../admin" })));
    assert_eq!(error.status, 403);
}

#[test]
fn without_configuration_no_address_is_decided() {
    let document = json!({
        "document": { "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0" },
        "do": [
            { "a": call_to("api/{id}", &json!({ "query": { "q": 1 } })) },
            { "b": { "call": "http", "with": { "method": "get", "endpoint": "https://a.example/{id}" } } }
        ]
    });
    let workflow = check(&document, &Limits::default(), None).unwrap();
    assert_eq!(workflow.apis(), ["PartnerAPI"]);
    let mut job = Driver::new(workflow, json!({ "id": 7 }));
    let call = job.call();
    assert_eq!((call.api.as_str(), call.path.as_str()), ("PartnerAPI", "/api/7?q=1"));
    job.answer(1, 200, &json!({ "id": "ä" }));
    let call = job.call();
    assert_eq!((call.api.as_str(), call.path.as_str()), ("", "https://a.example/%C3%A4"));
}

#[test]
fn answers_become_output() {
    let start = |output: &str| {
        let tasks = json!([{ "a": call_to("api/x?y=1", &json!({ "output": output, "headers": { "A": "b" } })) }]);
        let mut job = Driver::new(workflow(&tasks), json!({}));
        job.call();
        job
    };
    assert_eq!(start("raw").answer(1, 200, &json!([1])), Outcome::Completed(json!("WzFd")));
    let expected = json!({
        "request": {
            "method": "POST", "uri": "https://partnerapi.example.com/api/x?y=1", "headers": { "A": "b" }
        },
        "statusCode": 201,
        "headers": { "content-type": "application/json", "x": "1, 2" },
        "content": [1]
    });
    assert_eq!(start("response").answer(1, 201, &json!([1])), Outcome::Completed(expected));
    for status in [301, 304, 404, 500, 100] {
        let error = faulted(start("content").answer(1, status, &json!({ "secret": 1 })));
        assert_eq!((error.status, error.instance.as_deref()), (status, Some("/do/0/a")));
        assert!(error.kind.ends_with("/errors/communication"));
        assert!(!format!("{error:?}").contains("secret"));
    }
    let refused = Reply { call: 1, result: Err(WorkflowError::authentication("No token.")) };
    let error = faulted(start("content").step(Some(refused)));
    assert_eq!((error.status, error.instance.as_deref()), (401, Some("/do/0/a")));
}

#[test]
fn a_redirect_is_an_answer_only_if_the_document_says_so() {
    let tasks = json!([{ "a": call_to("api/x", &json!({ "redirect": true })) }]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    assert!(job.call().redirect);
    assert_eq!(job.answer(1, 302, &json!(5)), Outcome::Completed(json!(5)));
}

#[test]
fn computed_waits_are_fixed_when_they_begin() {
    let tasks = json!([{ "a": { "wait": "${ .wait }" } }]);
    let start = |wait: Value| run(workflow(&tasks), json!({ "wait": wait }));
    let until = now() + Duration::from_secs(90);
    assert_eq!(start(json!("PT1M30S")), waits(until));
    assert_eq!(start(json!({ "seconds": 90 })), waits(until));
    for wrong in [json!("P1Y"), json!(90), json!({ "minuts": 1 }), json!("P401D"), json!(null)] {
        assert!(faulted(start(wrong)).kind.ends_with("/errors/expression"));
    }
}

#[test]
fn an_endless_loop_ends_at_its_limit_and_lets_others_run_meanwhile() {
    let tasks = json!([{ "a": { "set": { "n": "${ .n + 1 }" }, "then": "a" } }]);
    let mut job = Driver::new(workflow(&tasks), json!({ "n": 0 }));
    job.limits.task_starts = 2_500;
    assert_eq!(job.step(None), waits(job.now));
    assert_eq!(
        job.progress(),
        Progress { tasks: vec!["/do/0/a".into()], completed: 1_000, total: None }
    );
    assert_eq!(job.step(None), waits(job.now));
    let error = faulted(job.step(None));
    assert!(error.kind.ends_with("/errors/runtime") && error.status == 500, "{error:?}");
}

#[test]
fn what_a_job_keeps_is_limited() {
    let bigger = json!({ "set": { "text": "${ .text + .text }" }, "then": "wait" });
    let again = json!({ "wait": "PT1S", "then": "a" });
    let tasks = json!([{ "a": bigger }, { "wait": again }]);
    let mut job = Driver::new(workflow(&tasks), json!({ "text": "0123456789" }));
    job.limits.checkpoint_bytes = 1_000;
    let mut turns = 0;
    let error = loop {
        match job.step(None) {
            Outcome::Pending { wake: Some(wake), .. } => job.now = wake,
            ended => break faulted(ended),
        }
        turns += 1;
        assert!(serde_json::to_vec(&job.checkpoint).unwrap().len() <= 1_000);
    };
    assert!((3..8).contains(&turns), "{turns}");
    assert!(error.kind.ends_with("/errors/runtime"));
    assert_eq!(error.detail.as_deref(), Some("A job keeps at most 1000 bytes."));

    // An output too.
    let mut job = Driver::new(
        workflow(&json!([{ "a": { "set": { "x": "${ .x + .x }" } } }])),
        json!({ "x": "0123456789" }),
    );
    job.limits.checkpoint_bytes = 20;
    let error = faulted(job.step(None));
    assert_eq!(error.detail.as_deref(), Some("A job keeps at most 20 bytes."));
}

#[test]
fn calls_are_limited() {
    let mut again = call_to("api/x", &json!({}));
    again["then"] = json!("a");
    let mut job = Driver::new(workflow(&json!([{ "a": again }])), json!({}));
    job.limits.calls = 3;
    for id in 1..=2 {
        assert_eq!(job.call().id, id);
        job.answer(id, 200, &json!(1));
    }
    let error = faulted(job.answer(3, 200, &json!(1)));
    assert!(error.kind.ends_with("/errors/runtime"));
    assert_eq!(job.progress().tasks, ["/do/0/a"]);
}

#[test]
fn data_cannot_grow_beyond_what_is_kept() {
    let tasks = json!([{ "a": { "set": { "s": "${ .s + .s }" }, "then": "a" } }]);
    let error = faulted(run(workflow(&tasks), json!({ "s": "0123456789" })));
    assert!(error.kind.ends_with("/errors/runtime"), "{error:?}");
    let deeper = json!([{ "a": { "set": { "d": "${ . }" }, "then": "a" } }]);
    let error = faulted(run(workflow(&deeper), json!({})));
    assert_eq!(error.detail.as_deref(), Some("The result is nested deeper than 128 levels."));
    let copies = json!([{ "a": { "set": { "many": vec!["${ . }"; 2_000] } } }]);
    let error = faulted(run(workflow(&copies), json!("x".repeat(1_000_000))));
    assert!(error.kind.ends_with("/errors/expression"), "{error:?}");
    // Little JSON that is much in memory.
    let many = json!([{ "a": { "set": { "many": vec!["${ . }"; 40] } } }]);
    let error = faulted(run(workflow(&many), json!(vec![json!([]); 60_000])));
    assert!(error.kind.ends_with("/errors/expression"), "{error:?}");
    let tasks = json!([{ "a": { "wait": "PT1S" } }]);
    let error = faulted(run(workflow(&tasks), json!("x".repeat(1_100_000))));
    assert!(error.kind.ends_with("/errors/runtime"), "{error:?}");
}

#[test]
fn the_deepest_data_survives_the_checkpoint() {
    let mut tasks = json!([{ "w": { "wait": "PT1S" } }]);
    for _ in 1..16 {
        tasks = json!([{ "x": { "do": tasks } }]);
    }
    let nested = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let input = parse_json(nested.as_bytes()).unwrap();
    let mut job = Driver::new(workflow(&tasks), input.clone());
    assert!(matches!(job.step(None), Outcome::Pending { .. }));
    job.now = job.now + Duration::from_secs(1);
    assert_eq!(job.step(None), Outcome::Completed(input));
}

#[test]
fn the_deepest_workflow_survives_the_checkpoint() {
    let mut tasks = json!([{ "a": call_to("api/x", &json!({ "headers": { "A": "b" } })) }]);
    // As deep as the configuration allows.
    for _ in 1..20 {
        tasks = json!([{ "t": { "try": tasks, "catch": { "retry": { "delay": "PT1S" } } } }]);
    }
    let header = json!({ "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0" });
    let limits = Limits { nesting: 20, ..Limits::default() };
    let document = json!({ "document": header, "do": tasks });
    let workflow = check(&document, &limits, Some(&apis())).unwrap();
    let mut job = Driver::new(workflow, json!({}));
    job.step(None);
    // A worker keeps it in a state of its own.
    let kept = json!({ "a": { "b": serde_json::to_value(&job.checkpoint).unwrap() } });
    parse_json(kept.to_string().as_bytes()).unwrap();
    assert_eq!(job.answer(1, 200, &json!(1)), Outcome::Completed(json!(1)));
}

#[test]
fn a_checkpoint_of_another_document_is_a_fault() {
    let mut job = Driver::new(workflow(&json!([{ "a": { "wait": "PT1S" } }])), json!({}));
    job.step(None);
    job.workflow = workflow(&json!([{ "a": { "set": { "b": 1 } } }]));
    assert!(faulted(job.step(None)).kind.ends_with("/errors/runtime"));
}

#[test]
fn a_checkpoint_is_small_and_its_form_is_known() {
    let mut job = Driver::new(workflow(&json!([{ "a": call_to("api/x", &json!({})) }])), json!({}));
    job.call();
    let written = serde_json::to_string(&job.checkpoint).unwrap();
    // Old jobs must go on: a change here needs another number.
    assert_eq!(CHECKPOINT_FORMAT, 2);
    let expected = concat!(
        r#"{"job_id":"job","started_at":"2023-11-14T22:13:20Z","input":"{}","context":"null","#,
        r#""calls":1,"task_starts":1,"completed":0,"root":{"at":0,"data":"{}","#,
        r#""task":{"started_at":"2023-11-14T22:13:20Z","activity":{"call":{"id":1,"task":"/do/0/a","#,
        r#""api":"PartnerAPI","method":"POST","path":"/api/x","headers":{},"body":null,"#,
        r#""redirect":false}}}},"end":null}"#
    );
    assert_eq!(written, expected);
}
