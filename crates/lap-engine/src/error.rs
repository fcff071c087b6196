//! What can go wrong in a use case, in terms a caller can act on. HTTP is made of it elsewhere.

use lap_domain::problem::Problem;
use lap_domain::session::SessionState;

/// Why a use case did not do as asked. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The input is wrong; every problem is listed.
    #[error("the request is not valid")]
    Invalid(Vec<Problem>),
    /// `LAP_VAULT_REQUIRE_BINDING` is on and these credentials may go anywhere.
    #[error("these credentials are not bound to hosts: {}", keys.join(", "))]
    UnboundCredential { keys: Vec<String> },
    /// No such thing.
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    /// No such file in the sandbox.
    #[error("{0}")]
    NoSuchFile(String),
    /// The session is not ready.
    #[error("the session is {status}: {detail}")]
    NotReady { status: String, detail: String },
    /// The harness is known but not installed here.
    #[error("the harness {harness} is not installed on this server; {how}")]
    HarnessNotInstalled { harness: String, how: String },
    /// The session's agent is gone.
    #[error("the agent was deleted")]
    AgentDeleted,
    /// The state of things does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The same idempotency key came with another body.
    #[error("this Idempotency-Key was used with another body")]
    IdempotencyMismatch,
    /// The events asked for are no longer kept.
    #[error("events before {oldest} are no longer kept")]
    EventsExpired { oldest: u64 },
    /// Too many turns wait already.
    #[error("{limit} turns are waiting already; wait for one to end")]
    TooManyTurns { limit: u32 },
    /// The turn ended without an answer.
    #[error("{error}")]
    TurnFailed { code: String, error: String },
    /// Changed lists are stored; the vault has not said yet that it has them.
    #[error(
        "the new lists are stored, but the sandbox's vault has not confirmed them within {waited_s} s and may still live by the \
         old ones; it gets them as soon as its sidecar is back, and `egress.in_force` of the session says so"
    )]
    EgressPending { waited_s: u64 },
    /// Database or backend do not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// A bug or a fault of the machine.
    #[error("something went wrong on the server")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<lap_store::StoreError> for EngineError {
    fn from(problem: lap_store::StoreError) -> Self {
        use lap_store::StoreError as S;
        match problem {
            S::NotFound { what, id } => Self::NotFound { what, id },
            S::AgentDeleted => Self::AgentDeleted,
            S::SessionNotReady { state } => not_ready(&state),
            S::IdempotencyMismatch => Self::IdempotencyMismatch,
            S::TooManyTurns { limit } => Self::TooManyTurns { limit },
            S::Conflict(what) => Self::Conflict(what),
            S::Unavailable(_) => Self::Unavailable("the database does not answer at the moment; try again".into()),
            problem => Self::Internal(Box::new(problem)),
        }
    }
}

/// Why nothing can be asked of a session in this state.
pub(crate) fn not_ready(state: &SessionState) -> EngineError {
    let detail = match state {
        SessionState::Creating => "it is still being set up; wait for `ready`".to_owned(),
        SessionState::Ready => "it is ready".to_owned(),
        SessionState::Failed { reason } => format!("{reason}; open a new session"),
        SessionState::Dead { reason } => format!("it ended ({}); open a new session", reason.as_str()),
    };
    EngineError::NotReady { status: state.as_str().to_owned(), detail }
}
