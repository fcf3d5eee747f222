use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::workflow::{
    address::tests::api,
    parse::{parse_json, parse_yaml},
};

fn apis() -> DownstreamApis {
    let mut partner = api("https://partnerapi.example.com");
    partner.paths = vec!["api/**".to_owned(), "v2/**".to_owned()];
    let mut inner = api("https://partnerapi.example.com/v2");
    inner.methods = vec!["GET".to_owned()];
    [
        ("PartnerAPI".to_owned(), partner),
        ("InnerAPI".to_owned(), inner),
        ("GraphAPI".to_owned(), api("https://graph.example.com/v1.0")),
    ]
    .into()
}

/// A document with one of everything that is supported.
pub(in crate::workflow) fn sample() -> Value {
    let schema = json!({ "format": "json", "document": { "type": "object" } });
    let policy = json!({
        "when": ".status >= 500",
        "exceptWhen": ".status == 505",
        "delay": { "seconds": 2 },
        "backoff": { "exponential": {} },
        "jitter": { "from": { "milliseconds": 0 }, "to": { "seconds": 1 } },
        "limit": { "attempt": { "count": 5, "duration": "PT1M" }, "duration": { "hours": 1 } }
    });
    json!({
        "document": {
            "dsl": "1.0.3", "namespace": "acme", "name": "sample", "version": "1.0.0-rc.1",
            "title": "t", "summary": "s", "tags": {}, "metadata": {}
        },
        "input": { "from": ".order" },
        "timeout": { "after": { "days": 2 } },
        "do": [
            { "getData": {
                "if": ".id > 0",
                "input": { "from": { "id": "${ .id }" }, "schema": schema },
                "timeout": { "after": "PT1H" },
                "call": "http",
                "with": {
                    "method": "get",
                    "endpoint": { "uri": "api/{id}", "authentication": { "use": "PartnerAPI" } },
                    "headers": { "Accept": "application/json" },
                    "query": { "q": "${ .id }" },
                    "body": [ { "a": "${ . }" } ],
                    "output": "response",
                    "redirect": true
                },
                "output": { "as": ".content", "schema": schema },
                "export": { "as": "{ seen: $output, before: $context }", "schema": schema },
                "then": "group",
                "metadata": { "any": "thing" }
            } },
            { "group": { "do": [
                { "pause": { "wait": { "minutes": 5 }, "timeout": "short" } },
                { "fix": { "set": { "a": "${ $task.name }" }, "then": "exit" } }
            ] } },
            { "each": {
                "for": { "each": "order", "in": ".orders", "at": "position" },
                "while": "$position < 10 and $order.open",
                "do": [ { "add": { "set": { "sum": "${ .sum + $order.price }" } } } ]
            } },
            { "colours": {
                "for": { "in": [ { "name": "red" }, { "name": "${ .x }" } ] },
                "do": [ { "paint": { "set": { "last": "${ [$item, $index] }" } } } ]
            } },
            { "both": { "fork": { "compete": true, "branches": [
                { "left": { "wait": "PT1S" } },
                { "right": { "set": { "a": 1 } } }
            ] } } },
            { "choose": { "switch": [
                { "large": { "when": ".sum > 100", "then": "refuse" } },
                { "other": { "then": "careful" } }
            ] } },
            { "refuse": { "raise": { "error": {
                "type": "https://acme.example/errors/too-much", "status": 400, "title": "Too much",
                "detail": "${ \"\\(.sum) is too much\" }", "instance": "/somewhere"
            } } } },
            { "again": { "raise": { "error": "tooMuch" } } },
            { "careful": {
                "try": [ { "risk": { "set": { "a": 1 } } } ],
                "catch": {
                    "errors": { "with": {
                        "type": "https://open-workflow-specification.org/spec/1.0.0/errors/communication",
                        "status": 503, "title": "t", "detail": "d", "instance": "/do"
                    } },
                    "as": "problem",
                    "when": "$problem.status > 500",
                    "exceptWhen": ".status == 501",
                    "retry": policy.clone(),
                    "do": [ { "report": { "set": { "error": "${ $problem }" } } } ],
                    "then": "known"
                }
            } },
            { "known": {
                "try": [ { "risk": { "set": { "a": 1 } } } ],
                "catch": { "retry": "patient" }
            } }
        ],
        "output": { "as": "{ result: . }" },
        "evaluate": { "language": "jq", "mode": "strict" },
        "use": {
            "timeouts": { "short": { "after": { "seconds": 1 } } },
            "retries": { "patient": policy },
            "errors": { "tooMuch": { "type": "${ .kind }", "status": 422 } }
        }
    })
}

