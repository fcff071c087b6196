//! The sandbox's log: numbered entries, kept until the server says they are stored.
//!
//! Bounded: when the server is away and the journal is full, whoever wants to add waits. The guest's reader then stops
//! reading and the vault stops letting requests through; nothing is dropped and memory does not grow.

use std::collections::VecDeque;
use std::sync::Mutex;

use lap_api::link::LogEntry;
use tokio::sync::Notify;

/// Entries waiting for the server take at most this much. Ten minutes of a busy agent's deltas and requests.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// One entry, serialised size remembered for the bound.
#[derive(Debug, Clone)]
pub struct Entry {
    pub seq: u64,
    pub at_ms: i64,
    pub entry: LogEntry,
    size: usize,
}

/// See the module.
pub struct Journal {
    inner: Mutex<Inner>,
    /// Something was added.
    added: Notify,
    /// Something was acknowledged.
    freed: Notify,
    max_bytes: usize,
}

struct Inner {
    waiting: VecDeque<Entry>,
    bytes: usize,
    head: u64,
    acked: u64,
}

impl Journal {
    /// An empty journal holding at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        let inner = Inner { waiting: VecDeque::new(), bytes: 0, head: 0, acked: 0 };
        Self { inner: Mutex::new(inner), added: Notify::new(), freed: Notify::new(), max_bytes }
    }

    /// Adds an entry, waiting while the journal is full. An entry larger than the whole bound is taken when nothing else
    /// waits.
    pub async fn add(&self, at_ms: i64, entry: LogEntry) {
        let size = serde_json::to_vec(&entry).map_or(0, |bytes| bytes.len());
        let mut entry = Some(entry);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut inner = self.lock();
                if inner.waiting.is_empty() || inner.bytes + size <= self.max_bytes {
                    if let Some(entry) = entry.take() {
                        inner.head += 1;
                        inner.bytes += size;
                        let seq = inner.head;
                        inner.waiting.push_back(Entry { seq, at_ms, entry, size });
                    }
                    drop(inner);
                    self.added.notify_waiters();
                    return;
                }
            }
            freed.await;
        }
    }

    /// The oldest entry after `seq`, waiting for one.
    pub async fn after(&self, seq: u64) -> Entry {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if let Some(entry) = self.after_now(seq) {
                return entry;
            }
            added.await;
        }
    }

    fn after_now(&self, seq: u64) -> Option<Entry> {
        let inner = self.lock();
        let start = inner.waiting.partition_point(|entry| entry.seq <= seq);
        inner.waiting.get(start).cloned()
    }

    /// Drops everything up to `seq`: the server has it.
    pub fn acknowledge(&self, seq: u64) {
        {
            let mut inner = self.lock();
            while inner.waiting.front().is_some_and(|entry| entry.seq <= seq) {
                if let Some(entry) = inner.waiting.pop_front() {
                    inner.bytes -= entry.size;
                }
            }
            inner.acked = inner.acked.max(seq.min(inner.head));
        }
        self.freed.notify_waiters();
    }

    /// Number of the newest entry.
    pub fn head(&self) -> u64 {
        self.lock().head
    }

    /// Waits until everything so far is stored.
    pub async fn drained(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.lock().waiting.is_empty() {
                return;
            }
            freed.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
