//! What a failed token request means: the one decision table.
//!
//! `decide` goes from what is sure to what is vague: HTTP status, `error`, at Entra claims,
//! `suberror` and AADSTS number, and the default of `error`. To add a word, add it in `oauth_error` and follow the
//! compiler.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    grant::GrantKind,
    oauth_error::{CodeMeaning, ErrorWord, OAuthError, Suberror},
};

/// How often a [`Decision::RetryFew`] is followed, slowly, before its last resort.
pub const FEW_RETRIES: u32 = 3;

/// A token request that brought no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no token from the identity provider: {description}")]
pub struct TokenFailure {
    /// What to do now.
    pub decision: Decision,
    /// What the decision holds back beside this job.
    pub gate: Gate,
    /// Whether the stored refresh token may be used again.
    pub refresh_token: RefreshTokenState,
    /// Whether the provider saw the request.
    pub presented: Presented,
    /// `error` of the answer.
    pub error: Option<String>,
    /// `suberror` of the answer.
    pub suberror: Option<String>,
    /// AADSTS numbers.
    pub codes: Vec<u32>,
    /// The claims challenge, a JSON object as text of at most 4 KiB: for the user's client, which
    /// signs the user in for Errand with it.
    pub claims: Option<String>,
    /// What the provider's support asks for.
    pub correlation_id: Option<String>,
    /// For the operator's log and not for users: secrets taken out, at most 500 characters.
    pub description: String,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again with backoff; nothing is wrong with the session.
    Retry {
        /// `Retry-After`, from one second to one hour; add jitter.
        after: Option<Duration>,
    },
    /// Try again in five minutes or more, doubling, and alert: the provider sees a request loop.
    RetrySlow,
    /// Try again slowly, [`FEW_RETRIES`] times, then do as `then` says.
    RetryFew {
        /// What the failure is if it stays.
        then: LastResort,
    },
    /// Suspend until the user comes back. At submission: 401 with a challenge, for consent 403.
    SuspendForUser {
        /// What the user has to do.
        reason: SuspensionReason,
    },
    /// Suspend with `admin_action_required`. At submission: 403.
    SuspendForAdministrator,
    /// The configuration is wrong: wait, alert, burn no attempt. At submission: 502, neutral text.
    Operator,
    /// The job cannot succeed.
    Permanent,
    /// At submission only: 401, the caller's token is refused.
    RejectAssertion,
    /// At submission only: 403, the caller is no user.
    ForbiddenCaller,
}

/// What a failure counts as that does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastResort {
    /// [`Decision::Operator`]
    Operator,
    /// [`Decision::Permanent`]
    Permanent,
}

/// Why a job waits for somebody; the words of `suspension.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionReason {
    /// The user has to consent to the API's scopes.
    ConsentRequired,
    /// The user has to sign in again: MFA, claims, password, sign-in frequency.
    InteractionRequired,
    /// The grant is dead or stopped.
    SessionRevoked,
    /// An administrator has to act.
    AdminActionRequired,
}

impl SuspensionReason {
    /// The word on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsentRequired => "consent_required",
            Self::InteractionRequired => "interaction_required",
            Self::SessionRevoked => "session_revoked",
            Self::AdminActionRequired => "admin_action_required",
        }
    }
}

/// Whose token requests would fail alike, and are therefore held too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// All of this client in this tenant.
    ClientAndTenant,
    /// All for this API in this tenant.
    TenantAndApi,
    /// Only this session's.
    Session,
}

/// What a failure says about the stored refresh token. After an exchange always `Usable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokenState {
    /// Nothing is wrong with it, as far as is known.
    Usable,
    /// Refused without a reason: dead if the same answer comes again, 60 seconds later or more.
    /// Entra's replicas may lag right after a token was issued.
    Doubtful,
    /// To be erased and never sent again.
    Dead,
}

