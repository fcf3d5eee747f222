//! Writes the records of many jobs together.
//!
//! While some are being written the next ones gather: a busy worker pays for one commit where it would
//! pay for fifty, and an idle one waits for nothing.

use std::{slice, sync::Arc};

use errand_shared::storage::{Lease, Record, SharedStore, StoreError};
use tokio::sync::{Mutex, mpsc, oneshot};

/// How many records are written together at most.
const MOST: usize = 256;

/// How many batches are written at once: the next one is put together while the first commits.
const WRITERS: usize = 2;

/// Takes the records of a worker's jobs.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    entries: mpsc::Sender<Entry>,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    record: Arc<Record>,
    answer: oneshot::Sender<Result<(), NotRecorded>>,
}

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
    /// Writes until the last clone is dropped.
    pub(crate) fn start(store: &SharedStore) -> Self {
        let (entries, receiver) = mpsc::channel(MOST);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..WRITERS {
            tokio::spawn(write(Arc::clone(store), Arc::clone(&receiver)));
        }
        Self { entries }
    }

    /// Writes what a step came to. Once begun it is written, even if nobody waits for it any more.
    pub(crate) async fn record(
        &self,
        lease: &Lease,
        record: &Arc<Record>,
    ) -> Result<(), NotRecorded> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry { lease: lease.clone(), record: Arc::clone(record), answer };
        self.entries.send(entry).await.expect("the writers last as long as the worker");
        answered.await.expect("a writer answers to every entry")
    }
}

async fn write(store: SharedStore, entries: Arc<Mutex<mpsc::Receiver<Entry>>>) {
    let mut batch = Vec::with_capacity(MOST);
    while entries.lock().await.recv_many(&mut batch, MOST).await > 0 {
        match record(&store, &batch).await {
            // What the database refuses in one must not keep the others from being written.
            Err(StoreError::Database(error))
                if error.as_database_error().is_some() && batch.len() > 1 =>
            {
                for entry in batch.drain(..) {
                    let written = record(&store, slice::from_ref(&entry)).await;
                    answer(vec![entry], written);
                }
            }
            written => answer(batch.drain(..), written),
        }
    }
}

async fn record(store: &SharedStore, batch: &[Entry]) -> Result<Vec<bool>, StoreError> {
    let records: Vec<_> = batch.iter().map(|entry| (&entry.lease, &*entry.record)).collect();
    store.record(&records).await
}

fn answer(batch: impl IntoIterator<Item = Entry>, written: Result<Vec<bool>, StoreError>) {
    let written = written.map_err(NotRecorded::from);
    for (index, entry) in batch.into_iter().enumerate() {
        let result = match &written {
            Ok(written) if written.get(index) == Some(&true) => Ok(()),
            Ok(_) => Err(NotRecorded::LeaseLost),
            Err(error) => Err(error.clone()),
        };
        // Whoever has lost its lease meanwhile does not wait.
        let _ = entry.answer.send(result);
    }
}
