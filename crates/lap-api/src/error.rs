//! Errors as clients see them: one body, one table from code to HTTP status.

use serde::{Deserialize, Serialize};

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A sentence a person can act on.
    pub error: String,
    /// Stable code for programs; one of [`ErrorCode`].
    pub code: String,
    /// Every single problem, when there is more than one thing to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// One problem of a rejected request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// JSON path of the field, such as `env_vars.PATH`; empty for the whole body.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal => $status:literal,)*) => {
        /// Every error code of the API. The table below is the only place that gives a code its status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// All codes, for documents and tests.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The stable text of the code.
            pub fn as_str(self) -> &'static str { match self { $(ErrorCode::$name => $text,)* } }

            /// The HTTP status that goes with the code.
            pub fn status(self) -> u16 { match self { $(ErrorCode::$name => $status,)* } }
        }
    };
}

codes! {
    /// Malformed JSON, unknown fields, values out of range: anything wrong with the request itself.
    InvalidRequest = "invalid_request" => 400,
    /// Missing or wrong key.
    Unauthorized = "unauthorized" => 401,
    /// The turn needed a model, and the budget of its session or agent is used up.
    Budget = "budget" => 402,
    /// The key is valid but may not do this.
    Forbidden = "forbidden" => 403,
    /// No such object.
    NotFound = "not_found" => 404,
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed" => 405,
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout" => 408,
    /// The session is not in a state that allows the call.
    SessionNotReady = "session_not_ready" => 409,
    /// The agent's harness is not installed on this server.
    HarnessNotInstalled = "harness_not_installed" => 409,
    /// The agent was deleted.
    AgentDeleted = "agent_deleted" => 409,
    /// No turn is running, or another conflict with the state of things.
    Conflict = "conflict" => 409,
    /// `LAP_VAULT_REQUIRE_BINDING` is on and a credential has no binding.
    UnboundCredential = "unbound_credential" => 400,
    /// The event asked for is older than what is kept.
    EventsExpired = "events_expired" => 410,
    /// The body is larger than the route takes.
    TooLarge = "too_large" => 413,
    /// The body is not JSON.
    UnsupportedMediaType = "unsupported_media_type" => 415,
    /// The same `Idempotency-Key` came with another body.
    IdempotencyMismatch = "idempotency_mismatch" => 422,
    /// Too many turns wait already.
    TooManyRequests = "too_many_requests" => 429,
    /// A bug or a fault of the machine; the log has the chain of causes.
    Internal = "internal" => 500,
    /// The harness or its model failed the turn.
    HarnessFailed = "harness_failed" => 502,
    /// Changed lists are stored, but the sandbox's vault has not confirmed them yet.
    EgressPending = "egress_pending" => 503,
    /// The server shuts down, or the sandbox backend does not answer.
    Unavailable = "unavailable" => 503,
}
