//! Tells the submitters of jobs what they asked to be told.
//!
//! What to send is in the database, written with the event it tells of: a worker that dies loses
//! nothing, and its deliveries are another's after their lease.

mod message;

use std::{sync::Arc, time::Duration};

use errand_shared::{
    config::{Config, WebhooksConfig},
    http,
    storage::{Delivery, SharedStore, Tried},
    telemetry::chain,
    time::SharedClock,
};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

/// How long a receiver may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longer than a try takes: after it another worker may make the next.
const LEASE: Duration = Duration::from_secs(30);

/// At once in one process.
const CONCURRENCY: usize = 32;

/// How often an idle worker looks for something to deliver.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between a failed try and the next (Standard Webhooks, "Deliverability and reliability").
const DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// What sending takes.
#[derive(Debug)]
pub(crate) struct Webhooks {
    config: WebhooksConfig,
    /// Without a trailing slash.
    public_url: String,
    store: SharedStore,
    clock: SharedClock,
    http: reqwest::Client,
}

impl Webhooks {
    /// None if no host may be told.
    pub(crate) fn new(
        config: &Config,
        store: SharedStore,
        clock: SharedClock,
    ) -> Option<Arc<Self>> {
        let webhooks = Self {
            config: config.webhooks.clone(),
            public_url: config.api.public_url.trim_end_matches('/').to_owned(),
            store,
            clock,
            http: http::client(TIMEOUT),
        };
        (!webhooks.config.hosts.is_empty()).then(|| Arc::new(webhooks))
    }

