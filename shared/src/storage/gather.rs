//! Writes together what several parties want written at the same time.
//!
//! While one batch is being written the next one gathers: whoever is busy pays for one commit where it would
//! pay for fifty, and whoever is idle waits for nothing. With two writers batches would be half as long, and each
//! would cost about the same.

use std::{
    fmt,
    ops::{Deref, Range},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};

/// How many things are written together at most.
const MOST: usize = 256;

/// Takes things to be written, and hands them on in batches.
pub struct Gather<T, R, E> {
    entries: mpsc::Sender<Entry<T, R, E>>,
}

/// What is to be written together: at least one thing.
#[derive(Debug)]
pub struct Batch<T> {
    items: Arc<[T]>,
    range: Range<usize>,
}

impl<T> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[self.range.clone()]
    }
}

struct Entry<T, R, E> {
    item: T,
    answer: oneshot::Sender<Result<R, Arc<E>>>,
}

impl<T, R, E> Gather<T, R, E>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    E: Send + Sync + 'static,
{
    /// `write` answers to each item of a batch, in their order; `is_refusal` says of its errors which
    /// are about what an item is, and not about the database.
    ///
    /// Writes until the last clone is dropped.
    pub fn start<F>(
        write: impl Fn(Batch<T>) -> F + Send + Sync + 'static,
        is_refusal: fn(&E) -> bool,
    ) -> Self
    where
        F: Future<Output = Result<Vec<R>, E>> + Send + 'static,
    {
        let (entries, receiver) = mpsc::channel(MOST);
        tokio::spawn(write_all(write, is_refusal, receiver));
        Self { entries }
    }

    /// Returns once the item was written, or why it was not. Once begun it is written, even if nobody
    /// waits for it any more.
    ///
    /// # Panics
    /// If writing its batch does.
    pub async fn write(&self, item: T) -> Result<R, Arc<E>> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry { item, answer };
        self.entries.send(entry).await.expect("the writer lasts as long as this");
        answered.await.expect("nothing panicked over it")
    }
}

async fn write_all<T, R, E, F>(
    write: impl Fn(Batch<T>) -> F,
    is_refusal: fn(&E) -> bool,
    mut entries: mpsc::Receiver<Entry<T, R, E>>,
) where
    F: Future<Output = Result<Vec<R>, E>>,
{
    let mut gathered = Vec::with_capacity(MOST);
    while entries.recv_many(&mut gathered, MOST).await > 0 {
        let (items, answers): (Vec<T>, Vec<_>) =
            gathered.drain(..).map(|Entry { item, answer }| (item, answer)).unzip();
        let written = write_batch(&write, is_refusal, items.into());
        // Who comes later must not suffer from what panicked over these: nobody answers to them.
        let Ok(results) = AssertUnwindSafe(written).catch_unwind().await else { continue };
        for (answer, result) in answers.into_iter().zip(results) {
            // Nobody waits for it any more.
            let _ = answer.send(result);
        }
    }
}

async fn write_batch<T, R, E, F>(
    write: &impl Fn(Batch<T>) -> F,
    is_refusal: fn(&E) -> bool,
    items: Arc<[T]>,
) -> Vec<Result<R, Arc<E>>>
where
    F: Future<Output = Result<Vec<R>, E>>,
{
    let count = items.len();
    let batch = |range| Batch { items: Arc::clone(&items), range };
    match write(batch(0..count)).await {
        Ok(written) => written.into_iter().map(Ok).collect(),
        // What the database refuses of one must not keep the others from being written.
        Err(error) if count > 1 && is_refusal(&error) => {
            let mut results = Vec::with_capacity(count);
            for at in 0..count {
                let written = write(batch(at..at + 1)).await;
                let written = written.map(|mut written| written.pop()).transpose();
                results.extend(written.map(|written| written.map_err(Arc::new)));
            }
            results
        }
        Err(error) => {
            let error = Arc::new(error);
            (0..count).map(|_| Err(Arc::clone(&error))).collect()
        }
    }
}

impl<T, R, E> Clone for Gather<T, R, E> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone() }
    }
}

impl<T, R, E> fmt::Debug for Gather<T, R, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gather")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Semaphore;

    use super::*;

    /// What was written together.
    type Batches = Arc<Mutex<Vec<Vec<u32>>>>;

    /// Doubles what it is given, one batch for each permit; refuses 13, and whatever comes with it.
    fn doubling() -> (Gather<u32, u32, &'static str>, Batches, Arc<Semaphore>) {
        let (batches, permits) = (Batches::default(), Arc::new(Semaphore::new(0)));
        let (written, permit) = (Arc::clone(&batches), Arc::clone(&permits));
        let write = move |batch: Batch<u32>| {
            let (written, permit) = (Arc::clone(&written), Arc::clone(&permit));
            async move {
                permit.acquire().await.unwrap().forget();
                written.lock().unwrap().push(batch.to_vec());
                if batch.contains(&13) {
                    return Err("unlucky");
                }
                Ok(batch.iter().map(|item| item * 2).collect())
            }
        };
        (Gather::start(write, |_| true), batches, permits)
    }

    #[tokio::test]
    async fn a_panic_concerns_those_whose_batch_it_was() {
        let write = async |batch: Batch<u32>| {
            assert_ne!(batch[..], [13], "unlucky");
            Ok::<_, &str>(batch.to_vec())
        };
        let gather = Gather::start(write, |_| true);
        let unlucky = gather.clone();
        tokio::spawn(async move { unlucky.write(13).await }).await.unwrap_err();
        assert_eq!(gather.write(7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_comes_meanwhile_is_written_together() {
        let (gather, batches, permits) = doubling();
        let done = Arc::new(AtomicUsize::new(0));
        let all: Vec<_> = (0..10)
            .map(|number| {
                let (gather, done) = (gather.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    assert_eq!(gather.write(number).await.unwrap(), 2 * number);
                    done.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        permits.add_permits(1);
        while done.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        permits.add_permits(10);
        futures::future::try_join_all(all).await.unwrap();
        let batches = batches.lock().unwrap();
        assert!(batches.len() < 10, "{batches:?}");
        assert_eq!(batches.iter().flatten().count(), 10);
    }

    #[tokio::test]
    async fn one_that_is_refused_costs_the_others_nothing() {
        let (gather, batches, permits) = doubling();
        let writes = [7, 13, 8].map(|number| gather.write(number));
        permits.add_permits(10);
        let written = futures::future::join_all(writes).await;
        let written: Vec<_> = written.iter().map(|written| written.as_ref().ok()).collect();
        assert_eq!(written, [Some(&14), None, Some(&16)]);
        assert!(batches.lock().unwrap().iter().any(|batch| batch == &[13]));
    }
}
