//! Reading JSON objects strictly, with the place of everything in them.

use std::fmt;

use serde_json::{Map, Value};

use super::Checker;
use crate::workflow::parse::push_token;

/// Longer names are cut in pointers: many problems below one would repeat it each time.
const MAX_TOKEN: usize = 100;

/// A place in the document.
#[derive(Debug, Clone, Default)]
pub(super) struct Place(String);

impl Place {
    pub(super) fn at(&self, token: &(impl ToString + ?Sized)) -> Self {
        let mut pointer = self.0.clone();
        let token = token.to_string();
        match token.char_indices().nth(MAX_TOKEN) {
            None => push_token(&mut pointer, &token),
            Some((end, _)) => push_token(&mut pointer, &format!("{}…", &token[..end])),
        }
        Self(pointer)
    }

    /// The place at `pointer` within this one.
    pub(super) fn below(&self, pointer: &str) -> Self {
        Self(format!("{}{pointer}", self.0))
    }
}

/// As a JSON Pointer (RFC 6901).
impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An object with its place.
pub(super) struct Fields<'v> {
    pub(super) object: &'v Map<String, Value>,
    pub(super) place: Place,
}

impl<'v> Fields<'v> {
    pub(super) fn get(&self, name: &str) -> Option<(&'v Value, Place)> {
        self.object.get(name).map(|value| (value, self.place.at(name)))
    }
}

impl Checker<'_> {
    /// Reads an object with the properties `known`; `refusal` has the words for some others.
    pub(super) fn fields<'v>(
        &mut self,
        value: &'v Value,
        place: &Place,
        known: &[&str],
        refusal: impl Fn(&str) -> Option<String>,
    ) -> Option<Fields<'v>> {
        let object = self.object(value, place)?;
        for name in object.keys() {
            if !known.contains(&name.as_str()) {
                let detail = refusal(name).unwrap_or_else(|| format!("Unknown property `{name}`."));
                self.refuse(&place.at(name), detail);
            }
        }
        Some(Fields { object, place: place.clone() })
    }

    pub(super) fn required<'v>(
        &mut self,
        fields: &Fields<'v>,
        name: &str,
    ) -> Option<(&'v Value, Place)> {
        let field = fields.get(name);
        if field.is_none() {
            self.refuse(&fields.place, format!("Property `{name}` is missing."));
        }
        field
    }

    pub(super) fn object<'v>(
        &mut self,
        value: &'v Value,
        place: &Place,
    ) -> Option<&'v Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.refuse(place, "This must be an object.");
        }
        object
    }

    /// An optional property that is false if it is not there.
    pub(super) fn boolean(&mut self, fields: &Fields<'_>, name: &str) -> bool {
        match fields.get(name) {
            Some((Value::Bool(value), _)) => *value,
            Some((_, place)) => {
                self.refuse(&place, "This must be `true` or `false`.");
                false
            }
            None => false,
        }
    }

    pub(super) fn string<'v>(&mut self, value: &'v Value, place: &Place) -> Option<&'v str> {
        let string = value.as_str();
        if string.is_none() {
            self.refuse(place, "This must be a string.");
        }
        string
    }
}
