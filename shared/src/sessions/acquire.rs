//! A session is used: an access token from its row, or by redeeming its refresh token.
//!
//! The protocol of a refresh, over any number of processes on one database:
//!
//! 1. The right to present the refresh token is a lease on the grant's row, taken with the version
//!    that was read; the presentation is counted before it is made.
//! 2. It is not made if too little of the lease is left: another process could begin meanwhile.
//! 3. The answer is written if the version still is the one that was read, in one transaction, the
//!    new refresh token before the access token is used.
//! 4. Without an answer the token is presented once more at once; the provider may have rotated it,
//!    and an immediate repetition is what a grace period is for. After two, not before the
//!    provider answers something else.
//! 5. A token that the provider calls dead is erased and never sent again.
//!
//! Before 1 stand the gates: what would be refused like somebody else's request is not sent.
//!
//! A token that the provider wants renewed early is handed out, and renewed beside its use by the same
//! protocol; what comes of that changes nothing for those who hold a good one.
//!
//! A refresh runs in a task of its own: whatever ends the job that wanted it, its answer is kept.
//!
//! Before all of it stands what this process remembers: `memory.rs`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Sessions,
    gates::{Asked, Leave},
    initiate::scope_set,
    memory::{GrantOf, GrantTime},
    new_access_token,
};
use crate::{
    config::{Dialect, DownstreamApi},
    identity::{
        AccessToken, Decision, Gate, HTTP_TIMEOUT, LastResort, Presented, Principal, RefreshToken,
        RefreshTokenState, RequestedClaims, SuspensionReason, TokenFailure,
    },
    storage::{
        Abandoned, ClaimedSession, HeldGrant, HeldToken, IdleGrant, NewAccessToken, RefreshStart,
        SessionState, StoreError,
    },
    telemetry::chain,
    time::Timestamp,
};

/// No token is handed out with less than this left of its life, or half of it if that is less
/// (MSAL: five minutes).
const RENEWAL_MARGIN: Duration = Duration::from_mins(5);

/// The lease of a refresh: three times what a request takes at most.
const REFRESH_LEASE: Duration = Duration::from_secs(24);

/// Beside the time for the request, this much of the lease must be left for writing the answer.
const WRITE_MARGIN: Duration = Duration::from_secs(4);

/// How long to try to write an answer.
const WRITE_PATIENCE: Duration = Duration::from_mins(2);

/// How long to watch another process refresh, before the job waits without a worker.
const WATCH: Duration = Duration::from_secs(5);

/// Before the grant is tried again after the provider did not answer.
const PAUSE_UNANSWERED: Duration = Duration::from_secs(2);

/// Before a request loop that the provider noticed (AADSTS50196) may go on: doubled each time that it
/// notices one again, up to the second.
const PAUSE_LOOP: (Duration, Duration) = (Duration::from_mins(5), Duration::from_hours(1));

/// Between two tries to renew a token early.
const PAUSE_EARLY: Duration = Duration::from_mins(5);

/// Between two refusals that make an unexplained `invalid_grant` final: replicas lag behind.
const PAUSE_DOUBTFUL: Duration = Duration::from_mins(1);

/// Why there is no access token, and with it what to do about the job.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The user or an administrator must act: suspend the job.
    #[error("the user must act: {}", reason.as_str())]
    Suspend {
        /// Who must do what.
        reason: SuspensionReason,
        /// Claims challenge for the user's sign-in.
        claims: Option<String>,
        /// The session's grants that did not do: of what time.
        session_version: i64,
    },
    /// Try again, not before `after`; no attempt is burnt.
    #[error("the identity provider is not available")]
    Unavailable {
        /// At least this long; none: the caller's own backoff.
        after: Option<Duration>,
    },
    /// The provider refused others lately, and would refuse this too, or has just done so: try again,
    /// not before `after`; no attempt is burnt, and nothing of it is this job's.
    #[error("token requests are held")]
    Held {
        /// Until the gate opens, spread.
        after: Duration,
    },
    /// Errand's configuration is at fault: hold the job until an operator has mended it.
    #[error("the identity provider refuses this configuration")]
    Operator,
    /// Try a few times more; if it stays, it is `then`.
    #[error("the identity provider's answer makes no sense")]
    Doubtful {
        /// What it is in the end.
        then: LastResort,
    },
    /// The job cannot succeed.
    #[error("no token can be had for this job")]
    Permanent,
    /// The database did not answer: try again.
    #[error("the session could not be read or written")]
    Store(#[from] StoreError),
}

