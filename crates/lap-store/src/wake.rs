//! Tells readers of a session's log that there is more. The value is a hint; the log itself is the truth.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lap_domain::ids::SessionId;
use tokio::sync::watch;

use crate::Store;

/// One bell per session that somebody listens to. A `watch` holds one number whatever happens, so a slow reader costs
/// nothing and misses nothing but intermediate numbers.
#[derive(Default)]
pub(crate) struct Wakers {
    bells: Mutex<HashMap<SessionId, watch::Sender<u64>>>,
}

impl Wakers {
    fn bells(&self) -> MutexGuard<'_, HashMap<SessionId, watch::Sender<u64>>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self, session: &SessionId) -> watch::Receiver<u64> {
        let mut bells = self.bells();
        // Those nobody listens to any more go when somebody new comes.
        bells.retain(|_, bell| bell.receiver_count() > 0);
        bells.entry(session.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    pub(crate) fn ring(&self, session: &SessionId, newest: u64) {
        if let Some(bell) = self.bells().get(session) {
            // Commits may be announced out of order; the number never goes back.
            bell.send_if_modified(|value| {
                let grew = newest > *value;
                *value = newest.max(*value);
                grew
            });
        }
    }

    pub(crate) fn close(&self, session: &SessionId) {
        self.bells().remove(session);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bells().len()
    }
}

impl Store {
    /// Rings when the session's log grows; the value is the newest event's id, 0 before the first ring. Subscribe first,
    /// then read pages, then wait: nothing falls between. Closed when the session is deleted.
    pub fn subscribe(&self, session: &SessionId) -> watch::Receiver<u64> {
        self.shared.wakers.subscribe(session)
    }
}
