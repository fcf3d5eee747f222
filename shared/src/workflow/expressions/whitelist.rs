//! Which expressions are tree-shaped.
//!
//! One result: no pipe, no iteration, no comma outside an array, no call. Bounded size: no `*`, no
//! variable of its own, no interpolation within an interpolation (each level may double a backslash).
//! Bounded time: an index is written out, because jq searches an array for an array.

use std::collections::BTreeSet;

use jaq_core::{
    load::{
        Lexer,
        lex::{StrPart, Tok, Token},
        parse::{BinaryOp, Parser, Term},
    },
    ops::Math,
    path::Part,
};

const PARTS: usize = 64;
const DEPTH: usize = 32;
/// Bounds what the lexer recurses with, before it begins.
const BRACKETS: usize = 128;
/// Tokens behind which the parser recurses; some are names of fields too.
const PREFIXES: [&str; 9] = ["-", "as", "def", "foreach", "if", "label", "reduce", "try", "catch"];
const TOKENS: usize = 512;

pub(super) const INVALID: &str = "This is not a valid jq expression.";

/// Filters of jq that reach beyond the data, and what they are made of.
pub(super) const NEVER: [&str; 10] = [
    "debug",
    "debug_empty",
    "env",
    "halt",
    "halt_error",
    "input",
    "input_filename",
    "inputs",
    "stderr",
    "stderr_empty",
];

/// Where an expression stands, which decides about the variables of the specification.
///
/// Source: Open Workflow Specification 1.0, table of *Runtime expression arguments*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::workflow) enum Phase {
    /// `input.from` of the workflow.
    WorkflowInput,
    /// `input.from` of a task.
    TaskInput,
    /// Everything else of a task.
    Task,
    /// `export.as`.
    Export,
    /// `output.as` of the workflow.
    WorkflowOutput,
}

impl Phase {
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::WorkflowInput => &["workflow", "runtime"],
            Self::TaskInput => &["context", "task", "workflow", "runtime"],
            Self::Task => &["context", "input", "task", "workflow", "runtime"],
            Self::Export => &["context", "input", "output", "task", "workflow", "runtime"],
            Self::WorkflowOutput => &["context", "workflow", "runtime"],
        }
    }
}

/// The variables of the specification; a phase has some of them.
pub(super) const VARIABLES: [&str; 6] =
    ["context", "input", "output", "task", "workflow", "runtime"];

/// Which variables an expression may name; all names are without `$`.
#[derive(Debug, Clone, Copy)]
pub(in crate::workflow) struct Scope<'a> {
    pub(in crate::workflow) phase: Phase,
    /// Names given by the document around the expression: `for.each`, `for.at`, `catch.as`.
    pub(in crate::workflow) locals: &'a [String],
}

impl Scope<'_> {
    /// All names, each once: an inner one hides an outer one, and one of the specification.
    pub(super) fn variables(self) -> impl Iterator<Item = String> {
        let all = self.phase.variables().iter().copied();
        let all: BTreeSet<&str> = all.chain(self.locals.iter().map(String::as_str)).collect();
        all.into_iter().map(str::to_owned)
    }

    fn has(self, name: &str) -> bool {
        self.phase.variables().contains(&name) || self.locals.iter().any(|local| local == name)
    }
}

/// A place that is in no loop and in no `catch`.
impl From<Phase> for Scope<'_> {
    fn from(phase: Phase) -> Self {
        Self { phase, locals: &[] }
    }
}

/// What is known of an expression that is tree-shaped.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// The variables it names, without `$`.
    pub(super) variables: Vec<String>,
    /// How many copies of its data it may make.
    pub(super) copies: usize,
    parts: usize,
}

/// Why an expression does not run in the process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is none, or names what there is not: a sentence for the author.
    Invalid(String),
    /// It is not tree-shaped, or too large to tell.
    NoTree,
}

