//! Expressions that mean harm, and ones that do not.

use std::{
    fs,
    io::Read,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use super::*;
use crate::{
    time::Timestamp,
    workflow::{
        CheckError, Checkpoint, Outcome, check, check_submitted,
        expressions::{Evaluator, Expression, Phase},
        step,
    },
};

/// Cages whose children may compute for a second.
fn cages() -> Cages {
    Cages { cpu_seconds: 1, ..Cages::for_tests() }
}

fn evaluate_on(evaluator: &Evaluator, source: &str, data: &Value) -> Result<Value, String> {
    let expression = Expression::compile(source, Phase::Export.into(), usize::MAX)?;
    assert!(expression.caged().is_some(), "{source} is tree-shaped");
    let variable = |name: &str| Cow::Owned(json!(format!("${name}")));
    expression.evaluate(data, variable, evaluator)
}

fn evaluate(source: &str, data: &Value) -> Result<Value, String> {
    evaluate_on(&Evaluator::new(&cages()), source, data)
}

/// What becomes of `source` where documents are checked.
fn refusal(source: &str) -> String {
    let compiled = Expression::compile(source, Phase::Export.into(), usize::MAX);
    let checked = compiled.and_then(|expression| {
        let (source, variables) = expression.caged().expect("it is not tree-shaped");
        Cage::new(&cages()).compile(source, variables)
    });
    checked.expect_err(source)
}

/// Each fails for one of these reasons, and an honest one of the same step succeeds behind it.
#[track_caller]
fn harms_nobody(sources: &[&str], reasons: &[&str]) {
    let cages = cages();
    let data = json!((0..40).collect::<Vec<_>>());
    for source in sources {
        let evaluator = Evaluator::new(&cages);
        let error = evaluate_on(&evaluator, source, &data).expect_err(source);
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{error}");
        assert!(!evaluator.is_interrupted(), "{source}");
        let honest = evaluate_on(&evaluator, "map(. + 1) | add", &data);
        assert_eq!(honest, Ok(json!(820)), "after {source}");
    }
}

const TIME: &str = "takes more than 1 s to compute";
const MEMORY: &str = "takes more than 128 MiB of memory, or nests too deep";

#[test]
fn endless_expressions_are_ended() {
    let sources = [
        "def f: f; f",
        "def f: def g: f; g; f",
        "0 | until(. < 0; . + 1)",
        "last(range(1e15))",
        "label $l | repeat(1) | select(. > 1) | break $l",
        "limit(1e18; repeat(.)) | empty",
        "foreach repeat(1) as $i (0; . + 1) | select(. < 0)",
        "first(range(1e18) | select(. < 0))",
        "reduce repeat(1) as $i (0; $i)",
        "(reduce range(30) as $i ([1]; [., .])) as $a | (reduce range(30) as $i ([1]; [., .])) == $a",
    ];
    // Some keep a little of each round.
    harms_nobody(&sources, &[TIME, MEMORY]);
}

#[test]
fn expressions_that_fill_memory_or_stack_are_ended() {
    let sources = [
        "def f: 1 + f; f",
        "def f(x): f(x | x); f(.)",
        "\"a\" * 2000000000",
        "[range(1e12)] | length",
        "[repeat(1)]",
        "[recurse(.)]",
        "[range(0; 1; 0)]",
        "[path(repeat(.))]",
        "[limit(1e9; repeat(\"xxxxxxxxxxxxxxxx\"))] | length",
        "reduce range(40) as $i (\"aa\"; . + .)",
        "reduce range(60) as $i (1; [., .]) | tojson",
        "reduce range(60) as $i (\"a\"; \"\\(.)\\(.)\")",
        "reduce range(60) as $i (10; . * .)",
        "reduce range(1000000) as $i (1; [.]) | tojson | length",
        "(\"a\" * 1000000) * 3000",
        "[[range(10)] | combinations(12)]",
        "[.[] as $a | .[] as $b | .[] as $c | .[] as $d | .[] as $e | .[] as $f | 1] | length",
        "[range(1e9) | tostring] | join(\",\")",
        "[range(1e9) | {(tostring): .}] | add",
    ];
    harms_nobody(&sources, &[TIME, MEMORY]);
}

#[test]
fn results_are_bounded() {
    let sources = [
        "[range(3000000)]",
        "\"x\" * 9000000",
        "\"\\u0000\" * 2000000",
        "reduce range(26) as $i (1; [., .])",
        "{a: (\"x\" * 5000000), b: (\"y\" * 5000000)}",
    ];
    harms_nobody(&sources, &["gives more than 8 MiB"]);
    harms_nobody(&["reduce range(200) as $i (1; [.])"], &["nested deeper than 128 levels"]);
    harms_nobody(&["(\"[\" * 100000) | fromjson"], &["failed", MEMORY]);
}

#[test]
fn nothing_but_the_data_can_be_reached() {
    for name in
        ["env", "halt", "halt_error", "input", "inputs", "debug", "stderr", "input_filename"]
    {
        for source in [format!(". | {name}"), format!("[{name}]"), format!("def f: {name}; f")] {
            assert_eq!(refusal(&source), format!("Unknown filter `{name}`."), "{source}");
        }
    }
    for source in [". | halt(3)", "\"x\" | halt_error(1)", ". | debug(\"x\")", "stderr_empty | ."] {
        assert!(refusal(source).starts_with("Unknown filter `"), "{source}");
    }
    for name in ["$ENV", "$__prog_args", "$secrets", "$authorization"] {
        assert_eq!(refusal(&format!(". | {name}")), format!("Unknown variable `{name}`."));
    }
    let sources = [
        "import \"/etc/passwd\" as $x; $x",
        "import \"a\" as a; a::f",
        "include \"a\"; . | .",
        " # comment\n import \"a\" as $x; . | .",
    ];
    for source in sources {
        assert_eq!(refusal(source), "An expression cannot import.", "{source}");
    }
    assert_eq!(refusal("f::g | ."), "Unknown module `f`.");
    // A document may give such a name to something of its own.
    assert_eq!(evaluate("def env: 1; env | . + 1", &json!(null)), Ok(json!(2)));
}

#[test]
fn a_child_sees_no_environment_and_no_file() {
    let cages = cages();
    let mut process = Process::start(&cages.program, 1).ok().unwrap();
    let request = Request { source: ". | 1", variables: &[], evaluate: None };
    process.ask(&request, Instant::now() + cages.patience).ok().unwrap();
    if cfg!(target_os = "linux") {
        let about = |file: &str| fs::read(format!("/proc/{}/{file}", process.id())).unwrap();
        assert_eq!(about("environ"), b"");
        let limits = String::from_utf8(about("limits")).unwrap();
        for (limit, value) in [
            ("Max cpu time", "1"),
            ("Max file size", "0"),
            ("Max core file size", "0"),
            ("Max open files", "3"),
        ] {
            let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
            assert!(line[limit.len()..].trim().starts_with(value), "{line}");
        }
    }
}

#[test]
fn what_cannot_even_be_compiled_is_refused() {
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{a:", "}"), ("\"\\(", ")\""), ("if ", " then 1 end"), ("-", "")]
    {
        let source = format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
        assert_eq!(refusal(&source), format!("This expression {MEMORY}."), "{open}");
    }
    for source in [". |", "| .", "reduce", "def f: 1;", ". as $x", "\"\\(", "[1, | 2]", "@nope | ."]
    {
        let refused = refusal(source);
        let expected = ["This is not a valid jq expression", "Unknown filter `@nope`."];
        assert!(expected.iter().any(|expected| refused.starts_with(expected)), "{refused}");
    }
    assert_eq!(refusal(". | map(nope)"), "Unknown filter `nope`.");
    assert_eq!(refusal(". | $nope"), "Unknown variable `$nope`.");
}

