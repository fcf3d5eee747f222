//! `for`, `fork`, `switch`, `raise`, timeouts, schemas, and going on after a fault.

use super::*;

fn call(uri: &str) -> Value {
    call_to(uri, &json!({}))
}

#[test]
fn a_loop_hands_each_turns_output_to_the_next() {
    let body = json!([{ "add": { "set": { "sum": "${ .sum + $n }" } } }]);
    let tasks = json!([{ "all": {
        "for": { "each": "n", "in": ".numbers" },
        "do": body,
        "output": { "as": ".sum" }
    } }]);
    let output = run(workflow(&tasks), json!({ "numbers": [1, 2, 3] }));
    assert_eq!(output, Outcome::Completed(json!(6)));
    let output = run(workflow(&tasks), json!({ "numbers": [], "sum": 7 }));
    assert_eq!(output, Outcome::Completed(json!(7)));
    for wrong in [json!(null), json!({ "a": 1 }), json!(3)] {
        let error = faulted(run(workflow(&tasks), json!({ "numbers": wrong })));
        assert_eq!((error.status, error.instance.as_deref()), (400, Some("/do/0/all")));
    }
}

#[test]
fn a_loop_goes_on_while_its_condition_holds_and_exit_ends_a_turn() {
    let tasks = json!([{ "all": {
        "for": { "in": [ { "a": 1 }, { "a": "${ .two }" }, { "a": 3 } ] },
        "while": "$index < 2",
        "do": [
            { "note": { "set": { "two": "${ .two }", "seen": "${ .seen + [$item.a] }" }, "then": "exit" } },
            { "never": { "set": { "seen": "no" } } }
        ]
    } }]);
    let output = run(workflow(&tasks), json!({ "two": 2 }));
    assert_eq!(output, Outcome::Completed(json!({ "two": 2, "seen": [1, 2] })));
}

#[test]
fn loops_in_loops_see_both_variables() {
    let inner = json!([{ "note": { "set": { "seen": "${ .seen + [[$x, $y, $index]] }" } } }]);
    let tasks = json!([{ "outer": { "for": { "each": "x", "in": [1, 2], "at": "i" }, "do": [
        { "inner": { "for": { "each": "y", "in": ["a", "b"] }, "do": inner } }
    ] } }]);
    let expected = json!([[1, "a", 0], [1, "b", 1], [2, "a", 0], [2, "b", 1]]);
    assert_eq!(run(workflow(&tasks), json!({})), Outcome::Completed(json!({ "seen": expected })));
}

