//! A session begins: the user's token is exchanged, or was already.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{
    Sessions,
    gates::{Asked, Held},
    new_access_token,
    turns::Turn,
};
use crate::{
    config::{Dialect, DownstreamApi, DownstreamApis},
    identity::{AssertionHash, Caller, Principal, Scopes, TokenFailure},
    storage::{
        GateReason, Grant, KnownGrant, KnownSession, NewGrant, NewTokens, SessionSelector,
        SessionState, StoreError,
    },
    time::Timestamp,
};

/// Which session is meant, and whose; what initiations wait for each other by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct InitiationKey {
    owner: Principal,
    session: KeyOrToken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum KeyOrToken {
    Key(String),
    Token(AssertionHash),
}

impl InitiationKey {
    fn new(caller: &Caller, session_key: Option<&str>) -> Self {
        let session = match session_key {
            Some(key) => KeyOrToken::Key(key.to_owned()),
            None => KeyOrToken::Token(caller.assertion.hash()),
        };
        Self { owner: caller.principal.clone(), session }
    }
}

/// A grant to submit a job with. Submit before dropping it: others who want the same session wait.
#[derive(Debug)]
pub struct Initiated {
    outcome: Outcome,
    ends_at: Option<Timestamp>,
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

    /// When the first of its APIs can no longer be called without the user, as far as is known: the
    /// provider gave an access token only. None if every grant can be renewed.
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.ends_at
    }
}

/// For which of a document's APIs a submission makes sure that a token can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// The first that the document names; the others when they are needed.
    First,
    /// Each.
    All,
}

/// Why there is no grant. The user is still there: each of these is an answer to the submission.
#[derive(Debug, thiserror::Error)]
pub enum InitiateError {
    /// The provider did not exchange the token; the failure says what to do.
    #[error("the user's token could not be exchanged for `{}`", api.name)]
    Refused {
        /// The API it was to be exchanged for.
        api: Box<DownstreamApi>,
        /// Why not.
        source: Box<TokenFailure>,
    },
    /// Entra gave an access token only. A job that lives longer than that cannot start:
    /// `offline_access` has to be granted to Errand's app registration.
    #[error("the identity provider issued no refresh token")]
    NoRefreshToken,
    /// This user's tokens were exchanged too often lately.
    #[error("this user's tokens were exchanged too often")]
    TooMany {
        /// Until the next one.
        retry_after: Duration,
    },
    /// The provider refused others lately, and would refuse this user too: it was not asked.
    #[error("token requests are held")]
    Held {
        /// Whose turn it is.
        reason: GateReason,
        /// Until it is asked again.
        retry_after: Duration,
    },
    /// The database did not answer.
    #[error("the session could not be looked up")]
    Store(#[from] StoreError),
}

impl Sessions {
    /// Returns a grant for the caller: the session's own if it has one for this very token,
    /// otherwise a new one by exchange.
    ///
    /// `apis` are those that the document names, in its order. At Entra the token is exchanged for
    /// the first, and the refresh token that comes with it serves them all; in the token-exchange
    /// dialect it is exchanged for each that the session has no usable grant for.
    ///
    /// With [`Preflight::All`] it is exchanged for each API, so that what only the user can mend
    /// comes to light while the user is there.
    ///
    /// Without `session_key` a key is allocated, the same one for the same token. Submissions with
    /// one token that arrive together cost one exchange.
    ///
    /// Source: MSAL `InitiateLongRunningProcessInWebApi`; Microsoft.Identity.Web `AllocateForMe`.
    pub async fn initiate(
        &self,
        caller: &Caller,
        session_key: Option<&str>,
        apis: &[&DownstreamApi],
        preflight: Preflight,
    ) -> Result<Initiated, InitiateError> {
        let (apis, others) = match self.dialect {
            Dialect::Entra { .. } => apis.split_at(apis.len().min(1)),
            Dialect::TokenExchange { .. } => (apis, &[][..]),
        };
        if preflight == Preflight::All {
            // For the refusals alone: the session's refresh token brings these tokens when they
            // are needed.
            let exchanges = others.iter().map(|api| self.exchange(caller, api));
            futures::future::try_join_all(exchanges).await?;
        }
        let hash = caller.assertion.hash();
        let key = InitiationKey::new(caller, session_key);
        let lately = self.known.find(&key).and_then(|known| self.usable(&known, &key, hash, apis));
        let known = match lately.filter(|known| known.missing.is_empty()) {
            Some(known) => Some(known),
            None => self.known_grants(&key, hash, apis).await?,
        };
        if let Some(known) = known.filter(|known| known.missing.is_empty()) {
            let outcome = Outcome::Known(known.id);
            return Ok(Initiated { outcome, ends_at: known.ends_at, turn: None });
        }
        let turn = Some(self.initiations.take(key.clone()).await);
        // Whoever had the turn before may have brought what is wanted.
        let known = self.known_grants(&key, hash, apis).await?;
        let (missing, known_end) = match known {
            Some(known) if known.missing.is_empty() => {
                let outcome = Outcome::Known(known.id);
                return Ok(Initiated { outcome, ends_at: known.ends_at, turn });
            }
            Some(known) => (known.missing, known.ends_at),
            None => (apis.to_vec(), None),
        };
        let exchanges = missing.into_iter().map(|api| self.exchange(caller, api));
        let tokens: Vec<NewTokens> = futures::future::join_all(exchanges)
            .await
            .into_iter()
            .collect::<Result<_, InitiateError>>()?;
        let ends = tokens
            .iter()
            .filter(|tokens| tokens.refresh_token.is_none())
            .map(|tokens| tokens.access_token.expires_at);
        let ends_at = ends.chain(known_end).min();
        let outcome = Outcome::New(self.new_grant(session_key, hash, tokens));
        Ok(Initiated { outcome, ends_at, turn })
    }