/// Whether a refresh token reached the provider, who may have replaced it by a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// It answered: the answer counts.
    Answered,
    /// Not known: timeout, lost connection, or an answer from something in between.
    Unanswered,
    /// Surely not: nothing was sent, no connection, 429 or 503.
    NotProcessed,
}

/// What came instead of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No connection.
    NotSent,
    /// Sent, but no whole answer.
    NoAnswer,
    /// An answer.
    Answer {
        status: u16,
        /// Within one second and one hour.
        retry_after: Option<Duration>,
        /// `None`: not understood, e.g. a proxy's page.
        error: Option<Box<OAuthError>>,
    },
}

impl Outcome {
    pub(super) fn presented(&self) -> Presented {
        match self {
            Self::NotSent | Self::Answer { status: 429 | 503, .. } => Presented::NotProcessed,
            // A good status with an unreadable body: a new refresh token may have been in it.
            Self::NoAnswer
            | Self::Answer { status: 408 | 500..=599, .. }
            | Self::Answer { status: 200..=299, error: None, .. } => Presented::Unanswered,
            Self::Answer { .. } => Presented::Answered,
        }
    }
}

/// What a failure means for job, session and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) decision: Decision,
    pub(super) gate: Gate,
    pub(super) refresh_token: RefreshTokenState,
}

impl Verdict {
    const fn of(decision: Decision) -> Self {
        Self { decision, gate: Gate::Session, refresh_token: RefreshTokenState::Usable }
    }

    const fn user(reason: SuspensionReason) -> Self {
        Self::of(Decision::SuspendForUser { reason })
    }

