//! From a JSON value to a [`Workflow`], or to everything that is wrong with it.

mod call;
mod error;
mod fields;
mod refusals;
mod task;

use serde_json::Value;

use self::{
    error::Reusable,
    fields::{Fields, Place},
};
use super::{
    cage::{Cage, Cages, Interrupted},
    document::{Shaping, Workflow},
    expressions::{Expression, Phase, Scope, Template, whole_expression},
    parse::{Problem, is_too_deep},
    schema::Schema,
};
use crate::config::{DownstreamApis, Limits};

/// More problems than this help nobody.
const MAX_PROBLEMS: usize = 100;

/// Checks a document that was accepted before, and compiles its tree-shaped expressions.
///
/// Its other expressions are known to be right since [`check_submitted`], and not looked at. With
/// `apis`, names and literal addresses, methods and paths are checked too, and the interpreter
/// decides about computed ones by what was configured then. Without, a call's address is only joined.
///
/// # Errors
/// All problems at once, with pointers into the document.
pub fn check(
    document: &Value,
    limits: &Limits,
    apis: Option<&DownstreamApis>,
) -> Result<Workflow, Vec<Problem>> {
    let (workflow, checker) = read(document, limits, apis);
    match workflow {
        Some(workflow) if checker.problems.is_empty() => Ok(workflow),
        _ => Err(checker.problems),
    }
}

/// Checks a document of which nothing is known, as [`check`] does, and every expression of it.
///
/// Those that are not tree-shaped are compiled in one child process of `cages`, if there are any.
/// Blocks meanwhile: a few milliseconds, and as long as the limits allow for what is hostile.
///
/// # Errors
/// - [`CheckError::Problems`]: all at once, with pointers into the document.
/// - [`CheckError::Interrupted`]: the machine is too busy; ask again later.
pub fn check_submitted(
    document: &Value,
    limits: &Limits,
    apis: Option<&DownstreamApis>,
    cages: &Cages,
) -> Result<Workflow, CheckError> {
    let (workflow, mut checker) = read(document, limits, apis);
    let cage = Cage::new(cages);
    for Caged { place, source, variables } in std::mem::take(&mut checker.caged) {
        // What killed a child is refused; more of its kind need not be tried.
        if cage.is_spent() || cage.is_interrupted() {
            break;
        }
        if let Err(detail) = cage.compile(&source, &variables) {
            checker.refuse(&place, detail);
        }
    }
    if cage.is_interrupted() {
        return Err(CheckError::Interrupted(Interrupted));
    }
    match workflow {
        Some(workflow) if checker.problems.is_empty() && !cage.is_spent() => Ok(workflow),
        _ => Err(CheckError::Problems(checker.problems)),
    }
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Everything that is wrong with it.
    #[error("the document has {} problem(s)", .0.len())]
    Problems(Vec<Problem>),
    /// Its expressions could not be compiled now.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn read<'a>(
    document: &Value,
    limits: &'a Limits,
    apis: Option<&'a DownstreamApis>,
) -> (Option<Workflow>, Checker<'a>) {
    let root = Place::default();
    let mut checker = Checker {
        limits,
        configuration: apis,
        problems: Vec::new(),
        tasks: 0,
        apis: Vec::new(),
        reusable: Reusable::default(),
        locals: Vec::new(),
        caged: Vec::new(),
    };
    if is_too_deep(document) {
        checker.refuse(&root, "The document is nested deeper than 128 levels.");
        return (None, checker);
    }
    (checker.workflow(document, &root), checker)
}

/// An expression that only a cage can tell to be right.
struct Caged {
    place: Place,
    source: String,
    variables: Vec<String>,
}

/// What is known so far while a document is read.
struct Checker<'a> {
    limits: &'a Limits,
    configuration: Option<&'a DownstreamApis>,
    problems: Vec<Problem>,
    tasks: usize,
    apis: Vec<String>,
    reusable: Reusable,
    /// Variables of the loops and handlers around the present place.
    locals: Vec<String>,
    caged: Vec<Caged>,
}