    /// Exchanges a fresh token of the user into an existing session, and makes every job of it that
    /// waited for the user due. Always asks the provider: what it refused before it may grant now.
    ///
    /// In the token-exchange dialect the session's other APIs, as far as they are `configured`, are
    /// renewed too where the provider lets them: the user is there now and may not be later.
    ///
    /// # Errors
    /// As [`Sessions::initiate`], about `api`; the session and its jobs stay as they are.
    pub async fn resume(
        &self,
        caller: &Caller,
        session_key: &str,
        api: &DownstreamApi,
        configured: &DownstreamApis,
    ) -> Result<(), InitiateError> {
        let hash = caller.assertion.hash();
        let mut tokens = vec![self.exchange(caller, api).await?];
        let selector = SessionSelector::Key(session_key);
        let session = self.store.find_session(&caller.principal, &self.client_id, selector).await?;
        let grants = session.into_iter().flat_map(|session| session.grants);
        let others = grants.filter_map(|grant| configured.get(&grant.api));
        for other in others.filter(|other| other.name != api.name) {
            // Refused: logged already, and told to the user when a job comes to need it.
            tokens.extend(self.exchange(caller, other).await.ok());
        }
        let grant = self.new_grant(Some(session_key), hash, tokens);
        self.store.replace_grant(&caller.principal, &grant).await?;
        self.store.announce();
        Ok(())
    }

    /// What was found of the caller's session no longer holds: the next initiation looks at its row.
    pub fn look_again(&self, caller: &Caller, session_key: Option<&str>) {
        self.known.forget(&InitiationKey::new(caller, session_key));
    }

