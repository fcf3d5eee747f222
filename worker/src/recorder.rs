//! Writes the records of many jobs together.

use std::sync::Arc;

use errand_shared::storage::{Batch, Gather, Lease, Record, SharedStore, StoreError};

/// Takes the records of a worker's jobs.
#[derive(Debug)]
pub(crate) struct Recorder(Gather<Entry, bool, StoreError>);

type Entry = (Lease, Arc<Record>);

/// Why nothing was written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NotRecorded {
    /// Somebody else has the job, or nobody any more.
    #[error("the job's lease was lost")]
    LeaseLost,
    /// Try again.
    #[error("the database did not write it")]
    Failed(#[source] Arc<StoreError>),
}

impl From<StoreError> for NotRecorded {
    fn from(error: StoreError) -> Self {
        Self::Failed(Arc::new(error))
    }
}

impl Recorder {
    pub(crate) fn start(store: &SharedStore) -> Self {
        let store = Arc::clone(store);
        let write = move |entries: Batch<Entry>| {
            let store = Arc::clone(&store);
            async move {
                let records: Vec<_> =
                    entries.iter().map(|(lease, record)| (lease, &**record)).collect();
                store.record(&records).await
            }
        };
        Self(Gather::start(write, StoreError::is_refusal))
    }

    /// Writes what a step came to. Once begun it is written, even if nobody waits for it any more.
    pub(crate) async fn record(
        &self,
        lease: &Lease,
        record: &Arc<Record>,
    ) -> Result<(), NotRecorded> {
        match self.0.write((lease.clone(), Arc::clone(record))).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(NotRecorded::LeaseLost),
            Err(error) => Err(NotRecorded::Failed(error)),
        }
    }
}
