//! What this process counts, as Prometheus reads it.
//!
//! One set for the whole process, so that whoever knows something counts it where it happens. No
//! label names a user, a tenant, a session or a job: their number has no bound, and a metric is read
//! by people who may not know them.

use std::{
    sync::{LazyLock, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    identity::Decision,
    jobs::JobStatus,
    storage::{Record, SharedStore},
};

/// The media type of [`render`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The database is not looked at more often, however often somebody asks: they need no token.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// From a look at one row to the longest `Prefer: wait`, and the longest call.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 60.0];

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    api: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabel {
    api: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    kind: &'static str,
    outcome: &'static str,
}

struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabel, Histogram>,
    submitted: Counter,
    claimed: Counter,
    records: Family<StatusLabel, Counter>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<ApiLabel, Histogram>,
    token_requests: Family<TokenLabels, Counter>,
    leases_lost: Counter,
    rescued: Counter,
    jobs: Family<StatusLabel, Gauge>,
    lag: Gauge<f64, AtomicU64>,
    looks_failed: Counter,
    looked: Mutex<Option<Instant>>,
}

impl Metrics {
    fn new() -> Self {
        let histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::with_prefix("errand"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            submitted: Counter::default(),
            claimed: Counter::default(),
            records: Family::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(histogram),
            token_requests: Family::default(),
            leases_lost: Counter::default(),
            rescued: Counter::default(),
            jobs: Family::default(),
            lag: Gauge::default(),
            looks_failed: Counter::default(),
            looked: Mutex::default(),
        };
        macro_rules! register {
            ($field:ident, $name:literal, $help:literal) => {
                metrics.registry.register($name, $help, metrics.$field.clone());
            };
        }
        register!(requests, "http_requests", "Requests answered, by route and status");
        register!(request_seconds, "http_request_duration_seconds", "From request to answer");
        register!(submitted, "jobs_submitted", "Jobs taken by this process");
        register!(claimed, "jobs_claimed", "Claims of jobs by this worker");
        register!(records, "records", "Records of jobs, by the status that the job got");
        register!(calls, "calls", "Downstream calls, by API and what became of them");
        register!(call_seconds, "call_duration_seconds", "From a downstream call to its answer");
        register!(token_requests, "token_requests", "Requests for tokens, by kind and outcome");
        register!(leases_lost, "leases_lost", "Jobs that were taken away from this worker");
        register!(rescued, "jobs_rescued", "Jobs of workers that went away, made due again");
        register!(
            jobs,
            "jobs",
            "Unfinished jobs by status; lower bounds once there are 10000 running or 10000 others"
        );
        register!(lag, "queue_lag_seconds", "For how long the oldest due job has been waiting");
        register!(looks_failed, "database_looks_failed", "Looks at the database that failed");
        metrics
    }

    /// Brings the gauges up to date, unless they are.
    async fn look(&self, store: &SharedStore) {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        *looked = Some(Instant::now());
        if let Ok(backlog) = store.backlog().await {
            for status in JobStatus::ALL.into_iter().filter(|status| !status.is_final()) {
                let count = backlog.jobs.get(&status).copied().unwrap_or_default();
                let label = StatusLabel { status: status.as_str() };
                self.jobs.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            self.lag.set(backlog.lag.unwrap_or_default().as_secs_f64());
        } else {
            // What is not known is not told.
            self.jobs.clear();
            self.lag.set(f64::NAN);
            self.looks_failed.inc();
        }
    }
}

/// All of it as text, [`MEDIA_TYPE`].
pub async fn render(store: &SharedStore) -> String {
    METRICS.look(store).await;
    let mut text = String::new();
    // Writing to a text does not fail.
    let _ = encode(&mut text, &METRICS.registry);
    text
}

/// The API answered; `route` is the pattern of the address and not what was asked for.
pub fn http_request(method: &str, route: &str, status: u16, length: Duration) {
    let known = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"];
    let method = known.into_iter().find(|known| *known == method).unwrap_or("other");
    let labels = RequestLabels { method, route: route.to_owned(), status };
    METRICS.requests.get_or_create(&labels).inc();
    let label = RouteLabel { route: route.to_owned() };
    METRICS.request_seconds.get_or_create(&label).observe(length.as_secs_f64());
}

/// Jobs became durable.
pub fn jobs_submitted(count: usize) {
    METRICS.submitted.inc_by(count as u64);
}

/// A worker claimed jobs.
pub fn jobs_claimed(count: usize) {
    METRICS.claimed.inc_by(count as u64);
}

/// A record was written.
pub fn recorded(status: JobStatus, record: &Record) {
    METRICS.records.get_or_create(&StatusLabel { status: status.as_str() }).inc();
    for call in &record.calls {
        let labels = CallLabels { api: call.api.clone(), outcome: call.outcome.as_str() };
        METRICS.calls.get_or_create(&labels).inc();
        let label = ApiLabel { api: call.api.clone() };
        let seconds = Duration::from_millis(call.duration_ms).as_secs_f64();
        METRICS.call_seconds.get_or_create(&label).observe(seconds);
    }
}

/// The identity provider was asked for a token; `failed` says what its answer means.
pub fn token_request(is_exchange: bool, failed: Option<&Decision>) {
    let outcome = match failed {
        None => "issued",
        Some(Decision::Retry { .. } | Decision::RetryFew { .. } | Decision::RetrySlow) => {
            "unavailable"
        }
        Some(Decision::SuspendForUser { .. } | Decision::RejectAssertion) => "user",
        Some(Decision::SuspendForAdministrator) => "administrator",
        Some(Decision::Operator) => "operator",
        Some(Decision::Permanent | Decision::ForbiddenCaller) => "refused",
    };
    let kind = if is_exchange { "exchange" } else { "refresh" };
    METRICS.token_requests.get_or_create(&TokenLabels { kind, outcome }).inc();
}

/// A job was taken away from this worker.
pub fn lease_lost() {
    METRICS.leases_lost.inc();
}

/// Jobs of workers that went away are due again.
pub fn jobs_rescued(count: u64) {
    METRICS.rescued.inc_by(count);
}
