//! `GET /v1/jobs/{id}/events`: what happened to a job, as a list or as it happens.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use errand_shared::{
    identity::Principal,
    jobs::{EventKind, EventPosition, JobEvent, NotAPosition},
    storage::AUDIT_PAGE,
    telemetry::chain,
    time::Timestamp,
};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    cursor::Cursor,
    get::{JobId, load},
};
use crate::{
    authentication::Authenticated, problem::Problem, refusal, state::AppState, streams::Stream,
};

/// How often a stream looks for news.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Silence after which a comment is sent: intermediaries close what looks dead, most after a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// An event as clients see it.
#[derive(Debug, Serialize)]
struct Representation {
    id: String,
    at: Timestamp,
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    data: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct Events {
    events: Vec<Representation>,
    /// For `?cursor=`; null once all that has happened so far is there.
    next_cursor: Option<String>,
}

impl From<JobEvent> for Representation {
    fn from(event: JobEvent) -> Self {
        let JobEvent { position, at, kind, data } = event;
        Self { id: position.to_string(), at, kind, data }
    }
}

/// Answers with a list or, with `Accept: text/event-stream`, with a stream (HTML, Server-sent
/// events) that ends after the final event or with the caller's token.
pub(crate) async fn events(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
    Cursor(cursor): Cursor,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = load(&state, id, &caller.principal).await?;
    let is_stream = accepts_stream(&headers);
    let after = match headers.get(LAST_EVENT_ID).filter(|_| is_stream) {
        Some(seen) => Some(seen.to_str().unwrap_or_default()),
        None => cursor.as_deref(),
    };
    // A browser that lost its stream before the first event sends an empty one.
    let after = match after.filter(|after| !after.is_empty()) {
        Some(after) => after.parse().map_err(|error: NotAPosition| {
            Problem::invalid_request(format!("Last-Event-ID or `cursor`: {error}"))
        })?,
        None => EventPosition::default(),
    };
    let events = state.store.events(job.id, &caller.principal, after).await;
    let events = events.map_err(|error| refusal::unstored(&error))?;
    if !is_stream {
        return Ok(list(events));
    }
    if events.is_empty() && job.status.is_final() {
        // Tells an `EventSource` that reconnects to let it be (HTML, 9.2.3).
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let slot = state.streams.open(&caller.principal);
    let slot = slot.ok_or_else(|| Problem::too_many_streams(state.limits.streams_per_user))?;
    let until = Instant::now() + caller.expires_at.since(state.clock.now());
    let news = News { state, owner: caller.principal, job_id: job.id, after, until, slot };
    Ok(news.into_response(events))
}

fn list(events: Vec<JobEvent>) -> Response {
    let is_full = events.len() == AUDIT_PAGE;
    let next_cursor = events.last().filter(|_| is_full).map(|last| last.position.to_string());
    let events = events.into_iter().map(Representation::from).collect();
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    (no_store, Json(Events { events, next_cursor })).into_response()
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|range| range.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// What a stream goes on with.
struct News {
    state: Arc<AppState>,
    owner: Principal,
    job_id: Uuid,
    after: EventPosition,
    /// When the caller's token ends.
    until: Instant,
    #[expect(dead_code, reason = "held, not read")]
    slot: Stream,
}

impl News {
    fn into_response(self, events: Vec<JobEvent>) -> Response {
        let batches = stream::unfold((Some(self), Some(events)), |(news, first)| async move {
            let mut news = news?;
            let events = match first {
                Some(events) if !events.is_empty() => events,
                _ => news.wait().await?,
            };
            news.after = events.last().map_or(news.after, |last| last.position);
            let ended = has_ended(&events);
            Some((stream::iter(events.into_iter().map(message)), ((!ended).then_some(news), None)))
        });
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        // Proxies that collect an answer before they pass it on would hold it to its end.
        let headers = [("cache-control", "no-store"), ("x-accel-buffering", "no")];
        (headers, Sse::new(batches.flatten().map(Ok::<_, Infallible>)).keep_alive(keep_alive))
            .into_response()
    }

    /// Returns what happens next; none once the stream has to end.
    async fn wait(&self) -> Option<Vec<JobEvent>> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = tokio::time::sleep_until(self.until) => return None,
                () = self.state.stopping.cancelled() => return None,
            }
            match self.state.store.events(self.job_id, &self.owner, self.after).await {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Some(events),
                // The client comes back for the rest.
                Err(error) => {
                    tracing::warn!(job.id = %self.job_id, "a stream ends: {}", chain(&error));
                    return None;
                }
            }
        }
    }
}

/// Whether the last thing that happened to the job is its end: after a fault it may go on.
fn has_ended(events: &[JobEvent]) -> bool {
    let of_job = |event: &&JobEvent| event.is_final() || event.kind == EventKind::Retried.as_str();
    events.iter().rev().find(of_job).is_some_and(JobEvent::is_final)
}

fn message(event: JobEvent) -> Event {
    let event = Representation::from(event);
    let data = serde_json::to_string(&event).expect("an event has string keys only");
    Event::default().id(event.id).event(event.kind).data(data)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_for_those_who_accept_one() {
        for (accept, is_stream) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.5", true),
            ("application/json", false),
            ("*/*", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_stream(&headers), is_stream, "{accept}");
        }
        assert!(!accepts_stream(&HeaderMap::new()));
    }
}
