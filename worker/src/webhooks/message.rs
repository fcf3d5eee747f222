//! What a webhook says, and who says so.
//!
//! Source: Standard Webhooks 1.0.

use errand_shared::{jobs::JobStatus, storage::Delivery, time::Timestamp};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
};

/// The same for every try. No input, output or claims: receivers get the job with a user's token.
pub(super) fn body(delivery: &Delivery, public_url: &str) -> String {
    let event = &delivery.event;
    let mut data = json!({
        "id": delivery.job_id,
        // A job that was resumed is due, and waits for a worker.
        "status": event.kind.parse().unwrap_or(JobStatus::Waiting),
        "definition": delivery.definition,
        "tags": delivery.tags,
    });
    for (name, value) in &event.data {
        data[name] = value.clone();
    }
    data["links"] = json!({ "self": format!("{public_url}/v1/jobs/{}", delivery.job_id) });
    let kind = format!("job.{}", event.kind);
    let message: Value = json!({ "type": kind, "timestamp": event.at, "data": data });
    message.to_string()
}

/// The three headers, with a signature for each secret: receivers may have the old or the new one.
/// None if a secret is not one, which the configuration has ruled out.
pub(super) fn headers(
    delivery: &Delivery,
    body: &str,
    now: Timestamp,
    secrets: &[SecretString],
) -> Option<HeaderMap> {
    let id = format!("msg_{}_{}", delivery.job_id.simple(), delivery.sequence);
    let signature = signature(&id, now.seconds(), body, secrets)?;
    let values = [
        (HEADER_WEBHOOK_ID, id),
        (HEADER_WEBHOOK_TIMESTAMP, now.seconds().to_string()),
        (HEADER_WEBHOOK_SIGNATURE, signature),
    ];
    values
        .into_iter()
        .map(|(name, value)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
        })
        .collect()
}

fn signature(id: &str, seconds: i64, body: &str, secrets: &[SecretString]) -> Option<String> {
    let signatures = secrets.iter().map(|secret| {
        Webhook::new(secret.expose_secret()).ok()?.sign(id, seconds, body.as_bytes()).ok()
    });
    Some(signatures.collect::<Option<Vec<_>>>()?.join(" "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use errand_shared::jobs::{DefinitionName, EventPosition, JobEvent};
    use uuid::Uuid;

    use super::*;

    fn delivery(kind: &str, data: Value) -> Delivery {
        let Value::Object(data) = data else { unreachable!() };
        Delivery {
            job_id: Uuid::nil(),
            sequence: 7,
            attempt: 1,
            url: "https://hooks.example.com/".into(),
            event: JobEvent {
                position: EventPosition::default(),
                at: Timestamp::from_seconds(1_700_000_000).unwrap(),
                kind: kind.into(),
                data,
            },
            definition: DefinitionName {
                namespace: "acme".into(),
                name: "n".into(),
                version: "1.0.0".into(),
            },
            tags: BTreeMap::from([("order".into(), "4711".into())]),
        }
    }

    /// The example of the Standard Webhooks libraries, and a second secret.
    #[test]
    fn every_secret_signs() {
        let secrets: Vec<SecretString> = vec![
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
            "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
        ];
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let signature = signature(id, 1_614_265_330, body, &secrets).unwrap();
        let (first, second) = signature.split_once(' ').unwrap();
        assert_eq!(first, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(second.starts_with("v1,") && second != first);
    }

    #[test]
    fn the_id_is_of_the_event_and_the_time_of_the_try() {
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()];
        let now = Timestamp::from_seconds(1_800_000_000).unwrap();
        let headers = headers(&delivery("completed", json!({})), "{}", now, &secrets).unwrap();
        assert_eq!(headers["webhook-id"], "msg_00000000000000000000000000000000_7");
        assert_eq!(headers["webhook-timestamp"], "1800000000");
    }

    #[test]
    fn a_body_says_what_happened_and_where_the_job_is() {
        let data = json!({"suspension": {"reason": "consent_required"}});
        let body = body(&delivery("suspended", data), "https://errand.example.com");
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap(),
            json!({
                "type": "job.suspended",
                "timestamp": "2023-11-14T22:13:20Z",
                "data": {
                    "id": "00000000-0000-0000-0000-000000000000",
                    "status": "suspended",
                    "definition": {"namespace": "acme", "name": "n", "version": "1.0.0"},
                    "tags": {"order": "4711"},
                    "suspension": {"reason": "consent_required"},
                    "links": {
                        "self":
                            "https://errand.example.com/v1/jobs/00000000-0000-0000-0000-000000000000"
                    }
                }
            })
        );
    }
}