/// A token that an API answered 401 to.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// The token.
    pub access_token: AccessToken,
    /// What the API demands of another one. Entra's dialect only; in the other it says nothing.
    pub claims: Option<RequestedClaims>,
}

/// What is wanted, in a form that a task can own.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    session_id: Uuid,
    /// Which of the session's grants.
    grant: String,
    owner: Principal,
    api: DownstreamApi,
    scope_set: String,
    rejected: Option<AccessToken>,
    /// What the API demands of the token.
    claims: Option<RequestedClaims>,
    /// Nobody waits for it: others may hold good tokens of the grant, and keep them if it is dead.
    in_background: bool,
}

/// What is kept between the presentations of one refresh.
#[derive(Default)]
struct Attempt {
    /// A second presentation at once was made.
    repeated: bool,
    /// Leave for the next request, unless it was used.
    leave: Option<Leave>,
}

/// What a presentation came to.
enum Presentation {
    /// A token, which is written.
    Brought(HeldToken),
    /// Look at the grant again: it was replaced, or may be presented once more.
    Again,
    /// Somebody else is at it.
    Busy,
}

impl Wanted {
    /// Any token of a grant that nobody has used for long.
    pub(super) fn in_background(grant: &IdleGrant, api: &DownstreamApi, scope_set: String) -> Self {
        Self {
            session_id: grant.session_id,
            grant: grant.api.clone(),
            owner: grant.owner.clone(),
            api: api.clone(),
            scope_set,
            rejected: None,
            claims: None,
            in_background: true,
        }
    }

    /// The grant's token, if it has enough life left and the API has not just refused it.
    fn accept(&self, grant: &mut HeldGrant, now: Timestamp) -> Option<HeldToken> {
        // Nobody knows which claims a stored one was asked for with.
        let held = grant.token.take().filter(|_| self.claims.is_none())?;
        let rejected = self
            .rejected
            .as_ref()
            .is_some_and(|token| token.expose() == held.access_token.expose());
        (held.has_enough_life(grant.renewable, now) && !rejected).then_some(held)
    }

    fn grant_of(&self) -> GrantOf<'_> {
        GrantOf { session_id: self.session_id, grant: &self.grant, owner: &self.owner }
    }
}

impl HeldToken {
    /// Whether it is handed out with the life that it has left.
    pub(super) fn has_enough_life(&self, renewable: bool, now: Timestamp) -> bool {
        let margin = if renewable {
            RENEWAL_MARGIN.min(self.expires_at.since(self.obtained_at) / 2)
        } else {
            // There will be no other: it is good to the end.
            Duration::ZERO
        };
        now + margin < self.expires_at
    }
}

impl HeldGrant {
    fn time(&self) -> GrantTime {
        GrantTime { session_version: self.session_version, version: self.version }
    }

    /// After the next change of the grant itself.
    fn next_time(&self) -> GrantTime {
        GrantTime { version: self.version + 1, ..self.time() }
    }
}

impl Sessions {
    /// Returns an access token for `api`: one that this process remembers and that is not older than
    /// the claim of `session`, the one in the session's row, or by redeeming its refresh token.
    ///
    /// At most one refresh per grant runs at a time in the whole cluster; whoever waits for it gets
    /// what it brought. With `rejected` another one than that, and if the API demands claims one that
    /// was asked for with them.
    ///
    /// # Errors
    /// Each says what to do about the job: [`AcquireError`].
    ///
    /// Source: RFC 6749 sections 5.2 and 6; MSAL `AcquireTokenInLongRunningProcess`.
    pub async fn acquire_token(
        self: &Arc<Self>,
        session: ClaimedSession,
        owner: &Principal,
        api: &DownstreamApi,
        rejected: Option<Rejected>,
    ) -> Result<HeldToken, AcquireError> {
        let (grant, scope_set, now) = (self.grant_for(api), scope_set(api), self.clock.now());
        if rejected.is_none()
            && let Some(token) = self.memory.find(session, grant, owner, &scope_set, now)
        {
            return Ok(token);
        }
        let (rejected, claims) = match rejected {
            Some(Rejected { access_token, claims }) => (Some(access_token), claims),
            None => (None, None),
        };
        let wanted = Wanted {
            session_id: session.id,
            grant: grant.to_owned(),
            owner: owner.clone(),
            api: api.clone(),
            scope_set,
            rejected,
            claims: match self.dialect {
                Dialect::Entra { .. } => claims,
                Dialect::TokenExchange { .. } => None,
            },
            in_background: false,
        };
        let mut grant = self.grant(&wanted).await?;
        let now = self.clock.now();
        if let Some(token) = wanted.accept(&mut grant, now) {
            self.remember(&wanted, grant.time(), grant.renewable, &token);
            if let Some(due) = token.refresh_at.filter(|due| *due <= now && grant.renewable) {
                let (sessions, wanted) =
                    (Arc::clone(self), Wanted { in_background: true, ..wanted });
                self.tasks.spawn(async move { sessions.renew_early(&wanted, &grant, due).await });
            }
            return Ok(token);
        }
        let sessions = Arc::clone(self);
        let task = self.tasks.spawn(async move { sessions.refresh(wanted).await });
        task.await.unwrap_or(Err(AcquireError::Unavailable { after: None }))
    }

