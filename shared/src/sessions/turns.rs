//! One at a time per key, within this process.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// The right to go on; the next in line gets it when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn(#[expect(dead_code, reason = "held, not read")] OwnedMutexGuard<()>);

/// Queues by key; a key that nobody waits for takes no memory for long.
#[derive(Debug)]
pub(super) struct Turns<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for its turn.
    pub(super) async fn take(&self, key: K) -> Turn {
        Turn(self.queue(key).lock_owned().await)
    }

    fn queue(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.0.lock().expect("nothing panics while it holds the map");
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() == queues.capacity() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::new(tokio::sync::Mutex::new(()));
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_key_is_one_at_a_time_and_keys_do_not_wait_for_each_other() {
        let (turns, inside) = (Turns::default(), AtomicUsize::new(0));
        let other = turns.take("other").await;
        let visits = (0..50).map(|_| async {
            let _turn = turns.take("key").await;
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
        });
        futures::future::join_all(visits).await;
        drop(other);
    }

    #[tokio::test]
    async fn keys_that_nobody_waits_for_are_forgotten() {
        let turns = Turns::default();
        for key in 0..10_000 {
            drop(turns.take(key).await);
        }
        assert!(turns.0.lock().unwrap().capacity() < 100);
    }
}
