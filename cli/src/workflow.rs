use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use errand_shared::{
    config::{Config, Limits, process_environment},
    process::StartError,
    workflow::{self, Problem, parse},
};
use serde_json::Value;

use crate::{error::CommandError, output};

/// Workflow documents.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say everything that is wrong with a document: one line `POINTER: message` each.
    Check {
        /// The document: YAML if its name ends in .yaml or .yml, otherwise JSON.
        file: PathBuf,
        /// Check names and addresses of downstream APIs against this configuration too.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), CommandError> {
    match command {
        Command::Check { file, config } => check(file, config.as_deref()),
    }
}

fn check(file: &Path, config: Option<&Path>) -> Result<(), CommandError> {
    let config = config.map(|path| Config::load(Some(path), process_environment()));
    let config = config.transpose().map_err(StartError::from)?;
    let text = fs::read_to_string(file).map_err(|error| {
        CommandError::unusable(format!("{}: cannot be read: {error}", file.display()))
    })?;
    let problems = match &config {
        Some(config) => problems(file, &text, &config.limits, Some(config)),
        None => problems(file, &text, &Limits::default(), None),
    };
    if problems.is_empty() {
        output::note(&format!("{}: ok", file.display()));
        return Ok(());
    }
    let lines: Vec<_> = problems.iter().map(line).collect();
    Err(CommandError::Failed(lines.join("\n")))
}

fn problems(file: &Path, text: &str, limits: &Limits, config: Option<&Config>) -> Vec<Problem> {
    let apis = config.map(|config| &config.downstream_apis);
    match document(file, text) {
        Ok(document) => workflow::check(&document, limits, apis).err().unwrap_or_default(),
        Err(problem) => vec![problem],
    }
}

pub(crate) fn document(file: &Path, text: &str) -> Result<Value, Problem> {
    let is_yaml = |extension| ["yaml", "yml"].iter().any(|yaml| extension == *yaml);
    if file.extension().is_some_and(is_yaml) {
        parse::parse_yaml(text)
    } else {
        parse::parse_json(text.as_bytes())
    }
}

/// One problem, on one line whatever the parser or the document put into it.
pub(crate) fn line(problem: &Problem) -> String {
    format!("{}: {}", problem.pointer, problem.detail).replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "document: { dsl: '1.0.3', namespace: acme, name: n, version: '1.0.0' }\n\
                        do: [{ pause: { wait: { seconds: 1 } } }]\n";

    fn lines(file: &str, text: &str) -> Vec<String> {
        let problems = problems(Path::new(file), text, &Limits::default(), None);
        problems.iter().map(line).collect()
    }

    #[test]
    fn the_extension_chooses_the_language() {
        for file in ["w.yaml", "w.yml"] {
            assert_eq!(lines(file, YAML), [""; 0]);
        }
        for file in ["w.json", "w", "yaml"] {
            assert!(lines(file, YAML)[0].starts_with(": Not valid JSON"), "{file}");
        }
    }

    #[test]
    fn each_problem_is_one_line_with_its_pointer() {
        let lines = lines("w.yaml", &YAML.replace("seconds", "secs").replace("acme", "'a c'"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].starts_with("/do/0/pause/wait"), "{lines:?}");
        let problem = Problem { pointer: "/a\nb".to_owned(), detail: "c\r\nd".to_owned() };
        assert_eq!(line(&problem).lines().count(), 1);
    }
}
