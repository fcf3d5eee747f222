//! `try`, `catch`, `retry`.

use super::*;

/// A call in a `try` with this `catch`, then a task that shows what it gave.
fn attempt(catch: &Value) -> Workflow {
    let tasks = json!([
        { "t": { "try": [{ "a": call_to("api/a", &json!({})) }], "catch": catch } },
        { "end": { "set": { "gave": "${ . }" } } }
    ]);
    workflow(&tasks)
}

fn start(catch: &Value) -> Driver {
    let mut job = Driver::new(attempt(catch), json!("input"));
    assert_eq!(job.wants().0, [(1, "/api/a".to_owned())]);
    job
}

#[test]
fn an_error_is_caught_if_it_is_meant() {
    let kind = "https://open-workflow-specification.org/spec/1.0.0/errors/communication";
    for (catch, is_meant) in [
        (json!({}), true),
        (json!({ "errors": {} }), true),
        (json!({ "errors": { "with": { "type": kind, "status": 503 } } }), true),
        (json!({ "errors": { "with": { "type": kind, "status": 404 } } }), false),
        (json!({ "errors": { "with": { "instance": "/do/0/t/try/0/a" } } }), true),
        (json!({ "errors": { "with": { "title": "Service Unavailable" } } }), true),
        (json!({ "errors": { "with": { "detail": "other" } } }), false),
        (
            json!({ "errors": { "with": { "type": kind.replace("communication", "timeout") } } }),
            false,
        ),
        (json!({ "when": ".status == 503" }), true),
        (json!({ "as": "e", "when": "$e.status < 500" }), false),
        (json!({ "exceptWhen": "$error.status == 503" }), false),
        (json!({ "when": "${ .status >= 500 }", "exceptWhen": ".status == 501" }), true),
    ] {
        let outcome = start(&catch).answer(1, 503, &json!(null));
        if is_meant {
            // Neither retry nor handler: it goes on with the input of the try.
            assert_eq!(outcome, Outcome::Completed(json!({ "gave": "input" })), "{catch}");
        } else {
            assert_eq!(faulted(outcome).status, 503, "{catch}");
        }
    }
}

#[test]
fn a_handler_sees_the_error_and_leads_on() {
    let tasks = json!([
        { "t": {
            "try": [{ "a": { "raise": { "error": { "type": "https://x.example/e", "status": 400 } } } }],
            "catch": {
                "as": "problem",
                "do": [{ "note": { "set": { "was": "${ [$problem.status, $problem.instance, .] }" } } }],
                "then": "there"
            },
            "then": "end"
        } },
        { "here": { "set": { "never": 1 } } },
        { "there": { "set": { "there": "${ .was }" } } }
    ]);
    let expected = json!({ "there": [400, "/do/0/t/try/0/a", "input"] });
    assert_eq!(run(workflow(&tasks), json!("input")), Outcome::Completed(expected));
}

#[test]
fn an_error_in_a_handler_goes_up_to_the_next_try() {
    let raise = |status: u64| json!({ "raise": { "error": { "type": "https://x.example/e", "status": status } } });
    let inner = json!({ "try": [{ "a": raise(400) }], "catch": { "do": [{ "b": raise(401) }] } });
    let catch =
        json!({ "do": [{ "c": { "set": { "e": "${ [$error.status, $error.instance] }" } } }] });
    let tasks = json!([{ "outer": { "try": [{ "inner": inner }], "catch": catch } }]);
    let place = "/do/0/outer/try/0/inner/catch/do/0/b";
    let expected = json!({ "e": [401, place] });
    assert_eq!(run(workflow(&tasks), json!({})), Outcome::Completed(expected));
}

#[test]
fn retries_come_first_and_are_counted_after_the_first_try() {
    let catch = json!({
        "retry": { "delay": "PT1S", "limit": { "attempt": { "count": 2 } } },
        "do": [{ "give-up": { "set": { "gave": "up" } } }]
    });
    let mut job = start(&catch);
    for id in 1..=2 {
        let until = job.now + Duration::from_secs(1);
        assert_eq!(job.answer(id, 500, &json!(0)), waits(until));
        assert_eq!(job.progress().tasks, ["/do/0/t"]);
        job.after(1);
        assert_eq!(job.call().id, id + 1);
    }
    let outcome = job.answer(3, 500, &json!(0));
    assert_eq!(outcome, Outcome::Completed(json!({ "gave": { "gave": "up" } })));

    let mut job = start(&catch);
    job.answer(1, 500, &json!(0));
    job.after(1);
    assert_eq!(job.answer(2, 200, &json!("ok")), Outcome::Completed(json!({ "gave": "ok" })));
}

#[test]
fn delays_grow_as_the_backoff_says() {
    for (backoff, expected) in [
        (json!({ "constant": {} }), [3, 3, 3, 3]),
        (json!({ "linear": {} }), [3, 6, 9, 12]),
        (json!({ "exponential": {} }), [3, 6, 12, 24]),
    ] {
        let mut job = start(&json!({ "retry": { "delay": { "seconds": 3 }, "backoff": backoff } }));
        for (id, seconds) in (1..).zip(expected) {
            let until = job.now + Duration::from_secs(seconds);
            assert_eq!(job.answer(id, 500, &json!(0)), waits(until), "{backoff} {id}");
            job.after(seconds);
        }
    }
}

#[test]
fn delays_never_overflow() {
    let retry = json!({ "delay": "P400D", "backoff": { "exponential": {} } });
    let mut job = start(&json!({ "retry": retry }));
    for id in 1..100 {
        let longest = job.now + job.limits.max_deadline;
        assert_eq!(job.answer(id, 500, &json!(0)), waits(longest));
        job.now = longest;
        job.step(None);
    }
}

