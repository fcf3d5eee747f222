//! The jobs, and the users to whom they belong.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fastrand::Rng;
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Stage,
    downstream::{KEYED, PLAIN},
};
use crate::{canaries, workflows};

/// Submissions at once.
const CLIENTS: usize = 16;

/// Between two looks of users at their jobs.
const LOOK: Duration = Duration::from_secs(1);

/// Of a hundred jobs, so many are cancelled by their users, where that can be done,
const CANCELLED: u8 = 4;

/// and so many have strangers try to see and to resume them.
const VISITED: u8 = 5;

/// A job that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    pub(crate) id: Uuid,
    pub(crate) number: usize,
    pub(crate) user: String,
    /// Its calls in order, by task: the method, and whether the API honours keys.
    pub(crate) calls: Vec<PlannedCall>,
    /// Its user asked for it; the answer may have been lost.
    pub(crate) may_be_cancelled: bool,
    /// Its user was told so.
    pub(crate) is_cancelled: bool,
    /// Strangers who got anything but 404.
    pub(crate) strangers: usize,
}

/// A call of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedCall {
    pub(crate) task: &'static str,
    pub(crate) method: &'static str,
    pub(crate) is_keyed: bool,
}

const fn call(task: &'static str, method: &'static str, is_keyed: bool) -> PlannedCall {
    PlannedCall { task, method, is_keyed }
}

/// The three kinds of jobs: what each calls, with a timer between two calls.
const KINDS: [&[PlannedCall]; 3] = [
    &[call("get", "get", true), call("put", "put", true), call("post", "post", true)],
    &[call("get", "get", true), call("mail", "post", false)],
    &[
        call("get", "get", true),
        call("put", "put", true),
        call("post", "post", true),
        call("again", "get", true),
        call("last", "put", true),
    ],
];

/// A document of these calls, each with the number that the one before it brought, and timers of up to
/// `pause` between them.
pub(crate) fn document(
    user: &str,
    number: usize,
    calls: &[PlannedCall],
    random: &mut Rng,
    pause: std::ops::Range<u64>,
) -> Value {
    let mut tasks = Vec::new();
    for (index, planned) in calls.iter().enumerate() {
        if index > 0 {
            let milliseconds = random.u64(pause.clone());
            let wait = json!({ "wait": { "milliseconds": milliseconds } });
            tasks.push(json!({ format!("pause{index}"): wait }));
        }
        let api = if planned.is_keyed { KEYED } else { PLAIN };
        let uri = format!("api/{user}/{number}/{}", planned.task);
        let mut with = json!({
            "method": planned.method,
            "endpoint": { "uri": uri, "authentication": { "use": api } },
        });
        if index > 0 && planned.method != "get" {
            with["body"] = json!({ "owner": user, "after": "${ .receipt }" });
        }
        tasks.push(workflows::call(planned.task, &with));
    }
    workflows::document(&tasks.into())
}

/// Submits the planned jobs, spread over the planned time; returns what was acknowledged.
pub(crate) async fn submit_all(stage: &Stage) -> Vec<Acknowledged> {
    let began = Instant::now();
    let length = stage.plan.length.mul_f64(0.95);
    let jobs = u32::try_from(stage.plan.jobs).unwrap_or(u32::MAX);
    let submissions = (0..jobs).map(async |number| {
        tokio::time::sleep_until(began + length * number / jobs).await;
        submit(stage, number as usize).await
    });
    stream::iter(submissions).buffer_unordered(CLIENTS).collect().await
}

async fn submit(stage: &Stage, number: usize) -> Acknowledged {
    let mut random = stage.plan.random(&format!("job {number}"));
    let user = format!("user-{}", random.usize(..stage.plan.users));
    let calls = KINDS[random.usize(..KINDS.len())];
    let definition = document(&user, number, calls, &mut random, 200..2_000);
    let submission = json!({
        "definition": definition,
        "input": { "text": canaries::INPUT },
        "session_key": format!("key-{}", random.u8(..2)),
        "tags": { "chaos": number.to_string() },
    });
    let (client, simulator) = (&stage.client, &stage.app.simulator);
    let key = format!("submission-{number}");
    let body = Some((&submission, key.as_str()));
    let answer = client.insist(simulator, &user, Method::POST, "/v1/jobs", body).await;
    assert_eq!(answer.status, 202, "a good submission: {}", answer.body);
    let id = answer.body["id"].as_str().and_then(|id| id.parse().ok());
    let id = id.expect("an acknowledged job has an id");

    let chance = random.u8(..100);
    let mut job = Acknowledged {
        id,
        number,
        user,
        calls: calls.to_vec(),
        may_be_cancelled: chance < CANCELLED,
        is_cancelled: false,
        strangers: 0,
    };
    if chance < CANCELLED {
        tokio::time::sleep(Duration::from_millis(random.u64(..2_500))).await;
        let path = format!("/v1/jobs/{id}/cancel");
        let answer = client.insist(simulator, &job.user, Method::POST, &path, None).await;
        job.is_cancelled = answer.status == 202;
    } else if chance < CANCELLED + VISITED {
        for (method, end) in [(Method::GET, ""), (Method::POST, "/resume")] {
            let path = format!("/v1/jobs/{id}{end}");
            let answer = client.insist(simulator, "stranger", method, &path, None).await;
            job.strangers += usize::from(answer.status != 404);
        }
    }
    job
}

/// Users look at their jobs and come back where they are missed; some stop a session by mistake.
pub(crate) async fn users_return(stage: &Stage, finished: &AtomicBool) {
    let mut random = stage.plan.random("users");
    let (client, simulator) = (&stage.client, &stage.app.simulator);
    let mistakes_until = Instant::now() + stage.plan.length;
    while !finished.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
        if Instant::now() < mistakes_until && random.u8(..10) == 0 {
            let user = format!("user-{}", random.usize(..stage.plan.users));
            let path = format!("/v1/sessions/key-{}", random.u8(..2));
            client.send(simulator, &user, Method::DELETE, &path, None).await;
        }
        let suspended: Vec<(Uuid, String)> = stage
            .journal
            .rows(
                "select distinct on (session_id) id, subject from jobs where status = 'suspended'",
                &[],
            )
            .await;
        for (job, subject) in suspended {
            let user = (0..stage.plan.users).map(|number| format!("user-{number}"));
            let Some(user) = user.into_iter().find(|user| is_subject(stage, user, &subject)) else {
                continue;
            };
            // Between the first look and the return there is time for more jobs to be suspended.
            tokio::time::sleep(Duration::from_millis(random.u64(..500))).await;
            client.sign_in_again(simulator, &user);
            let path = format!("/v1/jobs/{job}/resume");
            client.send(simulator, &user, Method::POST, &path, None).await;
        }
    }
}

/// Whether this is the user's `oid`.
fn is_subject(stage: &Stage, user: &str, subject: &str) -> bool {
    let named = errand_simulator::UserTokenRequest::named(user);
    stage.app.simulator.user_claims(&named)["oid"] == subject
}