    /// Looks up what a session has for `apis` already; none if it cannot be used at all.
    async fn known_grants<'a>(
        &self,
        key: &InitiationKey,
        hash: AssertionHash,
        apis: &[&'a DownstreamApi],
    ) -> Result<Option<KnownGrants<'a>>, StoreError> {
        let InitiationKey { owner, session } = key;
        let selector = match session {
            KeyOrToken::Key(key) => SessionSelector::Key(key),
            KeyOrToken::Token(hash) => SessionSelector::Allocated(hash),
        };
        let found = self.store.find_session(owner, &self.client_id, selector).await?;
        Ok(found.and_then(|found| {
            self.known.keep(key, &found);
            self.usable(&found, key, hash, apis)
        }))
    }

    /// What a session has for `apis` already; none if it cannot be used at all.
    fn usable<'a>(
        &self,
        found: &KnownSession,
        key: &InitiationKey,
        hash: AssertionHash,
        apis: &[&'a DownstreamApi],
    ) -> Option<KnownGrants<'a>> {
        // Under the caller's own key another token is a newer sign-in: it replaces the grants. An
        // allocated key belongs to its token, whatever grants it has by now.
        let is_its_own =
            matches!(key.session, KeyOrToken::Token(_)) || found.assertion_hash == hash;
        if found.state != SessionState::Active || !is_its_own {
            return None;
        }
        let mut known = KnownGrants { id: found.id, missing: Vec::new(), ends_at: None };
        let now = self.clock.now();
        for api in apis {
            let name = self.grant_for(api);
            match found.grants.iter().find(|grant| grant.api == name) {
                Some(KnownGrant { renewable: true, .. }) => {}
                Some(KnownGrant { expires_at: Some(end), .. }) if *end > now => {
                    known.ends_at = known.ends_at.into_iter().chain([*end]).min();
                }
                Some(_) | None => known.missing.push(*api),
            }
        }
        Some(known)
    }

    fn new_grant(
        &self,
        session_key: Option<&str>,
        assertion_hash: AssertionHash,
        tokens: Vec<NewTokens>,
    ) -> NewGrant {
        NewGrant {
            client_id: self.client_id.clone(),
            session_key: session_key.map(str::to_owned),
            assertion_hash,
            tokens,
        }
    }

    async fn exchange(
        &self,
        caller: &Caller,
        api: &DownstreamApi,
    ) -> Result<NewTokens, InitiateError> {
        self.exchange_limit
            .take(&caller.principal, Instant::now())
            .map_err(|retry_after| InitiateError::TooMany { retry_after })?;
        let tenant = &caller.principal.tenant;
        let leave = match self.ask_gates(tenant, api).await? {
            Asked::Granted(leave) => leave,
            Asked::Held(Held { reason, length }) => {
                return Err(InitiateError::Held { reason, retry_after: length });
            }
        };
        let obtained_at = self.clock.now();
        let answer = self.token_endpoint.exchange(&caller.principal, &caller.assertion, api).await;
        self.tell_gates(tenant, api, leave, answer.as_ref().err()).await;
        let response = answer.map_err(|failure| InitiateError::Refused {
            api: Box::new(api.clone()),
            source: Box::new(failure),
        })?;
        match (&self.dialect, &response.refresh_token) {
            (Dialect::Entra { .. }, None) => return Err(InitiateError::NoRefreshToken),
            (Dialect::Entra { .. }, Some(_)) | (Dialect::TokenExchange { .. }, _) => {}
        }
        Ok(NewTokens {
            api: self.grant_for(api).to_owned(),
            access_token: new_access_token(scope_set(api), obtained_at, &response),
            refresh_token: response.refresh_token,
        })
    }
}

/// What a session that can be used has for the APIs asked about.
struct KnownGrants<'a> {
    id: Uuid,
    /// Those that the user's token has to be exchanged for.
    missing: Vec<&'a DownstreamApi>,
    /// When the first of the others ends that cannot be renewed.
    ends_at: Option<Timestamp>,
}

/// What an access token for `api` is found again by.
pub(super) fn scope_set(api: &DownstreamApi) -> String {
    Scopes::new(&api.scopes).map(|scopes| scopes.key()).unwrap_or_default()
}
