//! The calls of one job that are under way: each first gets its token, and a slot where the API limits
//! calls at once, then waits for the record that says it is about to be sent if it needs one, then is sent.
//!
//! Dropping a flight aborts it, and gives its slot back. A refresh that it caused goes on by itself.

use std::{
    future::poll_fn,
    task::{self, Poll},
    time::Duration,
};

use errand_shared::{
    config::DownstreamApi,
    jobs::{CallOutcome, SentCall},
    sessions::{AcquireError, Rejected},
    storage::{ClaimedJob, HeldToken},
    telemetry::child_traceparent,
    workflow::Call,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    Context,
    advance_job::JobClock,
    call_slots::HeldSlot,
    downstream::{self, Sent, Transient},
    leases::HeldLease,
    patience,
};

/// Up to this long a job waits in memory until the API may be called again.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// How long a call waits for a slot of its API with its job in memory.
const SLOT_PATIENCE: Duration = Duration::from_secs(2);

/// And how long as a row before it tries again.
const SLOT_PAUSE: Duration = Duration::from_secs(2);

/// All flights of one job.
pub(crate) struct Flights<'a> {
    job: Job<'a>,
    flights: Vec<Flight<'a>>,
}

/// Whose calls they are.
#[derive(Clone, Copy)]
struct Job<'a> {
    context: &'a Context,
    claimed: &'a ClaimedJob,
    lease: &'a HeldLease,
    clock: JobClock,
}

struct Flight<'a> {
    call: Call,
    api: &'a DownstreamApi,
    stage: Stage<'a>,
}

enum Stage<'a> {
    /// Gets what it needs.
    Preparing(BoxFuture<'a, Result<Prepared, NotSent>>),
    /// May be sent once that is recorded.
    Ready(Prepared),
    Sending {
        began: Instant,
        attempt: u32,
        answer: BoxFuture<'a, Answer>,
    },
}

/// What a call needs before it is sent.
struct Prepared {
    token: HeldToken,
    /// None where the API has no limit.
    slot: Option<HeldSlot>,
}

/// Why a call is not sent now.
pub(crate) enum NotSent {
    /// There is no token for it.
    NoToken(AcquireError),
    /// The API asked for patience with this user, or has no slot free: not for so long.
    Held(Duration),
}

impl From<AcquireError> for NotSent {
    fn from(error: AcquireError) -> Self {
        Self::NoToken(error)
    }
}

/// What became of a flight.
pub(crate) struct Landed<'a> {
    pub(crate) call: Call,
    pub(crate) api: &'a DownstreamApi,
    pub(crate) result: Result<Answer, NotSent>,
}

/// What a call that was sent came to.
pub(crate) struct Answer {
    /// For the audit: two, if a 401 was answered with another token.
    pub(crate) sent: Vec<SentCall>,
    /// An error if there is no other token after a 401.
    pub(crate) result: Result<Sent, AcquireError>,
}

impl<'a> Flights<'a> {
    pub(crate) fn new(
        context: &'a Context,
        claimed: &'a ClaimedJob,
        lease: &'a HeldLease,
        clock: JobClock,
    ) -> Self {
        Self { job: Job { context, claimed, lease, clock }, flights: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    pub(crate) fn contains(&self, call: &Call) -> bool {
        self.flights.iter().any(|flight| flight.call.id == call.id)
    }

    /// Aborts what is not among `wanted`; returns what of it was under way.
    pub(crate) fn abort_others(&mut self, wanted: &[Call]) -> Vec<SentCall> {
        let unwanted = self
            .flights
            .extract_if(.., |flight| !wanted.iter().any(|call| call.id == flight.call.id));
        let aborted = unwanted.filter_map(|Flight { call, api, stage }| match stage {
            Stage::Sending { began, attempt, .. } => {
                let outcome = (CallOutcome::Aborted, None);
                Some(sent_call(&call, api, attempt, self.job.clock, began, outcome))
            }
            Stage::Preparing(_) | Stage::Ready(_) => None,
        });
        aborted.collect()
    }

    /// Begins with what `call` needs.
    pub(crate) fn begin(&mut self, call: Call, api: &'a DownstreamApi) {
        let stage = Stage::Preparing(self.job.prepare(api).boxed());
        self.flights.push(Flight { call, api, stage });
    }

    /// The calls that have what they need and wait to be sent.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Call> {
        let ready = |flight: &&Flight| matches!(flight.stage, Stage::Ready(_));
        self.flights.iter().filter(ready).map(|flight| &flight.call)
    }

    /// Sends them; `attempt` says which try of a call it is.
    pub(crate) fn send_ready(&mut self, attempt: impl Fn(&Call) -> u32) {
        let job = self.job;
        let ready = self.flights.extract_if(.., |flight| matches!(flight.stage, Stage::Ready(_)));
        let sending = ready.filter_map(|Flight { call, api, stage }| {
            let Stage::Ready(prepared) = stage else { return None };
            let (began, attempt) = (Instant::now(), attempt(&call));
            let answer = job.send(call.clone(), api, prepared, attempt).boxed();
            Some(Flight { call, api, stage: Stage::Sending { began, attempt, answer } })
        });
        let sending: Vec<_> = sending.collect();
        self.flights.extend(sending);
    }

    /// Returns when one has landed, or (none) is ready to be sent or was let go: a worker that stops
    /// waits for no slot.
    ///
    /// Never if there is none. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Landed<'a>> {
        poll_fn(|context| self.poll(context)).await
    }

