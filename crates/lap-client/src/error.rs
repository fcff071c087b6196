//! What can go wrong between a caller and the server, told apart by what the caller can do about it.

use std::time::Duration;

use lap_api::error::{ErrorBody, Problem};

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about; nothing was sent.
    #[error("could not reach the server at {server}: {cause}")]
    Unreachable {
        /// Address of the server.
        server: String,
        /// The innermost cause, in words.
        cause: String,
    },
    /// The connection broke after the request was on its way: the server may have acted on it.
    #[error("lost the connection to {server}: {cause}")]
    Lost {
        /// Address of the server.
        server: String,
        /// The innermost cause, in words.
        cause: String,
    },
    /// The server did not answer in time.
    #[error("{server} did not answer within {}", seconds(*.waited))]
    Timeout {
        /// Address of the server.
        server: String,
        /// How long the client waited.
        waited: Duration,
    },
    /// The server refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The answer is not what this client knows.
    #[error("{server} answered something this `lap` does not understand: {cause}")]
    Unintelligible {
        /// Address of the server.
        server: String,
        /// What was wrong with it.
        cause: String,
    },
}

fn seconds(waited: Duration) -> String {
    format!("{} s", waited.as_secs_f64().round())
}

impl Error {
    /// The server's refusal, when there is one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Error::Api(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// True when the same call may well succeed a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Lost { .. } | Error::Timeout { .. } => true,
            Error::Api(refusal) => matches!(refusal.status, 408 | 429 | 500 | 502 | 503 | 504),
            Error::Unintelligible { .. } => false,
        }
    }
}

/// A refusal in the server's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Stable code, such as `not_found`.
    pub code: String,
    /// A sentence a person can act on.
    pub message: String,
    /// Every single problem, where the server lists them.
    pub problems: Vec<Problem>,
}

impl ApiError {
    /// Reads a refusal; what is no LAP error body (a proxy's page, say) is described instead.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { error, code, problems }) => Self { status, code, message: error, problems },
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
                let excerpt: String = first.chars().take(200).collect();
                let message = if excerpt.is_empty() {
                    format!("the server answered with status {status} and no explanation")
                } else {
                    format!("the server answered with status {status}: {excerpt}")
                };
                Self { status, code: "unknown".to_owned(), message, problems: Vec::new() }
            }
        }
    }
}

/// The innermost cause of an error: what people can act on.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
