//! The contract of a sandbox backend: what can be asked for, what is reported, what can go wrong.
//!
//! Knows no backend. A sandbox is one sidecar and one guest; the backend makes and removes them, and everything else goes
//! over the link that the sidecar opens by itself.

pub mod conformance;
pub mod fake;

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Name of a sandbox: also its folder and its cgroup. Lower-case letters, digits and `-`, 1..=64.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(String);

impl SandboxId {
    /// Takes a name that is safe as a file name.
    pub fn new(name: &str) -> Option<Self> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        (matches!(name.len(), 1..=64) && name.bytes().all(good) && !name.starts_with('-'))
            .then(|| Self(name.to_owned()))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SandboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A sandbox as it is wanted.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Chosen by the engine; provisioning the same id twice is harmless.
    pub id: SandboxId,
    /// What the sidecar proves itself with; passed on without touching argv, environment or disk.
    pub boot_token: BootToken,
    pub limits: Limits,
    /// Folders of the node that appear read-only inside, such as an installed harness.
    pub tools: Vec<ToolMount>,
}

/// The sidecar's proof. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootToken(pub String);

impl std::fmt::Debug for BootToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BootToken(***)")
    }
}

/// A read-only folder inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolMount {
    /// On the node.
    pub source: PathBuf,
    /// Inside: a name directly below `/opt/lap/`.
    pub name: String,
}

/// How much of the machine a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    pub pids: u64,
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// Of `/work` and the home folder together.
    pub disk_bytes: u64,
    /// Files and folders in `/work` and the home folder together.
    pub inodes: u64,
    pub tmp_bytes: u64,
}

/// A sandbox as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatus {
    pub id: SandboxId,
    /// False: the sidecar is gone and only remains (files, cgroups) are left for `destroy`.
    pub running: bool,
}

/// Told once when a sidecar ends, however it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxExit {
    pub id: SandboxId,
    /// For a person: exit status, signal, what the sidecar said last.
    pub detail: String,
}

/// One thing a backend needs, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Short name, such as `user namespaces`.
    pub name: String,
    pub outcome: Outcome,
    /// What was found; for anything but `Ok` also what to do.
    pub detail: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Present.
    Ok,
    /// Missing; sandboxes work, with the limitation the detail names.
    Degraded,
    /// Missing; no sandbox is started.
    Missing,
}

/// Exits that wait for the listener.
pub const EXITS: usize = 256;

/// Why a backend did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The node cannot isolate; nothing was started.
    #[error("this machine cannot isolate sandboxes: {0}")]
    CannotIsolate(String),
    /// The sandbox could not be made; nothing of it is left.
    #[error("could not make sandbox {id}: {what}")]
    Provision {
        /// Which one.
        id: SandboxId,
        /// The step that failed.
        what: String,
        /// Why.
        #[source]
        cause: Option<std::io::Error>,
    },
    /// Something of the sandbox is still there; asking again is right.
    #[error("could not remove sandbox {id}: {what}")]
    Destroy {
        /// Which one.
        id: SandboxId,
        /// What is left.
        what: String,
        /// Why.
        #[source]
        cause: Option<std::io::Error>,
    },
    /// The backend could not say what is there.
    #[error("could not look at the sandboxes: {0}")]
    Observe(String),
}

/// Makes and removes sandboxes. All calls are idempotent.
pub trait Backend: Send + Sync {
    /// Starts a sidecar that makes the sandbox and then dials the server.
    fn provision<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Ends a sandbox and removes everything of it. Fine when there is none.
    fn destroy<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Everything there is, running or left over.
    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, BackendError>>;

    /// The exits of sandboxes from now on, on a channel of [`EXITS`]. There is one listener: a second call takes over. An
    /// exit that finds the channel full is dropped: a listener that has others to look at will look at everything.
    fn exits(&self) -> mpsc::Receiver<SandboxExit>;

    /// Last `tail` lines that sidecar and guest wrote.
    fn logs<'a>(&'a self, id: &'a SandboxId, tail: usize) -> BoxFuture<'a, Result<String, BackendError>>;

    /// What the node has and lacks.
    fn checks(&self) -> BoxFuture<'_, Vec<Check>>;
}
