//! The heart: what happens to one job between its claim and the record that ends the lease.
//!
//! Step ▸ record ▸ act. The interpreter says what the workflow wants; that is recorded, fenced by
//! the lease, and only then done. So a call's id, and with it its `Idempotency-Key`, is the same
//! after a crash, and a job that waits is nothing but a row. A call that only reads is done first and
//! recorded with its answer, where nothing is lost by it (`docs/decisions/0020-reading-first.md`).
//!
//! A workflow may want several calls at once. Each is a flight (`flights.rs`); the job lasts in
//! memory while one is under way, and steps whenever one has landed or a time has come.

use std::{mem, pin::pin, sync::Arc, time::Duration};

use errand_shared::{
    config::DownstreamApi,
    identity::LastResort,
    jobs::{CallOutcome, EventKind, SentCall, Suspension},
    sessions::AcquireError,
    storage::{ClaimedJob, Lease, Next, Record, StoreError},
    telemetry::chain,
    time::Timestamp,
    workflow::{
        Call, Happened, Outcome, Reply, Response, TaskEvent, Workflow, WorkflowError, bytes, step,
    },
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    Context,
    claims::Claimed,
    downstream::{self, Sent, Transient},
    flights::{Answer, Flights, Landed, NotSent, sent_call},
    leases::HeldLease,
    recorder::NotRecorded,
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

/// How much data a brief step goes through at most: of the job, and of an answer.
const FEW_BYTES: usize = 16 * 1024;

/// How often a job that only computes is recorded.
const RECORD_LONG_STEPS: Duration = Duration::from_secs(1);

/// How long a call that only reads may be under way before a record tells of it.
const READ_FIRST: Duration = Duration::from_millis(50);

/// A wait shorter than this is announced, because idle workers would look too late.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// How long to try to record before the job is left to the next worker.
const RECORD_PATIENCE: Duration = Duration::from_mins(1);

/// Bounds of the delay between two tries to record.
const RECORD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Workers that a job may cost in a row without getting any further: a crash of its own making must not
/// go on for ever, and a few that it only was beside must not end it.
const MAX_INTERRUPTIONS: u32 = 5;

/// How often an answer of the identity provider that makes no sense is asked for again.
const DOUBTFUL_ANSWERS: u32 = 3;

/// Brings a claimed job to its next record that ends the lease: done, waiting or suspended.
///
/// Never fails: what goes wrong is recorded, or left to whoever claims the job next.
pub(crate) async fn advance_job(context: &Context, claimed: Claimed) {
    let Claimed { job, lease, asked, .. } = &claimed;
    let span = tracing::info_span!(
        "worker.job.advance",
        job.id = %job.lease.job_id,
        job.lease = job.lease.lease_id
    );
    let advanced = async {
        tokio::select! {
            advanced = advance(context, job, lease, *asked) => advanced,
            () = lease.lost() => Err(NotRecorded::LeaseLost),
        }
    };
    let advanced = advanced.instrument(span.clone()).await;
    let _entered = span.enter();
    match advanced {
        Ok(()) => claimed.lease.settle(),
        Err(NotRecorded::LeaseLost) => {
            tracing::warn!("the lease was lost: another worker has the job, or nobody any more");
            claimed.lease.settle();
        }
        // The lease is dropped unsettled, and with it the job is given back.
        Err(error) => tracing::warn!("the job could not be recorded: {}", chain(&error)),
    }
}

async fn advance(
    context: &Context,
    job: &ClaimedJob,
    lease: &HeldLease,
    asked: Instant,
) -> Result<(), NotRecorded> {
    let workflow = match context.workflows.get(&job.definition) {
        Ok(workflow) => workflow,
        Err(why) => return hold(context, job, &why).await,
    };
    let state = match State::read(job, &workflow) {
        Ok(state) => state,
        Err(error) => return hold(context, job, &chain(&error)).await,
    };
    let clock = JobClock { claimed_at: job.claimed_at, claimed: Instant::now() };
    let mut job = Advance {
        context,
        job,
        clock,
        workflow: &workflow.workflow,
        is_brief: workflow.workflow.is_brief() && has_few_bytes(job),
        state,
        flights: Flights::new(context, job, lease, clock),
        suspending: None,
        sent: Vec::new(),
        events: Vec::new(),
        recorded: asked,
        has_landed: false,
        owed: None,
    };
    if job.job.interruptions >= MAX_INTERRUPTIONS {
        let error = WorkflowError::interrupted(job.job.interruptions);
        tracing::error!("the job is given up: {MAX_INTERRUPTIONS} workers in a row ended with it");
        return job.end(Next::Fault(error.into())).await;
    }
    job.run().await
}

fn has_few_bytes(job: &ClaimedJob) -> bool {
    bytes(&job.input) + job.checkpoint.as_ref().map_or(0, Vec::len) <= FEW_BYTES
}

/// Gives the job back unchanged: it cannot even be read.
async fn hold(context: &Context, job: &ClaimedJob, why: &str) -> Result<(), NotRecorded> {
    tracing::error!("the job waits for the operator: {why}");
    Ok(context.store.hold(&job.lease, OPERATOR_PAUSE).await?)
}

/// The time by the database's clock: a machine whose own is wrong wakes no job early or late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobClock {
    claimed_at: Timestamp,
    claimed: Instant,
}

