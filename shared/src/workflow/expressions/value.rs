//! Between JSON values and jaq's.

use jaq_json::{Map, Num, Val};
use serde_json::{Number, Value};

/// How many bytes a result may have.
const RESULT_BYTES: usize = 8 * 1024 * 1024;

/// What a value takes beside its text: `[]` is two bytes of JSON and this much in memory.
const NODE_BYTES: usize = size_of::<Value>();

/// About how many bytes `value` takes in memory.
pub fn bytes(value: &Value) -> usize {
    let within = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, field)| NODE_BYTES + key.len() + bytes(field)).sum()
        }
    };
    NODE_BYTES + within
}

pub(super) fn to_val(value: &Value) -> Val {
    match value {
        Value::Null => Val::Null,
        Value::Bool(value) => Val::Bool(*value),
        Value::Number(number) => Val::Num(to_num(number)),
        Value::String(text) => Val::from(text.clone()),
        Value::Array(items) => items.iter().map(to_val).collect(),
        Value::Object(fields) => Val::obj(
            fields
                .iter()
                .map(|(key, field)| (Val::from(key.clone()), to_val(field)))
                .collect::<Map>(),
        ),
    }
}

fn to_num(number: &Number) -> Num {
    match (number.as_i64(), number.as_u64()) {
        (Some(integer), _) => Num::from_integral(integer),
        (None, Some(integer)) => Num::from_integral(integer),
        (None, None) => Num::Float(number.as_f64().unwrap_or(f64::NAN)),
    }
}

/// Converts a result; the error says what is wrong with it, as the end of a sentence.
pub(super) fn from_val(value: &Val) -> Result<Value, &'static str> {
    let mut budget = RESULT_BYTES;
    convert(value, &mut budget)
}

fn convert(value: &Val, budget: &mut usize) -> Result<Value, &'static str> {
    let size = match value {
        Val::TStr(text) | Val::BStr(text) => NODE_BYTES + text.len(),
        _ => NODE_BYTES,
    };
    *budget = budget.checked_sub(size).ok_or("gives more than 8 MiB")?;
    Ok(match value {
        Val::Null => Value::Null,
        Val::Bool(value) => Value::Bool(*value),
        Val::Num(number) => from_num(number),
        Val::TStr(text) | Val::BStr(text) => {
            Value::String(String::from_utf8_lossy(text).into_owned())
        }
        Val::Arr(items) => {
            Value::Array(items.iter().map(|item| convert(item, budget)).collect::<Result<_, _>>()?)
        }
        Val::Obj(fields) => {
            let mut object = serde_json::Map::new();
            for (key, field) in fields.iter() {
                let Value::String(key) = convert(key, budget)? else {
                    return Err("gives an object with a key that is no string");
                };
                object.insert(key, convert(field, budget)?);
            }
            Value::Object(object)
        }
    })
}

/// What JSON cannot hold (infinity, not a number) is null, as in jq.
fn from_num(number: &Num) -> Value {
    if let Num::Int(integer) = number {
        return Value::from(*integer as i64);
    }
    if let Num::Float(float) = number {
        return Value::from(*float);
    }
    let text = number.to_string();
    match text.parse::<u64>() {
        Ok(integer) => Value::from(integer),
        Err(_) => text.parse::<f64>().map_or(Value::Null, Value::from),
    }
}