#[test]
fn jitter_lies_between_its_bounds() {
    let retry = json!({ "delay": "PT1S", "jitter": { "from": "PT2S", "to": "PT4S" } });
    let mut job = start(&json!({ "retry": retry }));
    // The driver's chance is always a half.
    let until = job.now + Duration::from_secs(4);
    assert_eq!(job.answer(1, 500, &json!(0)), waits(until));
    for (chance, seconds) in [(0.0, 3), (1.0, 5), (7.0, 5), (-1.0, 3), (f64::NAN, 3)] {
        let mut job = start(&json!({ "retry": retry }));
        let response = Response { status: 500, headers: vec![], body: vec![] };
        let replies = vec![Reply { call: 1, result: Ok(response) }];
        let outcome = step(
            &job.workflow,
            &job.limits,
            &job.cages,
            &mut job.checkpoint,
            replies,
            job.now,
            &mut || chance,
        );
        assert_eq!(outcome, waits(job.now + Duration::from_secs(seconds)), "{chance}");
    }
}

#[test]
fn retry_after_is_a_lower_bound_of_the_delay() {
    let catch = json!({ "retry": { "delay": "PT10S" } });
    for (retry_after, seconds) in [("60", 60), ("5", 10), ("86400", 3600), ("soon", 10)] {
        let mut job = start(&catch);
        let until = job.now + Duration::from_secs(seconds);
        let outcome = job.answer_with(&[("retry-after", retry_after)], 1, 429, &json!(0));
        assert_eq!(outcome, waits(until), "{retry_after}");
    }
    // Also if the call was in a branch.
    let branches = json!([{ "b": call_to("api/b", &json!({})) }]);
    let tasks = json!([{ "t": { "try": [{ "f": { "fork": { "branches": branches } } }], "catch": catch } }]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    job.step(None);
    let until = job.now + Duration::from_secs(60);
    assert_eq!(job.answer_with(&[("Retry-After", "60")], 1, 503, &json!(0)), waits(until));
}

#[test]
fn retries_end_after_their_time() {
    let catch = json!({ "retry": { "delay": "PT4S", "limit": { "duration": "PT10S" } } });
    let mut job = start(&catch);
    job.answer(1, 500, &json!(0));
    job.after(4);
    job.answer(2, 500, &json!(0));
    job.after(4);
    // A third one would begin after twelve seconds.
    assert_eq!(job.answer(3, 500, &json!(0)), Outcome::Completed(json!({ "gave": "input" })));
}

#[test]
fn a_try_that_takes_too_long_is_one_that_failed() {
    let limit = json!({ "attempt": { "count": 1, "duration": "PT5S" } });
    let mut job = start(&json!({ "retry": { "limit": limit } }));
    assert_eq!(job.wants().1, Some(5));
    job.after(5);
    assert_eq!(job.wants(), (vec![(2, "/api/a".to_owned())], Some(5)));
    assert_eq!(job.after(5), Outcome::Completed(json!({ "gave": "input" })));
}

#[test]
fn a_policy_decides_what_is_worth_a_retry() {
    let retries =
        json!({ "transient": { "when": "$error.status >= 500", "exceptWhen": ".status == 501" } });
    let catch = json!({ "as": "e", "retry": "transient", "do": [{ "x": { "set": { "s": "${ $e.status }" } } }] });
    let tasks =
        json!([{ "t": { "try": [{ "a": call_to("api/a", &json!({})) }], "catch": catch } }]);
    for (status, is_retried) in [(500, true), (501, false), (404, false)] {
        let reused = document(&json!({ "use": { "retries": retries }, "do": tasks }));
        let mut job = Driver::new(reused, json!({}));
        job.step(None);
        match job.answer(1, status, &json!(0)) {
            Outcome::Pending { calls, .. } => assert!(is_retried && calls[0].id == 2),
            outcome => {
                assert!(!is_retried);
                assert_eq!(outcome, Outcome::Completed(json!({ "s": status })));
            }
        }
    }
}

#[test]
fn a_timeout_and_an_expression_can_be_caught() {
    for (task, kind) in [
        (json!({ "wait": "PT1H", "timeout": { "after": "PT0S" } }), "timeout"),
        (json!({ "set": { "a": "${ .a.b }" } }), "expression"),
        (call_to("${ .uri }", &json!({})), "expression"),
    ] {
        let catch = json!({ "do": [{ "x": { "set": { "kind": "${ $error.type }" } } }] });
        let tasks = json!([{ "t": { "try": [{ "a": task }], "catch": catch } }]);
        let Outcome::Completed(output) = run(workflow(&tasks), json!({ "a": 1, "uri": 5 })) else {
            panic!("{kind} was not caught");
        };
        assert!(output["kind"].as_str().unwrap().ends_with(kind), "{output}");
    }
}

#[test]
fn no_document_catches_a_limit_or_tries_for_ever() {
    let raise = json!({ "raise": { "error": { "type": "https://x.example/e", "status": 400 } } });
    let tasks = json!([{ "t": { "try": [{ "a": raise }], "catch": { "retry": {} } } }]);
    let mut job = Driver::new(workflow(&tasks), json!({}));
    job.limits.task_starts = 2_500;
    let mut outcome = job.step(None);
    while outcome == waits(job.now) {
        outcome = job.step(None);
    }
    let error = faulted(outcome);
    assert_eq!(error.detail.as_deref(), Some("A job starts at most 2500 tasks."));
}
