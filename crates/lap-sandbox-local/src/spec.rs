//! What a server tells a sidecar to make, and what can go wrong while it does.

use std::path::PathBuf;

use lap_sandbox::{BootToken, Check, Limits, SandboxId, ToolMount};
use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPlan;

/// Everything needed to make one sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchSpec {
    pub id: SandboxId,
    pub limits: Limits,
    pub tools: Vec<ToolMount>,
    /// This program, which appears as `/opt/lap/bin/lap` inside.
    pub lap_binary: PathBuf,
    /// The sandbox's own folder on the node.
    pub sandbox_dir: PathBuf,
    /// The folder that becomes `/` inside, read-only.
    pub host_image_dir: PathBuf,
    /// Where limits are enforced.
    pub cgroups: CgroupPlan,
    /// The file system image prepared in `sandbox_dir`, or plain folders.
    pub volume: VolumePlan,
}

/// Where `/work` and the home folder live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumePlan {
    /// `volume.img`, a file system of its own, to be attached by loop device.
    Image,
    /// The same, mounted ahead by the server and handed over with the description.
    Mounted,
    /// `work` and `home` in the sandbox's folder; the disk limit is only measured.
    Folders,
}

/// What arrives on a sidecar's descriptor 0. Written to a socket only, never to disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SidecarLaunch {
    pub launch: LaunchSpec,
    pub boot_token: BootToken,
    /// The server's socket.
    pub link: PathBuf,
    /// Only to see whether it can be done: the sidecar ends, and the sandbox with it, as soon as it has answered.
    pub trial: bool,
}

/// The sidecar's answer on descriptor 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchReply {
    /// The sandbox runs.
    Started {
        /// How each limit is enforced.
        confinement: Vec<Check>,
    },
    /// It could not be made, and nothing of it runs.
    Failed {
        /// The step and its cause.
        what: String,
    },
}

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the sidecar failed.
    #[error("could not {attempt}")]
    Step {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
    /// A step inside the new namespaces failed.
    #[error("could not prepare the sandbox inside: {0}")]
    Inside(String),
    /// The server's description could not be read.
    #[error("could not read what to launch")]
    Malformed(#[source] serde_json::Error),
}

/// Names the step that an I/O error belongs to.
pub(crate) trait Attempt<T> {
    /// `attempt` completes the sentence "could not …".
    fn attempt(self, attempt: impl Into<String>) -> Result<T, LaunchError>;
}

impl<T, E: Into<std::io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, attempt: impl Into<String>) -> Result<T, LaunchError> {
        self.map_err(|cause| LaunchError::Step { attempt: attempt.into(), cause: cause.into() })
    }
}