    fn remember(&self, wanted: &Wanted, of: GrantTime, renewable: bool, token: &HeldToken) {
        self.memory.keep(wanted.grant_of(), of, renewable, &wanted.scope_set, token);
    }

    /// Whether the time of `token` is over: that it is refused then says nothing of the session.
    ///
    /// Up to a second sooner for the API, which reads its `exp`: providers cut it to whole seconds.
    pub fn is_over(&self, token: &HeldToken) -> bool {
        token.expires_at <= self.clock.now() + Duration::from_secs(1)
    }

    async fn grant(&self, wanted: &Wanted) -> Result<HeldGrant, AcquireError> {
        self.store
            .held_grant(
                wanted.session_id,
                &wanted.grant,
                &wanted.owner,
                &self.client_id,
                &wanted.scope_set,
            )
            .await?
            // The job's own session, but of another client id: the configuration was changed, and
            // the provider would refuse the token (`client_mismatch`).
            .ok_or(AcquireError::Permanent)
    }

    /// Renews a token that is still good; one process does.
    async fn renew_early(&self, wanted: &Wanted, grant: &HeldGrant, due: Timestamp) {
        let next = self.clock.now() + PAUSE_EARLY;
        let Wanted { session_id, grant: api, scope_set, .. } = wanted;
        let renewed =
            match self.store.claim_early_refresh(*session_id, api, scope_set, due, next).await {
                Ok(true) => self.renew(wanted, grant.version).await,
                Ok(false) => return,
                Err(error) => Err(error.into()),
            };
        if let Err(error) = renewed {
            tracing::warn!(session.id = %session_id, "not renewed early: {}", chain(&error));
        }
    }

    /// Replaces the grant of `version`, unless somebody else does.
    pub(super) async fn renew(&self, wanted: &Wanted, version: i64) -> Result<(), AcquireError> {
        let _turn = self.refreshes.take((wanted.session_id, wanted.grant.clone())).await;
        let mut attempt = Attempt::default();
        loop {
            let grant = self.grant(wanted).await?;
            if grant.version != version {
                return Ok(());
            }
            match self.present(wanted, &grant, &mut attempt).await? {
                Presentation::Brought(_) | Presentation::Busy => return Ok(()),
                Presentation::Again => {}
            }
        }
    }

    async fn refresh(&self, wanted: Wanted) -> Result<HeldToken, AcquireError> {
        let _turn = self.refreshes.take((wanted.session_id, wanted.grant.clone())).await;
        let watch_until = Instant::now() + WATCH;
        let mut attempt = Attempt::default();
        loop {
            let mut grant = self.grant(&wanted).await?;
            if let Some(token) = wanted.accept(&mut grant, self.clock.now()) {
                self.remember(&wanted, grant.time(), grant.renewable, &token);
                return Ok(token);
            }
            match self.present(&wanted, &grant, &mut attempt).await? {
                // Whatever its life and whether it is another one: this is what there is.
                Presentation::Brought(token) => return Ok(token),
                Presentation::Again => {}
                // Another process is at it: its result is what everybody waits for.
                Presentation::Busy if Instant::now() > watch_until => {
                    return Err(AcquireError::Unavailable { after: Some(PAUSE_UNANSWERED) });
                }
                Presentation::Busy => {
                    tokio::time::sleep(jittered(Duration::from_millis(200))).await;
                }
            }
        }
    }

