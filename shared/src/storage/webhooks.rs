//! What a worker asks of a database about webhooks: which to send, and what became of them.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::jobs::{DefinitionName, JobEvent};

/// Webhooks to be sent, each written with the event it tells of.
#[async_trait]
pub trait Webhooks: fmt::Debug + Send + Sync {
    /// Takes up to `limit` due deliveries for one try each. Whoever takes one and says nothing for
    /// `lease` leaves it to another.
    async fn claim_deliveries(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Writes what a try came to, unless another has begun since.
    async fn finish_delivery(&self, delivery: &Delivery, tried: Tried) -> Result<(), StoreError>;
}

/// One try to tell of an event.
#[derive(Debug)]
pub struct Delivery {
    /// The job.
    pub job_id: Uuid,
    /// The event's number: with the job's id it names the delivery, over all its tries.
    pub sequence: i64,
    /// Number of this try, from 1.
    pub attempt: u32,
    /// Where to.
    pub url: String,
    /// What of.
    pub event: JobEvent,
    /// Name of the job's document.
    pub definition: DefinitionName,
    /// Its submitter's labels.
    pub tags: BTreeMap<String, String>,
}

/// What a try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It arrived.
    Delivered,
    /// It did not; the next try begins after this.
    Failed {
        /// From now.
        again_after: Duration,
    },
    /// It did not and will not.
    GivenUp,
}
