//! The body of `POST /v1/jobs`, read strictly: everything that is wrong with it at once.

use std::{collections::BTreeMap, time::Duration};

use errand_shared::{
    config::{DownstreamApis, Limits, WebhooksConfig},
    jobs::{Callback, EventKind},
    sessions::Preflight,
    time::Timestamp,
    workflow::{
        CheckError, Problem, Workflow,
        cage::{Cages, Interrupted},
        check, check_submitted,
        duration::parse_iso8601,
        registry::{Registered, Registry},
    },
};
use serde_json::{Map, Value};
use url::Url;

/// How long a job may take if its submitter does not say.
const DEFAULT_DEADLINE: Duration = Duration::from_hours(30 * 24);

/// What a client says to have a key allocated (Microsoft.Identity.Web: `AllocateForMe`).
const ALLOCATE: &str = "AllocateForMe";

const MAX_SESSION_KEY: usize = 200;
const MAX_PRIORITY: u8 = 100;
const MAX_TAGS: usize = 32;
const MAX_TAG_NAME: usize = 64;
const MAX_TAG_VALUE: usize = 256;
const MAX_CALLBACK_URL: usize = 2048;

/// A submission whose body is right in itself.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) workflow: Workflow,
    pub(super) definition: Value,
    pub(super) input: Value,
    /// The caller's own key; none to allocate one.
    pub(super) session_key: Option<String>,
    pub(super) run_at: Option<Timestamp>,
    pub(super) deadline: Duration,
    pub(super) priority: u8,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) preflight: Preflight,
    pub(super) callback: Option<Callback>,
}

impl Request {
    /// Reads a body; the problems' pointers lead into it.
    pub(super) fn read(
        body: Value,
        documents: &Documents<'_>,
        webhooks: &WebhooksConfig,
        now: Timestamp,
    ) -> Result<Self, CheckError> {
        let Value::Object(members) = body else {
            return Err(CheckError::Problems(vec![problem("", "Expected an object.")]));
        };
        let limits = documents.limits;
        let mut reader = Reader { members, problems: Vec::new() };
        let definition = reader.take("definition");
        let found = reader.workflow(definition, documents)?;
        let input = reader.take("input").unwrap_or_else(|| Value::Object(Map::new()));
        let session_key = reader.session_key();
        let run_at = reader.run_at();
        let deadline = reader.deadline(limits);
        let priority = reader.priority();
        let tags = reader.tags();
        let preflight = reader.preflight();
        let callback = reader.callback(webhooks);
        if run_at.is_some_and(|run_at| run_at >= now + deadline) {
            reader.refuse("/run_at", "Expected a time before the deadline.");
        }
        reader.no_more();
        match found {
            Some((workflow, definition)) if reader.problems.is_empty() => Ok(Self {
                workflow,
                definition,
                input,
                session_key,
                run_at,
                deadline,
                priority,
                tags,
                preflight,
                callback,
            }),
            _ => Err(CheckError::Problems(reader.problems)),
        }
    }
}

/// Which documents may run, and how clients' ones are checked.
#[derive(Debug)]
pub(super) struct Documents<'s> {
    pub(super) registry: &'s Registry,
    /// May clients post documents of their own?
    pub(super) inline: bool,
    pub(super) limits: &'s Limits,
    pub(super) apis: &'s DownstreamApis,
    pub(super) cages: &'s Cages,
}

