//! Runtime expressions: jq.
//!
//! jq is a programming language without bounds on time or memory, and this process holds tokens. So an
//! expression runs here only if `whitelist.rs` finds that it is tree-shaped: that it has one result, made
//! of bounded copies of its data. What runs it is jaq's core without its standard library: nothing can
//! read a file, the environment or another input. Everything else runs in a [`Cage`], with the same
//! jaq; so there is one meaning of each expression, wherever it runs.

mod program;
mod template;
mod value;
mod whitelist;

use std::{borrow::Cow, cell::Cell, fmt};

use serde_json::Value;

pub(super) use program::Program;
pub(super) use template::{Template, whole_expression};
pub use value::bytes;
use whitelist::Unfit;
pub(super) use whitelist::{Phase, Scope};

use super::cage::{Cage, Cages};

/// How many bytes of copies one evaluation may need, as a product of data and expression; and how
/// many of data may go to a cage.
const COPIED_BYTES: usize = 16 * 1024 * 1024;

/// How many bytes the expressions of one step may look at and give: what a step takes at most, in
/// memory, and so in time.
const WORK_BYTES: usize = 64 * 1024 * 1024;

/// How many of those bytes are enough for one step, so that others get their turn.
const STEP_BYTES: usize = WORK_BYTES / 16;

/// What evaluates the expressions of one step.
pub(super) struct Evaluator<'c> {
    cage: Cage<'c>,
    /// Bytes looked at and given so far.
    work: Cell<usize>,
}

impl<'c> Evaluator<'c> {
    pub(super) fn new(cages: &'c Cages) -> Self {
        Self { cage: Cage::new(cages), work: Cell::new(0) }
    }

    /// Whether the expressions of this step took so much that others should get their turn.
    pub(super) fn is_spent(&self) -> bool {
        self.work.get() >= STEP_BYTES || self.cage.is_spent()
    }

    /// Whether an expression was given up because the machine is busy. Nothing that was made of its
    /// result, which is an error, counts.
    pub(super) fn is_interrupted(&self) -> bool {
        self.cage.is_interrupted()
    }

    fn add(&self, bytes: usize) -> usize {
        self.work.set(self.work.get().saturating_add(bytes));
        self.work.get()
    }
}

/// An expression of a document.
pub(super) struct Expression {
    source: String,
    /// The variables it needs, without `$`, in the order in which its program expects them. The others
    /// are not even converted.
    variables: Vec<String>,
    place: Place,
}

/// Where an expression is evaluated.
enum Place {
    /// In this process, where it may make this many copies of its data on the way.
    Here(Program, usize),
    Cage,
}

impl Expression {
    /// Compiles `source`, without `${` and `}`, if it is tree-shaped; anything else may be no
    /// expression at all, see [`Expression::caged`]. The error is a sentence for the author.
    pub(super) fn compile(
        source: &str,
        scope: Scope<'_>,
        max_bytes: usize,
    ) -> Result<Self, String> {
        if source.len() > max_bytes {
            return Err(format!("An expression is at most {max_bytes} bytes long."));
        }
        let (variables, place) = match whitelist::examine(source, scope) {
            Ok(shape) => {
                let program = Program::tree(source, &shape.variables)?;
                (shape.variables, Place::Here(program, shape.copies))
            }
            // Who looks for a name as text finds each that it names, and sometimes another.
            Err(Unfit::NoTree) => {
                let named = |name: &String| source.contains(&format!("${name}"));
                (scope.variables().filter(named).collect(), Place::Cage)
            }
            Err(Unfit::Invalid(detail)) => return Err(detail),
        };
        Ok(Self { source: source.trim().to_owned(), variables, place })
    }

    /// What a cage is asked about this expression before its document is accepted: source and variables.
    pub(super) fn caged(&self) -> Option<(&str, &[String])> {
        match self.place {
            Place::Here(..) => None,
            Place::Cage => Some((&self.source, &self.variables)),
        }
    }