#[test]
fn honest_expressions_give_what_jq_gives() {
    let data =
        json!({"items": [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}, {"n": 3, "t": "a"}], "f": 0.1});
    for (source, expected) in [
        (".items | map(.n) | add", json!(6)),
        ("[.items[] | select(.t == \"a\") | .n]", json!([1, 3])),
        (
            ".items | group_by(.t) | map({key: .[0].t, value: length}) | from_entries",
            json!({"a": 2, "b": 1}),
        ),
        ("\"a,b\" | split(\",\") | join(\"-\")", json!("a-b")),
        ("\"x1y2\" | [scan(\"[0-9]\")] | map(tonumber)", json!([1, 2])),
        ("\"a b\" | @uri", json!("a%20b")),
        ("0 | todate", json!("1970-01-01T00:00:00Z")),
        (".items[]", json!({"n": 1, "t": "a"})),
        ("empty", json!(null)),
        ("[$workflow, $context] | join(\" \")", json!("$workflow $context")),
        (". as {items: $i} | $i | length", json!(3)),
        ("[.f, 18446744073709551615, -0.5, 1e300] | map(.)", json!([0.1, u64::MAX, -0.5, 1e300])),
        ("nan | [., infinite]", json!([null, null])),
    ] {
        assert_eq!(evaluate(source, &data), Ok(expected), "{source}");
    }
    let error = evaluate(".items | error", &data).unwrap_err();
    assert!(error.starts_with("`.items | error` failed: "), "{error}");
    assert!(error.len() < 400, "{error}");
}

