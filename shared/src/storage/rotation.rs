//! What an operator asks of a database about its key ring.

use std::fmt;

use async_trait::async_trait;

use super::StoreError;

/// Stored values and the keys that they are encrypted with.
#[async_trait]
pub trait Rotation: fmt::Debug + Send + Sync {
    /// Encrypts every value anew that is not encrypted with the first key of the ring.
    ///
    /// While others read and write: each value is replaced only if it is still the one that was
    /// read. Broken off, it can be started again, and passes over what is done.
    async fn rotate(&self) -> Result<Opened, StoreError>;

    /// Opens the oldest values of every column, and the oldest that are not encrypted with the first
    /// key; changes nothing.
    async fn sample(&self) -> Result<Opened, StoreError>;
}

/// What became of stored values.
#[derive(Debug, Default)]
pub struct Opened {
    /// How many were opened, and in a rotation encrypted anew.
    pub values: u64,
    /// One [`StoreError::Undecryptable`] for each that no key opens. They are left as they are.
    pub undecryptable: Vec<StoreError>,
}
