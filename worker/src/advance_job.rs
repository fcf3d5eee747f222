//! The heart: what happens to one job between its claim and the record that ends the lease.
//!
//! Step ▸ record ▸ act. The interpreter says what the workflow wants; that is recorded, fenced by
//! the lease, and only then done. So a call's id, and with it its `Idempotency-Key`, is the same
//! after a crash, and a job that waits is nothing but a row.

use std::time::Duration;

use errand_shared::{
    config::DownstreamApi,
    identity::{AccessToken, LastResort},
    jobs::{CallOutcome, SentCall, Suspension},
    sessions::{AcquireError, Rejected},
    storage::{ClaimedJob, Next, Record, StoreError},
    telemetry::{chain, child_traceparent},
    time::Timestamp,
    workflow::{Call, Outcome, Reply, Response, Workflow, WorkflowError, check, step},
};
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    Context,
    claims::Claimed,
    downstream::{self, Sent, Transient},
    retry_delay::retry_delay,
    state::State,
};

/// Throttles of one call before it counts as failed: patience, but not for ever.
const MAX_THROTTLES: u32 = 1_000;

/// How long a job is held that only an operator can help, before it is tried again.
const OPERATOR_PAUSE: Duration = Duration::from_mins(1);

/// Bounds of the delay while there is no token to be had.
const TOKEN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// How long a job is left alone for whose expressions the machine was too busy.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// How often a job that only computes is recorded.
const RECORD_LONG_STEPS: Duration = Duration::from_secs(1);

/// A wait shorter than this is announced, because idle workers would look too late.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// How long to try to record before the job is left to the next worker.
const RECORD_PATIENCE: Duration = Duration::from_mins(1);

/// Bounds of the delay between two tries to record.
const RECORD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often an answer of the identity provider that makes no sense is asked for again.
const DOUBTFUL_ANSWERS: u32 = 3;

/// Brings a claimed job to its next record that ends the lease: done, waiting or suspended.
///
/// Never fails: what goes wrong is recorded, or left to whoever claims the job next.
pub(crate) async fn advance_job(context: &Context, claimed: Claimed) {
    let Claimed { job, lease, .. } = &claimed;
    let span = tracing::info_span!(
        "worker.job.advance",
        job.id = %job.lease.job_id,
        job.lease = job.lease.lease_id
    );
    let advance = Advance { context, job, claimed: Instant::now() };
    let advanced = async {
        tokio::select! {
            advanced = advance.run() => advanced,
            () = lease.lost() => Err(StoreError::LeaseLost),
        }
    };
    let advanced = advanced.instrument(span.clone()).await;
    let _entered = span.enter();
    match advanced {
        Ok(()) => claimed.lease.settle(),
        Err(StoreError::LeaseLost) => {
            tracing::warn!("the lease was lost: another worker has the job");
            claimed.lease.settle();
        }
        // The lease is dropped unsettled, and with it the job is given back.
        Err(error) => tracing::warn!("the job could not be recorded: {}", chain(&error)),
    }
}

/// One job on its way.
struct Advance<'a> {
    context: &'a Context,
    job: &'a ClaimedJob,
    claimed: Instant,
}

/// What a call came to.
enum Performed {
    /// The workflow goes on with this.
    Replied(Result<Response, WorkflowError>),
    /// The job goes on another time.
    Postponed(Next),
}