    /// Presents the grant's refresh token once, if that may be done now.
    async fn present(
        &self,
        wanted: &Wanted,
        grant: &HeldGrant,
        attempt: &mut Attempt,
    ) -> Result<Presentation, AcquireError> {
        if grant.state != SessionState::Active || !grant.renewable {
            self.memory.forget(wanted.grant_of(), grant.time());
            return Err(AcquireError::Suspend {
                reason: SuspensionReason::SessionRevoked,
                claims: wanted.claims.as_ref().map(RequestedClaims::to_json),
                session_version: grant.session_version,
            });
        }
        let now = self.clock.now();
        if let Some(not_before) = grant.not_before.filter(|not_before| *not_before > now) {
            return Err(AcquireError::Unavailable { after: Some(not_before.since(now)) });
        }
        let Wanted { session_id, owner, api, claims, .. } = wanted;
        let leave = match attempt.leave.take() {
            Some(leave) => leave,
            None => match self.ask_gates(&owner.tenant, api).await? {
                Asked::Granted(leave) => leave,
                Asked::Held(held) => return Err(AcquireError::Held { after: held.spread() }),
            },
        };
        let began = Instant::now();
        let start = self
            .store
            .begin_refresh(*session_id, &wanted.grant, owner, grant.version, REFRESH_LEASE)
            .await?;
        let Some(start) = start else {
            attempt.leave = Some(leave);
            return Ok(Presentation::Busy);
        };
        if !self.may_present(wanted, grant, began).await {
            self.abandon(wanted, grant, &start, None, Some(PAUSE_UNANSWERED)).await?;
            return Err(AcquireError::Unavailable { after: Some(PAUSE_UNANSWERED) });
        }
        let obtained_at = self.clock.now();
        let answer =
            self.token_endpoint.refresh(owner, &start.refresh_token, api, claims.as_ref()).await;
        let failure = match answer {
            Ok(response) => {
                let token = new_access_token(wanted.scope_set.clone(), obtained_at, &response);
                // Before the gates: nothing may come between the answer and its record.
                let refresh_token = response.refresh_token.as_ref();
                let written = self.finish(wanted, grant, &token, refresh_token).await;
                self.tell_gates(&owner.tenant, api, leave, None).await;
                if !written? {
                    return Ok(Presentation::Again);
                }
                let token = token.into();
                self.remember(wanted, grant.next_time(), true, &token);
                return Ok(Presentation::Brought(token));
            }
            Err(failure) => failure,
        };
        let held = self.tell_gates(&owner.tenant, api, leave, Some(&failure)).await;
        let again = failure.presented == Presented::Unanswered
            && failure.refresh_token != RefreshTokenState::Dead;
        if again && !std::mem::replace(&mut attempt.repeated, true) {
            self.abandon(wanted, grant, &start, Some(&failure), None).await?;
            return Ok(Presentation::Again);
        }
        match self.refused(wanted, grant, &start, &failure).await? {
            None => Ok(Presentation::Again),
            Some(error) => {
                Err(held.map_or(error, |held| AcquireError::Held { after: held.spread() }))
            }
        }
    }

    /// Whether presenting the refresh token now is safe: enough of the lease is left, and after two
    /// unanswered presentations the provider answers at all.
    async fn may_present(&self, wanted: &Wanted, grant: &HeldGrant, began: Instant) -> bool {
        let answers = grant.presented < 2 || self.token_endpoint.answers(&wanted.owner).await;
        answers && REFRESH_LEASE.saturating_sub(began.elapsed()) >= HTTP_TIMEOUT + WRITE_MARGIN
    }

    /// Writes what the provider answered. False if the grant was replaced meanwhile: the answer is
    /// worth nothing, and the next look finds the new one.
    async fn finish(
        &self,
        wanted: &Wanted,
        grant: &HeldGrant,
        access_token: &NewAccessToken,
        refresh_token: Option<&RefreshToken>,
    ) -> Result<bool, AcquireError> {
        let written = patiently(|| {
            self.store.finish_refresh(
                wanted.session_id,
                &wanted.grant,
                &wanted.owner,
                grant.version,
                access_token,
                refresh_token,
            )
        })
        .await?;
        tracing::info!(session.id = %wanted.session_id, written, "session refreshed");
        Ok(written)
    }

