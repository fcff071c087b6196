//! Turns: one user message and everything until the agent is idle again.

use crate::ids::{SessionId, TurnId};
use crate::time::Timestamp;

/// A turn as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub id: TurnId,
    pub session_id: SessionId,
    pub state: TurnState,
    pub created_at: Timestamp,
}

/// Where a turn stands. It moves forward only; a turn that was sent is never sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnState {
    /// Waits for its predecessors or for the session.
    Queued,
    /// Handed to the sandbox; whether the harness has it is known when it reports.
    Sent,
    /// Answered.
    Completed,
    /// Ended without an answer.
    Failed { code: String, error: String },
}

impl TurnState {
    /// As it stands in the database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
        }
    }

    /// True when nothing more will come of it.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. })
    }
}
