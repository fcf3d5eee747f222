//! What a worker asks of a database before it calls an API that limits how many calls it gets at once.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;

/// Slots that all processes share. Their time is the database's.
#[async_trait]
pub trait CallSlots: fmt::Debug + Send + Sync {
    /// Makes the slots from 1 to `limit` of an API, unless they are there.
    async fn make_call_slots(&self, api: &str, limit: u32) -> Result<(), StoreError>;

    /// Takes the lowest free slot up to `limit`, for `length`; none if all are held.
    ///
    /// Must not be dropped half-way: a slot could stay held that nobody knows of, until its time is
    /// over.
    async fn take_call_slot(
        &self,
        api: &str,
        limit: u32,
        length: Duration,
    ) -> Result<Option<CallSlot>, StoreError>;

    /// Holds the slot for `length` from now. False if its time was over and somebody else took it.
    async fn keep_call_slot(&self, slot: &CallSlot, length: Duration) -> Result<bool, StoreError>;

    /// Gives the slot back, unless it is somebody else's by now.
    async fn return_call_slot(&self, slot: &CallSlot) -> Result<(), StoreError>;
}

/// The right to make one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSlot {
    /// Name of the API.
    pub api: String,
    /// From 1.
    pub slot: i32,
    /// The fence: each taking has another one.
    pub holder: Uuid,
}
