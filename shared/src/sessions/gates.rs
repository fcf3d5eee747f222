//! Token requests that would be refused like somebody else's are not sent.
//!
//! A throttled or misconfigured client is refused whoever it asks for, and asking on makes a throttle
//! longer. So what such a refusal is about is held, by all processes together: a gate is a row. When
//! its time is over one request goes first, and opens the gate if the provider answers it.

use std::time::Duration;

use super::Sessions;
use crate::{
    config::DownstreamApi,
    identity::{Decision, Gate, HTTP_TIMEOUT, Presented, TokenFailure},
    storage::{GateReason, Passage, Probe, StoreError},
};

/// How long a gate is closed where the provider does not say: for an operator, and for a throttle
/// without `Retry-After`.
const CLOSED: Duration = Duration::from_mins(1);

/// How long others are held while one request goes first: it is answered by then, or never.
const PROBE: Duration = HTTP_TIMEOUT.saturating_add(Duration::from_secs(2));

/// The longest that whoever is held comes later than need be.
const LONGEST_SPREAD: Duration = Duration::from_mins(1);

/// Leave to send one token request.
#[derive(Debug)]
#[must_use]
pub(super) struct Leave(Vec<Probe>);

/// A token request is not to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Whose turn it is.
    pub(super) reason: GateReason,
    /// For how long.
    pub(super) length: Duration,
}

/// What asking for leave comes to.
pub(super) enum Asked {
    /// Send it, and tell what came of it: [`Sessions::tell_gates`].
    Granted(Leave),
    /// Do not.
    Held(Held),
}

impl Sessions {
    /// Asks whether a token request may be sent.
    pub(super) async fn ask_gates(
        &self,
        tenant: &str,
        api: &DownstreamApi,
    ) -> Result<Asked, StoreError> {
        let passage = self.store.pass_gates(&self.client_id, tenant, &api.name, PROBE).await?;
        Ok(match passage {
            Passage::Open(probes) => Asked::Granted(Leave(probes)),
            Passage::Held { reason, length } => Asked::Held(Held { reason, length }),
        })
    }

    /// Closes and opens gates by what became of a request; says what is held now, if anything is.
    ///
    /// A success opens only what its request was let through as the first one. A gate that cannot be
    /// written costs a few requests, and is no reason to fail what was asked for.
    pub(super) async fn tell_gates(
        &self,
        tenant: &str,
        api: &DownstreamApi,
        leave: Leave,
        failure: Option<&TokenFailure>,
    ) -> Option<Held> {
        let closed = failure.and_then(closed_by);
        if let Some((gate, held)) = closed {
            let name = if gate == Gate::TenantAndApi { api.name.as_str() } else { "" };
            match held.reason {
                GateReason::Throttled => {
                    tracing::warn!(tenant, length = ?held.length, "token requests are throttled");
                }
                GateReason::Operator => tracing::error!(
                    tenant,
                    api = name,
                    "token requests wait for the operator: the identity provider refuses this \
                     configuration"
                ),
            }
            let closing =
                self.store.close_gate(&self.client_id, tenant, name, held.reason, held.length);
            unless_failed(closing.await);
        }
        for probe in &leave.0 {
            if is_opened(&probe.api, failure) {
                unless_failed(self.store.open_gate(&self.client_id, tenant, probe).await);
            }
        }
        closed.map(|(_, held)| held)
    }
}

/// What a failure holds back beside its own session, and for how long.
fn closed_by(failure: &TokenFailure) -> Option<(Gate, Held)> {
    let held = match failure.decision {
        Decision::Retry { after } => {
            Held { reason: GateReason::Throttled, length: after.unwrap_or(CLOSED) }
        }
        Decision::Operator => Held { reason: GateReason::Operator, length: CLOSED },
        Decision::RetrySlow
        | Decision::RetryFew { .. }
        | Decision::SuspendForUser { .. }
        | Decision::SuspendForAdministrator
        | Decision::Permanent
        | Decision::RejectAssertion
        | Decision::ForbiddenCaller => return None,
    };
    (failure.gate != Gate::Session).then_some((failure.gate, held))
}

