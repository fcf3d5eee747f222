//! `submit`, `watch`, `jobs`, `job`, `cancel`, `resume`, `sessions`: a user's jobs from a terminal.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use errand_shared::workflow::registry::parse_document;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    client::{Client, ClientError},
    connection::Connection,
    error::CommandError,
    output,
    progress::Progress,
    workflow,
};

/// Submit a job.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// A workflow document, or a whole submission with `definition`: YAML if its name ends in .yaml
    /// or .yml, otherwise JSON.
    file: PathBuf,
    /// The job's input, a JSON file.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Show its progress until it ends.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Show a job's progress until it ends: exit code 0 if it completed, otherwise 1.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    id: Uuid,
    #[command(flatten)]
    connection: Connection,
}

/// List your jobs, newest first.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those with this status.
    #[arg(long)]
    status: Option<String>,
    /// Only those with this tag.
    #[arg(long, value_name = "NAME:VALUE")]
    tag: Option<String>,
    /// Only those of this session.
    #[arg(long, value_name = "KEY")]
    session_key: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Where a list before ended: its `next_cursor`.
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// A job and the way to it.
#[derive(Debug, Args)]
pub(crate) struct One {
    id: Uuid,
    #[command(flatten)]
    connection: Connection,
}

/// List what acts for you.
#[derive(Debug, Args)]
pub(crate) struct Sessions {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn submit(arguments: Submit) -> Result<(), CommandError> {
    let mut submission = submission(read_document(&arguments.file)?);
    if let Some(path) = &arguments.input {
        submission["input"] = read_document(path)?;
    }
    let client = arguments.connection.client()?;
    let job = client.submit(&submission).await.map_err(failed)?;
    if arguments.watch {
        return watch_job(&client, text(&job, "id"), arguments.connection.json).await;
    }
    for warning in job["warnings"].as_array().into_iter().flatten() {
        output::note(&output::plain(warning.as_str().unwrap_or_default()));
    }
    if arguments.connection.json { print(&job) } else { output::result(text(&job, "id")) }
}

pub(crate) async fn watch(arguments: Watch) -> Result<(), CommandError> {
    let client = arguments.connection.client()?;
    watch_job(&client, &arguments.id.to_string(), arguments.connection.json).await
}

pub(crate) async fn list(arguments: List) -> Result<(), CommandError> {
    let query: Vec<(&str, String)> = [
        ("status", arguments.status),
        ("tag", arguments.tag),
        ("session_key", arguments.session_key),
        ("limit", Some(arguments.limit.to_string())),
        ("cursor", arguments.cursor),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let answer = arguments.connection.client()?.list("jobs", &query).await.map_err(failed)?;
    if arguments.connection.json {
        return print(&answer);
    }
    let rows = answer["jobs"].as_array().into_iter().flatten().map(|job| {
        let definition = &job["definition"];
        [text(job, "id"), text(job, "status"), text(job, "created_at"), text(definition, "name")]
            .map(str::to_owned)
    });
    print_table(["ID", "STATUS", "CREATED", "NAME"], rows)?;
    if let Some(cursor) = answer["next_cursor"].as_str() {
        output::note(&format!("more: --cursor {}", output::plain(cursor)));
    }
    Ok(())
}

pub(crate) async fn show(arguments: One) -> Result<(), CommandError> {
    let path = format!("jobs/{}", arguments.id);
    let job = arguments.connection.client()?.ask(Method::GET, &path).await.map_err(failed)?;
    print(&job)
}

pub(crate) async fn cancel(arguments: One) -> Result<(), CommandError> {
    change(arguments, "cancel").await
}

pub(crate) async fn resume(arguments: One) -> Result<(), CommandError> {
    change(arguments, "resume").await
}

pub(crate) async fn sessions(arguments: Sessions) -> Result<(), CommandError> {
    let client = arguments.connection.client()?;
    let answer = client.ask(Method::GET, "sessions").await.map_err(failed)?;
    if arguments.connection.json {
        return print(&answer);
    }
    let rows = answer["sessions"].as_array().into_iter().flatten().map(|session| {
        let jobs = session["jobs"].as_object().into_iter().flatten();
        let jobs: Vec<String> = jobs.map(|(status, count)| format!("{count} {status}")).collect();
        let [key, state, refreshed_at] =
            ["key", "state", "refreshed_at"].map(|name| text(session, name).to_owned());
        [key, state, refreshed_at, jobs.join(", ")]
    });
    print_table(["KEY", "STATE", "REFRESHED", "JOBS"], rows)
}

async fn change(arguments: One, verb: &str) -> Result<(), CommandError> {
    let path = format!("jobs/{}/{verb}", arguments.id);
    let job = arguments.connection.client()?.ask(Method::POST, &path).await.map_err(failed)?;
    if arguments.connection.json { print(&job) } else { output::result(text(&job, "status")) }
}

async fn watch_job(client: &Client, id: &str, as_json: bool) -> Result<(), CommandError> {
    let mut progress = None;
    let shown = client
        .watch(id, |job| match &mut progress {
            None => progress = Some(Progress::begin(job)),
            Some(progress) => progress.show(job),
        })
        .await;
    if let Some(progress) = progress {
        progress.end();
    }
    let job = shown.map_err(failed)?;
    if as_json {
        print(&job)?;
    } else if job["status"] == "completed" {
        print(&job["output"])?;
    }
    match text(&job, "status") {
        "completed" => Ok(()),
        "faulted" => Err(CommandError::Failed(output::plain(&format!(
            "faulted: {} {}",
            text(&job["error"], "title"),
            text(&job["error"], "detail")
        )))),
        "suspended" => Err(CommandError::Failed(output::plain(&format!(
            "suspended: {} Then: errand resume {id}",
            text(&job["suspension"], "detail")
        )))),
        status => Err(CommandError::Failed(output::plain(status))),
    }
}

/// A document becomes a submission; a submission stays one.
fn submission(file: Value) -> Value {
    if file.get("definition").is_some() { file } else { json!({ "definition": file }) }
}

fn read_document(path: &Path) -> Result<Value, CommandError> {
    let text = fs::read_to_string(path).map_err(|error| {
        CommandError::unusable(format!("{}: cannot be read: {error}", path.display()))
    })?;
    parse_document(path, &text).map_err(|problem| {
        CommandError::unusable(format!("{}: {}", path.display(), workflow::line(&problem)))
    })
}

fn failed(error: ClientError) -> CommandError {
    CommandError::Failed(
        error.to_string().lines().map(output::plain).collect::<Vec<_>>().join("\n"),
    )
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn print(value: &Value) -> Result<(), CommandError> {
    output::result(&format!("{value:#}"))
}

fn print_table<const N: usize>(
    titles: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<(), CommandError> {
    let rows: Vec<[String; N]> = std::iter::once(titles.map(str::to_owned))
        .chain(rows.map(|row| row.map(|cell| output::plain(&cell))))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or_default()).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        output::result(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