    const fn holding(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    const fn with(self, refresh_token: RefreshTokenState) -> Self {
        Self { refresh_token, ..self }
    }

    /// An exchange involves no refresh token; what would kill one refuses the caller's token.
    pub(super) fn for_grant(self, grant: GrantKind) -> Self {
        let revoked = Decision::SuspendForUser { reason: SuspensionReason::SessionRevoked };
        if !grant.is_exchange() {
            self
        } else if self.decision == revoked {
            Self::of(Decision::RejectAssertion)
        } else {
            self.with(RefreshTokenState::Usable)
        }
    }
}

/// A token for another user: whatever led to it, none of this session's tokens may be used.
pub(super) const ANOTHER_USER: Verdict = PERMANENT.with(RefreshTokenState::Dead);
const RETRY: Verdict = Verdict::of(Decision::Retry { after: None });
/// Something local is wrong; nothing was sent.
pub(super) const OPERATOR: Verdict = Verdict::of(Decision::Operator);
const API_CONFIGURATION: Verdict = OPERATOR.holding(Gate::TenantAndApi);
const PERMANENT: Verdict = Verdict::of(Decision::Permanent);
/// The request is wrong, or goes to the wrong tenant: in an exchange nothing of it is the caller's but
/// the token.
fn bad_request(grant: GrantKind) -> Verdict {
    if grant.is_exchange() { OPERATOR } else { PERMANENT }
}
const ADMINISTRATOR: Verdict = Verdict::of(Decision::SuspendForAdministrator);
const INTERACTION: Verdict = Verdict::user(SuspensionReason::InteractionRequired);
const CONSENT: Verdict = Verdict::user(SuspensionReason::ConsentRequired);
const DEAD: Verdict = Verdict::user(SuspensionReason::SessionRevoked).with(RefreshTokenState::Dead);

/// The decision for every failure.
///
/// Source: RFC 6749 5.2; MSAL's classification of errors; Entra "authentication and authorization
/// error codes".
pub(super) fn decide(grant: GrantKind, outcome: &Outcome) -> Verdict {
    let verdict = match outcome {
        Outcome::NotSent | Outcome::NoAnswer => RETRY,
        Outcome::Answer { status: 429, retry_after, .. } => {
            retry(*retry_after).holding(Gate::ClientAndTenant)
        }
        Outcome::Answer { status: 408 | 500..=599, retry_after, .. } => retry(*retry_after),
        // The address is wrong.
        Outcome::Answer { status: 404, error: None, .. } => OPERATOR,
        Outcome::Answer { error: None, .. } => {
            Verdict::of(Decision::RetryFew { then: LastResort::Operator })
        }
        Outcome::Answer { retry_after, error: Some(error), .. } => {
            if grant.is_entra() {
                by_entra_error(grant, error, *retry_after)
            } else {
                by_standard_error(grant, error.word(), *retry_after)
            }
        }
    };
    verdict.for_grant(grant)
}

const fn retry(after: Option<Duration>) -> Verdict {
    Verdict::of(Decision::Retry { after })
}

/// What the standards say, and no provider's extensions: of any provider but Entra.
///
/// The status is not looked at: some answer 403 to a dead refresh token. In an exchange, a word that
/// can be about the caller's token is taken to be: RFC 8693 has no better one than `invalid_request`
/// for it, and the operator finds the description in the log.
///
/// Source: RFC 6749 5.2; RFC 8693 2.2.2; OpenID Connect Core 3.1.2.6.
fn by_standard_error(grant: GrantKind, word: ErrorWord, retry_after: Option<Duration>) -> Verdict {
    let is_exchange = grant.is_exchange();
    match word {
        ErrorWord::TemporarilyUnavailable
        | ErrorWord::ServerError
        | ErrorWord::RequestTimeout
        | ErrorWord::SlowDown
        | ErrorWord::RequestThrottled => retry(retry_after),
        ErrorWord::InvalidClient => OPERATOR.holding(Gate::ClientAndTenant),
        // Dead at once: a provider that rotates strictly has revoked the whole family.
        ErrorWord::InvalidGrant => DEAD,
        ErrorWord::InvalidRequest
        | ErrorWord::InvalidToken
        | ErrorWord::UnauthorizedClient
        | ErrorWord::AccessDenied
            if is_exchange =>
        {
            Verdict::of(Decision::RejectAssertion)
        }
        ErrorWord::InvalidRequest => PERMANENT,
        ErrorWord::UnauthorizedClient | ErrorWord::UnsupportedGrantType => OPERATOR,
        ErrorWord::InvalidScope | ErrorWord::InvalidResource | ErrorWord::InvalidTarget => {
            API_CONFIGURATION
        }
        ErrorWord::ConsentRequired => CONSENT,
        ErrorWord::InteractionRequired | ErrorWord::LoginRequired | ErrorWord::AccessDenied => {
            INTERACTION
        }
        ErrorWord::InvalidToken | ErrorWord::Unknown => {
            Verdict::of(Decision::RetryFew { then: LastResort::Permanent })
        }
    }
}

fn by_entra_error(grant: GrantKind, error: &OAuthError, retry_after: Option<Duration>) -> Verdict {
    if error.is_request_loop() {
        return Verdict::of(Decision::RetrySlow);
    }
    let refined = by_code(grant, error);
    match error.word() {
        ErrorWord::TemporarilyUnavailable
        | ErrorWord::ServerError
        | ErrorWord::RequestTimeout
        | ErrorWord::SlowDown
        | ErrorWord::RequestThrottled => retry(retry_after),
        ErrorWord::InvalidClient => {
            about_client(refined).unwrap_or(OPERATOR.holding(Gate::ClientAndTenant))
        }
        ErrorWord::UnauthorizedClient => about_client(refined).unwrap_or(OPERATOR),
        ErrorWord::InvalidGrant => by_suberror(error).or(refined).unwrap_or(
            Verdict::user(SuspensionReason::SessionRevoked).with(RefreshTokenState::Doubtful),
        ),
        ErrorWord::InteractionRequired | ErrorWord::LoginRequired => {
            by_suberror(error).or(refined).unwrap_or(INTERACTION)
        }
        ErrorWord::ConsentRequired | ErrorWord::AccessDenied => {
            by_suberror(error).or(refined).unwrap_or(CONSENT)
        }
        // Scopes are the operator's: no document names any.
        ErrorWord::InvalidScope | ErrorWord::InvalidResource | ErrorWord::InvalidTarget => {
            refined.unwrap_or(API_CONFIGURATION)
        }
        ErrorWord::InvalidRequest | ErrorWord::UnsupportedGrantType => {
            refined.unwrap_or(bad_request(grant))
        }
        ErrorWord::InvalidToken | ErrorWord::Unknown => {
            refined.unwrap_or(Verdict::of(Decision::RetryFew { then: LastResort::Permanent }))
        }
    }
}

/// Of what a number says, the little that makes a refused client less than that.
fn about_client(refined: Option<Verdict>) -> Option<Verdict> {
    refined.filter(|verdict| match verdict.decision {
        Decision::ForbiddenCaller | Decision::Retry { .. } => true,
        Decision::Operator => verdict.gate == Gate::TenantAndApi,
        Decision::RetrySlow
        | Decision::RetryFew { .. }
        | Decision::SuspendForUser { .. }
        | Decision::SuspendForAdministrator
        | Decision::Permanent
        | Decision::RejectAssertion => false,
    })
}

/// Claims and suberror; `None` leaves it to the number.
fn by_suberror(error: &OAuthError) -> Option<Verdict> {
    let needs_administrator = error.code_meaning() == Some(CodeMeaning::AdministratorNeeded);
    let challenge = error.claims().map(|_| INTERACTION);
    match error.suberror_word() {
        Suberror::ClientMismatch => Some(PERMANENT.with(RefreshTokenState::Dead)),
        Suberror::ProtectionPolicyRequired => Some(PERMANENT),
        Suberror::MessageOnly => Some(ADMINISTRATOR),
        Suberror::BadToken => Some(DEAD),
        Suberror::ConsentRequired if needs_administrator => Some(ADMINISTRATOR),
        Suberror::ConsentRequired => Some(CONSENT),
        Suberror::BasicAction
        | Suberror::AdditionalAction
        | Suberror::UserPasswordExpired
        // A rule of the API that was asked for; other APIs may still accept the refresh token.
        | Suberror::TokenExpired => Some(INTERACTION),
        Suberror::DeviceAuthenticationFailed => challenge.or(Some(ADMINISTRATOR)),
        Suberror::Unknown => challenge,
    }
}

fn by_code(grant: GrantKind, error: &OAuthError) -> Option<Verdict> {
    let is_exchange = grant.is_exchange();
    match error.code_meaning()? {
        // There was no assertion in a refresh: then the number says nothing.
        CodeMeaning::AssertionRefused => {
            is_exchange.then_some(Verdict::of(Decision::RejectAssertion))
        }
        CodeMeaning::MalformedToken if is_exchange => Some(Verdict::of(Decision::RejectAssertion)),
        CodeMeaning::CallerIsApplication if is_exchange => {
            Some(Verdict::of(Decision::ForbiddenCaller))
        }
        CodeMeaning::MalformedToken
        | CodeMeaning::CallerIsApplication
        | CodeMeaning::Configuration => Some(OPERATOR),
        CodeMeaning::ConsentNeeded => Some(CONSENT),
        CodeMeaning::AdministratorNeeded => Some(ADMINISTRATOR),
        CodeMeaning::InteractionNeeded => Some(INTERACTION),
        CodeMeaning::ApiConfiguration => Some(API_CONFIGURATION),
        CodeMeaning::BadRequest => Some(bad_request(grant)),
        CodeMeaning::UserUnknown => Some(PERMANENT),
        CodeMeaning::UserDisabled => Some(PERMANENT.with(RefreshTokenState::Dead)),
        CodeMeaning::RefreshTokenGone => Some(DEAD),
        CodeMeaning::Transient => Some(RETRY),
    }
}

#[cfg(test)]
mod tests;