/// Whether the gate of `api`, or with an empty one that of client and tenant, is shown to be passed:
/// what the provider said was about something behind it.
fn is_opened(api: &str, failure: Option<&TokenFailure>) -> bool {
    failure.is_none_or(|failure| {
        failure.presented == Presented::Answered
            && match failure.gate {
                Gate::ClientAndTenant => false,
                Gate::TenantAndApi => api.is_empty(),
                Gate::Session => true,
            }
    })
}

fn unless_failed(written: Result<(), StoreError>) {
    if let Err(error) = written {
        tracing::warn!("a gate is not written: {error}");
    }
}

impl Held {
    /// For how long whoever wanted the token waits: all who are held would come back together.
    pub(super) fn spread(self) -> Duration {
        self.length + (self.length / 4).min(LONGEST_SPREAD).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{LastResort, RefreshTokenState, SuspensionReason};

    fn failure(decision: Decision, gate: Gate, presented: Presented) -> TokenFailure {
        TokenFailure {
            decision,
            gate,
            refresh_token: RefreshTokenState::Usable,
            presented,
            error: None,
            suberror: None,
            codes: Vec::new(),
            claims: None,
            correlation_id: None,
            description: String::new(),
        }
    }

    #[test]
    fn a_failure_closes_the_gate_that_it_names_for_as_long_as_it_says() {
        use Gate::{ClientAndTenant, Session, TenantAndApi};
        let hour = Duration::from_hours(1);
        let retry = |after| Decision::Retry { after };
        let throttled = |length| Some((GateReason::Throttled, length));
        let operator = Some((GateReason::Operator, CLOSED));
        for (decision, gate, expected) in [
            (retry(Some(hour)), ClientAndTenant, throttled(hour)),
            (retry(None), ClientAndTenant, throttled(CLOSED)),
            (Decision::Operator, ClientAndTenant, operator),
            (Decision::Operator, TenantAndApi, operator),
            (retry(Some(hour)), Session, None),
            (Decision::Operator, Session, None),
            (Decision::RetrySlow, Session, None),
            (Decision::RetryFew { then: LastResort::Operator }, Session, None),
            (Decision::Permanent, Session, None),
        ] {
            let failure = failure(decision, gate, Presented::Answered);
            let closed = closed_by(&failure).map(|(closed, held)| {
                assert_eq!(closed, gate);
                (held.reason, held.length)
            });
            assert_eq!(closed, expected, "{decision:?} {gate:?}");
        }
    }

    #[test]
    fn what_the_provider_says_about_something_else_opens_a_gate() {
        let user = Decision::SuspendForUser { reason: SuspensionReason::ConsentRequired };
        let answered = |gate| failure(user, gate, Presented::Answered);
        // The gate of an API, and that of the client in the tenant.
        for (failure, expected) in [
            (None, [true, true]),
            (Some(answered(Gate::Session)), [true, true]),
            (Some(answered(Gate::TenantAndApi)), [false, true]),
            (Some(answered(Gate::ClientAndTenant)), [false, false]),
            (Some(failure(user, Gate::Session, Presented::Unanswered)), [false, false]),
            (Some(failure(user, Gate::Session, Presented::NotProcessed)), [false, false]),
        ] {
            let opened = ["PartnerAPI", ""].map(|api| is_opened(api, failure.as_ref()));
            assert_eq!(opened, expected, "{failure:?}");
        }
    }

    #[test]
    fn nobody_who_is_held_comes_early_or_much_too_late() {
        for length in [1, 60, 3600].map(Duration::from_secs) {
            let held = Held { reason: GateReason::Throttled, length };
            let latest = length + (length / 4).min(LONGEST_SPREAD);
            let waits: Vec<Duration> = (0..100).map(|_| held.spread()).collect();
            assert!(waits.iter().all(|wait| (length..=latest).contains(wait)), "{waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
    }
}
