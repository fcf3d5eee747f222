//! The calls of one job that are under way: each first gets its token, then waits for the record that
//! says it is about to be sent, then is sent.
//!
//! Dropping a flight aborts it. A refresh that it caused goes on by itself.

use std::{
    future::poll_fn,
    task::{Context as TaskContext, Poll},
};

use errand_shared::{
    config::DownstreamApi,
    identity::AccessToken,
    jobs::{CallOutcome, SentCall},
    sessions::{AcquireError, Rejected},
    storage::ClaimedJob,
    telemetry::child_traceparent,
    time::Timestamp,
    workflow::Call,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    Context,
    downstream::{self, Sent},
};

/// All flights of one job.
pub(crate) struct Flights<'a> {
    context: &'a Context,
    job: &'a ClaimedJob,
    flights: Vec<Flight<'a>>,
}

struct Flight<'a> {
    call: Call,
    api: &'a DownstreamApi,
    stage: Stage<'a>,
}

enum Stage<'a> {
    Acquiring(BoxFuture<'a, Result<AccessToken, AcquireError>>),
    /// Has its token and may be sent once that is recorded.
    Ready(AccessToken),
    Sending {
        began: Instant,
        attempt: u32,
        answer: BoxFuture<'a, Answer>,
    },
}

/// What became of a flight.
pub(crate) struct Landed<'a> {
    pub(crate) call: Call,
    pub(crate) api: &'a DownstreamApi,
    pub(crate) result: Result<Answer, AcquireError>,
}

/// What a call that was sent came to.
pub(crate) struct Answer {
    /// For the audit: two, if a 401 was answered with another token.
    pub(crate) sent: Vec<SentCall>,
    /// An error if there is no other token after a 401.
    pub(crate) result: Result<Sent, AcquireError>,
}

impl<'a> Flights<'a> {
    pub(crate) fn new(context: &'a Context, job: &'a ClaimedJob) -> Self {
        Self { context, job, flights: Vec::new() }
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
        unwanted
            .filter_map(|flight| {
                let Stage::Sending { began, attempt, .. } = flight.stage else { return None };
                let outcome = (CallOutcome::Aborted, None);
                Some(sent_call(&flight.call, flight.api, attempt, began, began.into(), outcome))
            })
            .collect()
    }

    /// Begins with the token for `call`.
    pub(crate) fn begin(&mut self, call: Call, api: &'a DownstreamApi) {
        let stage = Stage::Acquiring(acquire_token(self.context, self.job, api, None).boxed());
        self.flights.push(Flight { call, api, stage });
    }

    /// The calls that have a token and wait to be sent.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Call> {
        let ready = |flight: &&Flight| matches!(flight.stage, Stage::Ready(_));
        self.flights.iter().filter(ready).map(|flight| &flight.call)
    }

    /// Sends them; `attempt` says which try of a call it is.
    pub(crate) fn send_ready(&mut self, now: Timestamp, attempt: impl Fn(&Call) -> u32) {
        for flight in &mut self.flights {
            let Stage::Ready(token) = &flight.stage else { continue };
            let attempt = attempt(&flight.call);
            let (context, job, api) = (self.context, self.job, flight.api);
            let exchange =
                Exchange { context, job, call: flight.call.clone(), api, attempt, began_at: now };
            let began = Instant::now();
            let answer = exchange.run(token.clone()).boxed();
            flight.stage = Stage::Sending { began, attempt, answer };
        }
    }

    /// Returns when one has landed, or is ready to be sent (none).
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

    fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<Option<Landed<'a>>> {
        for at in 0..self.flights.len() {
            let flight = &mut self.flights[at];
            let result = match &mut flight.stage {
                Stage::Ready(_) => continue,
                Stage::Acquiring(token) => match token.poll_unpin(context) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok(token)) => {
                        flight.stage = Stage::Ready(token);
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Err(error)) => Err(error),
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
