//! The specification's own files, which are not part of this repository.

use std::{fs, path::PathBuf};

use super::*;
use crate::workflow::{Problem, parse::parse_yaml};

fn folder(name: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/open-workflow");
    let folder = root.join(name);
    if !folder.exists() {
        println!("skipped: not here");
        return None;
    }
    Some(folder)
}

/// A step of a scenario: its words, and the text below it.
struct Line {
    words: String,
    text: Option<Value>,
}

/// The scenarios of a feature file (Gherkin), with their titles.
fn scenarios(feature: &str) -> Vec<(String, Vec<Line>)> {
    let mut scenarios: Vec<(String, Vec<Line>)> = Vec::new();
    let mut lines = feature.lines();
    while let Some(line) = lines.next() {
        let words = line.trim();
        if let Some(title) = words.strip_prefix("Scenario:") {
            scenarios.push((title.trim().to_owned(), Vec::new()));
        } else if words.starts_with("\"\"\"") {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| !line.trim_start().starts_with("\"\"\""));
            let block: Vec<_> = block.map(|line| line.get(indent..).unwrap_or_default()).collect();
            let step = scenarios.last_mut().and_then(|(_, steps)| steps.last_mut()).unwrap();
            step.text = Some(parse_yaml(&block.join("\n")).unwrap());
        } else if ["Given", "When", "Then", "And"].iter().any(|word| words.starts_with(word))
            && let Some((_, steps)) = scenarios.last_mut()
        {
            steps.push(Line { words: words.to_owned(), text: None });
        }
    }
    scenarios
}

/// What petstore.swagger.io says.
fn petstore(call: &Call) -> (u16, Value) {
    let pet = |id: u64| json!({ "id": id, "petId": id, "name": "Rex", "status": "available" });
    if call.path.contains("findByStatus") {
        (200, json!([pet(1)]))
    } else if call.path.contains("getPetByName") {
        (404, json!({ "message": "Pet not found" }))
    } else {
        (200, pet(if call.path.ends_with('2') { 2 } else { 1 }))
    }
}

/// Runs a workflow; also gives the names of its tasks in the order in which they began.
fn execute(workflow: Workflow, input: Value) -> (Outcome, Vec<String>) {
    let mut job = Driver::new(workflow, input);
    let mut outcome = job.step(None);
    while let Outcome::Pending { calls, wake } = outcome {
        outcome = if let Some(call) = calls.first() {
            let (status, body) = petstore(call);
            job.answer(call.id, status, &body)
        } else {
            job.now = wake.unwrap();
            job.step(None)
        };
    }
    let began = job.happened.iter().filter(|event| event.what == TaskEvent::Started);
    let names = began.map(|event| event.task.rsplit('/').next().unwrap().to_owned()).collect();
    (outcome, names)
}

fn property<'v>(output: &'v Value, path: &str) -> Option<&'v Value> {
    output.pointer(&format!("/{}", path.replace('.', "/")))
}

/// Asserts what a step says about a run.
fn verify(title: &str, line: &Line, outcome: &Outcome, began: &[String]) {
    let words = line.words.as_str();
    let quoted: Vec<_> = words.split('\'').skip(1).step_by(2).collect();
    let output = || match outcome {
        Outcome::Completed(output) => output,
        other => panic!("{title}: {other:?}"),
    };
    if words.contains("should complete with output") {
        assert_eq!(output(), line.text.as_ref().unwrap(), "{title}");
    } else if words.contains("should complete") {
        output();
    } else if words.contains("should fault") {
        let error = Value::from(faulted(outcome.clone()));
        for (key, expected) in line.text.iter().flat_map(|text| text.as_object().unwrap()) {
            assert_eq!(&error[key], expected, "{title}: {key}");
        }
    } else if words.contains("property with value") {
        assert_eq!(property(output(), quoted[0]), line.text.as_ref(), "{title}");
    } else if let Some((_, count)) = words.split_once("property containing ") {
        let count: usize = count.split(' ').next().unwrap().parse().unwrap();
        let items = property(output(), quoted[0]).and_then(Value::as_array);
        assert_eq!(items.map(Vec::len), Some(count), "{title}");
    } else if words.contains("should have properties") {
        for path in quoted {
            assert!(property(output(), path).is_some(), "{title}: {path}");
        }
    } else {
        let words: Vec<_> = words.split(' ').collect();
        let at = |name: &str| began.iter().position(|each| each == name).unwrap();
        match words[..] {
            ["And", name, "should", "run", "first"] => assert_eq!(at(name), 0, "{title}"),
            ["And", name, "should", "run", "last"] => {
                assert_eq!(at(name), began.len() - 1, "{title}");
            }
            ["And", name, "should", "run", "after", other] => {
                assert!(at(name) > at(other), "{title}");
            }
            _ => panic!("{title}: unknown step `{}`", line.words),
        }
    }
}

