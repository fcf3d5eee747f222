//! `call: http`, and which API it means.

use serde_json::Value;

use super::{Checker, Fields, Phase, Place, refusals::CREDENTIALS};
use crate::{
    config::DownstreamApis,
    workflow::{
        address::{self, AddressError},
        document::{Address, HttpCall, Output},
        expressions::{Template, whole_expression},
        headers,
        uri_template::UriTemplate,
    },
};

const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

const NEEDS_API: &str =
    "Name the downstream API with `authentication.use`, or write an absolute URI.";

impl Checker<'_> {
    pub(super) fn http_call(&mut self, value: &Value, place: &Place) -> Option<HttpCall> {
        let known = ["method", "endpoint", "headers", "query", "body", "output", "redirect"];
        let fields = self.fields(value, place, &known, |_| None)?;
        let method = self.required(&fields, "method").and_then(|(value, place)| {
            let method = self.string(value, &place)?.to_ascii_uppercase();
            if METHODS.contains(&method.as_str()) {
                return Some((method, place));
            }
            self.refuse(&place, format!("Write one of `{}`.", METHODS.join("`, `")));
            None
        });
        let endpoint = self
            .required(&fields, "endpoint")
            .and_then(|(value, place)| self.endpoint(value, &place, method.as_ref()));
        let headers = self.pairs(&fields, "headers");
        let query = self.pairs(&fields, "query");
        let body =
            fields.get("body").and_then(|(value, place)| self.template(value, &place, Phase::Task));
        let output = self.output(&fields);
        let redirect = self.boolean(&fields, "redirect");
        let (api, address) = endpoint?;
        Some(HttpCall { method: method?.0, address, api, headers, query, body, output, redirect })
    }

    /// The API that is called, and the address.
    fn endpoint(
        &mut self,
        value: &Value,
        place: &Place,
        method: Option<&(String, Place)>,
    ) -> Option<(String, Address)> {
        let (uri, uri_place, api) = if value.is_string() {
            (value, place.clone(), None)
        } else {
            let fields = self.fields(value, place, &["uri", "authentication"], |_| None)?;
            let api = fields
                .get("authentication")
                .map(|(value, place)| self.authentication(value, &place));
            let (uri, place) = self.required(&fields, "uri")?;
            (uri, place, api)
        };
        let text = self.string(uri, &uri_place)?;
        let address = match whole_expression(text) {
            Ok(None) => Address::Literal(
                UriTemplate::parse(text).map_err(|detail| self.refuse(&uri_place, detail)).ok()?,
            ),
            _ => Address::Computed(self.expression(text, &uri_place, Phase::Task)?),
        };
        let api = match (api, &address) {
            (Some(api), _) => api?,
            (None, Address::Literal(template)) => self.api_of(&template.sample(), &uri_place)?,
            (None, Address::Computed(_)) => {
                self.refuse(&uri_place, "A computed endpoint needs `authentication.use`.");
                return None;
            }
        };
        if let (Some(configured), Address::Literal(template), Some((method, method_place))) =
            (self.configuration.and_then(|apis| apis.get(&api)), &address, method)
        {
            match address::resolve(configured, method, &template.sample(), &[]) {
                // A path with a placeholder is decided when it is filled in.
                Err(AddressError::Path(_)) if !template.is_literal() => {}
                Err(error @ AddressError::Method(_)) => {
                    self.refuse(method_place, error.to_string());
                }
                Err(error) => self.refuse(&uri_place, error.to_string()),
                Ok(_) => {}
            }
        }
        if !api.is_empty() && !self.apis.contains(&api) {
            self.apis.push(api.clone());
        }
        Some((api, address))
    }

    /// The name behind `use`.
    fn authentication(&mut self, value: &Value, place: &Place) -> Option<String> {
        let inline = ["basic", "bearer", "digest", "oauth2", "oidc", "certificate"];
        let fields = self.fields(value, place, &["use"], |name| {
            inline.contains(&name).then(|| CREDENTIALS.to_owned())
        })?;
        if fields.object.keys().any(|name| name != "use") {
            return None;
        }
        let (value, place) = self.required(&fields, "use")?;
        let name = self.string(value, &place)?;
        let is_known = match self.configuration {
            Some(apis) => apis.contains_key(name),
            None => !name.is_empty() && !name.contains("${"),
        };
        if !is_known {
            self.refuse(&place, format!("`{name}` is not a configured downstream API."));
            return None;
        }
        Some(name.to_owned())
    }

    /// The API whose base URL `uri` is below; the longest base wins. Empty without configuration.
    fn api_of(&mut self, uri: &str, place: &Place) -> Option<String> {
        if !address::is_absolute(uri) {
            self.refuse(place, NEEDS_API);
            return None;
        }
        let Some(apis) = self.configuration else {
            return Some(String::new());
        };
        let longest = apis_above(apis, uri);
        match &longest[..] {
            [name] => Some((*name).to_owned()),
            [] => {
                let error = apis
                    .values()
                    .filter_map(|api| address::locate(api, uri).err())
                    .find(|error| matches!(error, AddressError::Ambiguous(_)))
                    .unwrap_or_else(|| AddressError::Outside(uri.to_owned()));
                self.refuse(place, error.to_string());
                None
            }
            several => {
                let names = several.join("`, `");
                self.refuse(place, format!("This is below the base URL of `{names}`. {NEEDS_API}"));
                None
            }
        }
    }

    /// `headers`, `query`: an object, or an expression that gives one.
    fn pairs(&mut self, fields: &Fields, name: &str) -> Option<Template> {
        let (value, place) = fields.get(name)?;
        if let Value::String(text) = value
            && whole_expression(text) != Ok(None)
        {
            return self.template(value, &place, Phase::Task);
        }
        let Some(object) = value.as_object() else {
            self.refuse(&place, "This must be an object or an expression `${ … }`.");
            return None;
        };
        for (key, value) in object {
            let place = place.at(key);
            if name == "headers" {
                self.header_field(key, value, &place);
            }
            if value.is_object() || value.is_array() || value.is_null() {
                self.refuse(&place, "This must be a string, a number or a boolean.");
            }
        }
        self.template(value, &place, Phase::Task)
    }

    fn header_field(&mut self, name: &str, value: &Value, place: &Place) {
        if headers::is_reserved(name) {
            self.refuse(place, format!("A workflow cannot set the header `{name}`."));
        } else if !headers::is_name(name) {
            self.refuse(place, "This cannot be the name of a header.");
        } else if value.as_str().is_some_and(|text| !headers::is_value(text)) {
            self.refuse(place, "This cannot be the value of a header.");
        }
    }

    fn output(&mut self, fields: &Fields) -> Output {
        match fields.get("output").map(|(value, place)| (value.as_str(), place)) {
            None | Some((Some("content"), _)) => Output::Content,
            Some((Some("response"), _)) => Output::Response,
            Some((Some("raw"), _)) => Output::Raw,
            Some((_, place)) => {
                self.refuse(&place, "Write one of `content`, `response`, `raw`.");
                Output::Content
            }
        }
    }
}

/// Names of the APIs with the longest base URL above `uri`.
fn apis_above<'a>(apis: &'a DownstreamApis, uri: &str) -> Vec<&'a str> {
    let above = apis.iter().filter(|(_, api)| address::locate(api, uri).is_ok());
    let length =
        |api: &crate::config::DownstreamApi| api.base_url.path().trim_end_matches('/').len();
    let longest = above.clone().map(|(_, api)| length(api)).max();
    above.filter(|(_, api)| Some(length(api)) == longest).map(|(name, _)| name.as_str()).collect()
}
