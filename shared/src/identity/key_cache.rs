//! When the provider's keys are fetched, and when not.
//!
//! Tokens are checked against keys in memory; the provider is asked at the first token, twice a day,
//! and when a token names a key that is not there. Anybody can send such a token, so those fetches
//! are limited in number and not by key: no list of unknown keys exists that a stranger could fill,
//! and the longest that a roll-over can go unnoticed is [`UNKNOWN_KEY_PAUSE`].

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use url::Url;

use super::{
    bounded_body::{self, BodyError},
    keys::{KeySet, Metadata},
};
use crate::{
    http,
    time::{SharedClock, Timestamp},
};

/// Between two fetches because of unknown keys.
pub(super) const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(15);
/// Between two fetches while there are no keys at all.
const NO_KEYS_PAUSE: Duration = Duration::from_secs(2);
/// Between two attempts to renew keys that are still good.
const RENEWAL_PAUSE: Duration = Duration::from_mins(5);
/// Keys are renewed after this and up to a twentieth more (IdentityModel's default).
const RENEW_AFTER: Duration = Duration::from_hours(12);
/// Keys that could not be renewed serve this long (Entra's documents: look at least once a day).
const MAX_AGE: Duration = Duration::from_hours(24);
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_METADATA_BYTES: usize = 64 * 1024;
const MAX_KEYS_BYTES: usize = 512 * 1024;

/// The keys of one metadata document. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct KeyCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    metadata_url: Url,
    http: reqwest::Client,
    clock: SharedClock,
    state: Mutex<State>,
    /// Held while fetching: whoever waits for it finds the answer of the one before.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    fetched: Option<Fetched>,
    next_unknown_key_fetch_at: Option<Timestamp>,
    next_renewal_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<KeySet>,
    at: Timestamp,
}