/// Finds out whether `source` is tree-shaped.
pub(super) fn examine(source: &str, scope: Scope<'_>) -> Result<Shape, Unfit> {
    if source.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count() > BRACKETS {
        return Err(Unfit::NoTree);
    }
    let tokens = lex(source).map_err(Unfit::Invalid)?;
    if nesting(&tokens) > DEPTH || count(&tokens) > TOKENS {
        return Err(Unfit::NoTree);
    }
    let term = term(&tokens).map_err(Unfit::Invalid)?;
    let mut examination = Examination { scope, shape: Shape::default() };
    examination.visit(&term, Place { depth: 0, copies: 0, interpolated: false })?;
    Ok(examination.shape)
}

/// Finds out whether `source` is an expression at all, which may take more stack than there is. The
/// error is a sentence for the author.
///
/// As a term, because jaq takes modules too, and mixes up the variables of one that imports.
pub(super) fn parse(source: &str) -> Result<(), String> {
    term(&lex(source)?).map(|_| ())
}

fn lex(source: &str) -> Result<Vec<Token<&str>>, String> {
    Lexer::new(source).lex().map_err(|_| INVALID.to_owned())
}

fn term<'s>(tokens: &[Token<&'s str>]) -> Result<Term<&'s str>, String> {
    if let Some(Token("import" | "include" | "module", Tok::Word)) = tokens.first() {
        return Err("An expression cannot import.".to_owned());
    }
    Parser::new(tokens).parse(Parser::term).map_err(|errors| match errors.first() {
        Some((_, Some(Token(found, _)))) => {
            let found: String = found.chars().take(40).collect();
            format!("This is not a valid jq expression: `{found}` is unexpected.")
        }
        _ => INVALID.to_owned(),
    })
}

/// What is said of a variable of the specification that does not exist in this phase.
pub(super) fn valueless(name: &str) -> String {
    format!("Variable `{name}` has no value here.")
}

/// The tokens within each token of a list.
fn within<'t, 's>(tokens: &'t [Token<&'s str>]) -> impl Iterator<Item = &'t [Token<&'s str>]> {
    tokens.iter().flat_map(|Token(_, token)| match token {
        Tok::Block(tokens) => vec![&tokens[..]],
        Tok::Str(parts) => parts
            .iter()
            .filter_map(|part| match part {
                StrPart::Term(token) => Some(std::slice::from_ref(token)),
                StrPart::Str(_) | StrPart::Char(_) => None,
            })
            .collect(),
        _ => Vec::new(),
    })
}

fn count(tokens: &[Token<&str>]) -> usize {
    tokens.len() + within(tokens).map(count).sum::<usize>()
}

/// How deep the parser may have to recurse.
fn nesting(tokens: &[Token<&str>]) -> usize {
    let here = tokens.iter().filter(|Token(text, _)| PREFIXES.contains(text)).count();
    here + within(tokens).map(|tokens| 1 + nesting(tokens)).max().unwrap_or(0)
}

/// What stands above a term.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    /// How often its result is copied.
    copies: usize,
    interpolated: bool,
}

impl Place {
    fn copied(self, times: usize) -> Self {
        Self { copies: self.copies.max(1) * times, ..self }
    }
}

struct Examination<'a> {
    scope: Scope<'a>,
    shape: Shape,
}

