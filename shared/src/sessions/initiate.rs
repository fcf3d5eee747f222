//! A session begins: the user's token is exchanged, or was already.

use uuid::Uuid;

use super::{Sessions, turns::Turn};
use crate::{
    config::DownstreamApi,
    identity::{AssertionHash, Caller, Principal, Scopes, TokenFailure},
    storage::{
        Grant, KnownSession, NewAccessToken, NewGrant, SessionSelector, SessionState, StoreError,
    },
};

/// What initiations wait for each other by.
pub(super) type InitiationKey = (Principal, KeyOrToken);

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum KeyOrToken {
    Key(String),
    Token(AssertionHash),
}

/// A grant to submit a job with. Submit before dropping it: others who want the same session wait.
#[derive(Debug)]
pub struct Initiated {
    outcome: Outcome,
    #[expect(dead_code, reason = "held, not read")]
    turn: Option<Turn>,
}

#[derive(Debug)]
enum Outcome {
    Known(Uuid),
    New(NewGrant),
}

impl Initiated {
    /// What the submission writes.
    pub fn grant(&self) -> Grant<'_> {
        match &self.outcome {
            Outcome::Known(id) => Grant::Known(*id),
            Outcome::New(grant) => Grant::New(grant),
        }
    }
}

/// Why there is no grant. The user is still there: each of these is an answer to the submission.
#[derive(Debug, thiserror::Error)]
pub enum InitiateError {
    /// The provider did not exchange the token; the failure says what to do.
    #[error("the user's token could not be exchanged")]
    Refused(#[from] TokenFailure),
    /// The provider gave an access token only. A job that lives longer than that cannot start:
    /// `offline_access` has to be granted to Errand's app registration.
    #[error("the identity provider issued no refresh token")]
    NoRefreshToken,
    /// The database did not answer.
    #[error("the session could not be looked up")]
    Store(#[from] StoreError),
}

impl Sessions {
    /// Returns a grant for the caller: the session's own if it has one for this very token,
    /// otherwise a new one by exchange for `api`.
    ///
    /// Without `session_key` a key is allocated, the same one for the same token. Submissions with
    /// one token that arrive together cost one exchange.
    ///
    /// Source: MSAL `InitiateLongRunningProcessInWebApi`; Microsoft.Identity.Web `AllocateForMe`.
    pub async fn initiate(
        &self,
        caller: &Caller,
        session_key: Option<&str>,
        api: &DownstreamApi,
    ) -> Result<Initiated, InitiateError> {
        let hash = caller.assertion.hash();
        if let Some(id) = self.usable_session(caller, session_key, hash).await? {
            return Ok(Initiated { outcome: Outcome::Known(id), turn: None });
        }
        let key = session_key
            .map_or(KeyOrToken::Token(hash), |session_key| KeyOrToken::Key(session_key.to_owned()));
        let turn = self.initiations.take((caller.principal.clone(), key)).await;
        // Whoever had the turn before may have brought what is wanted.
        let outcome = match self.usable_session(caller, session_key, hash).await? {
            Some(id) => Outcome::Known(id),
            None => Outcome::New(self.exchange(caller, session_key, hash, api).await?),
        };
        Ok(Initiated { outcome, turn: Some(turn) })
    }

    /// Exchanges a fresh token of the user into an existing session, and makes every job of it that
    /// waited for the user due. Always asks the provider: what it refused before it may grant now.
    ///
    /// # Errors
    /// As [`Sessions::initiate`]; the session and its jobs stay as they are.
    pub async fn resume(
        &self,
        caller: &Caller,
        session_key: &str,
        api: &DownstreamApi,
    ) -> Result<(), InitiateError> {
        let hash = caller.assertion.hash();
        let grant = self.exchange(caller, Some(session_key), hash, api).await?;
        self.store.replace_grant(&caller.principal, &grant).await?;
        self.store.announce();
        Ok(())
    }

    async fn usable_session(
        &self,
        caller: &Caller,
        session_key: Option<&str>,
        hash: AssertionHash,
    ) -> Result<Option<Uuid>, StoreError> {
        let selector = session_key.map_or(SessionSelector::Allocated(&hash), SessionSelector::Key);
        let found = self.store.find_session(&caller.principal, &self.client_id, selector).await?;
        // Under the caller's own key another token is a newer sign-in: it replaces the grant. An
        // allocated key belongs to its token, whatever grant it has by now.
        let usable = |session: &KnownSession| {
            session.state == SessionState::Active
                && (session_key.is_none() || session.assertion_hash == hash)
        };
        Ok(found.filter(usable).map(|session| session.id))
    }

    async fn exchange(
        &self,
        caller: &Caller,
        session_key: Option<&str>,
        assertion_hash: AssertionHash,
        api: &DownstreamApi,
    ) -> Result<NewGrant, InitiateError> {
        let obtained_at = self.clock.now();
        let response =
            self.token_endpoint.exchange(&caller.principal, &caller.assertion, api).await?;
        let refresh_token = response.refresh_token.ok_or(InitiateError::NoRefreshToken)?;
        Ok(NewGrant {
            client_id: self.client_id.clone(),
            session_key: session_key.map(str::to_owned),
            assertion_hash,
            refresh_token,
            access_token: NewAccessToken {
                scope_set: scope_set(api),
                access_token: response.access_token,
                obtained_at,
                expires_at: response.expires_at,
            },
        })
    }
}

/// What an access token for `api` is found again by.
pub(super) fn scope_set(api: &DownstreamApi) -> String {
    Scopes::new(&api.scopes).map(|scopes| scopes.key()).unwrap_or_default()
}