/// The provider cannot be reached and there are no keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoKeys {
    pub(super) retry_after: Duration,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the identity provider cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the identity provider answered with status {0}")]
    Status(u16),
    #[error("the identity provider's answer cannot be read")]
    Body(#[from] BodyError),
    #[error("the identity provider's answer cannot be understood")]
    Malformed(#[from] serde_json::Error),
    #[error("the metadata points to keys at another origin: {0}")]
    ForeignKeys(Url),
}

impl KeyCache {
    pub(super) fn new(metadata_url: Url, clock: SharedClock) -> Self {
        Self(Arc::new(Shared {
            metadata_url,
            http: http::client(HTTP_TIMEOUT),
            clock,
            state: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }))
    }

    /// Whether there are keys to check tokens with.
    pub(super) fn has_keys(&self) -> bool {
        self.0.state().current(self.0.clock.now()).is_some()
    }

    /// Fetches the keys unless they are there.
    pub(super) async fn warm(&self) -> Result<(), NoKeys> {
        if self.has_keys() {
            return Ok(());
        }
        self.fetch(None).await.map(drop)
    }

    /// Returns the provider's keys; `key_id` is missing among them only if the provider, as far as
    /// it may be asked now, does not publish it.
    pub(super) async fn keys_for(&self, key_id: &str) -> Result<Arc<KeySet>, NoKeys> {
        let now = self.0.clock.now();
        let known = self.0.state().current(now);
        match known {
            Some(keys) if keys.key(key_id).is_some() => {
                self.renew_in_background(now);
                Ok(keys)
            }
            // A fetch under way is waited for: it may bring the very key.
            Some(keys) if !self.0.state().may_fetch(now) && self.0.fetching.try_lock().is_ok() => {
                Ok(keys)
            }
            Some(_) | None => self.fetch(Some(key_id.to_owned())).await,
        }
    }

    fn renew_in_background(&self, now: Timestamp) {
        if self.0.state().claim_renewal(now) {
            let shared = Arc::clone(&self.0);
            tokio::spawn(async move {
                let _one_at_a_time = shared.fetching.lock().await;
                shared.fetch_now().await;
            });
        }
    }

    /// In a task of its own: a caller that hangs up must not keep the answer from the others, nor
    /// make it possible to ask again at once.
    async fn fetch(&self, key_id: Option<String>) -> Result<Arc<KeySet>, NoKeys> {
        let shared = Arc::clone(&self.0);
        let task = tokio::spawn(async move { shared.fetch_in_turn(key_id.as_deref()).await });
        task.await.unwrap_or(Err(NoKeys { retry_after: NO_KEYS_PAUSE }))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    async fn fetch_in_turn(&self, key_id: Option<&str>) -> Result<Arc<KeySet>, NoKeys> {
        let _one_at_a_time = self.fetching.lock().await;
        let now = self.clock.now();
        let known = self.state().current(now);
        match known {
            Some(keys) if key_id.is_none_or(|key_id| keys.key(key_id).is_some()) => {
                return Ok(keys);
            }
            Some(_) | None => {}
        }
        if self.state().claim_fetch(now) {
            self.fetch_now().await;
        }
        let state = self.state();
        state.current(now).ok_or_else(|| NoKeys { retry_after: state.pause(now) })
    }

    async fn fetch_now(&self) {
        match self.download().await {
            Ok(keys) => {
                let at = self.clock.now();
                let mut state = self.state();
                // The pause after a fetch for want of keys is not one for unknown keys.
                if state.current(at).is_none() {
                    state.next_unknown_key_fetch_at = None;
                }
                state.next_renewal_at = Some(at + RENEW_AFTER + jitter());
                state.fetched = Some(Fetched { keys: Arc::new(keys), at });
            }
            Err(error) => tracing::warn!(
                url = %self.metadata_url,
                error = &error as &dyn std::error::Error,
                "the identity provider's keys could not be fetched"
            ),
        }
    }

    async fn download(&self) -> Result<KeySet, FetchError> {
        let metadata = self.get(&self.metadata_url, MAX_METADATA_BYTES).await?;
        let metadata: Metadata = serde_json::from_slice(&metadata)?;
        // Whoever can change the document must not be able to name keys of their own elsewhere.
        if metadata.jwks_uri.origin() != self.metadata_url.origin() {
            return Err(FetchError::ForeignKeys(metadata.jwks_uri));
        }
        let keys = self.get(&metadata.jwks_uri, MAX_KEYS_BYTES).await?;
        Ok(KeySet::parse(&metadata, &keys)?)
    }

    async fn get(&self, url: &Url, limit: usize) -> Result<Vec<u8>, FetchError> {
        let response = self.http.get(url.clone()).send().await.map_err(FetchError::Unreachable)?;
        match response.status().as_u16() {
            200 => Ok(bounded_body::read(response, limit).await?),
            status => Err(FetchError::Status(status)),
        }
    }
}

impl State {
    fn current(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        let fetched = self.fetched.as_ref()?;
        (now.since(fetched.at) < MAX_AGE).then(|| Arc::clone(&fetched.keys))
    }

    fn may_fetch(&self, now: Timestamp) -> bool {
        self.next_unknown_key_fetch_at.is_none_or(|at| at <= now)
    }

    /// Whether the caller may fetch now; if so, nobody else may for a while.
    fn claim_fetch(&mut self, now: Timestamp) -> bool {
        if !self.may_fetch(now) {
            return false;
        }
        let pause = if self.current(now).is_some() { UNKNOWN_KEY_PAUSE } else { NO_KEYS_PAUSE };
        self.next_unknown_key_fetch_at = Some(now + pause);
        true
    }

    fn claim_renewal(&mut self, now: Timestamp) -> bool {
        let is_due = self.next_renewal_at.is_some_and(|at| at <= now);
        if is_due {
            self.next_renewal_at = Some(now + RENEWAL_PAUSE);
        }
        is_due
    }

    fn pause(&self, now: Timestamp) -> Duration {
        let pause = self.next_unknown_key_fetch_at.map(|at| at.since(now)).unwrap_or_default();
        pause.max(Duration::from_secs(1))
    }
}

/// Up to a twentieth of [`RENEW_AFTER`], so that processes started together do not ask together.
fn jitter() -> Duration {
    let mut random = [0; 2];
    // Without random bytes there is no jitter, which harms nobody.
    let _ = aws_lc_rs::rand::fill(&mut random);
    RENEW_AFTER / 20 * u32::from(u16::from_be_bytes(random)) / u32::from(u16::MAX)
}
