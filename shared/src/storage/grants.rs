//! What [`Sessions`](crate::sessions::Sessions) asks of a database: the tokens of a session, and the
//! right to refresh them.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{
    identity::{AccessToken, Principal, RefreshToken},
    time::Timestamp,
};

/// Stored grants. Every change is fenced by the grant's version: a late answer changes nothing.
///
/// A grant is named by its session and its `api`, which is empty where one grant serves every API.
#[async_trait]
pub trait Grants: fmt::Debug + Send + Sync {
    /// Returns the grant and its access token for `scope_set`, if the session is there, `owner`'s and
    /// `client_id`'s. A session that has no such grant counts as having a dead one.
    async fn held_grant(
        &self,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        client_id: &str,
        scope_set: &str,
    ) -> Result<Option<HeldGrant>, StoreError>;

    /// Takes the right to present the refresh token for `lease`, and counts the presentation.
    async fn begin_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        version: i64,
        lease: Duration,
    ) -> Result<Option<RefreshStart>, StoreError>;

    /// Stores what a refresh brought; without a new refresh token the old one stays (RFC 6749 6).
    /// False if the session was stopped or given another grant meanwhile, and nothing was written.
    async fn finish_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        version: i64,
        access_token: &NewAccessToken,
        refresh_token: Option<&RefreshToken>,
    ) -> Result<bool, StoreError>;

    /// Gives the right to refresh back without a result.
    async fn abandon_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        version: i64,
        refresher: Uuid,
        abandoned: Abandoned,
    ) -> Result<(), StoreError>;

    /// Erases the grant's refresh token, which the provider calls dead, and its access tokens unless
    /// they are to be used until they end. A session that is left without any token needs its user.
    /// False if the grant was replaced meanwhile.
    async fn end_grant(
        &self,
        session_id: Uuid,
        api: &str,
        version: i64,
        keep_access_tokens: bool,
    ) -> Result<bool, StoreError>;

    /// Takes the early renewal of an access token on itself, by putting it off until `next`. False if
    /// it is no longer due at `refresh_at`: somebody else has taken it, or there is another token.
    async fn claim_early_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        scope_set: &str,
        refresh_at: Timestamp,
        next: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Returns up to `limit` grants that brought no tokens for `unused` although jobs that are not
    /// finished need them, the longest unused first.
    async fn idle_grants(
        &self,
        client_id: &str,
        unused: Duration,
        limit: u32,
    ) -> Result<Vec<IdleGrant>, StoreError>;

    /// Takes the refresh of an idle grant on itself, for `length`. False if somebody else has, or it
    /// was used meanwhile.
    async fn claim_idle_grant(
        &self,
        grant: &IdleGrant,
        length: Duration,
    ) -> Result<bool, StoreError>;
}

/// What a session may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Its tokens can be used and refreshed.
    Active,
    /// Its grants are dead; its user must come back.
    InteractionRequired,
    /// Its user stopped it.
    Stopped,
}

impl SessionState {
    /// The word in SQL and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::InteractionRequired => "interaction_required",
            Self::Stopped => "stopped",
        }
    }
}

/// The text is no session state.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a session state")]
pub struct UnknownState(String);

impl FromStr for SessionState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Active, Self::InteractionRequired, Self::Stopped]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// A grant as it stands.
#[derive(Debug)]
pub struct HeldGrant {
    /// Whether its session can be used.
    pub state: SessionState,
    /// The session's fence: greater each time that the user acts.
    pub session_version: i64,
    /// The grant's own fence: greater each time that it changes.
    pub version: i64,
    /// Whether there is a refresh token.
    pub renewable: bool,
    /// No token request before this.
    pub not_before: Option<Timestamp>,
    /// When the provider refused the refresh token without saying that it is dead.
    pub refused_at: Option<Timestamp>,
    /// How often the refresh token was presented without an answer.
    pub presented: u32,
    /// How often in a row the provider saw a request loop.
    pub loops: u32,
    /// The access token for the scopes asked about.
    pub token: Option<HeldToken>,
}

/// An access token of a session.
#[derive(Debug, Clone)]
pub struct HeldToken {
    /// The token.
    pub access_token: AccessToken,
    /// When it was asked for.
    pub obtained_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// From when on it is renewed beside its use; none: when it is about to end.
    pub refresh_at: Option<Timestamp>,
}

/// An access token from the provider.
#[derive(Debug)]
pub struct NewAccessToken {
    /// The scopes asked for, as one normalised text: what the token is found again by.
    pub scope_set: String,
    /// The token.
    pub access_token: AccessToken,
    /// When it was asked for.
    pub obtained_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// From when on it is renewed beside its use; none: when it is about to end.
    pub refresh_at: Option<Timestamp>,
}

impl From<NewAccessToken> for HeldToken {
    fn from(token: NewAccessToken) -> Self {
        let NewAccessToken { access_token, obtained_at, expires_at, refresh_at, .. } = token;
        Self { access_token, obtained_at, expires_at, refresh_at }
    }
}

/// A grant that nobody has used for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleGrant {
    /// Its session.
    pub session_id: Uuid,
    /// The API it is good for; empty: any.
    pub api: String,
    /// Whose it is.
    pub owner: Principal,
    /// Its fence.
    pub version: i64,
    /// Of the access token that it brought last, if one is left.
    pub scope_set: Option<String>,
}

/// The right to present a refresh token once.
#[derive(Debug)]
pub struct RefreshStart {
    /// Who has the right.
    pub refresher: Uuid,
    /// The token.
    pub refresh_token: RefreshToken,
}

/// How a refresh ended without a token.
#[derive(Debug, Clone, Copy)]
pub struct Abandoned {
    /// The refresh token may have reached the provider, who did not answer: the presentation counts.
    pub unanswered: bool,
    /// The provider refused the token at this time, without saying that it is dead.
    pub refused_at: Option<Timestamp>,
    /// The provider saw a request loop: one more in a row.
    pub looped: bool,
    /// No token request before this.
    pub not_before: Option<Timestamp>,
}
