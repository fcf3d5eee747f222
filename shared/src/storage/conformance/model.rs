//! A small model of the queue and of the sessions, and what a client of the store knows of them.
//!
//! The model is told each operation with what it came to, and says whether that can be. Times are
//! whole minutes: a case takes seconds, so the two clocks agree however busy the machine is.

use serde_json::Value;

use super::*;
use crate::time::{Clock, SystemClock};

/// Sessions there can be: each user with each key.
pub(super) const SESSIONS: usize = 4;

/// What is asked of the store, with all that a client has to know for it.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    Submit { user: usize, acting: Acting },
    Claim { worker: Uuid, limit: usize, minutes: i64 },
    Renew { worker: Uuid, jobs: Vec<Uuid>, minutes: i64 },
    Record { lease: Lease, number: u32, next: NextKind },
    Rescue,
    Release { worker: Uuid },
    Interrupt { lease: Lease },
    Hold { lease: Lease, minutes: i64 },
    ReplaceGrant { session: usize, number: u32 },
    Stop { session: usize },
    BeginRefresh { session: usize, id: Uuid, version: i64, minutes: i64 },
    FinishRefresh { start: Start, number: u32, rotates: bool },
    AbandonRefresh { start: Start, unanswered: bool },
    EndGrant { session: usize, id: Uuid, version: i64, keeps: bool },
    Cancel { id: Uuid, user: usize },
    Retry { id: Uuid, user: usize },
    Delete { id: Uuid, user: usize },
    Pass { minutes: i64 },
}

/// The grant of a submission.
#[derive(Debug, Clone)]
pub(super) enum Acting {
    Alone,
    Known { session: usize, id: Uuid },
    New { session: usize, number: u32 },
}

/// What a record says of the next thing.
#[derive(Debug, Clone, Copy)]
pub(super) enum NextKind {
    Continue,
    Wait { minutes: i64 },
    Suspend { version: i64 },
    Complete,
    Fault,
}

/// A refresh that was begun.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) session: usize,
    pub(super) id: Uuid,
    pub(super) version: i64,
    pub(super) refresher: Uuid,
}

/// What an operation came to.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Submitted(Option<Uuid>),
    Claimed(Vec<(Lease, Option<Vec<u8>>)>),
    Renewed(Vec<Renewed>),
    Count(u64),
    Written(bool),
    Stopped(Option<Vec<String>>),
    Begun(Option<(Start, String)>),
    Changed(Change),
    Done,
}

/// A fence's value, which only the store knows once it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    Seen(i64),
    GreaterThan(i64),
}

impl Fence {
    fn grow(&mut self) {
        if let Self::Seen(value) = *self {
            *self = Self::GreaterThan(value);
        }
    }

