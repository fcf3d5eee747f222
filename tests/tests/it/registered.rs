//! The operator's documents, and expressions that run in a process of their own.

use errand_tests::{Database, Settings, TestApp, workflows};
use serde_json::{Value, json};

on_both_databases! {
    a_job_names_a_registered_workflow_and_carries_none
    hostile_expressions_harm_only_their_job
    who_computes_between_waits_computes_no_longer_than_others
}

/// `acme/process-data` of this version, which sums up what the partner API has.
fn registered(version: &str) -> Value {
    let sum = json!({ "sum": { "set": {
        "amount": "${ [.items[].amount] | add }", "version": "${ $workflow.definition.document.version }"
    } } });
    let mut document =
        workflows::document(&json!([workflows::get("getData", "api/process/data"), sum]));
    document["document"]["version"] = json!(version);
    document["document"]["title"] = json!("Sums up");
    document
}

async fn a_job_names_a_registered_workflow_and_carries_none(database: Database) {
    let documents = vec![registered("1.9.0"), registered("1.10.0")];
    let settings = Settings { registered: documents, ..Settings::default() };
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");

    let listed = alice.get("/v1/workflows").await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    let entry = |version: &str| {
        json!({
            "namespace": "acme", "name": "process-data", "version": version,
            "title": "Sums up", "summary": null, "apis": ["PartnerAPI"],
        })
    };
    assert_eq!(listed.body, json!({ "workflows": [entry("1.9.0"), entry("1.10.0")] }));

    for (named, version) in [
        (json!({ "namespace": "acme", "name": "process-data" }), "1.10.0"),
        (json!({ "namespace": "acme", "name": "process-data", "version": "1.9.0" }), "1.9.0"),
    ] {
        let job = alice.submit(&named).await;
        assert_eq!(job["definition"]["version"], version);
        let job = alice.wait_until(&job, "completed").await;
        assert_eq!(job["output"], json!({ "amount": 200, "version": version }));
    }
    for refused in [
        registered("1.10.0"),
        json!({ "namespace": "acme", "name": "process-data", "version": "2.0.0" }),
    ] {
        let answer = alice.post_job(&json!({ "definition": refused })).await;
        answer.assert_problem(400, "invalid_body");
        assert_eq!(answer.body["errors"][0]["pointer"], "/definition");
    }
    app.finish().await;
}

async fn hostile_expressions_harm_only_their_job(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let set = |expression: &str| {
        workflows::document(&json!([{ "t": { "set": { "x": format!("${{ {expression} }}") } } }]))
    };
    let mut hostile = Vec::new();
    for expression in ["\"a\" * 2000000000", "def f: 1 + f; f", "[range(3000000)]"] {
        hostile.push(alice.submit(&set(expression)).await);
    }
    let honest = alice.submit(&set("[range(10)] | add")).await;
    assert_eq!(alice.wait_until(&honest, "completed").await["output"], json!({ "x": 45 }));
    for job in hostile {
        let job = alice.wait_until(&job, "faulted").await;
        assert_eq!(job["error"]["status"], 400, "{job}");
        assert_eq!(job["error"]["title"], "Expression error", "{job}");
    }
    let answer = alice.post_job(&json!({ "definition": set(". | env") })).await;
    answer.assert_problem(400, "invalid_body");
    assert_eq!(answer.body["errors"][0]["pointer"], "/definition/do/0/t/set/x");
    app.finish().await;
}

async fn who_computes_between_waits_computes_no_longer_than_others(database: Database) {
    let more = "[limits]\nevaluation_seconds_per_job = 1\n".to_owned();
    let app = TestApp::start_with(database, Settings { more, ..Settings::default() }).await;
    let alice = app.user("alice");
    let turns: Vec<_> = (0..8).collect();
    let each_turn = json!([
        { "compute": { "set": { "x": "${ [range(100000)] | add }" } } },
        { "pause": { "wait": "PT1S" } },
    ]);
    let turning = json!([{ "all": { "for": { "in": turns }, "do": each_turn } }]);
    let job = alice.submit(&workflows::document(&turning)).await;
    let faulted = alice.wait_for(&job, "faulted", |job| job["status"] == "faulted").await;
    let detail = faulted["error"]["detail"].as_str().unwrap();
    assert_eq!(detail, "A job may compute for 1 seconds in all.", "{faulted}");
    app.finish().await;
}
