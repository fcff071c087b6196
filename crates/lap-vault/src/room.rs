//! How much one vault may hold open. What there is no room for is told so, in its own protocol and soon, instead of waiting
//! for ever; descriptors that the vault needs to go on are never given away.

use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once that are only told that there is no room. When there are more they wait in the kernel's queue.
const REFUSED_AT_ONCE: usize = 256;
/// For telling one of them.
pub(crate) const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);
/// Kept free for the refused ones, the link to the server, look-ups of names and files.
const RESERVED: u32 = 512;

/// See the module.
pub(crate) struct Room {
    connections: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    /// The first descriptor that belongs to the reserve. The kernel always gives the lowest one that is free, so a high
    /// number says how many are in use.
    reserve: u32,
}

impl Room {
    pub fn new(connections: usize, descriptors: u32) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            refused: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            reserve: descriptors.saturating_sub(RESERVED).max(descriptors / 2),
        }
    }

    /// Waits until a connection can at least be refused.
    pub async fn to_refuse(&self) -> OwnedSemaphorePermit {
        self.refused.clone().acquire_owned().await.expect("nobody closes it")
    }

    /// A place for a connection of the sandbox, if there is one.
    pub fn take(&self, connection: impl AsFd) -> Option<OwnedSemaphorePermit> {
        let permit = self.connections.clone().try_acquire_owned().ok()?;
        self.has(connection).then_some(permit)
    }

    /// Whether this descriptor may stay open.
    pub fn has(&self, descriptor: impl AsFd) -> bool {
        u32::try_from(descriptor.as_fd().as_raw_fd()).is_ok_and(|number| number < self.reserve)
    }
}
