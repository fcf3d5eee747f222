//! Runtime expressions: jq, as far as it is tree-shaped.
//!
//! jq is a programming language without bounds on time or memory, and this process holds tokens. So an
//! expression runs here only if `whitelist.rs` finds that it has one result, made of bounded copies of
//! its data. What runs it is jaq's core without its standard library: nothing can read a file, the
//! environment or another input.

mod template;
mod value;
mod whitelist;

use std::{borrow::Cow, fmt};

use jaq_core::{
    Compiler, Ctx, Filter, Vars,
    data::JustLut,
    load::{Arena, File, Loader, parse},
};
use jaq_json::Val;
use serde_json::Value;

pub(super) use template::{Template, whole_expression};
pub(super) use whitelist::{Phase, Scope};

/// How many bytes of copies one evaluation may need, as a product of data and expression.
const COPIED_BYTES: usize = 16 * 1024 * 1024;

/// How many bytes the expressions of one step may look at and give: what a step takes at most, in
/// memory, and so in time.
pub(super) const WORK_BYTES: usize = 64 * 1024 * 1024;

/// What expressions may call: the literals that jq writes as filters.
const PRELUDE: &str = "def true: 0 == 0; def false: 0 != 0; def null: [][0];";

/// A compiled expression.
pub(super) struct Expression {
    source: String,
    filter: Filter<JustLut<Val>>,
    /// The variables it names, without `$`, in the order in which the filter expects them.
    variables: Vec<String>,
    /// How many copies of its data it may make on the way.
    copies: usize,
}

impl Expression {
    /// Compiles `source`, without `${` and `}`; the error is a sentence for the author.
    pub(super) fn compile(
        source: &str,
        scope: Scope<'_>,
        max_bytes: usize,
    ) -> Result<Self, String> {
        if source.len() > max_bytes {
            return Err(format!("An expression is at most {max_bytes} bytes long."));
        }
        let shape = whitelist::examine(source, scope)?;
        let invalid = || "This is not a valid jq expression.".to_owned();
        let prelude = parse(PRELUDE, |parser| parser.defs()).ok_or_else(invalid)?;
        let arena = Arena::default();
        let modules = Loader::new(prelude)
            .load(&arena, File { code: source, path: () })
            .map_err(|_| invalid())?;
        let variables: Vec<_> = shape.variables.iter().map(|name| format!("${name}")).collect();
        let filter = Compiler::<&str, JustLut<Val>>::default()
            .with_global_vars(variables.iter().map(String::as_str))
            .compile(modules)
            .map_err(|_| invalid())?;
        let source = source.trim().to_owned();
        Ok(Self { source, filter, variables: shape.variables, copies: shape.copies })
    }

    /// Evaluates this on `data`; `variable` is asked for those it names, by their names without `$`.
    ///
    /// Adds the bytes it looked at and gave to `work`. The error is a sentence for the author.
    pub(super) fn evaluate<'v>(
        &self,
        data: &Value,
        variable: impl Fn(&str) -> Cow<'v, Value>,
        work: &mut usize,
    ) -> Result<Value, String> {
        let mut bytes = value::bytes(data);
        let mut bound = Vec::with_capacity(self.variables.len());
        for name in &self.variables {
            let value = variable(name);
            bytes = bytes.saturating_add(value::bytes(&value));
            bound.push(value::to_val(&value));
        }
        *work = work.saturating_add(bytes.saturating_mul(self.copies.max(1)));
        if bytes.saturating_mul(self.copies) > COPIED_BYTES || *work > WORK_BYTES {
            return Err(format!("`{self}` copies too much data ({bytes} bytes)."));
        }
        let context = Ctx::<JustLut<Val>>::new(&self.filter.lut, Vars::new(bound));
        match self.filter.id.run((context, value::to_val(data))).next() {
            None => Ok(Value::Null),
            Some(Ok(result)) => {
                let result = value::from_val(&result).map_err(|why| format!("`{self}` {why}."))?;
                *work = work.saturating_add(value::bytes(&result));
                Ok(result)
            }
            Some(Err(exception)) => {
                let why =
                    exception.get_err().map_or_else(|_| String::new(), |error| error.to_string());
                let why: String = why.chars().take(300).collect();
                Err(format!("`{self}` failed: {why}"))
            }
        }
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
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str, data: &Value) -> Result<Value, String> {
        let expression = Expression::compile(source, Phase::Export.into(), 4096)?;
        let variable = |name: &str| Cow::Owned(json!({"name": format!("${name}")}));
        expression.evaluate(data, variable, &mut 0)
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

    proptest::proptest! {
        #[test]
        fn no_expression_panics(
            tokens in proptest::collection::vec(proptest::sample::select(&[
                ".", ".a", ".b", "[", "]", "(", ")", "{", "}", ":", ",", "1", "-1", "0", "1e999", "0.5",
                "\"x\"", "\"", "\\(", "$input", "$x", "+", "-", "*", "/", "%", "==", "<", "and", "or", "//",
                "if", "then", "elif", "else", "end", "?", "|", "..", "true", "null", "not", "import", "as",
                "99999999999999999999", "-9223372036854775808", "try", "@json", "#", "\n", ";", "reduce",
            ][..]), 1..24)
        ) {
            let data = json!({"a": [1, "ü", {"b": 0}], "b": -9_223_372_036_854_775_808_i64});
            let _ = evaluate(&tokens.join(" "), &data);
            let _ = evaluate(&tokens.concat(), &data);
        }
    }
}