impl JobClock {
    pub(crate) fn now(self) -> Timestamp {
        self.claimed_at + self.claimed.elapsed()
    }
}

/// One job on its way.
struct Advance<'a> {
    context: &'a Context,
    job: &'a ClaimedJob,
    clock: JobClock,
    workflow: &'a Workflow,
    /// Whether its steps take microseconds.
    is_brief: bool,
    state: State,
    flights: Flights<'a>,
    /// The user must act for this call: what is under way lands, nothing else begins.
    suspending: Option<Suspending>,
    /// Sent since the last record.
    sent: Vec<SentCall>,
    /// To be told with the next record.
    events: Vec<(EventKind, Value)>,
    /// When the last record, or the claim, was asked for: the lease held then or later.
    recorded: Instant,
    /// Whether a call has landed since then.
    has_landed: bool,
    /// When to tell of calls that were sent unrecorded.
    owed: Option<Instant>,
}

struct Suspending {
    call: u64,
    suspension: Suspension,
    session_version: i64,
}

/// What a call came to.
enum Verdict {
    /// The workflow goes on with this.
    Reply(Result<Response, WorkflowError>),
    /// Not before this.
    Postpone(Timestamp),
    /// Not before the user has acted.
    Suspend(Suspension, i64),
}

impl<'a> Advance<'a> {
    async fn run(&mut self) -> Result<(), NotRecorded> {
        let mut replies = Vec::new();
        loop {
            // A step that is interrupted wants the same replies again.
            let kept = if self.workflow.is_caged() { replies.clone() } else { Vec::new() };
            let (calls, wake) = match self.step(mem::take(&mut replies)).await {
                Outcome::Interrupted if kept.is_empty() && self.flights.is_empty() => {
                    return self.rest(self.clock.now() + BUSY_PAUSE).await;
                }
                // A reply may be lost to the world: it is kept here until there is time for it.
                Outcome::Interrupted => {
                    if self.owed.is_some() {
                        self.record(Next::Continue).await?;
                    }
                    tokio::time::sleep(BUSY_PAUSE).await;
                    replies = kept;
                    continue;
                }
                Outcome::Completed(output) => return self.end(Next::Complete(output)).await,
                Outcome::Faulted(error) => return self.end(Next::Fault(error.into())).await,
                Outcome::Pending { calls, wake } => (calls, wake),
            };
            self.turn_to(&calls);
            if self.may_begin() {
                self.begin(&calls, &mut replies);
            }
            while replies.is_empty() {
                while let Some(landed) = self.flights.next_now() {
                    self.land(landed, &mut replies);
                }
                if !replies.is_empty() {
                    break;
                }
                self.send_ready().await?;
                // Anew each time: a call that has just landed may have been put off.
                let until = self.until(&calls, wake);
                let stopping = self.context.stopping.is_cancelled();
                if self.flights.is_empty() && (stopping || self.suspending.is_some()) {
                    return self.rest(self.clock.now()).await;
                }
                if self.clock.now() >= until {
                    self.record_long_steps(&mut replies).await?;
                    break;
                }
                if self.flights.is_empty() {
                    return self.rest(until).await;
                }
                tokio::select! {
                    // Without a value a token has come: a pattern that does not fit would wait on.
                    landed = self.flights.next() => {
                        if let Some(landed) = landed {
                            self.land(landed, &mut replies);
                        }
                    }
                    () = tokio::time::sleep(until.since(self.clock.now())) => {}
                    () = at(self.owed) => self.record_beside_calls(&mut replies).await?,
                    () = self.context.stopping.cancelled(), if !stopping => {}
                }
            }
        }
    }