impl Examination<'_> {
    fn visit(&mut self, term: &Term<&str>, place: Place) -> Result<(), Unfit> {
        let place = self.part(place)?;
        match term {
            Term::Id => {
                self.shape.copies += place.copies;
                Ok(())
            }
            Term::Num(_) | Term::Arr(None) => Ok(()),
            Term::Str(None, parts) => self.string(parts, place),
            Term::Arr(Some(items)) => self.items(items, place),
            Term::Obj(fields) => fields.iter().try_for_each(|(key, field)| {
                self.visit(key, place)?;
                field.as_ref().map_or(Ok(()), |field| self.visit(field, place))
            }),
            Term::Neg(term) | Term::TryCatch(term, None) => self.visit(term, place),
            Term::BinOp(left, operator, right) => {
                let place = match operator {
                    BinaryOp::Math(Math::Add | Math::Sub | Math::Rem) => place.copied(1),
                    // Splitting a string takes many times its size.
                    BinaryOp::Math(Math::Div) => place.copied(16),
                    BinaryOp::Alt | BinaryOp::Or | BinaryOp::And | BinaryOp::Cmp(_) => place,
                    _ => return Err(Unfit::NoTree),
                };
                self.visit(left, place)?;
                self.visit(right, place)
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.visit(condition, place)?;
                    self.visit(then, place)?;
                }
                otherwise.as_ref().map_or(Ok(()), |otherwise| self.visit(otherwise, place))
            }
            Term::Call("true" | "false" | "null", arguments) if arguments.is_empty() => Ok(()),
            Term::Call(name, _) if NEVER.contains(name) => {
                Err(Unfit::Invalid(format!("Unknown filter `{name}`.")))
            }
            Term::Var(name) => self.variable(name, place),
            Term::Path(head, path) => {
                match **head {
                    // `.a` is one part, not two.
                    Term::Id => self.shape.copies += place.copies,
                    _ => self.visit(head, place)?,
                }
                path.0.iter().try_for_each(|(part, _)| self.path_part(part, place))
            }
            _ => Err(Unfit::NoTree),
        }
    }

    fn part(&mut self, place: Place) -> Result<Place, Unfit> {
        self.shape.parts += 1;
        if self.shape.parts > PARTS || place.depth >= DEPTH {
            return Err(Unfit::NoTree);
        }
        Ok(Place { depth: place.depth + 1, ..place })
    }

    /// The items of an array, which are the one place for commas.
    fn items(&mut self, items: &Term<&str>, place: Place) -> Result<(), Unfit> {
        match items {
            Term::BinOp(left, BinaryOp::Comma, right) => {
                self.items(left, place)?;
                self.items(right, place)
            }
            item => self.visit(item, place),
        }
    }

    fn string(&mut self, parts: &[StrPart<&str, Term<&str>>], place: Place) -> Result<(), Unfit> {
        for part in parts {
            if let StrPart::Term(term) = part {
                if place.interpolated {
                    return Err(Unfit::NoTree);
                }
                // A control character becomes six: `\u0000`.
                self.visit(term, Place { interpolated: true, ..place.copied(6) })?;
            }
        }
        Ok(())
    }

    fn variable(&mut self, name: &str, place: Place) -> Result<(), Unfit> {
        let known = name.strip_prefix('$').unwrap_or(name);
        if !self.scope.has(known) {
            return Err(Unfit::Invalid(if VARIABLES.contains(&known) {
                valueless(name)
            } else {
                format!("Unknown variable `{name}`.")
            }));
        }
        if !self.shape.variables.iter().any(|variable| variable == known) {
            self.shape.variables.push(known.to_owned());
        }
        self.shape.copies += place.copies;
        Ok(())
    }

    fn path_part(&mut self, part: &Part<Term<&str>>, place: Place) -> Result<(), Unfit> {
        let place = self.part(place)?;
        match part {
            Part::Index(Term::Str(None, parts)) => self.string(parts, place),
            Part::Index(index) if is_number(index) => Ok(()),
            Part::Range(None, None) => Err(Unfit::NoTree),
            Part::Range(from, to) if from.iter().chain(to).all(is_number) => Ok(()),
            _ => Err(Unfit::NoTree),
        }
    }
}