    /// Draws the consequences of a refusal; none if the grant was replaced meanwhile, which is then
    /// the one that counts.
    async fn refused(
        &self,
        wanted: &Wanted,
        grant: &HeldGrant,
        start: &RefreshStart,
        failure: &TokenFailure,
    ) -> Result<Option<AcquireError>, AcquireError> {
        let doubted_before = grant
            .refused_at
            .is_some_and(|refused_at| self.clock.now().since(refused_at) >= PAUSE_DOUBTFUL);
        let (dead, pause) = match failure.refresh_token {
            RefreshTokenState::Dead => (true, None),
            RefreshTokenState::Doubtful if doubted_before => (true, None),
            RefreshTokenState::Doubtful => (false, Some(PAUSE_DOUBTFUL)),
            RefreshTokenState::Usable => (false, pause(failure, grant.loops)),
        };
        let end = || {
            let Wanted { session_id, grant: api, in_background, .. } = wanted;
            self.store.end_grant(*session_id, api, grant.version, *in_background)
        };
        if !dead {
            self.abandon(wanted, grant, start, Some(failure), pause).await?;
        } else if !patiently(end).await? {
            return Ok(None);
        } else if !wanted.in_background {
            self.memory.forget(wanted.grant_of(), grant.next_time());
        }
        let session_version = grant.session_version;
        let demanded = || wanted.claims.as_ref().map(RequestedClaims::to_json);
        let claims = || failure.claims.clone().or_else(demanded);
        if failure.refresh_token == RefreshTokenState::Doubtful && !dead {
            return Ok(Some(AcquireError::Unavailable { after: pause }));
        }
        Ok(Some(match failure.decision {
            Decision::Retry { .. } | Decision::RetrySlow => {
                AcquireError::Unavailable { after: pause }
            }
            Decision::RetryFew { then } => AcquireError::Doubtful { then },
            Decision::SuspendForUser { reason } => {
                AcquireError::Suspend { reason, claims: claims(), session_version }
            }
            Decision::SuspendForAdministrator => AcquireError::Suspend {
                reason: SuspensionReason::AdminActionRequired,
                claims: claims(),
                session_version,
            },
            Decision::Operator => AcquireError::Operator,
            Decision::Permanent | Decision::RejectAssertion | Decision::ForbiddenCaller => {
                AcquireError::Permanent
            }
        }))
    }

    async fn abandon(
        &self,
        wanted: &Wanted,
        grant: &HeldGrant,
        start: &RefreshStart,
        failure: Option<&TokenFailure>,
        pause: Option<Duration>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let doubtful =
            failure.is_some_and(|failure| failure.refresh_token == RefreshTokenState::Doubtful);
        let abandoned = Abandoned {
            unanswered: failure.is_some_and(|failure| failure.presented == Presented::Unanswered),
            refused_at: doubtful.then_some(now),
            looped: failure.is_some_and(|failure| failure.decision == Decision::RetrySlow),
            not_before: pause.map(|pause| now + pause),
        };
        self.store
            .abandon_refresh(
                wanted.session_id,
                &wanted.grant,
                grant.version,
                start.refresher,
                abandoned,
            )
            .await
    }
}

/// How long the whole grant keeps quiet after a failure that is not about one API, and that no gate
/// holds others back for. `loops` were noticed in a row before.
fn pause(failure: &TokenFailure, loops: u32) -> Option<Duration> {
    match failure.decision {
        Decision::Retry { .. } if failure.gate != Gate::Session => None,
        Decision::Retry { after } => Some(after.unwrap_or(PAUSE_UNANSWERED)),
        Decision::RetrySlow => {
            let (first, longest) = PAUSE_LOOP;
            Some(first.saturating_mul(2_u32.saturating_pow(loops)).min(longest))
        }
        Decision::RetryFew { .. }
        | Decision::SuspendForUser { .. }
        | Decision::SuspendForAdministrator
        | Decision::Operator
        | Decision::Permanent
        | Decision::RejectAssertion
        | Decision::ForbiddenCaller => None,
    }
}

/// Writes in spite of a database that is being restarted. What the provider answered would be lost
/// otherwise: the only refresh token, or that it is dead. The version fences each try, and a first
/// one that succeeded without saying so makes the next come to nothing.
async fn patiently<T, F>(write: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let began = Instant::now();
    loop {
        match write().await {
            Err(StoreError::Database(error)) if began.elapsed() < WRITE_PATIENCE => {
                tracing::warn!("a refresh is not written yet: {error}");
                tokio::time::sleep(jittered(Duration::from_millis(500))).await;
            }
            written => return written,
        }
    }
}

/// Spreads waiters, so that they do not come back together.
pub(super) fn jittered(length: Duration) -> Duration {
    length.mul_f64(0.5 + fastrand::f64())
}