    /// One step, beside the threads that serve everybody if it may be long, and as long as the job
    /// may compute.
    async fn step(&mut self, replies: Vec<Reply>) -> Outcome {
        let limits = &self.context.limits;
        if self.clock.now() >= self.job.deadline_at {
            return Outcome::Faulted(WorkflowError::timeout("the job's deadline is over"));
        }
        if self.state.evaluated > limits.evaluation_per_job {
            // Whoever lets the job go on gives it the whole time again.
            self.state.evaluated = Duration::ZERO;
            let most = limits.evaluation_per_job.as_secs();
            let detail = format!("A job may compute for {most} seconds in all.");
            return Outcome::Faulted(WorkflowError::runtime(detail));
        }
        let _turn = self.context.stepping.acquire().await;
        let began = Instant::now();
        let (now, checkpoint) = (self.clock.now(), &mut self.state.checkpoint);
        let Context { cages, .. } = self.context;
        let is_small = |reply: &Reply| {
            reply.result.as_ref().map_or(true, |response| response.body.len() <= FEW_BYTES)
        };
        self.is_brief &= replies.iter().all(is_small);
        let step =
            || step(self.workflow, limits, cages, checkpoint, replies, now, &mut fastrand::f64);
        // To wake a thread that serves the others meanwhile takes longer than a brief step.
        let outcome = if self.is_brief { step() } else { tokio::task::block_in_place(step) };
        self.events.extend(told(checkpoint.take_happened()));
        // That it waited for others is not the job's doing.
        if outcome != Outcome::Interrupted {
            self.state.evaluated += began.elapsed();
        }
        outcome
    }

    /// Lets go of what the workflow no longer wants.
    fn turn_to(&mut self, calls: &[Call]) {
        self.sent.extend(self.flights.abort_others(calls));
        if !calls.is_empty() {
            self.state.keep(calls);
        }
        let wanted =
            |suspending: &mut Suspending| calls.iter().any(|call| call.id == suspending.call);
        self.suspending.take_if(|suspending| !wanted(suspending));
    }

    fn may_begin(&self) -> bool {
        self.suspending.is_none() && !self.context.stopping.is_cancelled()
    }

    /// Begins with every call whose time it is.
    fn begin(&mut self, calls: &[Call], replies: &mut Vec<Reply>) {
        let now = self.clock.now();
        for call in calls {
            let state = self.state.call(call);
            if self.flights.contains(call) || state.not_before.is_some_and(|time| now < time) {
                continue;
            }
            let Some(api) = self.context.downstream_apis.get(&call.api) else {
                let why = format!("`{}` is not configured", call.api);
                state.not_before = Some(pause_for_operator(now, &why));
                continue;
            };
            let attempt = state.attempts;
            if state.was_interrupted() {
                let outcome = (CallOutcome::Interrupted, None);
                self.sent.push(sent_call(call, api, attempt, self.clock, Instant::now(), outcome));
                if !downstream::may_be_repeated(call, api) {
                    let result = Err(WorkflowError::outcome_unknown());
                    replies.push(Reply { call: call.id, result });
                    continue;
                }
            }
            self.flights.begin(call.clone(), api);
        }
    }

    /// When to look again, if nothing lands: the workflow's own time, or that of a call.
    fn until(&mut self, calls: &[Call], wake: Option<Timestamp>) -> Timestamp {
        let mut until = wake.map_or(self.job.deadline_at, |wake| wake.min(self.job.deadline_at));
        if self.may_begin() {
            for call in calls.iter().filter(|call| !self.flights.contains(call)) {
                until = until.min(self.state.call(call).not_before.unwrap_or(until));
            }
        }
        until
    }

    /// Records that the calls which have a token are about to be sent, or does so soon, and sends them.
    async fn send_ready(&mut self) -> Result<(), NotRecorded> {
        let ready: Vec<Call> = self.flights.ready().cloned().collect();
        if ready.is_empty() {
            return Ok(());
        }
        for call in &ready {
            self.state.call(call).begin();
        }
        if self.may_read_first(&ready) {
            self.owed.get_or_insert_with(|| Instant::now() + READ_FIRST);
        } else {
            self.record(Next::Continue).await?;
        }
        self.flights.send_ready(|call| self.state.attempt(call));
        Ok(())
    }

    /// Whether calls may be sent before they are recorded: whoever repeated them after a crash would
    /// change nothing and repeat nothing else, no other call goes untold, and the lease was just seen
    /// to hold.
    fn may_read_first(&self, calls: &[Call]) -> bool {
        let only_reads = calls.iter().all(downstream::only_reads);
        let is_all = !self.has_landed && self.sent.is_empty();
        only_reads && is_all && self.recorded.elapsed() < READ_FIRST
    }

