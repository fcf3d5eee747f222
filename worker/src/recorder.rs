//! Writes the records of many jobs together.
//!
//! While some are being written the next ones gather, so that a busy worker pays for one commit
//! where it would pay for fifty, and an idle one waits for nothing.

use std::sync::Arc;

use errand_shared::storage::{Lease, Record, SharedStore, StoreError};
use futures::future::join_all;
use tokio::sync::{Mutex, mpsc, oneshot};

/// How many records are written together at most.
const BATCH: usize = 256;

/// How many batches are written at once: the next one is put together while the first commits.
const WRITERS: usize = 2;

/// Takes records from the jobs of this worker.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Entry>,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    record: Record,
    written: oneshot::Sender<(Record, Result<(), StoreError>)>,
}

impl Recorder {
    /// Writes until the last clone is dropped.
    pub(crate) fn start(store: &SharedStore) -> Self {
        let (sender, receiver) = mpsc::channel(BATCH);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..WRITERS {
            tokio::spawn(write(Arc::clone(store), Arc::clone(&receiver)));
        }
        Self { sender }
    }

    /// Writes what a step came to; gives the record back, to be tried again.
    ///
    /// Once it has begun it is written, even if nobody waits for it any more.
    pub(crate) async fn record(
        &self,
        lease: Lease,
        record: Record,
    ) -> (Record, Result<(), StoreError>) {
        let (written, result) = oneshot::channel();
        let entry = Entry { lease, record, written };
        self.sender.send(entry).await.expect("the writers last as long as the worker");
        result.await.expect("a writer answers to every entry")
    }
}

async fn write(store: SharedStore, receiver: Arc<Mutex<mpsc::Receiver<Entry>>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.lock().await.recv_many(&mut batch, BATCH).await > 0 {
        let records: Vec<_> = batch.iter().map(|entry| (&entry.lease, &entry.record)).collect();
        let written = match store.record(&records).await {
            Ok(written) => written.into_iter().map(Ok).collect(),
            // One that the database refuses must not keep the others from being written.
            Err(_) if batch.len() > 1 => join_all(records.iter().map(|record| alone(&store, *record))).await,
            Err(error) => vec![Err(error)],
        };
        for (entry, written) in batch.drain(..).zip(written) {
            let result = written.and_then(|written| if written { Ok(()) } else { Err(StoreError::LeaseLost) });
            // Whoever has lost its lease meanwhile does not wait.
            let _ = entry.written.send((entry.record, result));
        }
    }
}

async fn alone(store: &SharedStore, record: (&Lease, &Record)) -> Result<bool, StoreError> {
    Ok(store.record(&[record]).await?.contains(&true))
}
