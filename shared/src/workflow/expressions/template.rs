//! JSON values with expressions in them.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{Evaluator, Expression};

/// A value of a document, ready to be evaluated. Data never becomes one.
#[derive(Debug)]
pub(in crate::workflow) enum Template {
    Literal(Value),
    Expression(Box<Expression>),
    Array(Vec<Template>),
    Object(Vec<(String, Template)>),
}

impl Template {
    /// Evaluates every expression within on the same `data`; see [`Expression::evaluate`].
    pub(in crate::workflow) fn evaluate<'v, V>(
        &self,
        data: &Value,
        variable: &V,
        evaluator: &Evaluator<'_>,
    ) -> Result<Value, String>
    where
        V: Fn(&str) -> Cow<'v, Value>,
    {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Expression(expression) => expression.evaluate(data, variable, evaluator)?,
            Self::Array(items) => {
                let items = items.iter().map(|item| item.evaluate(data, variable, evaluator));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Object(fields) => {
                let mut object = Map::new();
                for (key, field) in fields {
                    object.insert(key.clone(), field.evaluate(data, variable, evaluator)?);
                }
                Value::Object(object)
            }
        })
    }
}

/// The expression in a string that is one, `${ … }`.
///
/// # Errors
/// The string has an expression in it, but other text too.
pub(in crate::workflow) fn whole_expression(text: &str) -> Result<Option<&str>, String> {
    let trimmed = text.trim();
    let inner = trimmed.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    match inner {
        Some(inner) if !inner.contains("${") => Ok(Some(inner)),
        None if !text.contains("${") => Ok(None),
        _ => Err("Only a whole string can be an expression. Write `${ \"Hello \\(.name)\" }`."
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_string_is_an_expression() {
        assert_eq!(whole_expression("${ .a }"), Ok(Some(" .a ")));
        assert_eq!(whole_expression(" ${.a} "), Ok(Some(".a")));
        assert_eq!(whole_expression(".a"), Ok(None));
        assert_eq!(whole_expression("costs 5$ {x}"), Ok(None));
        for half in ["Hello ${ .name }", "${ .a } and ${ .b }", "${ .a", "${ .a } b"] {
            assert!(whole_expression(half).is_err(), "{half}");
        }
    }
}