#[test]
fn the_conformance_kit_passes_inside_the_subset_and_is_refused_by_name_outside() {
    let Some(folder) = folder("ctk/features") else {
        return;
    };
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let (mut passed, mut refused) = (0, Vec::new());
    for file in files {
        for (title, steps) in scenarios(&fs::read_to_string(&file).unwrap()) {
            let text = |words: &str| {
                steps
                    .iter()
                    .find(|line| line.words.ends_with(words))
                    .and_then(|line| line.text.clone())
            };
            let definition = text("a workflow with definition:").unwrap();
            match check(&definition, &Limits::default(), Some(&apis())) {
                Err(problems) => refused.push((title, problems[0].pointer.clone())),
                Ok(workflow) => {
                    let input = text("the workflow input is:").unwrap_or_default();
                    let (outcome, began) = execute(workflow, input);
                    let results = steps.iter().skip_while(|line| !line.words.starts_with("When"));
                    for line in results.skip(1) {
                        verify(&title, line, &outcome, &began);
                    }
                    passed += 1;
                }
            }
        }
    }
    let refused: Vec<_> =
        refused.iter().map(|(title, pointer)| (title.as_str(), pointer.as_str())).collect();
    let expected = [
        ("Call HTTP Using Basic Authentication", "/do/0/login/with/endpoint/authentication/basic"),
        ("Call OpenAPI With Content Output", "/do/0/findPet/call"),
        ("Call OpenAPI With Response Output", "/do/0/getPet/call"),
        ("Emit Task", "/do/0/emitEvent/emit"),
    ];
    assert_eq!(refused, expected);
    assert_eq!(passed, 17);
}

/// The published examples that are inside the subset.
const INSIDE: [&str; 18] = [
    "call-http-endpoint-interpolation-shorthand.yaml",
    "call-http-query-headers-expressions.yaml",
    "call-http-query-parameters.yaml",
    "call-http-redirect.yaml",
    "conditional-task.yaml",
    "do-multiple.yaml",
    "do-single.yaml",
    "for-inline-array.yaml",
    "fork.yaml",
    "raise-inline.yaml",
    "raise-reusable.yaml",
    "switch-then-string.yaml",
    "try-catch-retry-inline.yaml",
    "try-catch-retry-reusable.yaml",
    "try-catch-then-directive.yaml",
    "try-catch.yaml",
    "wait-duration-inline.yaml",
    "wait-duration-iso8601.yaml",
];

fn examples() -> Option<Vec<(String, Value)>> {
    let files = fs::read_dir(folder("examples")?).unwrap().map(|file| file.unwrap().path());
    let mut examples: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, parse_yaml(&fs::read_to_string(&path).unwrap()).unwrap())
        })
        .collect();
    examples.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(examples)
}

#[test]
fn published_examples_are_accepted_or_refused_by_name() {
    let Some(examples) = examples() else {
        return;
    };
    let mut accepted = Vec::new();
    for (name, document) in &examples {
        assert_eq!(&parse_json(document.to_string().as_bytes()).unwrap(), document);
        match check(document, &Limits::default(), None) {
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
    assert_eq!(accepted, INSIDE);
    assert_eq!(examples.len(), 68);
}

#[test]
fn accepted_examples_run_to_an_end() {
    let Some(examples) = examples() else {
        return;
    };
    let input = json!({
        "petId": 1, "searchQuery": "x", "customer": { "age": 20 }, "orderType": "physical",
        "patient": { "fullName": "x" }, "room": { "number": 1 }
    });
    for (name, document) in examples.iter().filter(|(name, _)| INSIDE.contains(&name.as_str())) {
        let workflow = check(document, &Limits::default(), None).unwrap();
        let (outcome, _) = execute(workflow, input.clone());
        match outcome {
            Outcome::Completed(_) => assert!(!name.starts_with("raise"), "{name}"),
            Outcome::Faulted(error) => {
                assert!(name.starts_with("raise"), "{name}: {error:?}");
                assert_eq!((error.status, error.title.as_str()), (500, "Not Implemented"));
            }
            Outcome::Pending { .. } | Outcome::Interrupted => {
                unreachable!("it was driven to its end")
            }
        }
    }
}

/// Every place of a document whose property has a meaning, as pointer of the object and key.
fn properties(value: &Value, pointer: &str, found: &mut Vec<(String, String)>) {
    // What stands there is data, or named by the author.
    let free = ["/set", "/headers", "/query", "/body", "/for/in", "/schema/document"];
    match value {
        _ if free.iter().any(|end| pointer.ends_with(end)) => {}
        Value::Object(fields) => {
            for (key, field) in fields {
                let is_name =
                    pointer.rsplit('/').next().is_some_and(|last| last.parse::<u32>().is_ok());
                if !is_name {
                    found.push((pointer.to_owned(), key.clone()));
                }
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

#[test]
fn no_property_of_an_example_can_be_misspelt() {
    let Some(examples) = examples() else {
        return;
    };
    let mut misspelt = 0;
    for (name, document) in examples.iter().filter(|(name, _)| INSIDE.contains(&name.as_str())) {
        let mut places = Vec::new();
        properties(document, "", &mut places);
        for (pointer, key) in places {
            let mut wrong = document.clone();
            let object = wrong.pointer_mut(&pointer).unwrap().as_object_mut().unwrap();
            let value = object.remove(&key).unwrap();
            object.insert(format!("{key}x"), value);
            let refused = check(&wrong, &Limits::default(), None).is_err();
            assert!(refused, "{name}: {pointer}/{key}x");
            misspelt += 1;
        }
    }
    assert!(misspelt > 250, "{misspelt}");
}

#[test]
fn own_documents_are_valid_against_the_published_schema() {
    let Some(folder) = folder("schema") else {
        return;
    };
    let schema = parse_yaml(&fs::read_to_string(folder.join("workflow.yaml")).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let own = crate::workflow::check::tests::sample();
    for (name, document) in examples().unwrap().into_iter().chain([("own".to_owned(), own)]) {
        let errors: Vec<_> = schema.iter_errors(&document).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}
