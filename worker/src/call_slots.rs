//! Calls at once to an API that limits them (`max_concurrency`), over all workers together: a call
//! holds a slot, which is a row.
//!
//! Who gets none waits here, in memory: one call of this process asks the database, the others stand
//! behind it. A slot ends by itself some time after the longest that its call may take, so one whose
//! worker died is free again, and one that is late is taken anew before it is used.

use std::{collections::HashMap, num::NonZero, sync::Arc, time::Duration};

use errand_shared::{
    config::{DownstreamApi, DownstreamApis},
    storage::{CallSlot, SharedStore, StoreError},
};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};
use tokio_util::task::TaskTracker;

/// Beside the time for an answer: for the record before it, and for giving the slot back.
const MARGIN: Duration = Duration::from_secs(30);

/// Before a full API is asked for again: at least so long, and up to the other longer, so that workers
/// take turns.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_SPREAD: Duration = Duration::from_millis(200);

/// One slot of so many that come back is left to whoever asks next, in any process.
const LEFT_TO_OTHERS: u8 = 8;

/// How long the end of a process waits for slots that are being given back.
const LAST_RETURNS: Duration = Duration::from_secs(5);

/// The slots of all APIs that limit calls.
#[derive(Debug)]
pub(crate) struct CallSlots {
    store: SharedStore,
    /// By the name of the API.
    queues: HashMap<String, Queue>,
    /// Slots on their way back.
    returns: TaskTracker,
}

/// Who waits in this process for one API.
#[derive(Debug)]
struct Queue {
    limit: NonZero<u32>,
    /// Held by the one that asks; whether the slots have been made.
    turn: Mutex<bool>,
    /// A slot was given back in this process.
    returned: Notify,
}

/// A slot, held for one call until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldSlot {
    slot: CallSlot,
    /// Nobody else has it before this.
    until: Instant,
    slots: Arc<CallSlots>,
}

impl CallSlots {
    pub(crate) fn new(store: SharedStore, apis: &DownstreamApis) -> Arc<Self> {
        let queues = apis.values().filter_map(|api| {
            let queue = Queue {
                limit: api.max_concurrency?,
                turn: Mutex::new(false),
                returned: Notify::new(),
            };
            Some((api.name.clone(), queue))
        });
        Arc::new(Self { store, queues: queues.collect(), returns: TaskTracker::new() })
    }

    /// Returns when the call may be made; without a slot, and at once, where the API has no limit.
    ///
    /// May be dropped at any time.
    pub(crate) async fn take(self: &Arc<Self>, api: &DownstreamApi) -> Option<HeldSlot> {
        let queue = self.queues.get(&api.name)?;
        let mut made = queue.turn.lock().await;
        loop {
            match self.ask(api, queue, &mut made).await {
                Ok(Some(slot)) => return Some(slot),
                Ok(None) => {}
                Err(error) => tracing::warn!(api = api.name, "no call slot was had: {error}"),
            }
            let pause = PAUSE + PAUSE_SPREAD.mul_f64(fastrand::f64());
            tokio::select! {
                () = queue.returned.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn ask(
        self: &Arc<Self>,
        api: &DownstreamApi,
        queue: &Queue,
        made: &mut bool,
    ) -> Result<Option<HeldSlot>, StoreError> {
        if !*made {
            self.store.make_call_slots(&api.name, queue.limit.get()).await?;
            *made = true;
        }
        let (slots, api, length) = (Arc::clone(self), api.name.clone(), length(api));
        let limit = queue.limit.get();
        // In a task of its own: what it takes is given back if nobody waits for it any more.
        let taken = tokio::spawn(async move {
            let until = Instant::now() + length;
            let slot = slots.store.take_call_slot(&api, limit, length).await?;
            Ok(slot.map(|slot| HeldSlot { slot, until, slots }))
        });
        taken.await.unwrap_or(Ok(None))
    }

    /// Waits until what was held is given back; at the end of a process, after its jobs.
    pub(crate) async fn finish_returns(&self) {
        self.returns.close();
        if tokio::time::timeout(LAST_RETURNS, self.returns.wait()).await.is_err() {
            tracing::warn!("call slots were not given back, their time runs out");
        }
    }
}

/// For how long a slot is held.
fn length(api: &DownstreamApi) -> Duration {
    api.timeout + MARGIN
}

impl HeldSlot {
    /// Returns once the slot is held for as long as an answer may take: at once, unless the call came
    /// to be sent much later than it was to be.
    pub(crate) async fn assure(&mut self, api: &DownstreamApi) {
        while self.until < Instant::now() + api.timeout {
            let until = Instant::now() + length(api);
            match self.slots.store.keep_call_slot(&self.slot, length(api)).await {
                Ok(true) => self.until = until,
                Ok(false) => {
                    let slots = Arc::clone(&self.slots);
                    if let Some(another) = slots.take(api).await {
                        *self = another;
                    }
                }
                Err(error) => {
                    tracing::warn!(api = api.name, "a call slot was not kept: {error}");
                    tokio::time::sleep(PAUSE + PAUSE_SPREAD).await;
                }
            }
        }
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        // Lost if the runtime is going down: then the slot's time runs out.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (slots, slot) = (Arc::clone(&self.slots), self.slot.clone());
        self.slots.returns.spawn_on(
            async move {
                if let Err(error) = slots.store.return_call_slot(&slot).await {
                    tracing::warn!(api = slot.api, "a call slot was not given back: {error}");
                }
                // Not each time: whoever waits in this process would always come before whoever waits
                // in another.
                if let Some(queue) = slots.queues.get(&slot.api)
                    && fastrand::u8(..LEFT_TO_OTHERS) > 0
                {
                    queue.returned.notify_one();
                }
            },
            &runtime,
        );
    }
}
