//! `try`: what fails is tried again, handled, or passed over.
//!
//! Retries come first, `catch.do` when they are used up; with neither left the job goes on with the
//! input of the `try`. An error that is not meant (`errors`, `when`, `exceptWhen`) goes on upwards.

use std::time::Duration;

use serde_json::Value;

use super::{
    Fault, Flow, Job,
    evaluation::{Frame, Local, Surroundings},
    inconsistent,
};
use crate::{
    time::Timestamp,
    workflow::{
        WorkflowError,
        checkpoint::{ListState, TryPhase, TryState},
        document::{Backoff, ErrorFilter, RetryPolicy, Try},
        expressions::{Expression, is_true},
        progress::TaskEvent,
    },
};

/// What becomes of an error that a `try` is meant to catch.
enum Consequence {
    Retry { until: Timestamp },
    Handle,
    PassOver,
}

impl Job<'_> {
    pub(super) fn begin_attempt(
        &mut self,
        attempt: &Try,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<TryState, Fault> {
        let phase = self.body(attempt, input, frame)?;
        Ok(TryState { retries: 0, since: self.now, phase })
    }

    /// The beginning of a try.
    fn body(&mut self, attempt: &Try, input: &Value, frame: &Frame<'_>) -> Result<TryPhase, Fault> {
        let length = attempt.retry.as_ref().and_then(|policy| policy.attempt.as_ref());
        let timeout_at = match length {
            Some(length) => Some(self.now + self.length(length, input, frame)?),
            None => None,
        };
        Ok(TryPhase::Body { list: ListState::begin(None), timeout_at })
    }

    pub(super) fn attempt(
        &mut self,
        attempt: &Try,
        state: &mut TryState,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<Flow, Fault> {
        let pointer = frame.around.pointer;
        loop {
            match &mut state.phase {
                TryPhase::Body { list, timeout_at } => {
                    let wanted = (self.calls.len(), self.wake);
                    let body = self.try_body(attempt, list, *timeout_at, input, frame);
                    let fault = match body {
                        Err(fault) if !fault.is_final => fault,
                        flow => return flow,
                    };
                    // Nothing of the failed try is wanted any more.
                    self.calls.truncate(wanted.0);
                    self.wake = wanted.1;
                    match self.consequence(attempt, state, &fault, frame)? {
                        None => return Err(fault),
                        Some(Consequence::Retry { until }) => {
                            state.phase = TryPhase::Backoff { until };
                        }
                        Some(Consequence::Handle) => {
                            let error = fault.error;
                            state.phase = TryPhase::Catch { error, list: ListState::begin(None) };
                        }
                        Some(Consequence::PassOver) => {
                            return Ok(Flow::Done(input.clone(), attempt.then));
                        }
                    }
                }
                TryPhase::Backoff { until } => {
                    if self.now < *until {
                        self.wake_at(*until);
                        return Ok(Flow::Blocked);
                    }
                    state.phase = self.body(attempt, input, frame)?;
                    state.retries += 1;
                    self.note(TaskEvent::Retried, pointer);
                }
                TryPhase::Catch { error, list } => {
                    let tasks = attempt.handler.as_ref().ok_or_else(inconsistent)?;
                    let error = Value::from(error.clone());
                    let local =
                        Local { name: &attempt.variable, value: &error, outer: frame.around.local };
                    let pointer = format!("{pointer}/catch/do");
                    let around = Surroundings { pointer: &pointer, local: Some(&local) };
                    return Ok(match self.list(tasks, list, input, around)? {
                        Flow::Done(output, None) => Flow::Done(output, attempt.then),
                        flow => flow,
                    });
                }
            }
        }
    }

    fn try_body(
        &mut self,
        attempt: &Try,
        list: &mut ListState,
        timeout_at: Option<Timestamp>,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<Flow, Fault> {
        let pointer = format!("{}/try", frame.around.pointer);
        if let Some(timeout_at) = timeout_at {
            if self.now >= timeout_at {
                let error = WorkflowError::timeout("this try took too long");
                return Err(error.raised_by(frame.around.pointer, &self.workflow.dsl).into());
            }
            self.wake_at(timeout_at);
        }
        self.list(&attempt.tasks, list, input, Surroundings { pointer: &pointer, ..frame.around })
    }

    /// What `catch` has to do with an error; none: it is not meant.
    fn consequence(
        &mut self,
        attempt: &Try,
        state: &TryState,
        fault: &Fault,
        frame: &Frame<'_>,
    ) -> Result<Option<Consequence>, Fault> {
        if !matches(&attempt.errors, &fault.error) {
            return Ok(None);
        }
        let error = Value::from(fault.error.clone());
        let local = |name, outer| Local { name, value: &error, outer };
        let named = local(&attempt.variable, frame.around.local);
        let around = Surroundings { local: Some(&named), ..frame.around };
        let (when, except_when) = (attempt.when.as_ref(), attempt.except_when.as_ref());
        if !self.is_meant(when, except_when, &error, &Frame { around, ..*frame })? {
            return Ok(None);
        }
        if let Some(policy) = &attempt.retry {
            let local = local(&policy.variable, Some(&named));
            let around = Surroundings { local: Some(&local), ..frame.around };
            let frame = Frame { around, ..*frame };
            let (when, except_when) = (policy.when.as_ref(), policy.except_when.as_ref());
            if policy.count.is_none_or(|count| state.retries < count)
                && self.is_meant(when, except_when, &error, &frame)?
            {
                let delay = self.backoff(policy, state.retries, &error, &frame)?;
                let until = (self.now + delay).max(fault.not_before.unwrap_or(self.now));
                let ends_at = match &policy.duration {
                    Some(length) => Some(state.since + self.length(length, &error, &frame)?),
                    None => None,
                };
                if ends_at.is_none_or(|ends_at| until <= ends_at) {
                    return Ok(Some(Consequence::Retry { until }));
                }
            }
        }
        Ok(Some(match attempt.handler {
            Some(_) => Consequence::Handle,
            None => Consequence::PassOver,
        }))
    }

    fn is_meant(
        &mut self,
        when: Option<&Expression>,
        except_when: Option<&Expression>,
        error: &Value,
        frame: &Frame<'_>,
    ) -> Result<bool, WorkflowError> {
        if let Some(when) = when
            && !is_true(&self.compute(when, error, frame)?)
        {
            return Ok(false);
        }
        match except_when {
            Some(except) => Ok(!is_true(&self.compute(except, error, frame)?)),
            None => Ok(true),
        }
    }

    /// How long to wait before retry number `retries` (from 0), jitter included.
    fn backoff(
        &mut self,
        policy: &RetryPolicy,
        retries: u64,
        error: &Value,
        frame: &Frame<'_>,
    ) -> Result<Duration, WorkflowError> {
        let delay = match &policy.delay {
            Some(delay) => self.length(delay, error, frame)?,
            None => Duration::ZERO,
        };
        let retries = u32::try_from(retries).unwrap_or(u32::MAX);
        let delay = delay.saturating_mul(match policy.backoff {
            Backoff::Constant => 1,
            Backoff::Linear => retries.saturating_add(1),
            Backoff::Exponential => 2_u32.saturating_pow(retries),
        });
        let jitter = match &policy.jitter {
            Some((from, to)) => {
                let (from, to) = (self.length(from, error, frame)?, self.length(to, error, frame)?);
                from + share(to.saturating_sub(from), (self.random)())
            }
            None => Duration::ZERO,
        };
        Ok(delay.saturating_add(jitter).min(self.limits.max_deadline))
    }
}

/// `part` (from 0 to 1) of `length`, to the microsecond.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "jitter need not be exact, and casts from floats saturate"
)]
fn share(length: Duration, part: f64) -> Duration {
    let micros = length.as_micros() as f64 * part.clamp(0.0, 1.0);
    Duration::from_micros(micros as u64)
}

fn matches(filter: &ErrorFilter, error: &WorkflowError) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
    };
    filter.kind.as_deref().is_none_or(|kind| error.is_of_kind(kind))
        && filter.status.is_none_or(|status| status == u64::from(error.status))
        && is(&filter.title, Some(&error.title))
        && is(&filter.detail, error.detail.as_deref())
        && is(&filter.instance, error.instance.as_deref())
}
