//! Tells workers that something became due, at most once in a few milliseconds.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

/// Between two notifications at least: short beside a commit, and it keeps a burst of submissions from
/// becoming a burst of notifications.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// Two permits that are never lost: one for whoever passes announcements on, one for the worker of
/// this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Announcements {
    outgoing: Arc<Notify>,
    arrived: Arc<Notify>,
}

impl Announcements {
    /// Something became due here.
    pub(super) fn announce(&self) {
        self.outgoing.notify_one();
        self.arrived.notify_one();
    }

    /// Something became due elsewhere.
    pub(super) fn arrived(&self) {
        self.arrived.notify_one();
    }

    pub(super) async fn wait(&self) {
        self.arrived.notified().await;
    }

    /// Returns when something became due here since the last call.
    pub(super) async fn outgoing(&self) {
        self.outgoing.notified().await;
    }
}
