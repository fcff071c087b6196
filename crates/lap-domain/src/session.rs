//! Sessions: their states, the only door between them, and the phases of bring-up.

use std::collections::BTreeMap;

use crate::agent;
use crate::budget::Budget;
use crate::env_vars::{self, Vars};
use crate::ids::{AgentId, SessionId};
use crate::problem::Problem;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::turn::{self, Attachment, InputRefusal};

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
        [Self::Idle, Self::Stopped, Self::AgentDeleted, Self::SandboxLost, Self::Oom]
            .into_iter()
            .find(|r| r.as_str() == text)
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

/// Longest title, in characters.
pub const MAX_TITLE_CHARS: usize = 255;

/// What a session is to be created with, as far as rules apply to it.
#[derive(Debug, Clone, Copy)]
pub struct SessionInput<'a> {
    pub title: Option<&'a str>,
    pub branch: Option<&'a str>,
    pub initial_prompt: Option<&'a str>,
    pub initial_attachments: &'a [Attachment<'a>],
    /// The session's own variables.
    pub vars: Vars<'a>,
    /// The session's own limits.
    pub budget: Budget,
}

/// Checks everything at once. A first prompt that is too long is told apart, since it has an answer of its own.
pub fn validate_new(input: &SessionInput<'_>) -> Result<(), InputRefusal> {
    let SessionInput { title, branch, initial_prompt, initial_attachments, vars, budget } = input;
    let mut problems = Vec::new();
    if let Some(title) = title {
        check_title(title, &mut problems);
    }
    if let Some(branch) = branch
        && let Err(why) = agent::check_branch(branch)
    {
        problems.push(Problem::new("branch", why));
    }
    budget.check(&mut problems);
    problems.extend(env_vars::validate(vars));
    env_vars::resolve_masks((*vars.env_vars).clone(), &BTreeMap::<String, Secret>::new(), &mut problems);
    match initial_prompt {
        Some(prompt) => match turn::check_input("initial_prompt", prompt, "initial_attachments", initial_attachments) {
            Ok(()) => {}
            Err(InputRefusal::Invalid(more)) => problems.extend(more),
            Err(too_long) => return Err(too_long),
        },
        None if !initial_attachments.is_empty() => {
            problems.push(Problem::new("initial_attachments", "come with initial_prompt, which is missing"));
        }
        None => {}
    }
    if problems.is_empty() { Ok(()) } else { Err(InputRefusal::Invalid(problems)) }
}

/// Checks a session's title.
pub fn check_title(title: &str, problems: &mut Vec<Problem>) {
    if title.trim().is_empty() || title.chars().count() > MAX_TITLE_CHARS || title.chars().any(char::is_control) {
        let message = format!("must have 1 to {MAX_TITLE_CHARS} characters on one line");
        problems.push(Problem::new("title", message));
    }
}

/// The first words of a message, on one line; none when there are no words.
pub fn title_preview(text: &str) -> Option<String> {
    /// What fits into a row of a list.
    const MAX_CHARS: usize = 80;
    let mut preview = String::new();
    let mut chars = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let room = MAX_CHARS - chars;
        let gap = usize::from(chars > 0);
        if gap + length > room {
            if chars == 0 {
                preview.extend(word.chars().take(MAX_CHARS - 1));
            }
            preview.push('…');
            break;
        }
        if gap > 0 {
            preview.push(' ');
        }
        preview.push_str(word);
        chars += gap + length;
    }
    (!preview.is_empty()).then_some(preview)
}

#[cfg(test)]
mod tests;
