use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use errand_shared::{
    config::{Config, Limits, process_environment},
    process::StartError,
    time::{Clock, SystemClock},
    workflow::{
        CheckError, Problem, Workflow, cage::Cages, check_submitted, registry::parse_document,
    },
};
use serde_json::{Map, Value};

use crate::{dry_run::dry_run, error::CommandError, output};

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
    /// Run a document offline, without waiting, and print what became of it as JSON.
    DryRun {
        /// The document: YAML if its name ends in .yaml or .yml, otherwise JSON.
        file: PathBuf,
        /// Its input; {} without.
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// What its calls are answered: a list of {method?, url, status, headers?, body?, times?}. The
        /// first that matches and is not used up answers; what none matches is answered by 404.
        #[arg(long, value_name = "FILE")]
        responses: Option<PathBuf>,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), CommandError> {
    match command {
        Command::Check { file, config } => check(file, config.as_deref()),
        Command::DryRun { file, input, responses } => {
            run_dry(file, input.as_deref(), responses.as_deref())
        }
    }
}

fn check(file: &Path, config: Option<&Path>) -> Result<(), CommandError> {
    let config = config.map(|path| Config::load(Some(path), process_environment()));
    let config = config.transpose().map_err(StartError::from)?;
    let text = read(file)?;
    match &config {
        Some(config) => checked(file, &text, &config.limits, Some(config))?,
        None => checked(file, &text, &Limits::default(), None)?,
    };
    output::note(&format!("{}: ok", file.display()));
    Ok(())
}

fn run_dry(
    file: &Path,
    input: Option<&Path>,
    responses: Option<&Path>,
) -> Result<(), CommandError> {
    let input = input.map(value).transpose()?.unwrap_or_else(|| Value::Object(Map::new()));
    let script = match responses {
        Some(file) => serde_json::from_value(value(file)?).map_err(|error| {
            CommandError::unusable(format!("{}: no list of responses: {error}", file.display()))
        })?,
        None => Vec::new(),
    };
    let limits = Limits::default();
    let workflow = checked(file, &read(file)?, &limits, None)?;
    let cages = Cages::new(&limits);
    let report = dry_run(&workflow, &limits, &cages, input, script, SystemClock.now())
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    let text = serde_json::to_string_pretty(&report).expect("texts and values are JSON");
    output::result(&text)?;
    if report.is_completed() {
        return Ok(());
    }
    Err(CommandError::Failed(format!("{}: faulted", file.display())))
}

fn read(file: &Path) -> Result<String, CommandError> {
    fs::read_to_string(file).map_err(|error| {
        CommandError::unusable(format!("{}: cannot be read: {error}", file.display()))
    })
}

/// A file that goes with a document.
fn value(file: &Path) -> Result<Value, CommandError> {
    parse_document(file, &read(file)?).map_err(|problem| {
        CommandError::unusable(format!("{}: {}", file.display(), line(&problem)))
    })
}

/// The document, if nothing is wrong with it.
fn checked(
    file: &Path,
    text: &str,
    limits: &Limits,
    config: Option<&Config>,
) -> Result<Workflow, CommandError> {
    let apis = config.map(|config| &config.downstream_apis);
    let checked = match parse_document(file, text) {
        Ok(document) => check_submitted(&document, limits, apis, &Cages::new(limits)),
        Err(problem) => Err(CheckError::Problems(vec![problem])),
    };
    checked.map_err(|error| match error {
        CheckError::Problems(problems) => {
            CommandError::Failed(problems.iter().map(line).collect::<Vec<_>>().join("\n"))
        }
        CheckError::Interrupted(interrupted) => CommandError::Failed(interrupted.to_string()),
    })
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
        let checked = checked(Path::new(file), text, &Limits::default(), None);
        let lines = checked.err().map(|error| error.to_string()).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
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