impl Checker<'_> {
    fn refuse(&mut self, place: &Place, detail: impl Into<String>) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        self.problems.push(Problem { pointer: place.to_string(), detail: detail.into() });
    }

    fn workflow(&mut self, document: &Value, root: &Place) -> Option<Workflow> {
        let known = ["document", "input", "use", "timeout", "do", "output", "evaluate"];
        let fields = self.fields(document, root, &known, |name| {
            (name == "schedule").then(|| "A job runs once; start it again from outside.".to_owned())
        })?;
        let header = self
            .required(&fields, "document")
            .and_then(|(value, place)| self.header(value, &place));
        let input = self.shaping(&fields, "input", "from", Phase::WorkflowInput);
        if let Some((value, place)) = fields.get("use") {
            self.reusable(value, &place);
        }
        let timeout = self.timeout(&fields, Phase::WorkflowInput);
        let tasks = self.required(&fields, "do").map(|(value, place)| self.tasks(value, &place, 1));
        let output = self.shaping(&fields, "output", "as", Phase::WorkflowOutput);
        if let Some((value, place)) = fields.get("evaluate") {
            self.evaluate(value, &place);
        }
        let [dsl, namespace, name, version] = header?;
        Some(Workflow {
            definition: document.clone(),
            dsl,
            namespace,
            name,
            version,
            input,
            output,
            timeout,
            tasks: tasks?,
            configuration: self.configuration.map(|configured| {
                let named = self.apis.iter();
                named
                    .filter_map(|name| Some((name.clone(), configured.get(name)?.clone())))
                    .collect()
            }),
            apis: std::mem::take(&mut self.apis),
            is_caged: !self.caged.is_empty(),
        })
    }

    /// `document`: its `dsl`, `namespace`, `name` and `version`.
    fn header(&mut self, value: &Value, place: &Place) -> Option<[String; 4]> {
        let known = ["dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"];
        let fields = self.fields(value, place, &known, |_| None)?;
        for name in ["title", "summary"] {
            if let Some((value, place)) = fields.get(name) {
                self.string(value, &place);
            }
        }
        for name in ["tags", "metadata"] {
            if let Some((value, place)) = fields.get(name) {
                self.object(value, &place);
            }
        }
        let [dsl, namespace, name, version] = ["dsl", "namespace", "name", "version"].map(|name| {
            let (value, place) = self.required(&fields, name)?;
            Some((self.string(value, &place)?.to_owned(), place))
        });
        if let Some((dsl, place)) = &dsl
            && !dsl.strip_prefix("1.0.").is_some_and(is_number)
        {
            let detail = format!("DSL version `{dsl}` is not supported; write `1.0.3`.");
            self.refuse(place, detail);
        }
        for (name, place) in [&namespace, &name].into_iter().flatten() {
            if !is_label(name) {
                self.refuse(place, "Write 1 to 63 letters, digits and inner hyphens.");
            }
        }
        if let Some((version, place)) = &version
            && !is_semantic_version(version)
        {
            self.refuse(place, "Write a semantic version, e.g. `1.0.0`.");
        }
        Some([dsl?.0, namespace?.0, name?.0, version?.0])
    }

    fn evaluate(&mut self, value: &Value, place: &Place) {
        let Some(fields) = self.fields(value, place, &["language", "mode"], |_| None) else {
            return;
        };
        for (name, only) in [("language", "jq"), ("mode", "strict")] {
            if let Some((value, place)) = fields.get(name)
                && value != only
            {
                self.refuse(&place, "Only jq in strict mode is supported.");
            }
        }
    }

    /// `input`, `output` or `export`; in its `from` or `as` a string is an expression with or without
    /// `${ }`.
    fn shaping(&mut self, fields: &Fields<'_>, name: &str, key: &str, phase: Phase) -> Shaping {
        let Some((value, place)) = fields.get(name) else {
            return Shaping::default();
        };
        let Some(fields) = self.fields(value, &place, &[key, "schema"], |_| None) else {
            return Shaping::default();
        };
        let template = fields.get(key).and_then(|(value, place)| match value {
            Value::String(text) => {
                let expression = self.expression(text, &place, phase)?;
                Some(Template::Expression(Box::new(expression)))
            }
            Value::Object(_) => self.template(value, &place, phase),
            _ => {
                self.refuse(&place, "This must be an expression or an object.");
                None
            }
        });
        let schema = fields.get("schema").and_then(|(value, place)| self.schema(value, &place));
        Shaping { template, schema }
    }

    fn schema(&mut self, value: &Value, place: &Place) -> Option<Schema> {
        let fields = self.fields(value, place, &["format", "document"], |name| {
            (name == "resource").then(|| refusals::ELSEWHERE.to_owned())
        })?;
        if let Some((value, place)) = fields.get("format")
            && value != "json"
        {
            self.refuse(&place, "Only JSON Schema is supported; write `json`.");
        }
        if fields.object.contains_key("resource") {
            return None;
        }
        let (value, place) = self.required(&fields, "document")?;
        if !value.is_object() && !value.is_boolean() {
            self.refuse(&place, "This must be a JSON Schema.");
            return None;
        }
        let compiled = Schema::compile(value);
        compiled.map_err(|(within, detail)| self.refuse(&place.below(&within), detail)).ok()
    }

    /// A string that is an expression, with or without `${ }`.
    fn expression(&mut self, text: &str, place: &Place, phase: Phase) -> Option<Expression> {
        let source = whole_expression(text).map(|inner| inner.unwrap_or(text));
        let scope = Scope { phase, locals: &self.locals };
        let compiled = source
            .and_then(|source| Expression::compile(source, scope, self.limits.expression_bytes));
        let compiled = compiled.map_err(|detail| self.refuse(place, detail)).ok()?;
        if let Some((source, variables)) = compiled.caged() {
            let (source, variables) = (source.to_owned(), variables.to_vec());
            self.caged.push(Caged { place: place.clone(), source, variables });
        }
        Some(compiled)
    }

    /// A value in which strings of the form `${ … }` are expressions.
    fn template(&mut self, value: &Value, place: &Place, phase: Phase) -> Option<Template> {
        match value {
            Value::String(text) if whole_expression(text) != Ok(None) => {
                let expression = self.expression(text, place, phase)?;
                Some(Template::Expression(Box::new(expression)))
            }
            Value::Array(items) => {
                let items: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.template(item, &place.at(&index), phase))
                    .collect();
                items.into_iter().collect::<Option<_>>().map(Template::Array)
            }
            Value::Object(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(key, field)| {
                        Some((key.clone(), self.template(field, &place.at(key), phase)?))
                    })
                    .collect();
                fields.into_iter().collect::<Option<_>>().map(Template::Object)
            }
            literal => Some(Template::Literal(literal.clone())),
        }
    }
}

fn is_number(text: &str) -> bool {
    text == "0" || (text.len() < 10 && !text.starts_with('0') && is_digits(text))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `text` fits the specification's pattern for names and namespaces (RFC 1123 label).
fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Semantic Versioning 2.0.0.
fn is_semantic_version(text: &str) -> bool {
    let identifiers = |text: &str| {
        text.split('.').all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
    };
    let (text, build) =
        text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let numbers: Vec<_> = core.split('.').collect();
    numbers.len() == 3
        && numbers.into_iter().all(is_number)
        && pre.is_none_or(identifiers)
        && build.is_none_or(identifiers)
}

#[cfg(test)]
pub(super) mod tests;