#[test]
fn end_ends_the_workflow_from_within_a_loop_and_a_branch() {
    let tasks = json!([
        { "loop": { "for": { "in": [1, 2] }, "do": [{ "a": { "set": { "n": "${ $item }" }, "then": "end" } }] } },
        { "never": { "set": { "n": 0 } } }
    ]);
    assert_eq!(run(workflow(&tasks), json!({})), Outcome::Completed(json!({ "n": 1 })));
    let tasks = json!([
        { "fork": { "fork": { "branches": [
            { "a": call("api/a") }, { "b": { "set": { "n": 1 }, "then": "end" } }, { "c": call("api/c") }
        ] } } },
        { "never": { "set": { "n": 0 } } }
    ]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    assert_eq!(job.step(None), Outcome::Completed(json!([null, { "n": 1 }, null])));
}

#[test]
fn branches_run_at_once_and_give_an_array_in_their_order() {
    let tasks = json!([{ "gather": { "fork": { "branches": [
        { "a": call("api/a") },
        { "b": { "do": [{ "c": { "wait": "PT10S" } }, { "d": call("api/d") }] } },
        { "skipped": { "if": ".no", "set": { "x": 1 } } },
        { "e": { "set": { "e": "${ .n }" } } }
    ] } } }]);
    let mut job = Driver::new(workflow(&tasks), json!({ "n": 1 }));
    assert_eq!(job.wants(), (vec![(1, "/api/a".to_owned())], Some(10)));
    let branches = "/do/0/gather/fork/branches";
    let at = |tasks: &[&str]| tasks.iter().map(|task| format!("{branches}/{task}")).collect();
    let progress = |tasks, completed| Progress { tasks, completed, total: Some(5) };
    assert_eq!(job.progress(), progress(at(&["0/a", "1/b/do/0/c"]), 2));
    job.after(10);
    let wanted = vec![(1, "/api/a".to_owned()), (2, "/api/d".to_owned())];
    assert_eq!(job.wants(), (wanted, None));
    job.answer(2, 200, &json!("d"));
    assert_eq!(job.progress(), progress(at(&["0/a"]), 4));
    let output = job.answer(1, 200, &json!("a"));
    assert_eq!(output, Outcome::Completed(json!(["a", "d", { "n": 1 }, { "e": 1 }])));
    assert_eq!(job.progress(), progress(vec![], 5));
}

#[test]
fn several_replies_fit_one_step() {
    let branches: Vec<_> = (0..3).map(|n| json!({ (format!("b{n}")): call("api/x") })).collect();
    let mut job =
        Driver::new(workflow(&json!([{ "f": { "fork": { "branches": branches } } }])), json!({}));
    job.step(None);
    let reply = |call: u64| {
        let response = Response { status: 200, headers: vec![], body: call.to_string().into() };
        Reply { call, result: Ok(response) }
    };
    let replies = vec![reply(3), reply(1), reply(9), reply(2)];
    let outcome = step(
        &job.workflow,
        &job.limits,
        &job.cages,
        &mut job.checkpoint,
        replies,
        job.now,
        &mut || 0.0,
    );
    assert_eq!(outcome, Outcome::Completed(json!(["1", "2", "3"])));
}

#[test]
fn a_failing_branch_fails_the_fork_and_drops_the_others() {
    let tasks = json!([{ "gather": { "fork": { "branches": [
        { "a": call("api/a") }, { "b": call("api/b") }, { "c": { "wait": "PT1M" } }
    ] } } }]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    assert_eq!(job.wants().0.len(), 2);
    let error = faulted(job.answer(2, 503, &json!(null)));
    let place = "/do/0/gather/fork/branches/1/b";
    assert_eq!((error.status, error.instance.as_deref()), (503, Some(place)));
}

#[test]
fn the_first_branch_wins_a_race_and_the_others_are_not_wanted() {
    let race = json!({ "fork": { "compete": true, "branches": [
        { "no": { "if": "false", "set": { "a": 1 } } },
        { "slow": { "wait": "PT1M" } }, { "a": call("api/a") }, { "b": call("api/b") }
    ] } });
    let tasks = json!([{ "race": race }, { "after": call("api/after") }]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    assert_eq!(job.wants().0.len(), 2);
    let Outcome::Pending { calls, wake } = job.answer(2, 200, &json!("b")) else {
        panic!("it ended");
    };
    let wanted: Vec<_> = calls.iter().map(|call| (call.id, call.path.as_str())).collect();
    assert_eq!((wanted, wake), (vec![(3, "/api/after")], None));
    // Whoever lost is ignored.
    job.answer(1, 200, &json!("a"));
    assert_eq!(job.answer(3, 200, &json!("end")), Outcome::Completed(json!("end")));
    // Nobody takes part.
    let tasks = json!([{ "race": { "fork": { "compete": true, "branches": [
        { "a": { "if": "false", "wait": "PT1S" } }, { "b": { "if": "false", "wait": "PT1S" } }
    ] } } }]);
    assert_eq!(run(workflow(&tasks), json!(5)), Outcome::Completed(json!(5)));
}

#[test]
fn exports_of_branches_are_applied_in_the_order_of_their_ends() {
    let export = |n: u64| {
        let mut task = call("api/x");
        task["export"] = json!({ "as": format!("$context + [{n}]") });
        json!({ (format!("b{n}")): task })
    };
    let tasks = json!([{ "f": { "fork": { "branches": [export(1), export(2)] }, "output": { "as": "$context" } } }]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    job.step(None);
    job.answer(2, 200, &json!(0));
    assert_eq!(job.answer(1, 200, &json!(0)), Outcome::Completed(json!([2, 1])));
}

#[test]
fn a_switch_leads_to_the_first_case_that_matches_or_to_the_default() {
    let tasks = json!([
        { "choose": {
            "switch": [
                { "default": { "then": "small" } },
                { "large": { "when": ".n > 100", "then": "large" } },
                { "huge": { "when": ".n > 1000", "then": "end" } }
            ],
            "then": "end"
        } },
        { "large": { "set": { "size": "large" }, "then": "end" } },
        { "small": { "set": { "size": "small" }, "then": "exit" } }
    ]);
    for (n, expected) in [(5, "small"), (500, "large"), (5000, "large")] {
        let output = run(workflow(&tasks), json!({ "n": n }));
        assert_eq!(output, Outcome::Completed(json!({ "size": expected })));
    }
}

#[test]
fn a_raised_error_is_as_the_document_describes_it() {
    let define = |error: Value| {
        document(&json!({
            "use": { "errors": { "mine": error } },
            "do": [{ "stop": { "raise": { "error": "mine" } } }]
        }))
    };
    let error = define(json!({
        "type": "${ .kind }", "status": 422, "title": "No", "detail": "${ \"not \\(.n)\" }",
        "instance": "/elsewhere"
    }));
    let kind = "https://acme.example/errors/no";
    let error = faulted(run(error, json!({ "kind": kind, "n": 7 })));
    let expected = json!({
        "type": kind, "status": 422, "title": "No", "detail": "not 7", "instance": "/elsewhere"
    });
    assert_eq!(Value::from(error), expected);
    let error = faulted(run(define(json!({ "type": kind, "status": 404 })), json!({})));
    assert_eq!((error.title.as_str(), error.detail.as_deref()), ("Not Found", None));
    assert_eq!(error.instance.as_deref(), Some("/do/0/stop"));
    let error = faulted(run(define(json!({ "type": "${ .n }", "status": 404 })), json!({})));
    assert!(error.kind.ends_with("/errors/expression"));
}

#[test]
fn a_task_and_a_workflow_time_out() {
    let group = json!([{ "a": call("api/a") }, { "b": { "wait": "PT1M" } }]);
    let tasks = json!([{ "x": { "do": group, "timeout": "short" } }]);
    let short = json!({ "timeouts": { "short": { "after": "${ .limit }" } } });
    let timed = document(&json!({ "use": short, "do": tasks }));
    let mut job = Driver::new(timed, json!({ "limit": "PT30S" }));
    assert_eq!(job.wants(), (vec![(1, "/api/a".to_owned())], Some(30)));
    job.now = job.now + Duration::from_secs(10);
    let until = job.now + Duration::from_secs(20);
    assert_eq!(job.answer(1, 200, &json!(1)), waits(until));
    let error = faulted(job.after(20));
    assert_eq!((error.status, error.instance.as_deref()), (408, Some("/do/0/x")));
    assert!(error.kind.ends_with("/errors/timeout"));

    let tasks = json!([{ "a": { "wait": "PT1H" } }]);
    let timed = document(&json!({ "timeout": { "after": { "minutes": 1 } }, "do": tasks }));
    let mut job = Driver::new(timed, json!({}));
    assert_eq!(job.wants().1, Some(60));
    let error = faulted(job.after(60));
    assert_eq!((error.status, error.instance.as_deref()), (408, Some("")));
    // Whoever lets it go on gives it the whole time again.
    job.now = job.now + Duration::from_secs(500);
    assert!(job.checkpoint.retry());
    assert_eq!(job.wants().1, Some(60));
}

#[test]
fn schemas_are_validated_where_data_goes_through() {
    let number = json!({ "document": { "type": "object", "required": ["n"], "properties": { "n": { "type": "number" } } } });
    let place = |name: &str| {
        let mut task = json!({ "set": { "n": "${ .m }" } });
        task[name] = json!({ "schema": number });
        workflow(&json!([{ "a": task }]))
    };
    for (name, input, is_valid) in [
        ("input", json!({ "n": 1 }), true),
        ("input", json!({ "n": "secret" }), false),
        ("output", json!({ "m": 1 }), true),
        ("output", json!({ "m": "secret" }), false),
        ("export", json!({ "m": "secret" }), false),
    ] {
        let outcome = run(place(name), input);
        if is_valid {
            assert!(matches!(outcome, Outcome::Completed(_)), "{name}: {outcome:?}");
        } else {
            let error = faulted(outcome);
            assert!(error.kind.ends_with("/errors/validation"), "{error:?}");
            assert_eq!((error.status, error.instance.as_deref()), (400, Some("/do/0/a")));
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
    let whole = |name: &str| {
        document(&json!({ (name): { "schema": number }, "do": [{ "a": { "wait": "PT0S" } }] }))
    };
    for name in ["input", "output"] {
        let error = faulted(run(whole(name), json!({})));
        assert_eq!((error.status, error.instance.as_deref()), (400, Some("")));
        assert!(matches!(run(whole(name), json!({ "n": 1 })), Outcome::Completed(_)));
    }
}

#[test]
fn loops_are_limited_at_run_time_too() {
    let tasks = json!([{ "t": { "try": [
        { "a": { "for": { "in": ".items" }, "do": [{ "b": { "set": { "c": 1 } } }] } }
    ], "catch": {} } }]);
    let mut job = Driver::new(workflow(&tasks), json!({ "items": [1, 2, 3] }));
    job.limits.loop_items = 2;
    // No document catches a limit.
    let error = faulted(job.step(None));
    assert_eq!(error.detail.as_deref(), Some("A loop has at most 2 items."));
    assert!(error.kind.ends_with("/errors/runtime"));
}

#[test]
fn events_tell_what_became_of_tasks() {
    let tasks = json!([
        { "t": {
            "try": [{ "a": call("api/a") }],
            "catch": { "retry": { "limit": { "attempt": { "count": 1 } } }, "do": [{ "s": { "set": { "x": 1 } } }] }
        } },
        { "skipped": { "if": "false", "set": { "x": 1 } } }
    ]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    job.step(None);
    assert_eq!(job.events(), ["Started /do/0/t", "Started /do/0/t/try/0/a"]);
    job.answer(1, 500, &json!(0));
    let expected = ["Faulted /do/0/t/try/0/a", "Retried /do/0/t", "Started /do/0/t/try/0/a"];
    assert_eq!(job.events(), expected);
    job.answer(2, 500, &json!(0));
    let expected = [
        "Faulted /do/0/t/try/0/a",
        "Started /do/0/t/catch/do/0/s",
        "Completed /do/0/t/catch/do/0/s",
        "Completed /do/0/t",
    ];
    assert_eq!(job.events(), expected);
    let flood = json!([{ "a": { "set": { "n": 1 }, "then": "a" } }]);
    let mut job = Driver::new(workflow(&flood), json!({}));
    job.step(None);
    assert_eq!(job.events().len(), 64);
}

#[test]
fn a_job_goes_on_from_the_task_that_failed() {
    let tasks = json!([
        { "first": call("api/first") },
        { "second": { "timeout": { "after": "PT1M" }, "do": [
            { "both": { "fork": { "branches": [{ "a": call("api/a") }, { "b": call("api/b") }] } } }
        ] } }
    ]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    job.step(None);
    assert!(!job.checkpoint.retry());
    job.answer(1, 200, &json!(1));
    job.now = job.now + Duration::from_secs(50);
    let error = faulted(job.answer(3, 400, &json!(0)));
    let failed = "/do/1/second/do/0/both/fork/branches/1/b";
    assert_eq!(error.instance.as_deref(), Some(failed));
    assert!(job.progress().tasks.contains(&failed.to_owned()));
    // The night in between does not count for the timeout.
    job.now = job.now + Duration::from_hours(8);
    assert!(job.checkpoint.retry());
    assert!(!job.checkpoint.retry());
    let wanted = vec![(2, "/api/a".to_owned()), (4, "/api/b".to_owned())];
    assert_eq!(job.wants(), (wanted, Some(10)));
    // Whatever the failed call is still answered.
    job.answer(3, 200, &json!("late"));
    job.answer(4, 200, &json!("b"));
    assert_eq!(job.answer(2, 200, &json!("a")), Outcome::Completed(json!(["a", "b"])));
    assert!(!job.checkpoint.retry());
}

#[test]
fn a_workflow_goes_on_after_its_own_output_failed() {
    let shaped = document(&json!({
        "do": [{ "a": call("api/a") }], "output": { "as": ".x.y" }
    }));
    let mut job = Driver::new(shaped, json!({}));
    job.step(None);
    let error = faulted(job.answer(1, 200, &json!({ "x": 1 })));
    assert_eq!(error.instance.as_deref(), Some(""));
    // No call is made again.
    assert!(job.checkpoint.retry());
    assert_eq!(faulted(job.step(None)), error);
}
