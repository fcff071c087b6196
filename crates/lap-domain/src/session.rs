//! Sessions: their states, the only door between them, and the phases of bring-up.

use crate::ids::{AgentId, SessionId};
use crate::time::Timestamp;

/// One run of an agent in one sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub id: SessionId,
    pub agent_id: AgentId,
    pub title: Option<String>,
    pub state: SessionState,
    /// Last phase that was observed.
    pub phase: Option<Phase>,
    pub phase_detail: Option<String>,
    /// Counts bring-ups: names the sandbox of this try, see [`Session::sandbox_name`].
    pub incarnation: u32,
    pub harness_id: String,
    pub harness_session_id: Option<String>,
    pub branch: Option<String>,
    pub commit: Option<String>,
    /// First words of the first message.
    pub title_preview: Option<String>,
    /// The reply to the initial prompt.
    pub response: Option<String>,
    /// Names of the variables given at creation; the values are never stored.
    pub session_env_keys: Vec<String>,
    pub usage: Usage,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub idle_timeout_ms: i64,
}

impl Session {
    /// The sandbox of the current incarnation: the session's id and a number, so that remains of an earlier one are never
    /// taken for this one.
    pub fn sandbox_name(&self) -> String {
        format!("{}-{}", self.id, self.incarnation)
    }
}

/// Tokens and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cached_tokens: u64,
    /// US dollars, where known.
    pub cost_usd: Option<f64>,
}

impl Usage {
    /// Adds another's numbers.
    pub fn add(&mut self, other: Usage) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cached_tokens += other.cached_tokens;
        self.cost_usd = match (self.cost_usd, other.cost_usd) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)),
        };
    }
}

/// Where a session stands. Data that only one state has lives in that state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// Bring-up is under way.
    Creating,
    /// Takes turns.
    Ready,
    /// Bring-up or sandbox failed; the reason is a sentence a person can act on.
    Failed { reason: String },
    /// Over.
    Dead { reason: EndReason },
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// No activity for the idle timeout.
    Idle,
    /// Somebody stopped it.
    Stopped,
    /// Its agent was deleted.
    AgentDeleted,
    /// The sandbox or its sidecar ended unasked.
    SandboxLost,
    /// The sandbox ran out of memory.
    Oom,
}

impl EndReason {
    /// As it stands in answers and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Stopped => "stopped",
            Self::AgentDeleted => "agent_deleted",
            Self::SandboxLost => "sandbox_lost",
            Self::Oom => "oom",
        }
    }

    /// The reverse of [`EndReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Idle, Self::Stopped, Self::AgentDeleted, Self::SandboxLost, Self::Oom].into_iter().find(|r| r.as_str() == text)
    }
}

/// What can happen to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The harness takes turns.
    GuestReady,
    /// Bring-up failed.
    BootFailed { reason: String },
    /// It ends, for this reason.
    End { reason: EndReason },
    /// A new sandbox is wanted.
    Restart,
}

/// A move that the table of states does not know. Logged as an error; changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session that is {from} cannot take {event:?}")]
pub struct IllegalTransition {
    /// Name of the state it is in.
    pub from: &'static str,
    /// What came.
    pub event: SessionEvent,
}

impl SessionState {
    /// The only way from one state to another.
    pub fn apply(&self, event: SessionEvent) -> Result<SessionState, IllegalTransition> {
        use SessionEvent as E;
        use SessionState as S;
        match (self, event) {
            (S::Creating, E::GuestReady) => Ok(S::Ready),
            (S::Creating, E::BootFailed { reason }) => Ok(S::Failed { reason }),
            (S::Creating | S::Ready, E::End { reason }) => Ok(S::Dead { reason }),
            (S::Dead { .. } | S::Failed { .. } | S::Ready, E::Restart) => Ok(S::Creating),
            (state, event) => Err(IllegalTransition { from: state.as_str(), event }),
        }
    }

    /// As it stands in answers and in the database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Failed { .. } => "failed",
            Self::Dead { .. } => "dead",
        }
    }

    /// True while a sandbox should exist.
    pub fn wants_sandbox(&self) -> bool {
        matches!(self, Self::Creating | Self::Ready)
    }
}

macro_rules! phases {
    ($($name:ident = $text:literal,)*) => {
        /// Progress of a bring-up, in this order; a phase is stored only when it was observed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Phase { $(#[doc = concat!("`", $text, "`")] $name,)* }

        impl Phase {
            /// As it stands in answers and in the database.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// The reverse of [`Phase::as_str`].
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$name),)* _ => None } }
        }
    };
}

phases! {
    CreatingSandbox = "creating_sandbox",
    PodPending = "pod_pending",
    PodRunning = "pod_running",
    InjectingFiles = "injecting_files",
    CloningRepo = "cloning_repo",
    InstallingDeps = "installing_deps",
    WaitingHarness = "waiting_harness",
    HarnessListening = "harness_listening",
    HarnessReady = "harness_ready",
    Ready = "ready",
}

#[cfg(test)]
mod tests;