    fn see(&mut self, value: i64) -> Result<(), String> {
        let fits = match *self {
            Self::Seen(before) => value == before,
            Self::GreaterThan(before) => value > before,
        };
        if !fits {
            return Err(format!("is {value}, expected {self:?}"));
        }
        *self = Self::Seen(value);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    /// In minutes since it began.
    now: i64,
    pub(super) jobs: Vec<ModelJob>,
    sessions: [Option<ModelSession>; SESSIONS],
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelJob {
    pub(super) id: Uuid,
    pub(super) user: usize,
    session: Option<usize>,
    status: JobStatus,
    revision: Fence,
    lease_id: i64,
    worker: Option<Uuid>,
    lease_until: Option<i64>,
    due_at: Option<i64>,
    deadline_at: i64,
    attempts: u32,
    checkpoint: Option<Vec<u8>>,
    output: Option<Value>,
    error: Option<Value>,
    is_explained: bool,
    events: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct ModelSession {
    state: SessionState,
    version: Fence,
    grant: Fence,
    refresh_token: Option<String>,
    access_token: Option<String>,
    presented: u32,
    refresher: Option<(Uuid, i64)>,
}

/// The store's own view of a job and of a session, for comparison.
pub(super) struct Seen {
    pub(super) jobs: Vec<(Job, Vec<String>)>,
    pub(super) sessions: Vec<Option<HeldGrant>>,
    pub(super) next_due: Option<Duration>,
}

macro_rules! expect {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

impl Model {
    pub(super) fn new() -> Self {
        Self { now: 0, jobs: Vec::new(), sessions: [const { None }; SESSIONS] }
    }

    /// Changes as the operation does; an error if it cannot have come to this.
    ///
    /// `beside_another`: rows that the other one has locked are passed over by a claim.
    #[expect(clippy::too_many_lines, reason = "all operations, in one list")]
    pub(super) fn follow(
        &mut self,
        operation: &Operation,
        outcome: &Outcome,
        beside_another: bool,
    ) -> Result<(), String> {
        match (operation, outcome) {
            (Operation::Submit { user, acting }, Outcome::Submitted(created)) => {
                self.submit(*user, acting, *created)
            }
            (Operation::Claim { worker, limit, minutes }, Outcome::Claimed(claimed)) => {
                self.claim(*worker, *limit, *minutes, claimed, beside_another)
            }
            (Operation::Renew { worker, jobs, minutes }, Outcome::Renewed(renewed)) => {
                let until = self.now + minutes;
                let mut expected = Vec::new();
                for job in &mut self.jobs {
                    if job.worker == Some(*worker) && jobs.contains(&job.id) {
                        job.lease_until = Some(until);
                        expected.push(Renewed { job_id: job.id, lease_id: job.lease_id });
                    }
                }
                let mut renewed = renewed.clone();
                renewed.sort_unstable_by_key(|renewed| renewed.job_id);
                expected.sort_unstable_by_key(|renewed| renewed.job_id);
                expect!(renewed == expected, "renewed {renewed:?}, expected {expected:?}");
                Ok(())
            }
            (Operation::Record { lease, number, next }, Outcome::Written(written)) => {
                self.record(lease, *number, *next, *written)
            }
            (Operation::Rescue, Outcome::Count(count)) => {
                let now = self.now;
                self.give_back(*count, Some("interrupted"), |job| {
                    job.lease_until.is_some_and(|until| until <= now)
                })
            }
            (Operation::Release { worker }, Outcome::Count(count)) => {
                self.give_back(*count, None, |job| job.worker == Some(*worker))
            }
            (Operation::Interrupt { lease }, Outcome::Done) => {
                let now = self.now;
                if let Some(job) = self.held(lease) {
                    job.wait(now);
                    job.events.push("interrupted");
                }
                Ok(())
            }
            (Operation::Hold { lease, minutes }, Outcome::Done) => {
                let due_at = self.now + minutes;
                if let Some(job) = self.held(lease) {
                    job.wait(due_at);
                }
                Ok(())
            }
            (Operation::ReplaceGrant { session, number }, Outcome::Done) => {
                self.replace_grant(*session, *number);
                Ok(())
            }
            (Operation::Stop { session }, Outcome::Stopped(tokens)) => {
                self.stop(*session, tokens.as_deref())
            }
            (Operation::BeginRefresh { session, version, minutes, .. }, Outcome::Begun(begun)) => {
                self.begin_refresh(*session, *version, *minutes, begun.as_ref())
            }
            (Operation::FinishRefresh { start, number, rotates }, Outcome::Written(written)) => {
                let session = self.session(start.session);
                let expected = session.state == SessionState::Active
                    && session.grant == Fence::Seen(start.version);
                expect!(*written == expected, "written: {written}");
                if expected {
                    session.grant.grow();
                    session.access_token = Some(format!("fresh-{number}"));
                    session.presented = 0;
                    session.refresher = None;
                    if *rotates {
                        session.refresh_token = Some(format!("rotated-{number}"));
                    }
                }
                Ok(())
            }
            (Operation::AbandonRefresh { start, unanswered }, Outcome::Done) => {
                let session = self.session(start.session);
                let is_its = session.refresher.is_some_and(|(by, _)| by == start.refresher);
                if is_its && session.grant == Fence::Seen(start.version) {
                    session.refresher = None;
                    session.presented -= u32::from(!unanswered);
                }
                Ok(())
            }
            (Operation::EndGrant { session, version, keeps, .. }, Outcome::Written(written)) => {
                let session = self.session(*session);
                let expected =
                    session.grant == Fence::Seen(*version) && session.refresh_token.is_some();
                expect!(*written == expected, "ended: {written}");
                if expected {
                    let kept = session.access_token.clone().filter(|_| *keeps);
                    session.forget_tokens();
                    session.access_token = kept;
                    if session.state == SessionState::Active && session.access_token.is_none() {
                        session.state = SessionState::InteractionRequired;
                    }
                }
                Ok(())
            }
            (Operation::Cancel { id, user }, Outcome::Changed(change)) => {
                let job = self.change(*id, *user, *change, |job| !job.status.is_final())?;
                if let Some(job) = job {
                    job.end(JobStatus::Cancelled);
                    job.revision.grow();
                }
                Ok(())
            }
            (Operation::Retry { id, user }, Outcome::Changed(change)) => {
                let now = self.now;
                let allowed = |job: &ModelJob| job.status == JobStatus::Faulted;
                if let Some(job) = self.change(*id, *user, *change, allowed)? {
                    job.wait(now);
                    job.deadline_at = now + 1;
                    (job.error, job.attempts) = (None, 0);
                    job.events.push("retried");
                }
                Ok(())
            }
            (Operation::Delete { id, user }, Outcome::Changed(change)) => {
                if self.change(*id, *user, *change, |job| job.status.is_final())?.is_some() {
                    self.jobs.retain(|job| job.id != *id);
                }
                Ok(())
            }
            (Operation::Pass { minutes }, Outcome::Done) => {
                self.now += minutes;
                Ok(())
            }
            (operation, outcome) => Err(format!("{operation:?} came to {outcome:?}")),
        }
    }

    fn submit(
        &mut self,
        user: usize,
        acting: &Acting,
        created: Option<Uuid>,
    ) -> Result<(), String> {
        let session = match *acting {
            Acting::Alone => None,
            Acting::Known { session, .. } => {
                let active = self.session(session).state == SessionState::Active;
                expect!(created.is_some() == active, "created: {created:?}, active: {active}");
                Some(session)
            }
            Acting::New { session, number } => {
                self.replace_grant(session, number);
                Some(session)
            }
        };
        let Some(id) = created else { return Ok(()) };
        self.jobs.push(ModelJob {
            id,
            user,
            session,
            status: JobStatus::Pending,
            revision: Fence::GreaterThan(0),
            lease_id: 0,
            worker: None,
            lease_until: None,
            due_at: Some(self.now),
            // What the conformance suite gives its jobs.
            deadline_at: self.now + 1,
            attempts: 0,
            checkpoint: None,
            output: None,
            error: None,
            is_explained: false,
            events: vec!["submitted"],
        });
        Ok(())
    }

    fn claim(
        &mut self,
        worker: Uuid,
        limit: usize,
        minutes: i64,
        claimed: &[(Lease, Option<Vec<u8>>)],
        beside_another: bool,
    ) -> Result<(), String> {
        let now = self.now;
        let due = self.jobs.iter().filter(|job| job.is_due(now)).count();
        expect!(claimed.len() <= limit, "more than {limit}");
        expect!(
            beside_another || claimed.len() == limit.min(due),
            "claimed {} of {due} with a limit of {limit}",
            claimed.len()
        );
        for (lease, checkpoint) in claimed {
            let job = self.jobs.iter_mut().find(|job| job.id == lease.job_id);
            // In the other order it was.
            let job = job.ok_or("claimed before it was submitted")?;
            expect!(job.is_due(now), "claimed what is not due: {job:?}");
            expect!(lease.lease_id > job.lease_id, "a fence that does not grow: {job:?}");
            expect!(lease.owner == owner(job.user), "somebody else's: {lease:?}");
            expect!(*checkpoint == job.checkpoint, "another checkpoint: {job:?}");
            if job.lease_id == 0 {
                job.events.push("started");
            }
            job.lease_id = lease.lease_id;
            job.status = JobStatus::Running;
            job.worker = Some(worker);
            job.lease_until = Some(now + minutes);
            job.due_at = None;
            job.revision.grow();
        }
        Ok(())
    }

    fn record(
        &mut self,
        lease: &Lease,
        number: u32,
        next: NextKind,
        written: bool,
    ) -> Result<(), String> {
        let now = self.now;
        let unchanged = match next {
            NextKind::Suspend { version } => self.jobs.iter().any(|job| {
                job.id == lease.job_id
                    && job.session.is_some_and(|session| {
                        let session = self.sessions[session].as_ref();
                        session.is_some_and(|session| session.version == Fence::Seen(version))
                    })
            }),
            _ => true,
        };
        let held = self.held(lease);
        expect!(held.is_some() == written, "written: {written}");
        let Some(job) = held else { return Ok(()) };
        job.revision.grow();
        job.attempts = number;
        job.checkpoint = Some(number.to_le_bytes().to_vec());
        match next {
            NextKind::Continue => {}
            NextKind::Wait { minutes } => {
                job.wait(now + minutes);
                job.events.push("waiting");
            }
            NextKind::Suspend { .. } if unchanged => {
                job.suspend();
                job.is_explained = true;
            }
            NextKind::Suspend { .. } => {
                job.wait(now);
                job.events.push("waiting");
            }
            NextKind::Complete => {
                job.end(JobStatus::Completed);
                job.output = Some(json!(number));
            }
            NextKind::Fault => {
                job.end(JobStatus::Faulted);
                job.error = Some(json!({ "status": number }));
            }
        }
        Ok(())
    }

    /// The job, if its user may change it so and did.
    fn change(
        &mut self,
        id: Uuid,
        user: usize,
        change: Change,
        allowed: impl Fn(&ModelJob) -> bool,
    ) -> Result<Option<&mut ModelJob>, String> {
        let job = self.jobs.iter_mut().find(|job| job.id == id && job.user == user);
        let expected = match &job {
            None => Change::Unknown,
            Some(job) if allowed(job) => Change::Made,
            Some(_) => Change::NotAllowed,
        };
        expect!(change == expected, "changed: {change:?}, expected {expected:?}");
        Ok(job.filter(|_| expected == Change::Made))
    }

    fn give_back(
        &mut self,
        count: u64,
        event: Option<&'static str>,
        which: impl Fn(&ModelJob) -> bool,
    ) -> Result<(), String> {
        let (now, mut expected) = (self.now, 0);
        for job in self.jobs.iter_mut().filter(|job| which(job)) {
            job.wait(now);
            job.events.extend(event);
            expected += 1;
        }
        expect!(count == expected, "{count} given back, expected {expected}");
        Ok(())
    }

    fn replace_grant(&mut self, session: usize, number: u32) {
        let now = self.now;
        let replaced = self.sessions[session].get_or_insert(ModelSession {
            state: SessionState::Active,
            version: Fence::GreaterThan(0),
            grant: Fence::GreaterThan(0),
            refresh_token: None,
            access_token: None,
            presented: 0,
            refresher: None,
        });
        replaced.state = SessionState::Active;
        replaced.version.grow();
        replaced.grant.grow();
        replaced.refresh_token = Some(format!("refresh-{number}"));
        replaced.access_token = Some(format!("access-{number}"));
        replaced.presented = 0;
        replaced.refresher = None;
        for job in &mut self.jobs {
            if job.session == Some(session) && job.status == JobStatus::Suspended {
                job.wait(now);
                job.is_explained = false;
                job.events.push("resumed");
            }
        }
    }

    fn stop(&mut self, session: usize, tokens: Option<&[String]>) -> Result<(), String> {
        let stopped = self.sessions[session].as_mut();
        let Some(stopped) = stopped.filter(|stopped| stopped.state != SessionState::Stopped) else {
            expect!(tokens.is_none(), "stopped what is not there");
            return Ok(());
        };
        let expected: Vec<String> = stopped.refresh_token.iter().cloned().collect();
        expect!(tokens == Some(expected.as_slice()), "stopped with {tokens:?}");
        stopped.state = SessionState::Stopped;
        stopped.version.grow();
        stopped.forget_tokens();
        for job in &mut self.jobs {
            let goes_on = !job.status.is_final() && job.status != JobStatus::Suspended;
            if job.session == Some(session) && goes_on {
                job.suspend();
                job.is_explained = false;
                job.revision.grow();
            }
        }
        Ok(())
    }

    fn begin_refresh(
        &mut self,
        session: usize,
        version: i64,
        minutes: i64,
        begun: Option<&(Start, String)>,
    ) -> Result<(), String> {
        let now = self.now;
        let session = self.session(session);
        let is_free = session.refresher.is_none_or(|(_, until)| until <= now);
        let token = session
            .refresh_token
            .clone()
            .filter(|_| is_free && session.state == SessionState::Active)
            .filter(|_| session.grant == Fence::Seen(version));
        let presented = begun.map(|(_, token)| token.clone());
        expect!(presented == token, "presents {presented:?}, expected {token:?}");
        if let Some((start, _)) = begun {
            session.refresher = Some((start.refresher, now + minutes));
            session.presented += 1;
        }
        Ok(())
    }

    /// Whether the store shows what the model has; learns the values of the fences.
    pub(super) fn compare(&mut self, seen: &Seen) -> Result<(), String> {
        let now = self.now;
        expect!(self.jobs.len() == seen.jobs.len(), "{} jobs", seen.jobs.len());
        for (expected, (job, events)) in self.jobs.iter_mut().zip(&seen.jobs) {
            expected.compare(now, job, events).map_err(|what| format!("{what}: {expected:?}"))?;
        }
        for (index, (expected, held)) in self.sessions.iter_mut().zip(&seen.sessions).enumerate() {
            match (expected, held) {
                (None, None) => {}
                (Some(expected), Some(held)) => expected
                    .compare(held)
                    .map_err(|what| format!("session {index} {what}: {expected:?}"))?,
                (expected, held) => return Err(format!("{expected:?} against {held:?}")),
            }
        }
        let waiting = self.jobs.iter().filter(|job| job.status != JobStatus::Running);
        let next_due = waiting.filter_map(|job| job.due_at).min();
        let next_due = next_due.map(|due_at| (due_at - now).max(0));
        let seen = seen.next_due.map(|due| minutes_of(due.as_secs_f64()));
        expect!(next_due == seen, "due next in {seen:?} minutes, expected {next_due:?}");
        Ok(())
    }

    pub(super) fn session_of(&self, job: Uuid) -> Option<usize> {
        self.jobs.iter().find(|known| known.id == job)?.session
    }

    /// The job, if this is its lease.
    fn held(&mut self, lease: &Lease) -> Option<&mut ModelJob> {
        let job = self.jobs.iter_mut().find(|job| job.id == lease.job_id)?;
        (job.status == JobStatus::Running && job.lease_id == lease.lease_id).then_some(job)
    }

    fn session(&mut self, index: usize) -> &mut ModelSession {
        self.sessions[index].as_mut().expect("only sessions that are there have an id")
    }
}

impl ModelJob {
    fn is_due(&self, now: i64) -> bool {
        self.status != JobStatus::Running && self.due_at.is_some_and(|due_at| due_at <= now)
    }

    fn wait(&mut self, due_at: i64) {
        self.end_lease(JobStatus::Waiting, Some(due_at));
        self.revision.grow();
    }

    fn suspend(&mut self) {
        self.end_lease(JobStatus::Suspended, Some(self.deadline_at));
        self.events.push("suspended");
    }

    fn end(&mut self, status: JobStatus) {
        self.end_lease(status, None);
        self.events.push(status.as_str());
    }

    fn end_lease(&mut self, status: JobStatus, due_at: Option<i64>) {
        (self.status, self.due_at) = (status, due_at);
        (self.worker, self.lease_until) = (None, None);
    }

    fn compare(&mut self, now: i64, job: &Job, events: &[String]) -> Result<(), String> {
        expect!(job.status == self.status, "is {}", job.status);
        self.revision.see(job.revision).map_err(|what| format!("its revision {what}"))?;
        expect!(job.attempts == self.attempts, "has {} attempts", job.attempts);
        expect!(job.output == self.output && job.error == self.error, "ended otherwise");
        expect!(job.finished_at.is_some() == self.status.is_final(), "has a wrong end");
        if job.status == JobStatus::Suspended {
            expect!(job.suspension.is_some() == self.is_explained, "has {:?}", job.suspension);
        }
        let clock = SystemClock.now();
        let due_in = job.due_at.map(|due_at| {
            minutes_of(due_at.since(clock).as_secs_f64() - clock.since(due_at).as_secs_f64())
        });
        expect!(due_in == self.due_at.map(|due_at| due_at - now), "is due in {due_in:?} minutes");
        expect!(events == self.events, "tells {events:?}");
        Ok(())
    }
}

impl ModelSession {
    fn forget_tokens(&mut self) {
        self.grant.grow();
        (self.refresh_token, self.access_token, self.refresher) = (None, None, None);
    }

    fn compare(&mut self, held: &HeldGrant) -> Result<(), String> {
        expect!(held.state == self.state, "is {:?}", held.state);
        self.version.see(held.session_version).map_err(|what| format!("its version {what}"))?;
        self.grant.see(held.version).map_err(|what| format!("its grant's version {what}"))?;
        expect!(held.renewable == self.refresh_token.is_some(), "is renewable or not");
        if self.refresh_token.is_some() {
            expect!(held.presented == self.presented, "was presented {}", held.presented);
        }
        let token = held.token.as_ref().map(|token| token.access_token.expose().to_owned());
        expect!(token == self.access_token, "has the token {token:?}");
        Ok(())
    }
}

/// Whose sessions and jobs they are.
pub(super) fn owner(user: usize) -> Principal {
    if user == 0 { alice() } else { bob() }
}

/// To the nearest one.
#[expect(clippy::cast_possible_truncation, reason = "the cases last for minutes, not for ages")]
fn minutes_of(seconds: f64) -> i64 {
    (seconds / 60.0).round() as i64
}