    /// The same, of those that have landed by now.
    pub(crate) fn next_now(&mut self) -> Option<Landed<'a>> {
        loop {
            match self.next().now_or_never() {
                Some(None) => {}
                Some(landed) => return landed,
                None => return None,
            }
        }
    }

    fn poll(&mut self, context: &mut task::Context<'_>) -> Poll<Option<Landed<'a>>> {
        let stopping = self.job.context.stopping.is_cancelled();
        for at in 0..self.flights.len() {
            let flight = &mut self.flights[at];
            let result = match &mut flight.stage {
                Stage::Ready(_) => continue,
                Stage::Preparing(prepared) => match prepared.poll_unpin(context) {
                    Poll::Pending if flight.api.max_concurrency.is_some() && stopping => {
                        self.flights.remove(at);
                        return Poll::Ready(None);
                    }
                    Poll::Pending => continue,
                    Poll::Ready(Ok(prepared)) => {
                        flight.stage = Stage::Ready(prepared);
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Err(not_sent)) => Err(not_sent),
                },
                Stage::Sending { answer, .. } => match answer.poll_unpin(context) {
                    Poll::Pending => continue,
                    Poll::Ready(answer) => Ok(answer),
                },
            };
            let Flight { call, api, .. } = self.flights.remove(at);
            return Poll::Ready(Some(Landed { call, api, result }));
        }
        Poll::Pending
    }
}

impl<'a> Job<'a> {
    async fn prepare(self, api: &'a DownstreamApi) -> Result<Prepared, NotSent> {
        self.be_patient(api).await?;
        // Before the slot: whoever has no token is not to keep others waiting.
        let token = self.acquire_token(api, None).await?;
        // Not for ever: the job's place in the worker may be all that others need.
        let slot = tokio::time::timeout(SLOT_PATIENCE, self.context.call_slots.take(api)).await;
        let slot = slot.map_err(|_| NotSent::Held(patience::spread(SLOT_PAUSE)))?;
        let Some(slot) = slot else { return Ok(Prepared { token, slot: None }) };
        // That may have taken long.
        self.be_patient(api).await?;
        let token = self.acquire_token(api, None).await?;
        Ok(Prepared { token, slot: Some(slot) })
    }

    /// Returns once the API may be called again for this user, if that is soon.
    async fn be_patient(self, api: &DownstreamApi) -> Result<(), NotSent> {
        let owner = &self.claimed.lease.owner;
        while let Some(left) = self.context.patience.left(owner, &api.name, Instant::now()) {
            if left > SHORT_PATIENCE {
                tracing::info!(api = api.name, ?left, "the API asked for patience with this user");
                return Err(NotSent::Held(patience::spread(left)));
            }
            tokio::time::sleep(left).await;
        }
        Ok(())
    }

    async fn acquire_token(
        self,
        api: &'a DownstreamApi,
        rejected: Option<Rejected>,
    ) -> Result<HeldToken, AcquireError> {
        // A document that names an API was given a session at submission.
        let session = self.claimed.session.ok_or(AcquireError::Permanent)?;
        let owner = &self.claimed.lease.owner;
        self.context.sessions.acquire_token(session, owner, api, rejected).await
    }

    async fn send(
        self,
        call: Call,
        api: &'a DownstreamApi,
        Prepared { token, mut slot }: Prepared,
        attempt: u32,
    ) -> Answer {
        let mut sent = Vec::new();
        let first = self.send_once(&call, api, &token, &mut slot, attempt, &mut sent).await;
        let Sent::Unauthorized(_, claims) = first else {
            return Answer { sent, result: Ok(first) };
        };
        // Refused before it was processed: once more with another token, whatever the method.
        let rejected = Rejected { access_token: token.access_token, claims };
        let token = match self.acquire_token(api, Some(rejected)).await {
            Ok(token) => token,
            Err(error) => return Answer { sent, result: Err(error) },
        };
        let result = match self.send_once(&call, api, &token, &mut slot, attempt, &mut sent).await {
            Sent::Unauthorized(response, _) if self.context.sessions.is_over(&token) => {
                Sent::too_late(response)
            }
            second => second,
        };
        Answer { sent, result: Ok(result) }
    }

    async fn send_once(
        self,
        call: &Call,
        api: &DownstreamApi,
        token: &HeldToken,
        slot: &mut Option<HeldSlot>,
        attempt: u32,
        sent: &mut Vec<SentCall>,
    ) -> Sent {
        let key = format!("{}.{}", self.claimed.lease.job_id, call.id);
        let traceparent = child_traceparent(Some(&self.claimed.traceparent));
        // A worker that stood still since the record is not to send what another one is at.
        self.lease.assure().await;
        if let Some(slot) = slot {
            slot.assure(api).await;
            self.lease.assure().await;
        }
        let (http, now) = (&self.context.http, self.clock.now());
        let began = Instant::now();
        let result =
            downstream::send(http, api, call, &token.access_token, &key, &traceparent, now).await;
        if let Sent::Transient(Transient { retry_after: Some(length), .. }) = &result {
            let until = Instant::now() + *length;
            self.context.patience.ask(&self.claimed.lease.owner, &api.name, until);
        }
        if let Some(outcome) = result.outcome() {
            sent.push(sent_call(call, api, attempt, self.clock, began, outcome));
        }
        result
    }
}

/// What the audit says of a call that was sent at `began`, or may have been.
pub(crate) fn sent_call(
    call: &Call,
    api: &DownstreamApi,
    attempt: u32,
    clock: JobClock,
    began: Instant,
    (outcome, status): (CallOutcome, Option<u16>),
) -> SentCall {
    let duration = began.elapsed();
    let path = call.path.split_once('?').map_or(call.path.as_str(), |(path, _)| path);
    SentCall {
        task: call.task.clone(),
        api: call.api.clone(),
        scopes: api.scopes.clone(),
        method: call.method.clone(),
        path: path.to_owned(),
        attempt,
        at: clock.now() - duration,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        outcome,
        status,
    }
}
