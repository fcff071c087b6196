//! Why the store did not do as asked.

use std::path::PathBuf;

use lap_domain::session::{IllegalTransition, SessionState};

use crate::crypt::KeyId;

/// A refusal or a fault of the store. Whenever a call returns one, nothing of that call was stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing, or it was deleted.
    #[error("there is no {what} {id}")]
    NotFound {
        /// `agent`, `session` or `turn`.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// The session's agent was deleted: its history stays, new work does not start.
    #[error("the agent was deleted")]
    AgentDeleted,
    /// The table of states does not know this move.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The call speaks for a sandbox that has been replaced.
    #[error("the session has moved on to sandbox {current}")]
    StaleSandbox {
        /// The incarnation that counts.
        current: u32,
    },
    /// The session takes no turns in this state.
    #[error("the session is {} and takes no messages", state.as_str())]
    SessionNotReady {
        /// Where it stands.
        state: SessionState,
    },
    /// An idempotency key came again with another body.
    #[error("this idempotency key was used with another body")]
    IdempotencyMismatch,
    /// As many turns wait as may wait.
    #[error("{limit} turns wait in this session already")]
    TooManyTurns {
        /// How many may.
        limit: u32,
    },
    /// Something with this name exists.
    #[error("there is already {0}")]
    Conflict(String),
    /// The encryption key is not the one the value was written with.
    #[error("the encryption key {given} does not fit: the database was written with key {needed}")]
    WrongKey {
        /// The key at hand.
        given: KeyId,
        /// The key it takes.
        needed: KeyId,
    },
    /// A rotation would have left values behind that only the old key opens. Nothing was changed.
    #[error("{place} holds values that this program does not know how to encrypt again")]
    NotRotated {
        /// Table and column.
        place: String,
    },
    /// A row says something this program cannot read.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
    /// The file cannot be made or opened.
    #[error("could not open the database {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The tables could not be brought up to date.
    #[error("could not bring the database up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The database does not answer.
    #[error("the database does not answer")]
    Unavailable(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(cause: sqlx::Error) -> Self {
        match cause.as_database_error() {
            Some(error) if error.is_unique_violation() => {
                Self::Conflict(format!("a row like this ({})", error.message()))
            }
            _ => Self::Unavailable(cause),
        }
    }
}

impl StoreError {
    pub(crate) fn no_agent(id: &lap_domain::ids::AgentId) -> Self {
        Self::NotFound { what: "agent", id: id.to_string() }
    }

    pub(crate) fn no_session(id: &lap_domain::ids::SessionId) -> Self {
        Self::NotFound { what: "session", id: id.to_string() }
    }

    pub(crate) fn no_turn(id: &lap_domain::ids::TurnId) -> Self {
        Self::NotFound { what: "turn", id: id.to_string() }
    }
}
