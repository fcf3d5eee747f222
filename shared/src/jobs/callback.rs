//! Whom to tell of a job.

use url::Url;

use super::EventKind;

/// Where the submitter of a job wants to be told of it, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// At a configured host.
    pub url: Url,
    /// Some of [`Callback::EVENTS`].
    pub events: Vec<EventKind>,
}

impl Callback {
    /// What a callback can be asked for: each change that its submitter may have to react to.
    pub const EVENTS: [EventKind; 5] = [
        EventKind::Suspended,
        EventKind::Resumed,
        EventKind::Completed,
        EventKind::Faulted,
        EventKind::Cancelled,
    ];
}