    /// Evaluates this on `data`; `variable` is asked for those it names, by their names without `$`.
    ///
    /// The error is a sentence for the author; it means nothing if the evaluator was interrupted.
    pub(super) fn evaluate<'v>(
        &self,
        data: &Value,
        variable: impl Fn(&str) -> Cow<'v, Value>,
        evaluator: &Evaluator<'_>,
    ) -> Result<Value, String> {
        let values: Vec<_> = self.variables.iter().map(|name| variable(name)).collect();
        let bytes = values
            .iter()
            .map(|value| value::bytes(value))
            .fold(value::bytes(data), usize::saturating_add);
        let copies = match &self.place {
            Place::Here(_, copies) => *copies,
            Place::Cage => 1,
        };
        let work = evaluator.add(bytes.saturating_mul(copies.max(1)));
        if bytes.saturating_mul(copies) > COPIED_BYTES || work > WORK_BYTES {
            return Err(format!("`{self}` copies too much data ({bytes} bytes)."));
        }
        let result = match &self.place {
            Place::Here(program, _) => program.run_on(
                value::to_val(data),
                values.iter().map(|value| value::to_val(value)).collect(),
            ),
            Place::Cage => evaluator.cage.evaluate(&self.source, &self.variables, &values, data),
        };
        let result = result.map_err(|why| format!("`{self}` {why}."))?;
        evaluator.add(value::bytes(&result));
        Ok(result)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.source)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Expression({:?})", self.source)
    }
}