fn is_number(term: &Term<&str>) -> bool {
    match term {
        Term::Num(_) => true,
        Term::Neg(term) => matches!(**term, Term::Num(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfit(source: &str) -> Unfit {
        examine(source, Phase::Export.into()).map(|_| source).unwrap_err()
    }

    fn invalid(detail: &str) -> Unfit {
        Unfit::Invalid(detail.to_owned())
    }

    #[test]
    fn what_is_no_tree_is_told_from_what_is() {
        for source in [
            ". | .",
            ".[]",
            ".a[]",
            "..",
            "length",
            "map(.)",
            ". as $x | $x",
            "1, 2",
            "[(1, 2) + 3]",
            "(1, 2)",
            "\"a\" * 3",
            "{} * {}",
            ".a = 1",
            ".a |= 1",
            ".a += 1",
            ".a //= 1",
            "def f: f; f",
            "reduce . as $x (0; 1)",
            "foreach . as $x (0; 1)",
            "label $x | 1",
            "try . catch .",
            "@base64",
            "@json \"\\(.)\"",
            ".[.x]",
            ".[.x:]",
            ".[[1]]",
            ".[$input]",
            "\"\\(\"\\(.)\")\"",
            "now",
            "limit(1; 2)",
            "f::g",
            "[repeat(1)]",
            "{a: (1, 2)}",
        ] {
            assert_eq!(unfit(source), Unfit::NoTree, "{source}");
        }
    }

    #[test]
    fn what_reaches_beyond_the_data_is_refused_by_name() {
        for name in ["env", "input", "inputs", "halt", "halt_error", "debug", "stderr"] {
            assert_eq!(unfit(name), invalid(&format!("Unknown filter `{name}`.")));
        }
        for name in ["$secrets", "$authorization", "$ENV", "$__loc__", "$x"] {
            assert_eq!(unfit(name), invalid(&format!("Unknown variable `{name}`.")));
        }
        for source in ["import \"a\" as $x; $x", "include \"a\"; .", "  import \"a\" as a; ."] {
            assert_eq!(unfit(source), invalid("An expression cannot import."));
        }
    }

    #[test]
    fn variables_depend_on_the_place() {
        let refused = examine("$input", Phase::TaskInput.into()).unwrap_err();
        assert_eq!(refused, invalid("Variable `$input` has no value here."));
        assert!(examine("$input", Phase::Task.into()).is_ok());
        assert!(examine("$output", Phase::Task.into()).is_err());
        assert!(examine("$task", Phase::WorkflowOutput.into()).is_err());
        assert_eq!(examine("$context", Phase::Task.into()).unwrap().variables, ["context"]);
    }

    #[test]
    fn local_variables_are_those_named_around() {
        let locals = ["item".to_owned(), "index".to_owned()];
        let scope = Scope { phase: Phase::Task, locals: &locals };
        let shape = examine("[$item, $index, $context, $item.x]", scope).unwrap();
        assert_eq!(shape.variables, ["item", "index", "context"]);
        assert_eq!(examine("$error", scope).unwrap_err(), invalid("Unknown variable `$error`."));
        assert_eq!(unfit("$item"), invalid("Unknown variable `$item`."));
        // A name of the specification can be given to something else where it has no value.
        let locals = ["output".to_owned()];
        assert!(examine("$output", Scope { phase: Phase::Task, locals: &locals }).is_ok());
    }

    #[test]
    fn no_expression_is_deep_enough_to_overflow_the_stack() {
        for (open, close) in [("(", ")"), ("[", "]"), ("{a:", "}"), ("\"\\(", ")\"")] {
            for levels in [32, 33, 40, 128, 1_000, 100_000] {
                let source = format!("{}.{}", open.repeat(levels), close.repeat(levels));
                // Parentheses are no part of the tree.
                assert_eq!(
                    examine(&source, Phase::Task.into()).is_ok(),
                    open == "(" && levels <= 32
                );
            }
        }
        let prefixes = "-;if ;try ;. as $x | ;def f: ;reduce ;1 + ;1 | ;1, ;. = ;.a // ;{a:1} + ";
        for prefix in prefixes.split(';') {
            for times in [33, 100, 250, 500, 1_000] {
                let source = format!("{}1", prefix.repeat(times));
                assert!(examine(&source, Phase::Task.into()).is_err(), "{prefix} {times}");
            }
        }
    }

    #[test]
    fn the_number_of_parts_is_bounded() {
        let sum = |terms: usize| vec!["1"; terms].join(" + ");
        assert!(examine(&sum(16), Phase::Task.into()).is_ok());
        assert_eq!(unfit(&sum(64)), Unfit::NoTree);
        assert!(examine(&format!("[{}]", vec!["1"; 63].join(",")), Phase::Task.into()).is_ok());
        assert_eq!(unfit(&format!("[{}]", vec!["1"; 64].join(","))), Unfit::NoTree);
    }
}
