//! Calls at once, where an API limits them.

use super::*;

impl TestStore {
    async fn take(&self, api: &str, limit: u32) -> Option<CallSlot> {
        self.take_call_slot(api, limit, MINUTE).await.unwrap()
    }

    /// The numbers of those that were taken, in order.
    async fn take_many(&self, api: &str, limit: u32, number: usize) -> Vec<i32> {
        let taken = (0..number).map(|_| self.take(api, limit));
        let taken = futures::future::join_all(taken).await;
        let mut slots: Vec<i32> = taken.into_iter().flatten().map(|slot| slot.slot).collect();
        slots.sort_unstable();
        slots
    }
}

pub(super) async fn no_more_call_slots_are_held_than_there_are(store: TestStore) {
    assert_eq!(store.take("A", 3).await, None);
    let made = (0..4).map(|_| store.make_call_slots("A", 3));
    futures::future::try_join_all(made).await.unwrap();
    store.make_call_slots("B", 1).await.unwrap();
    assert_eq!(store.take_many("A", 3, 8).await, [1, 2, 3]);
    assert_eq!(store.take_many("B", 1, 2).await, [1]);
    // The operator has raised the limit, and taken it back.
    store.make_call_slots("A", 4).await.unwrap();
    assert!(store.take_many("A", 3, 2).await.is_empty());
    assert_eq!(store.take_many("A", 4, 2).await, [4]);
}

pub(super) async fn a_call_slot_is_free_when_it_is_given_back_or_its_time_is_over(
    store: TestStore,
) {
    store.make_call_slots("A", 2).await.unwrap();
    let first = store.take("A", 2).await.unwrap();
    let second = store.take_call_slot("A", 2, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((first.slot, second.slot), (1, 2));
    store.return_call_slot(&first).await.unwrap();
    assert_eq!(store.take("A", 2).await.unwrap().slot, 1);

    // Its holder may be dead, or only late: as long as nobody has it, it can be kept.
    assert!(store.keep_call_slot(&second, Duration::ZERO).await.unwrap());
    let other = store.take("A", 2).await.unwrap();
    assert_eq!(other.slot, 2);
    assert!(!store.keep_call_slot(&second, MINUTE).await.unwrap());
    for former in [&first, &second] {
        store.return_call_slot(former).await.unwrap();
    }
    assert_eq!(store.take("A", 2).await, None, "what is somebody else's is not given back");
    assert!(store.keep_call_slot(&other, Duration::ZERO).await.unwrap());
    assert_eq!(store.take("A", 2).await.unwrap().slot, 2);
}