#[test]
fn one_child_serves_a_step_and_a_dead_one_is_replaced() {
    let cages = cages();
    let cage = Cage::new(&cages);
    let ask = |source: &str| cage.evaluate(source, &[], &[], &json!([1]));
    let child = || cage.state.borrow().child.as_ref().map(|(process, _)| process.id());
    assert_eq!(child(), None);
    assert_eq!(ask("map(. + 1)"), Ok(json!([2])));
    let first = child().unwrap();
    assert!(ask(".[] | error").is_err());
    assert_eq!(ask("length"), Ok(json!(1)));
    assert_eq!(child(), Some(first));
    assert!(!cage.is_spent());
    assert!(ask("\"a\" * 2000000000").is_err());
    assert!(cage.is_spent());
    assert_eq!(ask("length"), Ok(json!(1)));
    assert_ne!(child(), Some(first));
    drop(cage);
    assert_eq!(*cages.free.lock().unwrap(), limits::places());
}

#[test]
fn an_expression_that_gets_no_time_is_given_up_and_not_blamed() {
    let cages =
        Cages { cpu_seconds: 10, patience: Duration::from_millis(300), ..Cages::for_tests() };
    let evaluator = Evaluator::new(&cages);
    assert!(evaluate_on(&evaluator, "def f: f; f", &json!(1)).is_err());
    assert!(evaluator.is_interrupted());
    let began = Instant::now();
    assert!(evaluate_on(&evaluator, "def f: f; f", &json!(1)).is_err());
    assert!(began.elapsed() < cages.patience, "it was tried again");
}

#[test]
fn a_step_that_finds_no_place_is_interrupted() {
    let cages = Cages { patience: Duration::from_millis(50), ..Cages::for_tests() };
    let taken: Vec<_> = (0..limits::places()).map(|_| cages.place().unwrap()).collect();
    let evaluator = Evaluator::new(&cages);
    assert!(evaluate_on(&evaluator, ". | 1", &json!(1)).is_err());
    assert!(evaluator.is_interrupted());
    drop(taken);
    assert!(cages.place().is_ok());
}

#[test]
fn a_program_that_cannot_be_started_interrupts_and_one_that_is_no_cage_fails() {
    let missing = Cages::of("/nonexistent".into(), &Limits::default());
    let evaluator = Evaluator::new(&missing);
    assert!(evaluate_on(&evaluator, ". | 1", &json!(1)).is_err());
    assert!(evaluator.is_interrupted());
    for program in ["/bin/true", "/bin/echo"] {
        let other = Cages::of(program.into(), &Limits::default());
        let evaluator = Evaluator::new(&other);
        let error = evaluate_on(&evaluator, ". | 1", &json!(1)).unwrap_err();
        assert_eq!(error, "`. | 1` crashed.", "{program}");
    }
}

#[test]
fn honest_expressions_succeed_on_a_busy_machine() {
    let cages = cages();
    let busy = AtomicBool::new(true);
    let cores = std::thread::available_parallelism().unwrap().get();
    let sums: Vec<_> = std::thread::scope(|scope| {
        for _ in 0..4 * cores {
            scope.spawn(|| while busy.load(Ordering::Relaxed) {});
        }
        let sum = |_| evaluate_on(&Evaluator::new(&cages), "[range(1000)] | add", &json!(null));
        let sums = (0..10).map(sum).collect();
        busy.store(false, Ordering::Relaxed);
        sums
    });
    assert_eq!(sums, vec![Ok(json!(499_500)); 10]);
}

