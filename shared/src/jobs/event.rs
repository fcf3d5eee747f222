//! What its owner can be told about a job, one event for each change that concerns a client.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

use super::JobStatus;
use crate::time::Timestamp;

/// What happened. Later versions know more: what is read back stays a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The job is durable; `client` is the application that its user called with, if it is known.
    Submitted,
    /// A worker has it for the first time.
    Started,
    /// `task` began.
    TaskStarted,
    /// `task` is done.
    TaskCompleted,
    /// `task` failed, whether or not its document catches the error.
    TaskFaulted,
    /// `task`, a `try`, begins anew after an error.
    TaskRetried,
    /// Nothing happens before `until`.
    Waiting,
    /// A call of `task` failed and is sent again, not before `until`.
    CallRetried,
    /// The user or an administrator must act: `suspension` says on what (`reason`, `api`, `scopes`).
    Suspended,
    /// The user acted; the counterpart of `suspended`.
    Resumed,
    /// Its worker went away; another goes on from the last record.
    Interrupted,
    /// The end, with an output.
    Completed,
    /// The end, with an `error` of some `status`.
    Faulted,
    /// The end, by the user or an operator.
    Cancelled,
    /// Its user lets it go on after a fault.
    Retried,
    /// The user's token was exchanged for a grant with `scopes`.
    Exchanged,
    /// A new access token with `scopes` was issued for the grant.
    Refreshed,
    /// The session was stopped, by its user or because nothing needed it: its tokens are erased.
    Stopped,
}

impl EventKind {
    /// The word in SQL and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Started => "started",
            Self::TaskStarted => "task_started",
            Self::TaskCompleted => "task_completed",
            Self::TaskFaulted => "task_faulted",
            Self::TaskRetried => "task_retried",
            Self::Waiting => "waiting",
            Self::CallRetried => "call_retried",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Interrupted => "interrupted",
            Self::Completed => "completed",
            Self::Faulted => "faulted",
            Self::Cancelled => "cancelled",
            Self::Retried => "retried",
            Self::Exchanged => "exchanged",
            Self::Refreshed => "refreshed",
            Self::Stopped => "stopped",
        }
    }
}

/// One thing that happened to a job, or to the session it acts with.
#[derive(Debug, Clone, PartialEq)]
pub struct JobEvent {
    /// Where it stands among the job's events.
    pub position: EventPosition,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// What: one of [`EventKind`]'s words, or one that a newer version wrote.
    pub kind: String,
    /// The rest; no inputs, outputs, claims or tokens.
    pub data: Map<String, Value>,
}

impl JobEvent {
    /// Whether nothing happens to the job after it.
    pub fn is_final(&self) -> bool {
        self.kind.parse().is_ok_and(JobStatus::is_final)
    }
}

/// How far a client has read: the events of the job and those of its session are two sequences, and
/// a place in their merger is a place in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventPosition {
    /// The last event of the job itself; 0 before the first.
    pub job: i64,
    /// The last event of its session; 0 before the first.
    pub session: i64,
}

impl fmt::Display for EventPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.job, self.session)
    }
}

/// The text is no position.
#[derive(Debug, thiserror::Error)]
#[error("expected an event's id, such as `3.1`")]
pub struct NotAPosition;

impl FromStr for EventPosition {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (job, session) = text.split_once('.').ok_or(NotAPosition)?;
        let number = |text: &str| text.parse().map_err(|_| NotAPosition);
        Ok(Self { job: number(job)?, session: number(session)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_what_it_shows() {
        let position = EventPosition { job: 12, session: 3 };
        assert_eq!(position.to_string(), "12.3");
        assert_eq!("12.3".parse::<EventPosition>().unwrap(), position);
        for wrong in ["", "12", "12.", "a.b", "1.2.3"] {
            assert!(wrong.parse::<EventPosition>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_is_final_if_the_status_of_its_name_is() {
        let event = |kind: &str| JobEvent {
            position: EventPosition::default(),
            at: Timestamp::from_seconds(0).unwrap(),
            kind: kind.into(),
            data: Map::new(),
        };
        for (kind, is_final) in
            [("completed", true), ("faulted", true), ("cancelled", true), ("suspended", false)]
        {
            assert_eq!(event(kind).is_final(), is_final, "{kind}");
        }
        assert!(!event("something_new").is_final());
    }
}