    /// Draws the consequence of what became of a call.
    fn land(&mut self, landed: Landed<'a>, replies: &mut Vec<Reply>) {
        let Landed { call, api, result } = landed;
        self.has_landed = true;
        let verdict = match result {
            Err(NotSent::NoToken(error)) => self.without_token(&call, api, error),
            Err(NotSent::Held(length)) => Verdict::Postpone(self.clock.now() + length),
            Ok(Answer { sent, result }) => {
                self.sent.extend(sent);
                match result {
                    Err(error) => {
                        self.state.call(&call).undo();
                        self.without_token(&call, api, error)
                    }
                    Ok(Sent::Final(response) | Sent::Unauthorized(response, _)) => {
                        Verdict::Reply(Ok(response))
                    }
                    Ok(Sent::Unusable(_, error) | Sent::Refused(error)) => {
                        Verdict::Reply(Err(error))
                    }
                    Ok(Sent::Transient(transient)) => self.try_again(&call, api, transient),
                }
            }
        };
        match verdict {
            Verdict::Reply(result) => replies.push(Reply { call: call.id, result }),
            Verdict::Postpone(until) => self.state.call(&call).not_before = Some(until),
            Verdict::Suspend(suspension, session_version) => {
                self.suspending = Some(Suspending { call: call.id, suspension, session_version });
            }
        }
    }

    /// Postpones the call after a failure that may pass, or lets the workflow have it.
    fn try_again(&mut self, call: &Call, api: &DownstreamApi, transient: Transient) -> Verdict {
        if transient.maybe_processed && !downstream::may_be_repeated(call, api) {
            return Verdict::Reply(Err(WorkflowError::outcome_unknown()));
        }
        let state = self.state.call(call);
        let (failures, most) = if transient.throttled {
            state.throttle();
            (state.throttles, MAX_THROTTLES)
        } else {
            state.fail();
            (state.attempts, api.retry.max_attempts)
        };
        if failures >= most {
            return Verdict::Reply(transient.last);
        }
        let delay = retry_delay(api.retry.initial, api.retry.max, failures)
            .max(transient.retry_after.unwrap_or_default());
        tracing::info!(task.reference = call.task, failures, ?delay, "a call is sent again later");
        let until = self.clock.now() + delay;
        let data = json!({ "task": call.task, "until": until.min(self.job.deadline_at) });
        self.events.push((EventKind::CallRetried, data));
        Verdict::Postpone(until)
    }

    /// Draws the consequence of having no token: none of them burns an attempt.
    fn without_token(&mut self, call: &Call, api: &DownstreamApi, error: AcquireError) -> Verdict {
        let now = self.clock.now();
        let failures = &mut self.state.call(call).token_failures;
        let wait = |failures: &mut u32, at_least: Duration| {
            *failures += 1;
            let delay = retry_delay(TOKEN_PAUSE.0, TOKEN_PAUSE.1, *failures);
            Verdict::Postpone(now + delay.max(at_least))
        };
        match error {
            AcquireError::Suspend { reason, claims, session_version } => {
                tracing::info!(reason = reason.as_str(), "suspended until the user returns");
                let tenant = &self.job.lease.owner.tenant;
                let identity = &self.context.identity;
                let suspension = Suspension::new(reason, claims, identity, tenant, &call.api, api);
                Verdict::Suspend(suspension, session_version)
            }
            AcquireError::Unavailable { after } => wait(failures, after.unwrap_or_default()),
            AcquireError::Held { after } => {
                tracing::info!(?after, "token requests are held");
                Verdict::Postpone(now + after)
            }
            AcquireError::Doubtful { .. } if *failures < DOUBTFUL_ANSWERS => {
                wait(failures, OPERATOR_PAUSE)
            }
            AcquireError::Operator | AcquireError::Doubtful { then: LastResort::Operator } => {
                Verdict::Postpone(pause_for_operator(now, &error.to_string()))
            }
            AcquireError::Permanent | AcquireError::Doubtful { then: LastResort::Permanent } => {
                let detail = "the identity provider issues no token";
                Verdict::Reply(Err(WorkflowError::authentication(detail)))
            }
            AcquireError::Store(StoreError::Undecryptable { .. }) => {
                Verdict::Postpone(pause_for_operator(now, &chain(&error)))
            }
            AcquireError::Store(_) => wait(failures, Duration::ZERO),
        }
    }