/// Starts a shell that starts a cage, whose questions come from `questions`.
#[cfg(target_os = "linux")]
fn shell_with_a_cage(questions: &Path) -> Child {
    let script = "\"$0\" evaluate-expressions 10 < \"$1\" > /dev/null & echo $!; wait";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(&cages().program).arg(questions);
    shell.stdout(Stdio::piped()).spawn().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn no_child_outlives_a_killed_parent() {
    let folder = tempfile::tempdir().unwrap();
    let questions = folder.path().join("questions");
    let endless = json!({"source": "def f: f; f", "variables": [], "evaluate": [[], null]});
    fs::write(&questions, format!("{endless}\n")).unwrap();
    let mut shell = shell_with_a_cage(&questions);
    let mut id = String::new();
    let stdout = shell.stdout.as_mut().unwrap();
    while !id.ends_with('\n') {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        id.push(char::from(byte[0]));
    }
    // Its state, and the ticks of CPU time it has used; none once it is gone.
    let stat = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", id.trim())).ok()?;
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect();
        Some((fields[0].clone(), fields[11].parse::<u64>().unwrap()))
    };
    let until = Instant::now() + Duration::from_mins(1);
    while stat().is_some_and(|(_, ticks)| ticks < 10) {
        assert!(Instant::now() < until, "the child does not compute");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(stat().is_some_and(|(state, _)| state != "Z"), "the child ended by itself");
    shell.kill().unwrap();
    shell.wait().unwrap();
    while stat().is_some_and(|(state, _)| state != "Z") {
        assert!(Instant::now() < until, "the child still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A document whose only task sets `x` to `source`.
fn document(source: &str) -> Value {
    json!({
        "document": {"dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0"},
        "do": [{"t": {"set": {"x": format!("${{ {source} }}")}}}]
    })
}

fn step_once(source: &str, cages: &Cages) -> (Outcome, Checkpoint) {
    let limits = Limits::default();
    let workflow = check(&document(source), &limits, None).unwrap();
    let now = Timestamp::from_seconds(1_700_000_000).unwrap();
    let mut checkpoint = Checkpoint::start("job", json!([1, 2]), now);
    let outcome = step(&workflow, &limits, cages, &mut checkpoint, Vec::new(), now, &mut || 0.5);
    (outcome, checkpoint)
}

#[test]
fn a_step_is_completed_faulted_or_interrupted() {
    let cages = cages();
    let (outcome, _) = step_once("map(. * 2) | add", &cages);
    assert_eq!(outcome, Outcome::Completed(json!({"x": 6})));
    let (outcome, _) = step_once("\"a\" * 2000000000", &cages);
    let Outcome::Faulted(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.status, error.instance.as_deref()), (400, Some("/do/0/t")));
    assert!(error.kind.ends_with("/expression"), "{}", error.kind);
    assert!(error.detail.unwrap().ends_with(&format!("{MEMORY}.")));
    let busy =
        Cages { cpu_seconds: 10, patience: Duration::from_millis(300), ..Cages::for_tests() };
    let (outcome, checkpoint) = step_once("def f: f; f", &busy);
    assert_eq!(outcome, Outcome::Interrupted);
    let start =
        Checkpoint::start("job", json!([1, 2]), Timestamp::from_seconds(1_700_000_000).unwrap());
    assert_eq!(checkpoint, start);
}

#[test]
fn a_new_document_is_compiled_in_one_child_and_an_accepted_one_not_again() {
    let check_new = |document: &Value, cages: &Cages| {
        check_submitted(document, &Limits::default(), None, cages)
    };
    let cages = cages();
    let honest = document("map(. * 2) | add");
    assert!(check_new(&honest, &cages).unwrap().is_caged());
    assert!(!check_new(&document(".a"), &cages).unwrap().is_caged());
    let mut wrong = document("map(nope)");
    wrong["output"] = json!({"as": ". | $input"});
    wrong["unknown"] = json!(1);
    let Err(CheckError::Problems(problems)) = check_new(&wrong, &cages) else { panic!() };
    let problems: Vec<_> =
        problems.iter().map(|found| (found.pointer.as_str(), found.detail.as_str())).collect();
    assert_eq!(
        problems,
        [
            ("/unknown", "Unknown property `unknown`."),
            ("/do/0/t/set/x", "Unknown filter `nope`."),
            ("/output/as", "Variable `$input` has no value here."),
        ]
    );
    // What is accepted needs no child, here one that could not even be started.
    let missing = Cages::of("/nonexistent".into(), &Limits::default());
    assert!(check(&honest, &Limits::default(), None).is_ok());
    assert!(matches!(check_new(&honest, &missing), Err(CheckError::Interrupted(_))));
    assert!(check_new(&document(".a"), &missing).is_ok());
}
