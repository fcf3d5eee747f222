//! Keep-alive clients, each with one request under way at a time.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::LocalSet};

use crate::message::{Reader, unexpected};

/// Send one request again and again, and print rate and times as JSON.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `http://HOST:PORT/PATH`
    url: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// Clients at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Requests in all.
    #[arg(long)]
    count: u64,
    /// Bearer tokens, one a line: each client takes one, in turn.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// JSON to be sent.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
}

/// Times and statuses of the requests of one client.
#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
    statuses: BTreeMap<String, u64>,
}

/// Sends all requests.
pub(crate) async fn run(arguments: Arguments) -> io::Result<Value> {
    let (authority, path) = address(&arguments.url)?;
    let requests = requests(&arguments, &authority, &path)?;
    let left = Rc::new(AtomicU64::new(arguments.count));
    let clients = LocalSet::new();
    let began = Instant::now();
    let running: Vec<_> = (0..arguments.clients)
        .map(|number| {
            let request = Rc::clone(&requests[number % requests.len()]);
            clients.spawn_local(client(authority.clone(), request, Rc::clone(&left)))
        })
        .collect();
    clients.await;
    let took = began.elapsed();
    let mut all = Seen::default();
    for client in running {
        let seen = client.await??;
        all.times.extend(seen.times);
        for (status, count) in seen.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
    }
    all.times.sort_unstable();
    let milliseconds = |share: usize| {
        let index = (all.times.len() * share / 1000).min(all.times.len().saturating_sub(1));
        all.times.get(index).map(|time| time.as_secs_f64() * 1e3)
    };
    Ok(json!({
        "requests": all.times.len(),
        "seconds": took.as_secs_f64(),
        "p50_ms": milliseconds(500),
        "p99_ms": milliseconds(990),
        "max_ms": milliseconds(1000),
        "statuses": all.statuses,
    }))
}

async fn client(authority: String, request: Rc<[u8]>, left: Rc<AtomicU64>) -> io::Result<Seen> {
    let mut stream = TcpStream::connect(&authority).await?;
    stream.set_nodelay(true)?;
    let mut reader = Reader::default();
    let mut seen = Seen::default();
    while take_one(&left) {
        let began = Instant::now();
        stream.write_all(&request).await?;
        let first = reader.next(&mut stream).await?;
        let first = first.ok_or_else(|| unexpected("the server closed the connection"))?;
        seen.times.push(began.elapsed());
        let status = first.split(' ').nth(1).unwrap_or_default();
        *seen.statuses.entry(status.to_owned()).or_default() += 1;
    }
    Ok(seen)
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// One request for each token, ready to be sent.
fn requests(arguments: &Arguments, authority: &str, path: &str) -> io::Result<Vec<Rc<[u8]>>> {
    let body = arguments.body.as_ref().map(fs::read).transpose()?.unwrap_or_default();
    let tokens = arguments.tokens.as_ref().map(fs::read_to_string).transpose()?;
    let authorizations: Vec<String> = match &tokens {
        None => vec![String::new()],
        Some(tokens) => {
            tokens.lines().map(|token| format!("Authorization: Bearer {token}\r\n")).collect()
        }
    };
    if authorizations.is_empty() {
        return Err(unexpected("a file without tokens"));
    }
    let Arguments { method, .. } = arguments;
    let requests = authorizations.iter().map(|authorization| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat().into()
    });
    Ok(requests.collect())
}

/// Host with port, and path.
fn address(url: &str) -> io::Result<(String, String)> {
    let rest =
        url.strip_prefix("http://").ok_or_else(|| unexpected("an address without http://"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((authority.to_owned(), format!("/{path}")))
}
