//! How many event streams a user may hold open on this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use errand_shared::identity::Principal;

/// The open streams of every user.
#[derive(Debug)]
pub(crate) struct Streams {
    per_user: usize,
    open: Mutex<HashMap<Principal, usize>>,
}

/// The right to one stream; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    streams: Arc<Streams>,
    owner: Principal,
}

impl Streams {
    pub(crate) fn new(per_user: usize) -> Arc<Self> {
        Arc::new(Self { per_user, open: Mutex::default() })
    }

    /// None if the user has as many as may be.
    pub(crate) fn open(self: &Arc<Self>, owner: &Principal) -> Option<Stream> {
        let mut open = self.lock();
        let count = open.entry(owner.clone()).or_default();
        if *count >= self.per_user {
            return None;
        }
        *count += 1;
        Some(Stream { streams: Arc::clone(self), owner: owner.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Principal, usize>> {
        self.open.lock().expect("nothing panics while it holds the map")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_streams_and_gets_back_what_ended() {
        let streams = Streams::new(2);
        let user = |subject: &str| Principal { tenant: "contoso".into(), subject: subject.into() };
        let first = streams.open(&user("alice")).unwrap();
        let _second = streams.open(&user("alice")).unwrap();
        assert!(streams.open(&user("alice")).is_none());
        assert!(streams.open(&user("bob")).is_some());
        drop(first);
        assert!(streams.open(&user("alice")).is_some());
        assert_eq!(streams.lock().len(), 1);
    }
}