    /// Delivers until `stop` is cancelled, then ends the tries under way.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut sending = JoinSet::new();
        while !stop.is_cancelled() {
            while sending.try_join_next().is_some() {}
            let free = CONCURRENCY - sending.len();
            let claimed = self.store.claim_deliveries(free, LEASE).await.unwrap_or_else(|error| {
                tracing::warn!("no webhooks could be claimed: {}", chain(&error));
                Vec::new()
            });
            let there_may_be_more = claimed.len() == free;
            for delivery in claimed {
                sending.spawn(Arc::clone(&self).deliver(delivery));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                _ = sending.join_next(), if there_may_be_more => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        sending.join_all().await;
    }

    async fn deliver(self: Arc<Self>, delivery: Delivery) {
        let tried = self.attempt(&delivery).await;
        let (job_id, attempt) = (delivery.job_id, delivery.attempt);
        match tried {
            Tried::Delivered => tracing::info!(job.id = %job_id, attempt, "webhook delivered"),
            Tried::Failed { again_after } => {
                tracing::warn!(job.id = %job_id, attempt, ?again_after, "webhook not delivered");
            }
            Tried::GivenUp => tracing::error!(job.id = %job_id, attempt, "webhook given up"),
        }
        // Not written: the lease runs out, and the receiver may get it twice, under the same id.
        if let Err(error) = self.store.finish_delivery(&delivery, tried).await {
            tracing::warn!(job.id = %job_id, "a webhook was not recorded: {}", chain(&error));
        }
    }

    async fn attempt(&self, delivery: &Delivery) -> Tried {
        // Asked again: the configuration may have changed since the submission.
        let url = Url::parse(&delivery.url).ok().filter(|url| self.config.allows(url));
        let Some(url) = url else {
            tracing::warn!(job.id = %delivery.job_id, "the host of its callback is not configured");
            return failed(delivery.attempt, None);
        };
        let now = self.clock.now();
        let body = message::body(delivery, &self.public_url);
        let Some(headers) = message::headers(delivery, &body, now, &self.config.secrets) else {
            return failed(delivery.attempt, None);
        };
        let request = self.http.post(url).headers(headers);
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        match request.send().await {
            Ok(response) => judge(delivery.attempt, response.status(), || {
                http::retry_after(response.headers(), now)
            }),
            Err(error) => {
                let error = error.without_url();
                tracing::debug!(job.id = %delivery.job_id, "no answer to a webhook: {error}");
                failed(delivery.attempt, None)
            }
        }
    }
}

fn judge(
    attempt: u32,
    status: StatusCode,
    retry_after: impl FnOnce() -> Option<Duration>,
) -> Tried {
    if status.is_success() {
        Tried::Delivered
    } else if status == StatusCode::GONE {
        Tried::GivenUp
    } else {
        failed(attempt, retry_after())
    }
}

fn failed(attempt: u32, at_least: Option<Duration>) -> Tried {
    let delay = (attempt as usize).checked_sub(1).and_then(|index| DELAYS.get(index));
    delay.map_or(Tried::GivenUp, |delay| Tried::Failed {
        again_after: (*delay).max(at_least.unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use errand_shared::{
        config::{DatabaseConfig, EncryptionConfig, EncryptionKey},
        jobs::{DefinitionName, EventPosition, JobEvent},
        storage,
        time::{Clock, SystemClock},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use uuid::Uuid;

    use super::*;

    /// Answers every request, and counts them.
    async fn receiver(answer: &'static str) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = connection.read(&mut request).await;
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        (address, requests)
    }

    async fn webhooks(folder: &tempfile::TempDir, host: &str) -> Webhooks {
        let url = format!("sqlite://{}", folder.path().join("errand.db").display());
        let database = DatabaseConfig { url: url.into(), listen: true, prepared_statements: true };
        let key = EncryptionKey { id: "a".into(), key: vec![1; 32].into() };
        let encryption = EncryptionConfig { keys: vec![key] };
        Webhooks {
            config: WebhooksConfig {
                hosts: vec![host.to_owned()],
                secrets: vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()],
                allow_insecure_http: false,
            },
            public_url: "https://errand.example.com".into(),
            store: storage::open(&database, &encryption).await.unwrap(),
            clock: Arc::new(SystemClock),
            http: http::client(TIMEOUT),
        }
    }

    fn delivery(host: &str) -> Delivery {
        Delivery {
            job_id: Uuid::now_v7(),
            sequence: 3,
            attempt: 1,
            url: format!("http://{host}/hook"),
            event: JobEvent {
                position: EventPosition::default(),
                at: SystemClock.now(),
                kind: "completed".into(),
                data: serde_json::Map::new(),
            },
            definition: DefinitionName {
                namespace: "acme".into(),
                name: "n".into(),
                version: "1.0.0".into(),
            },
            tags: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_another_host_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, told) = receiver("HTTP/1.1 204 No Content\r\n\r\n").await;
        let answer =
            format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{elsewhere}/\r\n\r\n");
        let (host, asked) = receiver(answer.leak()).await;
        let webhooks = webhooks(&folder, &host).await;
        let again = Tried::Failed { again_after: DELAYS[0] };
        assert_eq!(webhooks.attempt(&delivery(&host)).await, again);
        assert_eq!(webhooks.attempt(&delivery(&elsewhere)).await, again);
        let count = |requests: &AtomicUsize| requests.load(Ordering::SeqCst);
        assert_eq!((count(&asked), count(&told)), (1, 0));
    }

    #[test]
    fn an_answer_decides_whether_it_is_sent_again() {
        let judge = |attempt, status: u16, seconds: Option<u64>| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(attempt, status, || seconds.map(Duration::from_secs))
        };
        let again = |seconds| Tried::Failed { again_after: Duration::from_secs(seconds) };
        assert_eq!(judge(1, 204, None), Tried::Delivered);
        assert_eq!(judge(1, 302, None), again(5));
        assert_eq!(judge(1, 503, Some(60)), again(60));
        assert_eq!(judge(2, 503, Some(60)), again(300));
        assert_eq!(judge(9, 500, None), again(86_400));
        assert_eq!(judge(10, 500, None), Tried::GivenUp);
        assert_eq!(judge(1, 410, None), Tried::GivenUp);
    }
}
