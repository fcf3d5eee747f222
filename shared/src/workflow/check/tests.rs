use std::{fs, path::PathBuf};

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
fn sample() -> Value {
    json!({
        "document": {
            "dsl": "1.0.3", "namespace": "acme", "name": "sample", "version": "1.0.0-rc.1",
            "title": "t", "summary": "s", "tags": {}, "metadata": {}
        },
        "input": { "from": ".order" },
        "do": [
            { "getData": {
                "if": ".id > 0",
                "input": { "from": { "id": "${ .id }" } },
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
                "output": { "as": ".content" },
                "export": { "as": "{ seen: $output, before: $context }" },
                "then": "group",
                "metadata": { "any": "thing" }
            } },
            { "group": { "do": [
                { "pause": { "wait": { "minutes": 5 } } },
                { "fix": { "set": { "a": "${ $task.name }" }, "then": "exit" } }
            ] } }
        ],
        "output": { "as": "{ result: . }" },
        "evaluate": { "language": "jq", "mode": "strict" },
        "use": {}
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
        let free = ["/tags", "/metadata", "/headers", "/query", "/body", "/set", "/input/from"];
        match value {
            _ if free.iter().any(|end| pointer.ends_with(end)) => {}
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
    let mut pointers = Vec::new();
    properties(&sample(), "", &mut pointers);
    let names = ["getData", "group", "pause", "fix"];
    let mut refused = 0;
    for pointer in &pointers {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        if names.contains(&key) {
            continue;
        }
        let mut document = sample();
        let object = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let value = object.remove(key).unwrap();
        object.insert(format!("{key}s"), value);
        let found = problems(&document);
        let place = format!("{pointer}s");
        assert!(found.iter().any(|(pointer, _)| *pointer == place), "{place}: {found:?}");
        refused += 1;
    }
    assert!(refused > 40, "{refused}");
}

#[test]
fn all_problems_come_at_once() {
    let document = json!({
        "document": { "dsl": "0.8", "namespace": "a b", "name": "b", "version": "1" },
        "use": { "secrets": ["s"], "authentications": {}, "retries": {} },
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
        "/use/retries",
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
    refused(&json!({"fork": {"branches": []}}), "/do/0/x/fork", &not_yet("fork"));
    refused(&json!({"for": {"in": ".a"}, "do": []}), "/do/0/x/for", &not_yet("for"));
    refused(&json!({"for": {"in": ".a"}, "while": ".", "do": []}), "/do/0/x/for", &not_yet("for"));
    refused(&json!({"switch": []}), "/do/0/x/switch", &not_yet("switch"));
    refused(&json!({"try": [], "catch": {}}), "/do/0/x/try", &not_yet("try"));
    refused(&json!({"raise": {}}), "/do/0/x/raise", &not_yet("raise"));
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
    refused(
        &json!({"wait": "PT1S", "timeout": {"after": "PT1S"}}),
        "/do/0/x/timeout",
        &not_yet("timeout"),
    );
    refused(
        &json!({"wait": "PT1S", "input": {"schema": {}}}),
        "/do/0/x/input/schema",
        "`schema` is not supported yet; the data would not be checked.",
    );
    for (function, detail) in [
        ("openapi", "`call: openapi` is not supported yet; use `call: http`."),
        ("grpc", "`call: grpc` is not supported; use `call: http`."),
        ("log:1.0@catalog", "Definitions are never fetched from elsewhere."),
        ("x", "`call: x` is neither `http` nor a function known here."),
    ] {
        refused(&json!({"call": function, "with": {}}), "/do/0/x/call", detail);
    }
    refused(&json!({"if": "."}), "/do/0/x", "A task has one of `do`, `call`, `set`, `wait`.");
    refused(
        &json!({"set": {"a": 1}, "wait": "PT1S"}),
        "/do/0/x",
        "A task has only one of `set`, `wait`.",
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
}

#[test]
fn totals_count_tasks_that_do_something() {
    let total = |document: &Value| check(document, &Limits::default(), None).unwrap().total();
    assert_eq!(total(&with_task(&json!({"wait": "PT1S"}))), Some(1));
    let inner = json!([{"a": {"wait": "PT1S"}}, {"b": {"wait": "PT1S", "then": "end"}}]);
    assert_eq!(total(&with_task(&json!({"do": inner}))), Some(2));
    assert_eq!(total(&with_task(&json!({"wait": "PT1S", "then": "x"}))), None);
}

/// The specification's published files, which are not part of this repository.
fn published(folder: &str) -> Option<Vec<(String, String)>> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/open-workflow").join(folder);
    let Ok(entries) = fs::read_dir(&path) else {
        println!("skipped: not here");
        return None;
    };
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "yaml"))
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    Some(files)
}

#[test]
fn published_examples_are_accepted_or_refused_by_name() {
    let Some(examples) = published("examples") else {
        return;
    };
    let mut accepted = Vec::new();
    for (name, text) in &examples {
        let document = parse_yaml(text).unwrap();
        assert_eq!(parse_json(document.to_string().as_bytes()).unwrap(), document);
        match check(&document, &Limits::default(), None) {
            Ok(_) => accepted.push(name.as_str()),
            Err(problems) => {
                println!("{name}: {problems:?}");
                let named = |problem: &Problem| {
                    document.pointer(&problem.pointer).is_some() && !problem.detail.is_empty()
                };
                assert!(problems.iter().all(named), "{name}: {problems:?}");
            }
        }
    }
    println!("{} of {} accepted: {accepted:?}", accepted.len(), examples.len());
    let expected = [
        "call-http-endpoint-interpolation-shorthand.yaml",
        "do-multiple.yaml",
        "do-single.yaml",
        "wait-duration-inline.yaml",
        "wait-duration-iso8601.yaml",
    ];
    assert_eq!(accepted, expected);
}