impl Advance<'_> {
    /// The time by the database's clock: a machine whose own is wrong wakes no job early or late.
    fn now(&self) -> Timestamp {
        self.job.claimed_at + self.claimed.elapsed()
    }

    async fn run(&self) -> Result<(), StoreError> {
        let Context { limits, downstream_apis, .. } = self.context;
        let checked = tokio::task::block_in_place(|| {
            check(&self.job.definition, limits, Some(downstream_apis))
        });
        let workflow = match checked {
            Ok(workflow) => workflow,
            Err(problems) => {
                let problem = problems.first().map_or("", |problem| problem.detail.as_str());
                return self.hold(&format!("its document no longer passes: {problem}")).await;
            }
        };
        let mut state = match State::read(self.job) {
            Ok(state) => state,
            Err(error) => return self.hold(&chain(&error)).await,
        };
        let mut replies = Vec::new();
        let mut recorded = Instant::now();
        loop {
            let now = self.now();
            // A step that is interrupted wants the same replies again.
            let kept = if workflow.is_caged() { replies.clone() } else { Vec::new() };
            let outcome = self.step(&workflow, &mut state, std::mem::take(&mut replies), now).await;
            let next = match outcome {
                Outcome::Completed(output) => Next::Complete(output),
                Outcome::Interrupted if kept.is_empty() => Next::Wait { due_at: now + BUSY_PAUSE },
                // A reply may be lost to the world: it is kept here until there is time for it.
                Outcome::Interrupted => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                    replies = kept;
                    continue;
                }
                Outcome::Faulted(error) => Next::Fault(error.into()),
                // A long step that let others run, and nothing to wait for: recorded now and then,
                // so that whoever goes on with it does not begin anew.
                Outcome::Pending { calls, wake: Some(until) }
                    if calls.is_empty()
                        && until <= now
                        && !self.context.stopping.is_cancelled() =>
                {
                    if recorded.elapsed() >= RECORD_LONG_STEPS {
                        self.record(&workflow, &mut state, Next::Continue).await?;
                        recorded = Instant::now();
                    }
                    continue;
                }
                Outcome::Pending { calls, wake } if calls.is_empty() => {
                    Next::Wait { due_at: wake.unwrap_or(self.job.deadline_at) }
                }
                Outcome::Pending { mut calls, .. } => {
                    let call = calls.remove(0);
                    state.turn_to(&call);
                    match self.perform(&workflow, &mut state, &call).await? {
                        Performed::Replied(result) => {
                            replies.push(Reply { call: call.id, result });
                            continue;
                        }
                        Performed::Postponed(next) => next,
                    }
                }
            };
            return self.record(&workflow, &mut state, next).await;
        }
    }

    /// One step, beside the threads that serve everybody, and as long as the job may compute.
    async fn step(
        &self,
        workflow: &Workflow,
        state: &mut State,
        replies: Vec<Reply>,
        now: Timestamp,
    ) -> Outcome {
        let limits = &self.context.limits;
        if now >= self.job.deadline_at {
            return Outcome::Faulted(WorkflowError::timeout("the job's deadline is over"));
        }
        if state.evaluated > limits.evaluation_per_job {
            let most = limits.evaluation_per_job.as_secs();
            let detail = format!("A job may compute for {most} seconds in all.");
            return Outcome::Faulted(WorkflowError::runtime(detail));
        }
        let _turn = self.context.stepping.acquire().await;
        let began = Instant::now();
        let outcome = tokio::task::block_in_place(|| {
            // No document can ask for jitter yet.
            step(
                workflow,
                limits,
                &self.context.cages,
                &mut state.checkpoint,
                replies,
                now,
                &mut || 0.0,
            )
        });
        // That it waited for others is not the job's doing.
        if outcome != Outcome::Interrupted {
            state.evaluated += began.elapsed();
        }
        outcome
    }

    /// Sends the call the workflow wants, if there is a token for it.
    async fn perform(
        &self,
        workflow: &Workflow,
        state: &mut State,
        call: &Call,
    ) -> Result<Performed, StoreError> {
        let Some(api) = self.context.downstream_apis.get(&call.api) else {
            return Ok(self.wait_for_operator(&format!("`{}` is not configured", call.api)));
        };
        let attempts = state.call.attempts;
        if state.call.was_interrupted() {
            let outcome = (CallOutcome::Interrupted, None);
            state.sent.push(self.sent_call(call, api, attempts, Instant::now(), outcome));
            if !downstream::may_be_repeated(call, api) {
                return Ok(Performed::Replied(Err(WorkflowError::outcome_unknown())));
            }
        }
        if self.context.stopping.is_cancelled() {
            return Ok(Performed::Postponed(Next::Wait { due_at: self.now() }));
        }
        let token = match self.acquire_token(api, None).await {
            Ok(token) => token,
            Err(error) => return Ok(self.without_token(state, call, api, error)),
        };
        state.call.begin();
        self.record(workflow, state, Next::Continue).await?;
        let mut sent = self.send(state, call, api, &token).await;
        if let Some(Sent::Unauthorized(_, claims)) = sent {
            // Refused before it was processed: once more with another token, whatever the method.
            match self.acquire_token(api, Some(Rejected { access_token: token, claims })).await {
                Ok(token) => sent = self.send(state, call, api, &token).await,
                Err(error) => {
                    state.call.undo();
                    return Ok(self.without_token(state, call, api, error));
                }
            }
        }
        Ok(match sent {
            None => Performed::Postponed(Next::Fault(
                WorkflowError::timeout("the job's deadline was over before the API answered")
                    .into(),
            )),
            Some(Sent::Final(response) | Sent::Unauthorized(response, _)) => {
                Performed::Replied(Ok(response))
            }
            Some(Sent::Unusable(_, error) | Sent::Refused(error)) => Performed::Replied(Err(error)),
            Some(Sent::Transient(transient)) => self.try_again(state, call, api, transient),
        })
    }

    async fn acquire_token(
        &self,
        api: &DownstreamApi,
        rejected: Option<Rejected>,
    ) -> Result<AccessToken, AcquireError> {
        // A document that names an API was given a session at submission.
        let session_id = self.job.session_id.ok_or(AcquireError::Permanent)?;
        let owner = &self.job.lease.owner;
        self.context.sessions.acquire_token(session_id, owner, api, rejected).await
    }

    /// None if the deadline came first.
    async fn send(
        &self,
        state: &mut State,
        call: &Call,
        api: &DownstreamApi,
        token: &AccessToken,
    ) -> Option<Sent> {
        let key = format!("{}.{}", self.job.lease.job_id, call.id);
        let traceparent = child_traceparent(Some(&self.job.traceparent));
        let now = self.now();
        let sending =
            downstream::send(&self.context.http, api, call, token, &key, &traceparent, now);
        let began = Instant::now();
        let sent = tokio::time::timeout(self.job.deadline_at.since(now), sending).await.ok();
        let given_up = Some((CallOutcome::TimedOut, None));
        if let Some(outcome) = sent.as_ref().map_or(given_up, Sent::outcome) {
            let attempt = state.call.attempts;
            state.sent.push(self.sent_call(call, api, attempt, began, outcome));
        }
        sent
    }

    /// What the audit says of a call that was sent at `began`, or may have been.
    fn sent_call(
        &self,
        call: &Call,
        api: &DownstreamApi,
        attempt: u32,
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
            at: self.now() - duration,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            outcome,
            status,
        }
    }

    /// Postpones the call after a failure that may pass, or lets the workflow have it.
    fn try_again(
        &self,
        state: &mut State,
        call: &Call,
        api: &DownstreamApi,
        transient: Transient,
    ) -> Performed {
        if transient.maybe_processed && !downstream::may_be_repeated(call, api) {
            return Performed::Replied(Err(WorkflowError::outcome_unknown()));
        }
        let (failures, most) = if transient.throttled {
            state.call.throttle();
            (state.call.throttles, MAX_THROTTLES)
        } else {
            state.call.fail();
            (state.call.attempts, api.retry.max_attempts)
        };
        if failures >= most {
            return Performed::Replied(transient.last);
        }
        let delay = retry_delay(api.retry.initial, api.retry.max, failures)
            .max(transient.retry_after.unwrap_or_default());
        tracing::info!(task.reference = call.task, failures, ?delay, "a call is sent again later");
        Performed::Postponed(Next::Retry { due_at: self.now() + delay })
    }

    /// Draws the consequence of having no token: none of them burns an attempt.
    fn without_token(
        &self,
        state: &mut State,
        call: &Call,
        api: &DownstreamApi,
        error: AcquireError,
    ) -> Performed {
        let permanent = || {
            let error = WorkflowError::authentication("the identity provider issues no token");
            Performed::Replied(Err(error))
        };
        match error {
            AcquireError::Suspend { reason, claims, session_version } => {
                tracing::info!(reason = reason.as_str(), "suspended until the user returns");
                let tenant = &self.job.lease.owner.tenant;
                let identity = &self.context.identity;
                let suspension = Suspension::new(reason, claims, identity, tenant, &call.api, api);
                Performed::Postponed(Next::Suspend { suspension, session_version })
            }
            AcquireError::Unavailable { after } => {
                self.wait_for_token(state, after.unwrap_or_default())
            }
            AcquireError::Doubtful { .. } if state.call.token_failures < DOUBTFUL_ANSWERS => {
                self.wait_for_token(state, OPERATOR_PAUSE)
            }
            AcquireError::Operator | AcquireError::Doubtful { then: LastResort::Operator } => {
                self.wait_for_operator(&error.to_string())
            }
            AcquireError::Permanent | AcquireError::Doubtful { then: LastResort::Permanent } => {
                permanent()
            }
            AcquireError::Store(StoreError::Undecryptable { .. }) => {
                self.wait_for_operator(&chain(&error))
            }
            AcquireError::Store(_) => self.wait_for_token(state, Duration::ZERO),
        }
    }

    fn wait_for_token(&self, state: &mut State, at_least: Duration) -> Performed {
        state.call.token_failures += 1;
        let delay = retry_delay(TOKEN_PAUSE.0, TOKEN_PAUSE.1, state.call.token_failures);
        Performed::Postponed(Next::Wait { due_at: self.now() + delay.max(at_least) })
    }

    fn wait_for_operator(&self, why: &str) -> Performed {
        tracing::error!("the job waits for the operator: {why}");
        Performed::Postponed(Next::Wait { due_at: self.now() + OPERATOR_PAUSE })
    }

    /// Gives the job back unchanged: it cannot even be read.
    async fn hold(&self, why: &str) -> Result<(), StoreError> {
        tracing::error!("the job waits for the operator: {why}");
        self.context.store.hold(&self.job.lease, OPERATOR_PAUSE).await
    }

    async fn record(
        &self,
        workflow: &Workflow,
        state: &mut State,
        next: Next,
    ) -> Result<(), StoreError> {
        let next = match next {
            Next::Wait { due_at } => Next::Wait { due_at: due_at.min(self.job.deadline_at) },
            Next::Retry { due_at } => Next::Retry { due_at: due_at.min(self.job.deadline_at) },
            next => next,
        };
        let record = Record {
            checkpoint: state.to_bytes(),
            progress: state.checkpoint.progress(workflow),
            attempts: state.call.attempts,
            throttles: state.call.throttles,
            calls: std::mem::take(&mut state.sent),
            next,
        };
        self.record_patiently(&record).await?;
        if let Next::Wait { due_at } | Next::Retry { due_at } = record.next
            && due_at.since(self.now()) < SHORT_WAIT
        {
            self.context.store.announce();
        }
        Ok(())
    }

    /// What a call came to is not thrown away because the database is being restarted. Recording
    /// again is safe: the lease fences it.
    async fn record_patiently(&self, record: &Record) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut failures = 0;
        loop {
            match self.context.store.record(&self.job.lease, record).await {
                Err(StoreError::Database(error)) if began.elapsed() < RECORD_PATIENCE => {
                    failures += 1;
                    let pause = retry_delay(RECORD_PAUSE.0, RECORD_PAUSE.1, failures);
                    tracing::warn!("not recorded, next try in {pause:?}: {error}");
                    tokio::time::sleep(pause).await;
                }
                recorded => return recorded,
            }
        }
    }
}