struct Reader {
    members: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Takes a member; `null` is as good as none.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.members.shift_remove(name).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, pointer: &str, detail: impl Into<String>) {
        self.problems.push(problem(pointer, detail));
    }

    /// The document to run: the one that is sent, or the registered one that is named.
    fn workflow(
        &mut self,
        definition: Option<Value>,
        documents: &Documents<'_>,
    ) -> Result<Option<(Workflow, Value)>, Interrupted> {
        let Documents { registry, inline, limits, apis, cages } = *documents;
        let Some(definition) = definition else {
            self.refuse("/definition", "`definition` is required: a workflow document.");
            return Ok(None);
        };
        let checked = if definition.get("document").is_none() && definition.get("name").is_some() {
            match self.registered(&definition, registry) {
                // Its expressions were compiled when it was registered.
                Some(registered) => {
                    let definition = registered.definition.clone();
                    let checked = check(&definition, limits, Some(apis));
                    checked.map(|workflow| (workflow, definition)).map_err(CheckError::Problems)
                }
                None => return Ok(None),
            }
        } else if inline {
            let checked = check_submitted(&definition, limits, Some(apis), cages);
            checked.map(|workflow| (workflow, definition))
        } else {
            let expected =
                "Only registered workflows run here: name one by `namespace` and `name`.";
            self.refuse("/definition", expected);
            return Ok(None);
        };
        match checked {
            Ok(found) => Ok(Some(found)),
            Err(CheckError::Interrupted(interrupted)) => Err(interrupted),
            Err(CheckError::Problems(problems)) => {
                self.problems.extend(problems.into_iter().map(|found| Problem {
                    pointer: format!("/definition{}", found.pointer),
                    detail: found.detail,
                }));
                Ok(None)
            }
        }
    }

    /// The registered document behind `{"namespace", "name", "version"?}`.
    fn registered<'r>(&mut self, named: &Value, registry: &'r Registry) -> Option<&'r Registered> {
        let before = self.problems.len();
        for name in named.as_object()?.keys() {
            if !["namespace", "name", "version"].contains(&name.as_str()) {
                self.refuse(&format!("/definition/{}", token(name)), "Unknown property.");
            }
        }
        let mut text = |name: &str, is_required: bool| {
            let value = named.get(name).filter(|value| !value.is_null());
            if value.map_or(is_required, |value| !value.is_string()) {
                self.refuse(&format!("/definition/{name}"), "Expected a text.");
            }
            value.and_then(Value::as_str)
        };
        let (namespace, name) = (text("namespace", true), text("name", true));
        let version = text("version", false);
        if self.problems.len() > before {
            return None;
        }
        let (namespace, name) = (namespace?, name?);
        let found = registry.find(namespace, name, version);
        if found.is_none() {
            let version = version.map(|version| format!(" {version}")).unwrap_or_default();
            let detail = format!("There is no registered workflow `{namespace}/{name}`{version}.");
            self.refuse("/definition", detail);
        }
        found
    }

    fn session_key(&mut self) -> Option<String> {
        let key = self.take("session_key")?;
        match key.as_str() {
            Some(ALLOCATE) => None,
            Some(key) if is_session_key(key) => Some(key.to_owned()),
            _ => {
                let expected = "Expected `AllocateForMe` or 1 to 200 of the characters \
                                A-Z a-z 0-9 . _ ~ -";
                self.refuse("/session_key", expected);
                None
            }
        }
    }

    fn run_at(&mut self) -> Option<Timestamp> {
        let run_at = self.take("run_at")?;
        let time = run_at.as_str().and_then(|text| text.parse().ok());
        if time.is_none() {
            self.refuse("/run_at", "Expected a time such as `2026-11-21T06:00:00Z` (RFC 3339).");
        }
        time
    }

    fn deadline(&mut self, limits: &Limits) -> Duration {
        let Some(deadline) = self.take("deadline") else {
            return DEFAULT_DEADLINE.min(limits.max_deadline);
        };
        let length = deadline.as_str().and_then(parse_iso8601);
        let allowed = |length: &Duration| !length.is_zero() && *length <= limits.max_deadline;
        length.filter(allowed).unwrap_or_else(|| {
            let most = limits.max_deadline.as_secs();
            let expected = format!(
                "Expected an ISO 8601 duration such as `P30D` or `PT1H`, at most {most} seconds."
            );
            self.refuse("/deadline", expected);
            DEFAULT_DEADLINE
        })
    }

    fn preflight(&mut self) -> Preflight {
        match self.take("preflight").as_ref().map(|value| value.as_str()) {
            None | Some(Some("first")) => Preflight::First,
            Some(Some("all")) => Preflight::All,
            Some(_) => {
                self.refuse("/preflight", "Expected `first` or `all`.");
                Preflight::First
            }
        }
    }

    fn priority(&mut self) -> u8 {
        let Some(priority) = self.take("priority") else { return 0 };
        let number = priority.as_u64().and_then(|number| u8::try_from(number).ok());
        number.filter(|number| *number <= MAX_PRIORITY).unwrap_or_else(|| {
            self.refuse(
                "/priority",
                format!("Expected a whole number from 0 to {MAX_PRIORITY}; greater goes first."),
            );
            0
        })
    }

    fn tags(&mut self) -> BTreeMap<String, String> {
        let tags = match self.take("tags") {
            None => return BTreeMap::new(),
            Some(Value::Object(tags)) if tags.len() <= MAX_TAGS => tags,
            Some(_) => {
                self.refuse("/tags", format!("Expected an object of at most {MAX_TAGS} texts."));
                return BTreeMap::new();
            }
        };
        let mut read = BTreeMap::new();
        for (name, value) in tags {
            match value {
                Value::String(value)
                    if (1..=MAX_TAG_NAME).contains(&name.len())
                        && value.len() <= MAX_TAG_VALUE
                        && !name.contains('\0')
                        && !value.contains('\0') =>
                {
                    read.insert(name, value);
                }
                _ => {
                    let expected = format!(
                        "Expected a text of at most {MAX_TAG_VALUE} bytes under a name of at most \
                         {MAX_TAG_NAME}, without U+0000."
                    );
                    self.refuse(&format!("/tags/{}", token(&name)), expected);
                }
            }
        }
        read
    }

    fn callback(&mut self, webhooks: &WebhooksConfig) -> Option<Callback> {
        let Value::Object(mut members) = self.take("callback")? else {
            self.refuse("/callback", "Expected an object with `url` and `events`.");
            return None;
        };
        let url = members.shift_remove("url");
        let url = url.as_ref().and_then(Value::as_str).and_then(|url| Url::parse(url).ok());
        let url = url.filter(|url| webhooks.allows(url) && url.as_str().len() <= MAX_CALLBACK_URL);
        if url.is_none() {
            let expected = "Expected an https URL without user and password, at a host that is \
                            configured for webhooks.";
            self.refuse("/callback/url", expected);
        }
        let events = match members.shift_remove("events").filter(|events| !events.is_null()) {
            None => Some(Callback::EVENTS.to_vec()),
            Some(events) => callback_events(&events),
        };
        if events.is_none() {
            let words = Callback::EVENTS.map(EventKind::as_str).join("`, `");
            self.refuse("/callback/events", format!("Expected a list of some of `{words}`."));
        }
        for (name, _) in members {
            self.refuse(&format!("/callback/{}", token(&name)), "Unknown property.");
        }
        Some(Callback { url: url?, events: events? })
    }

    fn no_more(&mut self) {
        for (name, _) in std::mem::take(&mut self.members) {
            self.refuse(&format!("/{}", token(&name)), "Unknown property.");
        }
    }
}