    /// Ends the lease: nothing is under way, and nothing happens before `until` or the user's return.
    async fn rest(&mut self, until: Timestamp) -> Result<(), NotRecorded> {
        self.state.rest_until(until);
        let next = match self.suspending.take() {
            Some(Suspending { suspension, session_version, .. }) => {
                self.state.checkpoint.pause(self.clock.now());
                Next::Suspend { suspension, session_version }
            }
            None => Next::Wait { due_at: until },
        };
        self.record(next).await?;
        if until.since(self.clock.now()) < SHORT_WAIT {
            self.context.store.announce();
        }
        Ok(())
    }

    /// Ends the job.
    async fn end(&mut self, next: Next) -> Result<(), NotRecorded> {
        self.sent.extend(self.flights.abort_others(&[]));
        self.record(next).await
    }

    /// A job that only computes is recorded now and then, so that whoever goes on with it does not
    /// begin anew.
    async fn record_long_steps(&mut self, replies: &mut Vec<Reply>) -> Result<(), NotRecorded> {
        let is_owed = self.owed.is_some_and(|owed| owed <= Instant::now());
        if is_owed || self.recorded.elapsed() >= RECORD_LONG_STEPS {
            self.record_beside_calls(replies).await?;
        }
        Ok(())
    }

    /// Records while calls are under way, whose answers must not wait for the database to be read.
    async fn record_beside_calls(&mut self, replies: &mut Vec<Reply>) -> Result<(), NotRecorded> {
        let (record, asked) = (self.take_record(Next::Continue), Instant::now());
        let mut landed = Vec::new();
        {
            let mut recording = pin!(record_patiently(self.context, &self.job.lease, &record));
            loop {
                tokio::select! {
                    recorded = &mut recording => break recorded?,
                    next = self.flights.next(), if !self.flights.is_empty() => landed.extend(next),
                }
            }
        }
        self.is_recorded(asked);
        for landed in landed {
            self.land(landed, replies);
        }
        Ok(())
    }

    async fn record(&mut self, next: Next) -> Result<(), NotRecorded> {
        let (record, asked) = (self.take_record(next), Instant::now());
        record_patiently(self.context, &self.job.lease, &record).await?;
        self.is_recorded(asked);
        Ok(())
    }

    fn is_recorded(&mut self, asked: Instant) {
        (self.recorded, self.has_landed, self.owed) = (asked, false, None);
    }

    fn take_record(&mut self, next: Next) -> Arc<Record> {
        let (attempts, throttles) = self.state.tries();
        Arc::new(Record {
            checkpoint: self.state.to_bytes(),
            progress: self.state.checkpoint.progress(self.workflow),
            attempts,
            throttles,
            calls: mem::take(&mut self.sent),
            events: mem::take(&mut self.events),
            next,
        })
    }
}

/// What a call came to is not thrown away because the database is being restarted. Recording again is
/// safe: the lease fences it.
async fn record_patiently(
    context: &Context,
    lease: &Lease,
    record: &Arc<Record>,
) -> Result<(), NotRecorded> {
    let began = Instant::now();
    let mut failures = 0;
    loop {
        match context.recorder.record(lease, record).await {
            Err(NotRecorded::Failed(error)) if began.elapsed() < RECORD_PATIENCE => {
                failures += 1;
                let pause = retry_delay(RECORD_PAUSE.0, RECORD_PAUSE.1, failures);
                tracing::warn!("not recorded, next try in {pause:?}: {error}");
                tokio::time::sleep(pause).await;
            }
            recorded => return recorded,
        }
    }
}

/// What the owner is told of a step: that a task began only if it did not end in the same step.
fn told(happened: Vec<Happened>) -> impl Iterator<Item = (EventKind, Value)> {
    let mut told: Vec<Happened> = Vec::with_capacity(happened.len());
    for next in happened {
        if let Some(last) = told.last_mut()
            && last.what == TaskEvent::Started
            && next.what != TaskEvent::Started
            && last.task == next.task
        {
            *last = next;
        } else {
            told.push(next);
        }
    }
    told.into_iter().map(|Happened { what, task }| {
        let kind = match what {
            TaskEvent::Started => EventKind::TaskStarted,
            TaskEvent::Completed => EventKind::TaskCompleted,
            TaskEvent::Retried => EventKind::TaskRetried,
            TaskEvent::Faulted => EventKind::TaskFaulted,
        };
        (kind, json!({ "task": task }))
    })
}

/// Returns then; never without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn pause_for_operator(now: Timestamp, why: &str) -> Timestamp {
    tracing::error!("the job waits for the operator: {why}");
    now + OPERATOR_PAUSE
}
