//! `GET /openapi.json` and `/docs`: what can be asked, for programs and for people.
//!
//! `openapi.yaml` is written by hand. Tests compare it with the router and the problems, and every
//! answer that a story gets with what it says.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};
use errand_shared::workflow::parse::parse_yaml;
use serde_json::Value;

const TEXT: &str = include_str!("../openapi.yaml");

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| parse_yaml(TEXT).expect("a test has read the document"));

static JSON: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());

static PAGE: LazyLock<String> = LazyLock::new(|| page(&DOCUMENT));

/// Nothing from elsewhere, and nothing that runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    pre{background:#8882;padding:.75rem;overflow:auto;font-size:.8rem}code{font-size:.9em}\
    table{border-collapse:collapse;width:100%}td,th{border-top:1px solid #8884;padding:.3rem .6rem;\
    text-align:left;vertical-align:top}h3{margin-top:2.5rem}:root{color-scheme:light dark}";

/// `GET /openapi.json`
pub(crate) async fn json() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str()).into_response()
}

/// `GET /docs`
pub(crate) async fn docs() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE.as_str())).into_response()
}

/// The document as HTML that needs nothing else.
fn page(document: &Value) -> String {
    let info = &document["info"];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Errand API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>\
         <h1>Errand API {}</h1><p>{}</p><p>The same for programs: <a href=\"openapi.json\">openapi.json</a>.</p>",
        text(&info["version"]),
        prose(&info["description"])
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let _ =
            write!(html, "<h2>{}</h2><p>{}</p>", text(&tag["name"]), prose(&tag["description"]));
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for method in ["get", "post", "delete"] {
                let operation = &item[method];
                if operation["tags"][0] == tag["name"] {
                    write_operation(&mut html, document, path, method, item);
                }
            }
        }
    }
    html.push_str("<h2>Shapes</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let name = escape(name);
        let _ = write!(html, "<h3 id=\"{name}\">{name}</h3>");
        write_schema(&mut html, schema);
    }
    html
}

fn write_operation(html: &mut String, document: &Value, path: &str, method: &str, item: &Value) {
    let operation = &item[method];
    let _ = write!(
        html,
        "<h3 id=\"{}\"><code>{} {}</code></h3><p><b>{}</b> {}</p>",
        text(&operation["operationId"]),
        method.to_uppercase(),
        escape(path),
        prose(&operation["summary"]),
        prose(&operation["description"])
    );
    let parameters = [&item["parameters"], &operation["parameters"]];
    let parameters: Vec<&Value> =
        parameters.into_iter().filter_map(Value::as_array).flatten().collect();
    if !parameters.is_empty() {
        html.push_str("<table><tr><th>Parameter<th>In<th>Meaning");
        for parameter in parameters {
            let parameter = resolve(document, parameter);
            let _ = write!(
                html,
                "<tr><td><code>{}</code><td>{}<td>{}",
                text(&parameter["name"]),
                text(&parameter["in"]),
                prose(&parameter["description"])
            );
        }
        html.push_str("</table>");
    }
    let body = &operation["requestBody"];
    if body.is_object() {
        let _ = write!(html, "<p>Body: {}</p>", prose(&body["description"]));
        write_schema(html, &body["content"]["application/json"]["schema"]);
    }
    html.push_str("<table><tr><th>Status<th>Meaning<th>Body<th>Headers");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let response = resolve(document, response);
        let shapes = response["content"].as_object().into_iter().flatten();
        let shapes: Vec<String> = shapes.map(|(kind, body)| shape(kind, body)).collect();
        let headers = response["headers"].as_object().into_iter().flatten();
        let headers: Vec<String> = headers.map(|(name, _)| escape(name)).collect();
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}",
            escape(status),
            prose(&response["description"]),
            shapes.join("<br>"),
            headers.join("<br>")
        );
    }
    html.push_str("</table>");
}

/// What a body is, with a link if it has a name.
fn shape(kind: &str, body: &Value) -> String {
    let kind = escape(kind);
    match body["schema"]["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        Some(name) => format!("<a href=\"#{0}\">{0}</a> <small>{kind}</small>", escape(name)),
        None => format!("<small>{kind}</small>"),
    }
}

fn write_schema(html: &mut String, schema: &Value) {
    let _ = write!(html, "<pre>{}</pre>", escape(&format!("{schema:#}")));
}

/// What a reference refers to.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// Text with its `code` marked as such.
fn prose(value: &Value) -> String {
    let text = text(value);
    let mut parts = text.split('`');
    let mut html = parts.next().unwrap_or_default().to_owned();
    while let (Some(code), Some(rest)) = (parts.next(), parts.next()) {
        let _ = write!(html, "<code>{code}</code>{rest}");
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `METHOD path` of every operation.
    fn operations() -> BTreeSet<String> {
        let paths = DOCUMENT["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(move |method| format!("{method} {path}"))
        });
        operations.collect()
    }

    #[test]
    fn every_address_is_described_and_every_description_has_an_address() {
        let source = include_str!("router.rs");
        let mut routes = BTreeSet::new();
        for route in source.split(".route(\"").skip(1) {
            let (path, rest) = route.split_once('"').unwrap();
            let handlers = rest.split_once("\n").unwrap().0;
            for method in ["get", "post", "delete", "put", "patch"] {
                if handlers.contains(&format!("{method}(")) {
                    routes.insert(format!("{method} {path}"));
                }
            }
        }
        assert_eq!(operations(), routes);
    }

    #[test]
    fn every_problem_is_described() {
        let types = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
            .as_array()
            .unwrap();
        let named: BTreeSet<&str> = types
            .iter()
            .map(|kind| kind.as_str().unwrap().strip_prefix("/problems/").unwrap())
            .collect();
        let pages = include_str!("../../docs/problems.md");
        let pages: BTreeSet<&str> =
            pages.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(named, pages);
    }

    #[test]
    fn the_document_is_whole() {
        assert_eq!(DOCUMENT["openapi"], "3.1.0");
        assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
        fn check(value: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(reference) = members.get("$ref") {
                        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                        assert!(DOCUMENT.pointer(pointer).is_some(), "{pointer}");
                    }
                    members.values().for_each(check);
                }
                Value::Array(items) => items.iter().for_each(check),
                _ => {}
            }
        }
        check(&DOCUMENT);
        let mut ids = BTreeSet::new();
        for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
                assert!(!operation["summary"].as_str().unwrap().is_empty());
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let response = resolve(&DOCUMENT, response);
                    assert!(response["description"].is_string(), "{method} {path} {status}");
                }
            }
        }
    }

    #[test]
    fn the_page_shows_everything_and_loads_nothing() {
        for operation in operations() {
            let (method, path) = operation.split_once(' ').unwrap();
            let heading = format!("<code>{} {path}</code>", method.to_uppercase());
            assert!(PAGE.contains(&heading), "{heading}");
        }
        for loads in ["<script", "src=", "<link", "@import", "url("] {
            assert!(!PAGE.contains(loads), "{loads}");
        }
        assert_eq!(prose(&Value::from("a `b<c` d")), "a <code>b&lt;c</code> d");
    }
}
