//! The API that jobs call, and the witness of what they did: it only ever appends to its log.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use errand_shared::time::{Clock, SystemClock, Timestamp};
use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// The API's two names: whoever repeats a call to the first with its key gets the first answer.
pub(crate) const KEYED: &str = "Keyed";
pub(crate) const PLAIN: &str = "Plain";

/// How long a call to `slow` takes.
pub(crate) const SLOW: Duration = Duration::from_secs(2);

/// Tries of a call: so many that nobody gives up for bad luck.
const MAX_ATTEMPTS: u32 = 40;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    /// Number of the worker that sent it: each knows the API under a base URL of its own.
    pub(crate) worker: String,
    pub(crate) is_keyed: bool,
    pub(crate) method: String,
    /// Whose job it is, by the path.
    pub(crate) owner: String,
    pub(crate) job: usize,
    pub(crate) task: String,
    /// `Idempotency-Key`
    pub(crate) key: String,
    /// Whom the token speaks for.
    pub(crate) user: String,
    pub(crate) body: String,
    /// The number that was answered; none if it was not processed.
    pub(crate) receipt: Option<u64>,
    /// None: the connection was closed instead.
    pub(crate) status: Option<u16>,
}

impl Entry {
    /// Whether the sender can know that nothing was done.
    pub(crate) fn surely_not_processed(&self) -> bool {
        matches!(self.status, Some(401 | 429 | 503))
    }
}

/// A running API.
pub(crate) struct Downstream {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    seed: u64,
    is_hostile: AtomicBool,
    arrivals: AtomicU64,
    receipts: AtomicU64,
    log: Mutex<Vec<Entry>>,
    /// What was answered to a key, where keys are honoured.
    answers: Mutex<HashMap<String, u64>>,
}

/// What becomes of a request.
enum Fate {
    Processed,
    /// With `Retry-After`.
    Refused(u16),
    /// An answer that does not say whether anything was done.
    Lost(u16),
    DroppedBefore,
    DroppedAfter,
}

impl Downstream {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(State {
            seed,
            is_hostile: AtomicBool::new(false),
            arrivals: AtomicU64::new(0),
            receipts: AtomicU64::new(0),
            log: Mutex::default(),
            answers: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, serving }
    }

    pub(crate) fn be_hostile(&self, hostile: bool) {
        self.state.is_hostile.store(hostile, Ordering::Relaxed);
    }

    /// All requests so far, in the order of their arrival.
    pub(crate) fn log(&self) -> Vec<Entry> {
        self.state.log.lock().expect("nobody panics while holding it").clone()
    }

    /// Both APIs, as sections of a configuration.
    pub(crate) fn configuration(&self) -> String {
        [(KEYED, true), (PLAIN, false)]
            .map(|(name, honours)| {
                let base = self.base_url(name, "w0");
                format!(
                    r#"
[downstream_apis.{name}]
base_url = "{base}"
scopes = ["api://partner-api-id/read"]
timeout_seconds = 10
honours_idempotency_key = {honours}
retry = {{ max_attempts = {MAX_ATTEMPTS}, initial_seconds = 0.1, max_seconds = 0.5 }}
"#
                )
            })
            .concat()
    }

    /// For the environment of a worker with that name.
    pub(crate) fn variables(&self, worker: &str) -> Vec<(String, String)> {
        let variable = |api: &str| {
            (format!("ERRAND__DOWNSTREAM_APIS__{api}__BASE_URL"), self.base_url(api, worker))
        };
        vec![variable(KEYED), variable(PLAIN)]
    }

    fn base_url(&self, api: &str, worker: &str) -> String {
        format!("http://{}/{worker}/{api}", self.address)
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&state, request));
            // An error is a connection that was closed, by either side.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Processes and remembers the request before it answers, or closes the connection instead.
async fn answer(
    state: &State,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let at = SystemClock.now();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let header = |name: &str| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let number = state.arrivals.fetch_add(1, Ordering::Relaxed);
    let mut random = Rng::with_seed(state.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
    let is_hostile = state.is_hostile.load(Ordering::Relaxed);
    let fate = if is_hostile { fate(&mut random) } else { Fate::Processed };

    // /w1/Keyed/api/user-3/17/get
    let mut path = parts.uri.path().split('/').skip(1).map(str::to_owned);
    let mut next = || path.next().unwrap_or_default();
    let (worker, api, _) = (next(), next(), next());
    let (owner, job, task) = (next(), next(), next());
    let mut entry = Entry {
        at,
        worker,
        is_keyed: api == KEYED,
        method: parts.method.to_string(),
        owner,
        job: job.parse().unwrap_or(usize::MAX),
        task,
        key: header("idempotency-key"),
        user: user_of(&header("authorization")),
        body: String::from_utf8_lossy(&body).into_owned(),
        receipt: None,
        status: None,
    };
    if matches!(fate, Fate::Processed | Fate::Lost(_) | Fate::DroppedAfter) {
        entry.receipt = Some(state.process(&entry));
    }
    entry.status = match fate {
        Fate::Processed => Some(200),
        Fate::Refused(status) | Fate::Lost(status) => Some(status),
        Fate::DroppedBefore | Fate::DroppedAfter => None,
    };
    let (status, receipt, is_slow) = (entry.status, entry.receipt, entry.task == "slow");
    state.log.lock().expect("nobody panics while holding it").push(entry);

    if is_slow {
        tokio::time::sleep(SLOW).await;
    } else if is_hostile && random.u8(..100) < 6 {
        tokio::time::sleep(Duration::from_millis(random.u64(300..1_500))).await;
    }
    let Some(status) = status else { return Err(std::io::Error::other("withheld")) };
    let response = Response::builder().status(status).header("content-type", "application/json");
    let response = match fate {
        Fate::Refused(_) => response.header("retry-after", "1"),
        _ => response,
    };
    let body = json!({ "receipt": receipt }).to_string();
    Ok(response.body(Full::from(body)).expect("these are a status and headers"))
}

impl State {
    fn process(&self, entry: &Entry) -> u64 {
        let new = || self.receipts.fetch_add(1, Ordering::Relaxed) + 1;
        if !entry.is_keyed || entry.method == "GET" {
            return new();
        }
        let mut answers = self.answers.lock().expect("nobody panics while holding it");
        *answers.entry(entry.key.clone()).or_insert_with(new)
    }
}

fn fate(random: &mut Rng) -> Fate {
    match random.u8(..100) {
        0..3 => Fate::Refused(429),
        3..6 => Fate::Refused(503),
        6..8 => Fate::Lost(502),
        8..9 => Fate::Lost(504),
        9..11 => Fate::DroppedBefore,
        11..13 => Fate::DroppedAfter,
        _ => Fate::Processed,
    }
}

/// The name in a token. Whether it is a good one, the simulator's own API checks in other tests.
fn user_of(authorization: &str) -> String {
    let claims = authorization.split('.').nth(1).unwrap_or_default();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    claims["name"].as_str().unwrap_or_default().to_owned()
}
