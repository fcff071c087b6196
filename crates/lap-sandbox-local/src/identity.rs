//! Which user of the node a sandbox and its sidecar run as.
//!
//! A root server gives every live sandbox two users of its own: one for what is inside, one for the sidecar. They are taken
//! from a range far above real users by locking a byte of one file, so that any number of servers on a machine agree and a
//! dead sidecar frees its pair by dying.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::{Gid, Uid};

use crate::sys;

/// The user inside, as the sandbox sees it.
pub const INSIDE_ID: u32 = 1000;

/// First user of the range: below 2³¹, above anything that distributions, directories or subuid tables hand out.
const FIRST: u32 = 2_000_000_000;

/// Pairs in the range; more sandboxes than a machine can run.
const SLOTS: u32 = 65_536;

/// Taken by root servers of this machine together.
const SLOT_FILE: &str = "/run/lap-sandbox-users";

/// Whom a sandbox runs as.
#[derive(Debug)]
pub enum Identity {
    /// Root's way: two users of their own, held by the lock.
    Separate {
        /// Owner of everything inside.
        sandbox: u32,
        /// The sidecar after it has dropped its rights.
        sidecar: u32,
        /// Frees both when closed.
        _lock: File,
    },
    /// An ordinary user's way: everything is that user.
    Own { uid: u32, gid: u32 },
}

impl Identity {
    /// Takes users for one sandbox.
    pub fn take() -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            });
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(SLOT_FILE)?;
        // Starting at the process number keeps servers from trying the same slots one after the other.
        let start = std::process::id();
        for step in 0..SLOTS {
            let slot = (start.wrapping_add(step)) % SLOTS;
            if sys::lock_byte(&lock, i64::from(slot))? {
                return Ok(Self::Separate { sandbox: FIRST + 2 * slot, sidecar: FIRST + 2 * slot + 1, _lock: lock });
            }
        }
        Err(io::Error::other("all users for sandboxes are taken"))
    }

    /// The node's user that owns what is inside.
    pub fn sandbox(&self) -> (u32, u32) {
        match self {
            Self::Separate { sandbox, .. } => (*sandbox, *sandbox),
            Self::Own { uid, gid } => (*uid, *gid),
        }
    }

    /// Whether the users of the range exist for this process: not so in a container with a narrow map.
    pub fn range_is_mapped() -> io::Result<bool> {
        let covered = |map: &str| {
            map.lines().any(|line| {
                let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
                match (fields.next(), fields.next(), fields.next()) {
                    (Some(inside), Some(_), Some(count)) => {
                        inside <= u64::from(FIRST) && inside + count >= u64::from(FIRST + 2 * SLOTS)
                    }
                    _ => false,
                }
            })
        };
        Ok(covered(&std::fs::read_to_string("/proc/self/uid_map")?)
            && covered(&std::fs::read_to_string("/proc/self/gid_map")?))
    }
}

/// A user by number.
pub(crate) fn uid(raw: u32) -> Uid {
    Uid::from_raw(raw)
}

/// A group by number.
pub(crate) fn gid(raw: u32) -> Gid {
    Gid::from_raw(raw)
}