fn problem(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem { pointer: pointer.to_owned(), detail: detail.into() }
}

/// A name as part of a pointer (RFC 6901 3).
fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn callback_events(events: &Value) -> Option<Vec<EventKind>> {
    let events = events.as_array().filter(|events| !events.is_empty())?;
    let known = |event: &Value| {
        let word = event.as_str()?;
        Callback::EVENTS.into_iter().find(|kind| kind.as_str() == word)
    };
    events.iter().map(known).collect()
}

fn is_session_key(key: &str) -> bool {
    (1..=MAX_SESSION_KEY).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_with(registry: &Registry, inline: bool, body: Value) -> Result<Request, Vec<Problem>> {
        let webhooks = WebhooksConfig {
            hosts: vec!["hooks.example.com".into()],
            secrets: Vec::new(),
            allow_insecure_http: false,
        };
        let now = Timestamp::from_seconds(1_800_000_000).unwrap();
        let (limits, apis) = (Limits::default(), DownstreamApis::new());
        let cages = Cages::new(&limits);
        let documents = Documents { registry, inline, limits: &limits, apis: &apis, cages: &cages };
        match Request::read(body, &documents, &webhooks, now) {
            Ok(request) => Ok(request),
            Err(CheckError::Problems(problems)) => Err(problems),
            Err(error) => panic!("{error}"),
        }
    }

    fn read(body: Value) -> Result<Request, Vec<Problem>> {
        read_with(&Registry::default(), true, body)
    }

    fn definition() -> Value {
        json!({
            "document": {"dsl": "1.0.3", "namespace": "acme", "name": "n", "version": "1.0.0"},
            "do": [{"a": {"set": {"x": 1}}}]
        })
    }

    #[test]
    fn only_the_definition_is_required() {
        let request = read(json!({"definition": definition()})).unwrap();
        assert_eq!(request.input, json!({}));
        assert_eq!(request.deadline, DEFAULT_DEADLINE);
        assert!(request.session_key.is_none() && request.run_at.is_none());
        for key in [json!(null), json!("AllocateForMe")] {
            let body = json!({"definition": definition(), "session_key": key});
            assert!(read(body).unwrap().session_key.is_none());
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let problems = read(json!({
            "definition": {"document": {}, "do": []},
            "session_key": "a/b",
            "run_at": "tomorrow",
            "deadline": "P9999D",
            "tags": {"a/b": 1},
            "preflight": "each",
            "priority": 101,
            "callback": {"url": "https://example.com", "events": ["started"], "secret": 1},
            "defintion": {}
        }))
        .unwrap_err();
        let pointers: Vec<&str> = problems.iter().map(|found| found.pointer.as_str()).collect();
        for pointer in [
            "/session_key",
            "/run_at",
            "/deadline",
            "/tags/a~1b",
            "/preflight",
            "/priority",
            "/callback/url",
            "/callback/events",
            "/callback/secret",
            "/defintion",
        ] {
            assert!(pointers.contains(&pointer), "{pointer} in {pointers:?}");
        }
        assert!(pointers.iter().any(|pointer| pointer.starts_with("/definition/document")));
    }

    #[test]
    fn a_registered_document_is_named_or_nothing_runs() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("n.json"), definition().to_string()).unwrap();
        let (limits, apis) = (Limits::default(), DownstreamApis::new());
        let cages = Cages::new(&limits);
        let registry = Registry::load(folder.path(), &limits, &apis, &cages).unwrap();
        let read =
            |definition: Value| read_with(&registry, false, json!({"definition": definition}));
        for named in [
            json!({"namespace": "acme", "name": "n"}),
            json!({"namespace": "acme", "name": "n", "version": "1.0.0"}),
        ] {
            assert_eq!(read(named).unwrap().definition, definition());
        }
        for (named, pointer) in [
            (definition(), "/definition"),
            (json!({"namespace": "acme", "name": "m"}), "/definition"),
            (json!({"namespace": "acme", "name": "n", "version": "2.0.0"}), "/definition"),
            (json!({"name": "n"}), "/definition/namespace"),
            (json!({"namespace": "acme", "name": 1}), "/definition/name"),
            (json!({"namespace": "acme", "name": "n", "do": []}), "/definition/do"),
        ] {
            assert_eq!(read(named).unwrap_err()[0].pointer, pointer);
        }
    }

    #[test]
    fn a_callback_is_for_a_configured_host() {
        let callback = |callback: Value| {
            read(json!({"definition": definition(), "callback": callback}))
                .map(|request| request.callback.unwrap())
        };
        let all = callback(json!({"url": "https://hooks.example.com/a"})).unwrap();
        assert_eq!(all.events, Callback::EVENTS);
        let one = json!({"url": "https://hooks.example.com/a", "events": ["faulted"]});
        assert_eq!(callback(one).unwrap().events, [EventKind::Faulted]);
        let empty = json!({"url": "https://hooks.example.com/a", "events": []});
        assert_eq!(callback(empty).unwrap_err()[0].pointer, "/callback/events");
        for url in ["http://hooks.example.com/a", "https://169.254.169.254/", "/a", ""] {
            let problems = callback(json!({ "url": url })).unwrap_err();
            assert_eq!(problems[0].pointer, "/callback/url", "{url}");
        }
        assert_eq!(callback(json!("https://a")).unwrap_err()[0].pointer, "/callback");
    }

    #[test]
    fn a_job_starts_before_its_deadline() {
        let body =
            |run_at| json!({"definition": definition(), "deadline": "P1D", "run_at": run_at});
        assert!(read(body("2027-01-15T20:00:00Z")).is_ok());
        assert_eq!(read(body("2027-01-17T08:00:00Z")).unwrap_err()[0].pointer, "/run_at");
    }

    #[test]
    fn a_session_key_is_safe_in_a_path() {
        assert!(is_session_key("monday-report_1.2~x") && is_session_key(&"k".repeat(200)));
        for key in ["", "a b", "a/b", "ä", "a\n", &"k".repeat(201)] {
            assert!(!is_session_key(key), "{key}");
        }
    }
}
