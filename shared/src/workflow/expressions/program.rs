//! jq programs, compiled and run by jaq.

use jaq_core::{
    Bind, Compiler, Ctx, Filter, Native, Vars,
    compile::Undefined,
    data::JustLut,
    load::{Arena, File, Loader, parse, parse::Def},
};
use jaq_json::Val;
use serde_json::Value;

use super::{
    value,
    whitelist::{self, NEVER, VARIABLES},
};

/// What tree-shaped expressions may call: the literals that jq writes as filters.
const LITERALS: &str = "def true: 0 == 0; def false: 0 != 0; def null: [][0];";

/// A compiled program with named variables.
pub(in crate::workflow) struct Program(Filter<JustLut<Val>>);

type Function<'s> = (&'s str, Box<[Bind]>, Native<JustLut<Val>>);

impl Program {
    /// Compiles a tree-shaped expression, which can call nothing but literals.
    pub(super) fn tree(source: &str, variables: &[String]) -> Result<Self, String> {
        let literals = parse(LITERALS, |parser| parser.defs()).unwrap_or_default();
        Self::with(literals, Vec::new(), source, variables)
    }

    /// Compiles `source` with jaq's standard library, but for what reaches beyond the data.
    ///
    /// Takes unlimited time, memory and stack, as [`Program::run`] does then: for the cage only. The
    /// error is a sentence for the author.
    pub(in crate::workflow) fn compile(source: &str, variables: &[String]) -> Result<Self, String> {
        whitelist::parse(source)?;
        let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let definitions = definitions.filter(|definition| !NEVER.contains(&definition.name));
        let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let functions = functions.filter(|(name, ..)| !NEVER.contains(name));
        Self::with(definitions.collect(), functions.collect(), source, variables)
    }

    fn with<'s>(
        definitions: Vec<Def<&'s str>>,
        functions: Vec<Function<'s>>,
        source: &'s str,
        variables: &'s [String],
    ) -> Result<Self, String> {
        let arena = Arena::default();
        let modules = Loader::new(definitions)
            .load(&arena, File { code: source, path: () })
            .map_err(|_| whitelist::INVALID.to_owned())?;
        let names: Vec<_> = variables.iter().map(|name| format!("${name}")).collect();
        let filter = Compiler::<&str, JustLut<Val>>::default()
            .with_funs(functions)
            .with_global_vars(names.iter().map(String::as_str))
            .compile(modules)
            .map_err(|errors| {
                let first = errors.iter().flat_map(|(_, errors)| errors).next();
                first.map_or_else(|| whitelist::INVALID.to_owned(), undefined)
            })?;
        Ok(Self(filter))
    }

    /// The first result, `null` if there is none; `values` are those of the variables. The error is
    /// what the expression did, as the end of a sentence.
    pub(in crate::workflow) fn run(&self, data: &Value, values: &[Value]) -> Result<Value, String> {
        self.run_on(value::to_val(data), values.iter().map(value::to_val).collect())
    }

    pub(super) fn run_on(&self, data: Val, values: Vec<Val>) -> Result<Value, String> {
        let context = Ctx::<JustLut<Val>>::new(&self.0.lut, Vars::new(values));
        match self.0.id.run((context, data)).next() {
            None => Ok(Value::Null),
            Some(Ok(result)) => value::from_val(&result).map_err(str::to_owned),
            Some(Err(exception)) => {
                let why =
                    exception.get_err().map_or_else(|_| String::new(), |error| error.to_string());
                let why: String = why.chars().take(300).collect();
                Err(format!("failed: {why}"))
            }
        }
    }
}

/// What is said of a name that means nothing.
fn undefined((name, kind): &(&str, Undefined)) -> String {
    let name: String = name.chars().take(64).collect();
    let is_known = name.strip_prefix('$').is_some_and(|name| VARIABLES.contains(&name));
    match kind {
        Undefined::Var if is_known => whitelist::valueless(&name),
        kind => format!("Unknown {} `{name}`.", kind.as_str()),
    }
}