/// Whether jq takes `value` for true.
pub(super) fn is_true(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::*,
        sample,
        test_runner::{Config, TestCaseError, TestRunner},
    };
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str, data: &Value) -> Result<Value, String> {
        let expression = Expression::compile(source, Phase::Export.into(), 4096)?;
        assert_eq!(expression.caged(), None, "{source}");
        let variable = |name: &str| Cow::Owned(json!({"name": format!("${name}")}));
        expression.evaluate(data, variable, &Evaluator::new(&Cages::for_tests()))
    }

    #[test]
    fn tree_shaped_expressions_are_evaluated_as_jq_does() {
        let data = json!({"a": {"b": [1, 2.5, "x"]}, "n": 3, "s": "ü", "big": u64::MAX, "f": 1.0});
        for (source, expected) in [
            (".", data.clone()),
            (".a.b[0]", json!(1)),
            (".a[\"b\"][-1]", json!("x")),
            (".a.b[1:]", json!([2.5, "x"])),
            (".missing.deeper", json!(null)),
            (".n?", json!(3)),
            (".n.x?", json!(null)),
            (".n + 1", json!(4)),
            (".n / 2", json!(1.5)),
            (".n % 2 == 1 and .n > 2 or false", json!(true)),
            (".missing // \"d\"", json!("d")),
            ("-.n - 1", json!(-4)),
            (
                "{ x: .n, \"y\": [.n, (.s)], (.s): null, $task }",
                json!({"x": 3, "y": [3, "ü"], "ü": null, "task": {"name": "$task"}}),
            ),
            ("{n, s}", json!({"n": 3, "s": "ü"})),
            ("[]", json!([])),
            ("if .n == 3 then \"three\" elif .s then 1 else null end", json!("three")),
            ("if .missing then 1 end", data.clone()),
            ("\"n=\\(.n) s=\\(.s) a=\\(.a.b)\\n\"", json!("n=3 s=ü a=[1,2.5,\"x\"]\n")),
            (".a.b + [\"red\"]", json!([1, 2.5, "x", "red"])),
            ("$workflow.name", json!("$workflow")),
            ("[$context, $input, $output, $runtime][3].name", json!("$runtime")),
            (".big", json!(u64::MAX)),
            (".f", json!(1.0)),
            ("1e1000", json!(null)),
            ("[1,2,3] - [2]", json!([1, 3])),
            ("\"a,b\" / \",\"", json!(["a", "b"])),
            ("true", json!(true)),
        ] {
            assert_eq!(evaluate(source, &data), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_failing_expression_names_itself() {
        let error = evaluate(".a.b", &json!({"a": 1})).unwrap_err();
        assert!(error.starts_with("`.a.b` failed: "), "{error}");
        assert!(evaluate("{(.n): 1}", &json!({"n": 1})).is_err());
    }

    #[test]
    fn copies_are_bounded() {
        let data = json!({"s": "x".repeat(1_000_000)});
        let sum = |terms: usize| vec![".s"; terms].join(" + ");
        assert!(evaluate(&sum(4), &data).is_ok());
        assert!(evaluate(&sum(20), &data).unwrap_err().contains("copies too much"));
        assert!(evaluate(&format!("[{}]", sum(20).replace('+', ",")), &data).is_err());
    }

    #[test]
    fn compiled_expressions_are_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Expression>();
    }

    /// Trees of everything that the whitelist accepts, and a little more.
    fn trees() -> impl Strategy<Value = String> {
        const LEAVES: &[&str] = &[
            ".",
            ".a",
            ".b",
            ".s",
            ".a[0]",
            ".a[-1]",
            ".a[1:]",
            ".a.b?",
            ".\"s\"",
            "$input",
            "null",
            "true",
            "false",
            "0",
            "-1",
            "0.1",
            "3",
            "9007199254740993",
            "1e300",
            "1e999",
            "\"\"",
            "\"x\"",
            "\"\\u0000ü\"",
            "[]",
            "{a}",
            "{$input}",
            "..",
            "length",
            ".[]",
        ];
        sample::select(LEAVES).prop_map(str::to_owned).prop_recursive(5, 48, 3, |inner| {
            const OPERATORS: &[&str] =
                &["+", "-", "/", "%", "==", "!=", "<", ">=", "and", "or", "//", "*", ",", "|"];
            let operator = sample::select(OPERATORS);
            prop_oneof![
                8 => (inner.clone(), operator, inner.clone())
                    .prop_map(|(left, operator, right)| format!("({left}) {operator} ({right})")),
                1 => inner.clone().prop_map(|within| format!("[{within}]")),
                1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
                1 => (inner.clone(), inner.clone()).prop_map(|(k, v)| format!("{{({k}): {v}}}")),
                1 => (inner.clone(), inner.clone(), inner.clone())
                    .prop_map(|(a, b, c)| format!("if {a} then {b} else {c} end")),
                1 => inner.clone().prop_map(|within| format!("\"<\\({within})>\"")),
                1 => inner.clone().prop_map(|within| format!("-({within})")),
                1 => inner.clone().prop_map(|within| format!("({within}).a?")),
                1 => inner.prop_map(|within| format!("({within})?")),
            ]
        })
    }

    /// Any order of words.
    fn words() -> impl Strategy<Value = String> {
        const WORDS: &[&str] = &[
            ".",
            ".a",
            ".b",
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
            ":",
            ",",
            "1",
            "-1",
            "0",
            "1e999",
            "0.5",
            "\"x\"",
            "\"",
            "\\(",
            "$input",
            "$x",
            "+",
            "-",
            "*",
            "/",
            "%",
            "==",
            "<",
            "and",
            "or",
            "//",
            "if",
            "then",
            "elif",
            "else",
            "end",
            "?",
            "|",
            "..",
            "true",
            "null",
            "not",
            "import",
            "as",
            "99999999999999999999",
            "-9223372036854775808",
            "try",
            "@json",
            "#",
            "\n",
            ";",
            "reduce",
        ];
        (vec(sample::select(WORDS), 1..24), sample::select(&[" ", ""][..]))
            .prop_map(|(words, between)| words.join(between))
    }

    /// What the whitelist accepts gives what jaq with its standard library gives, in the cage, and no
    /// more than its shape allows.
    fn agrees(source: &str, cage: &Cage<'_>) -> Result<bool, TestCaseError> {
        let Ok(expression) = Expression::compile(source, Phase::Task.into(), 4096) else {
            return Ok(false);
        };
        let Place::Here(_, copies) = expression.place else { return Ok(false) };
        let data =
            json!({"a": [1, "ü", {"b": 0}], "b": -9_223_372_036_854_775_808_i64, "s": "a,b"});
        let input = json!({"big": u64::MAX, "f": 0.1});
        let variable = |name: &str| match name {
            "input" => Cow::Borrowed(&input),
            name => Cow::Owned(json!(name)),
        };
        let cages = Cages::for_tests();
        let here = expression.evaluate(&data, variable, &Evaluator::new(&cages));
        let values: Vec<_> = expression.variables.iter().map(|name| variable(name)).collect();
        let there = cage.evaluate(source, &expression.variables, &values, &data);
        let there = there.map_err(|why| format!("`{}` {why}.", source.trim()));
        prop_assert_eq!(&here, &there, "{}", source);
        if let Ok(result) = here {
            let given =
                value::bytes(&data) + values.iter().map(|value| value::bytes(value)).sum::<usize>();
            let most =
                (given + source.len()) * (copies + 1) * 2 + 64 * value::bytes(&json!({"": ""}));
            prop_assert!(value::bytes(&result) <= most, "{} gives too much", source);
        }
        Ok(true)
    }

    #[test]
    fn what_is_evaluated_here_is_what_the_cage_would_give() {
        let cages = Cages::for_tests();
        let cage = Cage::new(&cages);
        let accepted = Cell::new(0);
        let sources = prop_oneof![3 => trees(), 1 => words()];
        let mut runner = TestRunner::new(Config { cases: 512, ..Config::default() });
        let checked = runner.run(&sources, |source| {
            accepted.set(accepted.get() + usize::from(agrees(&source, &cage)?));
            Ok(())
        });
        checked.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(accepted.get() > 64, "only {} were accepted", accepted.get());
    }
}