fn problems(document: &Value) -> Vec<(String, String)> {
    let problems = check(document, &Limits::default(), Some(&apis())).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.pointer, problem.detail)).collect()
}

/// A document with this one task.
fn with_task(task: &Value) -> Value {
    let document = json!({ "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0" });
    json!({ "document": document, "do": [ { "x": task } ] })
}

#[track_caller]
fn refused(task: &Value, pointer: &str, detail: &str) {
    let found = problems(&with_task(task));
    assert_eq!(found, [(pointer.to_owned(), detail.to_owned())]);
}

#[test]
fn the_sample_is_accepted() {
    assert_eq!(problems(&sample()), []);
    let workflow = check(&sample(), &Limits::default(), Some(&apis())).unwrap();
    let identity = (workflow.namespace(), workflow.name(), workflow.version());
    assert_eq!(identity, ("acme", "sample", "1.0.0-rc.1"));
    assert_eq!(workflow.apis(), ["PartnerAPI"]);
    assert_eq!(workflow.total(), None);
}

#[test]
fn no_property_can_be_misspelt() {
    /// Pointers of all objects of the document whose properties are not free.
    fn properties(value: &Value, pointer: &str, found: &mut Vec<String>) {
        let free = [
            "/tags",
            "/metadata",
            "/headers",
            "/query",
            "/body",
            "/set",
            "/input/from",
            "/for/in",
            "/schema/document",
            "/use/timeouts",
            "/use/retries",
            "/use/errors",
        ];
        match value {
            _ if free.iter().any(|end| pointer.ends_with(end)) => {}
            Value::Array(items) if NAMED.iter().any(|end| pointer.ends_with(end)) => {
                for (index, item) in items.iter().enumerate() {
                    for (name, item) in item.as_object().unwrap() {
                        properties(item, &format!("{pointer}/{index}/{name}"), found);
                    }
                }
            }
            Value::Object(fields) => {
                for (key, field) in fields {
                    found.push(format!("{pointer}/{key}"));
                    properties(field, &format!("{pointer}/{key}"), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    properties(item, &format!("{pointer}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    /// Lists whose items have names of their own.
    const NAMED: [&str; 5] = ["/do", "/branches", "/switch", "/try", "/catch/do"];
    let mut pointers = Vec::new();
    properties(&sample(), "", &mut pointers);
    let policy = &sample()["use"]["retries"]["patient"];
    properties(policy, "/use/retries/patient", &mut pointers);
    properties(&sample()["use"]["errors"]["tooMuch"], "/use/errors/tooMuch", &mut pointers);
    properties(&sample()["use"]["timeouts"]["short"], "/use/timeouts/short", &mut pointers);
    let mut refused = 0;
    for pointer in &pointers {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut document = sample();
        let object = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let value = object.remove(key).unwrap();
        object.insert(format!("{key}s"), value);
        let found = problems(&document);
        let place = format!("{pointer}s");
        assert!(found.iter().any(|(pointer, _)| *pointer == place), "{place}: {found:?}");
        refused += 1;
    }
    assert!(refused > 140, "{refused}");
}

#[test]
fn all_problems_come_at_once() {
    let document = json!({
        "document": { "dsl": "0.8", "namespace": "a b", "name": "b", "version": "1" },
        "use": { "secrets": ["s"], "authentications": {}, "functions": {} },
        "schedule": {},
        "do": [
            { "a": { "run": { "shell": {} } } },
            { "a": { "set": { "x": "Hello ${ .name }" }, "then": "nowhere" } },
            { "b-": { "wait": { "minuts": 5 } } },
            { "3": { "do": [] } }
        ]
    });
    let pointers: Vec<_> = problems(&document).into_iter().map(|(pointer, _)| pointer).collect();
    let expected = [
        "/schedule",
        "/document/dsl",
        "/document/namespace",
        "/document/version",
        "/use/secrets",
        "/use/authentications",
        "/use/functions",
        "/do/0/a/run",
        "/do/1/a",
        "/do/1/a/set/x",
        "/do/1/a/then",
        "/do/2/b-/wait/minuts",
        "/do/3/3",
        "/do/3/3/do",
    ];
    assert_eq!(pointers, expected);
}

#[test]
fn constructs_outside_the_subset_are_refused_by_name() {
    let not_yet = |name: &str| format!("`{name}` is not supported yet.");
    refused(&json!({"emit": {}}), "/do/0/x/emit", &not_yet("emit"));
    refused(&json!({"run": {"workflow": {}}}), "/do/0/x/run", &not_yet("run.workflow"));
    refused(
        &json!({"run": {"script": {}}}),
        "/do/0/x/run",
        "`run` is not supported: this service never runs containers, scripts or shells.",
    );
    refused(
        &json!({"listen": {}, "foreach": {}}),
        "/do/0/x/listen",
        "`listen` is not supported yet; poll with `call: http` and `wait`.",
    );
    for (function, detail) in [
        ("openapi", "`call: openapi` is not supported yet; use `call: http`."),
        ("grpc", "`call: grpc` is not supported; use `call: http`."),
        ("log:1.0@catalog", "Definitions are never fetched from elsewhere."),
        ("x", "`call: x` is neither `http` nor a function known here."),
    ] {
        refused(&json!({"call": function, "with": {}}), "/do/0/x/call", detail);
    }
    refused(
        &json!({"if": "."}),
        "/do/0/x",
        "A task has one of `for`, `do`, `call`, `set`, `wait`, `fork`, `switch`, `raise`, `try`.",
    );
    refused(
        &json!({"set": {"a": 1}, "wait": "PT1S"}),
        "/do/0/x",
        "A task has only one of `set`, `wait`.",
    );
    refused(&json!({"set": {"a": 1}, "while": "."}), "/do/0/x/while", "Unknown property `while`.");
    refused(
        &json!({"do": [{"y": {"wait": "PT1S"}}], "with": {}}),
        "/do/0/x/with",
        "Unknown property `with`.",
    );
}

#[test]
fn endpoints_lead_to_configured_apis_only() {
    let endpoint = |method: &str, endpoint: Value| {
        let task = json!({"call": "http", "with": {"method": method, "endpoint": endpoint}});
        problems(&with_task(&task))
    };
    let named = |uri: &str, api: &str| json!({"uri": uri, "authentication": {"use": api}});
    let uri = "/do/0/x/with/endpoint/uri";
    for (method, value, pointer) in [
        ("get", named("api/{id}", "PartnerAPI"), ""),
        ("get", named("{any}/thing", "PartnerAPI"), ""),
        ("get", named("${ .url }", "PartnerAPI"), ""),
        ("get", named("https://partnerapi.example.com/api/x", "PartnerAPI"), ""),
        ("get", json!("https://graph.example.com/v1.0/me"), ""),
        ("get", json!({"uri": "https://partnerapi.example.com/v2/{id}?a={b}"}), ""),
        ("post", json!("https://partnerapi.example.com/v2/x"), "/do/0/x/with/method"),
        ("get", named("admin", "PartnerAPI"), uri),
        ("get", named("api/../admin", "PartnerAPI"), uri),
        ("get", named("https://evil.example/api/x", "PartnerAPI"), uri),
        ("get", named("api/x", "PartnerApi"), "/do/0/x/with/endpoint/authentication/use"),
        ("get", json!("https://graph.example.com/v1.0x/me"), "/do/0/x/with/endpoint"),
        ("get", json!("https://{host}/v1.0/me"), "/do/0/x/with/endpoint"),
        ("get", json!("https://graph.example.com{x}/v1.0/me"), "/do/0/x/with/endpoint"),
        ("get", json!("api/data"), "/do/0/x/with/endpoint"),
        ("get", json!({"uri": "${ .url }"}), uri),
        ("get", json!("${ .url }"), "/do/0/x/with/endpoint"),
        ("get", json!("x ${ .url }"), "/do/0/x/with/endpoint"),
        (
            "get",
            json!({"uri": "api/x", "authentication": {"basic": {}}}),
            "/do/0/x/with/endpoint/authentication/basic",
        ),
        ("brew", named("api/x", "PartnerAPI"), "/do/0/x/with/method"),
    ] {
        let found = endpoint(method, value.clone());
        let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        let expected: &[&str] = if pointer.is_empty() { &[] } else { &[pointer] };
        assert_eq!(pointers, expected, "{value}: {found:?}");
    }
}

#[test]
fn the_longest_base_is_meant() {
    let endpoint = json!("https://partnerapi.example.com/v2/x");
    let task = json!({"call": "http", "with": {"method": "get", "endpoint": endpoint}});
    let workflow = check(&with_task(&task), &Limits::default(), Some(&apis())).unwrap();
    assert_eq!(workflow.apis(), ["InnerAPI"]);
}

#[test]
fn headers_of_the_platform_cannot_be_set() {
    let endpoint = json!({"uri": "api/x", "authentication": {"use": "PartnerAPI"}});
    let headers = json!({"authorization": "Bearer x", "X-Ok": "${ .a }", "a b": "c", "d": "e\nf"});
    let with = json!({"method": "get", "endpoint": endpoint, "headers": headers});
    let found = problems(&with_task(&json!({"call": "http", "with": with})));
    let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
    let headers = "/do/0/x/with/headers";
    assert_eq!(pointers, ["authorization", "a b", "d"].map(|name| format!("{headers}/{name}")));
}

#[test]
fn loops_name_variables_of_their_own() {
    let inner = json!([{"y": {"set": {"a": "${ [$item, $index] }"}}}]);
    assert_eq!(problems(&with_task(&json!({"for": {"in": ".a"}, "do": inner}))), []);
    let repeat = |head: Value| json!({"for": head, "while": ".", "do": [{"y": {"wait": "PT1S"}}]});
    let head = "/do/0/x/for";
    let refuse = |head: Value, pointer: &str, detail: &str| {
        refused(&repeat(head), pointer, detail);
    };
    refuse(json!({}), head, "Property `in` is missing.");
    refuse(json!({"in": 5}), &format!("{head}/in"), "This must be an expression or an array.");
    refuse(
        json!({"in": ".a", "each": "input"}),
        &format!("{head}/each"),
        "`$input` has a meaning already.",
    );
    refuse(json!({"in": ".a", "each": "index"}), head, "`each` and `at` need different names.");
    let detail = "A variable is a letter or `_`, then at most 63 letters, digits, `_`.";
    refuse(json!({"in": ".a", "at": "a-b"}), &format!("{head}/at"), detail);
    refuse(json!({"in": "$item"}), &format!("{head}/in"), "Unknown variable `$item`.");
    let no_body = json!({"for": {"in": ".a"}});
    refused(&no_body, "/do/0/x", "Property `do` is missing.");
    // Their variables end with them.
    let after = json!([
        {"x": {"for": {"in": ".a"}, "do": [{"y": {"wait": "PT1S"}}]}},
        {"z": {"set": {"a": "${ $item }"}}}
    ]);
    let mut document = with_task(&json!({}));
    document["do"] = after;
    let unknown = ("/do/1/z/set/a".to_owned(), "Unknown variable `$item`.".to_owned());
    assert_eq!(problems(&document), [unknown]);
}

#[test]
fn branches_and_cases_lead_only_where_they_can() {
    let there_is_no = |name: &str| format!("There is no task `{name}` beside this one.");
    let branches = json!([{"a": {"wait": "PT1S", "then": "b"}}, {"b": {"wait": "PT1S"}}]);
    let fork = json!({"fork": {"branches": branches}});
    refused(&fork, "/do/0/x/fork/branches/0/a/then", &there_is_no("b"));
    let compete = json!({"fork": {"branches": [{"a": {"wait": "PT1S"}}], "compete": 1}});
    refused(&compete, "/do/0/x/fork/compete", "This must be `true` or `false`.");
    refused(
        &json!({"fork": {"branches": []}}),
        "/do/0/x/fork/branches",
        "This must be a list of tasks.",
    );
    let case = |case: Value| json!({"switch": [{"a": case}]});
    refused(&case(json!({"then": "y"})), "/do/0/x/switch/0/a/then", &there_is_no("y"));
    refused(&case(json!({"when": "."})), "/do/0/x/switch/0/a", "Property `then` is missing.");
    refused(&json!({"switch": []}), "/do/0/x/switch", "This must be a list of cases.");
    let two = json!({"switch": [{"a": {"then": "x"}}, {"b": {"then": "end"}}]});
    refused(&two, "/do/0/x/switch/1/b", "There is another case without `when`.");
    let same = json!({"switch": [{"a": {"when": ".", "then": "x"}}, {"a": {"then": "end"}}]});
    refused(&same, "/do/0/x/switch/1/a", "There is another case `a` in this list.");
}

#[test]
fn what_is_used_must_be_defined() {
    let not_defined = |section: &str| format!("`x` is not defined under `use.{section}`.");
    refused(&json!({"wait": "PT1S", "timeout": "x"}), "/do/0/x/timeout", &not_defined("timeouts"));
    refused(&json!({"raise": {"error": "x"}}), "/do/0/x/raise/error", &not_defined("errors"));
    let attempt = |catch: Value| json!({"try": [{"y": {"wait": "PT1S"}}], "catch": catch});
    let retry = "/do/0/x/catch/retry";
    refused(&attempt(json!({"retry": "x"})), retry, &not_defined("retries"));
    let unknown = "Unknown variable `$problem`.";
    let when = json!({"as": "error", "retry": {"when": "$problem.status"}});
    refused(&attempt(when), &format!("{retry}/when"), unknown);
    let both = json!({"retry": {"backoff": {"linear": {}, "constant": {}}}});
    let one_of = "Write one of `constant`, `linear`, `exponential`.";
    refused(&attempt(both), &format!("{retry}/backoff"), one_of);
    let jitter = json!({"retry": {"jitter": {"from": "PT2S", "to": "PT1S"}}});
    refused(&attempt(jitter), &format!("{retry}/jitter"), "`from` is longer than `to`.");
    let status = json!({"type": "https://x.example", "status": 42});
    let detail = "This must be a status code from 100 to 599.";
    refused(&json!({"raise": {"error": status}}), "/do/0/x/raise/error/status", detail);
    // What is wrong with a definition is said once, however often it is used.
    let mut document = with_task(&json!({"raise": {"error": "x"}}));
    document["use"] =
        json!({"errors": {"x": {"type": "a b", "status": 400}}, "retries": {"1": {}}});
    let pointers: Vec<_> = problems(&document).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["/use/retries/1", "/use/errors/x/type"]);
}

#[test]
fn schemas_are_refused_where_they_stand() {
    let with_schema = |schema: Value| json!({"wait": "PT1S", "output": {"schema": schema}});
    let schema = "/do/0/x/output/schema";
    let endpoint = json!({"endpoint": "https://x.example/schema.json"});
    let elsewhere = "Definitions are never fetched from elsewhere.";
    refused(&with_schema(json!({"resource": endpoint})), &format!("{schema}/resource"), elsewhere);
    let avro = json!({"format": "avro", "document": {}});
    let only = "Only JSON Schema is supported; write `json`.";
    refused(&with_schema(avro), &format!("{schema}/format"), only);
    let remote = json!({"document": {"properties": {"a": {"$ref": "https://x.example/a"}}}});
    refused(&with_schema(remote), &format!("{schema}/document/properties/a/$ref"), elsewhere);
}

#[test]
fn limits_are_kept() {
    let limits = Limits { tasks: 2, nesting: 2, expression_bytes: 10, ..Limits::default() };
    let pointers = |document: &Value| {
        let problems = check(document, &limits, None).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.pointer).collect::<Vec<_>>()
    };
    let set = |value: &str| json!({"set": {"a": value}});
    assert_eq!(pointers(&with_task(&set("${ .a }"))), [""; 0]);
    assert_eq!(pointers(&with_task(&set("${ .aaaaaaaaaa }"))), ["/do/0/x/set/a"]);
    let mut document = with_task(&set("a"));
    document["do"] = json!([{"a": set("")}, {"b": set("")}, {"c": set("")}]);
    assert_eq!(pointers(&document), ["/do/2"]);
    let nested = with_task(&json!({"do": [{"y": {"do": [{"z": set("")}]}}]}));
    assert_eq!(pointers(&nested), ["/do/0/x/do/0/y/do"]);

    let limits = Limits { branches: 2, loop_items: 2, ..Limits::default() };
    let problem = |task: Value| {
        let problems = check(&with_task(&task), &limits, None).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.detail).next()
    };
    let branches = |count| (0..count).map(|n| json!({(format!("b{n}")): set("")})).collect();
    let fork = |count| json!({"fork": {"branches": Value::Array(branches(count))}});
    assert_eq!(problem(fork(2)), None);
    assert_eq!(problem(fork(3)).as_deref(), Some("A fork has at most 2 branches."));
    let repeat = |count| json!({"for": {"in": vec![1; count]}, "do": [{"y": set("")}]});
    assert_eq!(problem(repeat(2)), None);
    assert_eq!(problem(repeat(3)).as_deref(), Some("A loop has at most 2 items."));
    let long = "x".repeat(64);
    assert_eq!(problem(json!({"do": [{(long): set("")}]})), None);
    assert!(problem(json!({"do": [{("x".repeat(65)): set("")}]})).is_some());
}

#[test]
fn totals_count_tasks_that_do_something() {
    let total = |document: &Value| check(document, &Limits::default(), None).unwrap().total();
    assert_eq!(total(&with_task(&json!({"wait": "PT1S"}))), Some(1));
    let inner = json!([{"a": {"wait": "PT1S"}}, {"b": {"wait": "PT1S", "then": "end"}}]);
    assert_eq!(total(&with_task(&json!({"do": inner}))), Some(2));
    assert_eq!(total(&with_task(&json!({"wait": "PT1S", "then": "x"}))), None);
    let wait = json!({"wait": "PT1S"});
    assert_eq!(total(&with_task(&json!({"for": {"in": "."}, "do": [{"a": wait}]}))), None);
    let branches = json!([{"a": wait}, {"b": {"do": [{"c": wait}, {"d": wait}]}}]);
    assert_eq!(total(&with_task(&json!({"fork": {"branches": branches}}))), Some(3));
    let handled = json!({"try": [{"a": wait}, {"b": wait}], "catch": {"do": [{"c": wait}]}});
    assert_eq!(total(&with_task(&handled)), Some(2));
    let switch = |then: &str| with_task(&json!({"switch": [{"a": {"then": then}}]}));
    assert_eq!((total(&switch("end")), total(&switch("x"))), (Some(1), None));
}

#[test]
fn a_workflow_is_brief_that_neither_repeats_anything_nor_has_many_tasks() {
    let is_brief = |tasks: Value| {
        check(&with_task(&json!({"do": tasks})), &Limits::default(), None).unwrap().is_brief()
    };
    let wait = json!({"wait": "PT1S"});
    assert!(is_brief(json!([{"a": wait}, {"b": {"fork": {"branches": [{"c": wait}]}}}])));
    assert!(!is_brief(json!([{"a": {"wait": "PT1S", "then": "b"}}, {"b": wait}])));
    assert!(!is_brief(json!([{"a": {"for": {"in": "."}, "do": [{"b": wait}]}}])));
    let tries = json!([{"a": {"try": [{"b": wait}], "catch": {"do": [{"c": wait}]}}}]);
    assert!(!is_brief(tries));
    let schema = json!({"schema": {"format": "json", "document": {"type": "object"}}});
    assert!(!is_brief(json!([{"a": {"wait": "PT1S", "input": schema}}])));
    let many: Vec<Value> = (0..17).map(|at| json!({(format!("t{at}")): wait})).collect();
    assert!(is_brief(json!(many[..16])) && !is_brief(json!(many)));
}

/// Words that documents are made of, and others.
fn any_word() -> impl Strategy<Value = String> {
    let words = [
        "do",
        "call",
        "http",
        "with",
        "method",
        "get",
        "endpoint",
        "uri",
        "authentication",
        "use",
        "PartnerAPI",
        "set",
        "wait",
        "PT1S",
        "P1Y",
        "seconds",
        "if",
        "then",
        "end",
        "exit",
        "for",
        "fork",
        "try",
        "output",
        "as",
        "${ . }",
        "${ .a | .b }",
        "${",
        "$input",
        "api/{id}",
        "..",
        "https://partnerapi.example.com/api/%2e%2e/x",
        "document",
        "dsl",
        "1.0.3",
        "",
    ];
    prop_oneof![3 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => ".*"]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let fields = prop::collection::vec((any_word(), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::Array),
            fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The pointers of everything in a document.
fn pointers(value: &Value, pointer: &str, all: &mut Vec<String>) {
    all.push(pointer.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, &format!("{pointer}/{index}"), all);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                pointers(field, &format!("{pointer}/{}", escape(name)), all);
            }
        }
        _ => {}
    }
}

/// RFC 6901 3
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Whatever is wrong is named where it stands.
fn is_dealt_with(document: &Value) -> Result<(), TestCaseError> {
    let Err(problems) = check(document, &Limits::default(), Some(&apis())) else { return Ok(()) };
    prop_assert!(!problems.is_empty());
    for problem in problems {
        prop_assert!(document.pointer(&problem.pointer).is_some(), "{:?}", problem);
        prop_assert!(!problem.detail.is_empty());
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_document_with_anything_in_any_place_is_dealt_with(
        places in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let mut document = sample();
        for (place, value) in places {
            let mut all = Vec::new();
            pointers(&document, "", &mut all);
            *document.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
        }
        is_dealt_with(&document)?;
    }

    #[test]
    fn any_value_is_dealt_with(document in any_value()) {
        is_dealt_with(&document)?;
    }

    #[test]
    fn any_text_is_read_or_refused(text: String, bytes: Vec<u8>) {
        if let Ok(value) = parse_json(&bytes) {
            prop_assert_eq!(parse_json(value.to_string().as_bytes()).unwrap(), value);
        }
        if let Ok(value) = parse_yaml(&text) {
            prop_assert!(parse_json(value.to_string().as_bytes()).is_ok(), "{}", value);
        }
    }
}
