//! The one place that makes HTTP out of errors: what a client reads, and what only the log reads.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use lap_api::error::{ErrorBody, ErrorCode, Problem};
use lap_domain::chain::chain;
use lap_domain::problem;
use lap_domain::turn::{InputRefusal, MAX_TEXT_BYTES};
use lap_engine::EngineError;

/// What handlers answer with.
pub type ApiResult<T> = Result<T, ApiError>;

/// An answer that is not a success. The status follows from the code.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    problems: Vec<Problem>,
}

impl ApiError {
    /// An error that needs one sentence and nothing else.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), problems: Vec::new() }
    }

    /// 400 with every problem, in the sentence as well as one by one.
    pub fn invalid(problems: Vec<problem::Problem>) -> Self {
        let sentence = |p: &problem::Problem| match p.field.as_str() {
            "" => p.message.clone(),
            field => format!("{field}: {}", p.message),
        };
        let sentences: Vec<String> = problems.iter().map(sentence).collect();
        let message = match sentences.as_slice() {
            [] => "The request is not valid.".to_owned(),
            [one] => one.clone(),
            many => format!("The request has {} problems. {}", many.len(), many.join(" · ")),
        };
        Self::new(ErrorCode::InvalidRequest, message).with_problems(problems)
    }

    /// 400 with one problem.
    pub fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![problem::Problem::new(field, message)])
    }

    /// 404 for a thing.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no {what} {}.", shortened(id)))
    }

    /// 404 for a path.
    pub fn no_such_route() -> Self {
        Self::new(ErrorCode::NotFound, "There is nothing at this path; the routes begin with /api/v1.")
    }

    /// 405.
    pub fn wrong_method(method: &http::Method) -> Self {
        Self::new(ErrorCode::MethodNotAllowed, format!("{method} is not possible here; the Allow header says what is."))
    }

    /// 401. Says nothing about the key that came, only what to send.
    pub fn unauthorized() -> Self {
        Self::new(ErrorCode::Unauthorized, "unauthorized").with_problems(vec![problem::Problem::new(
            "authorization",
            "send the header Authorization: Bearer <key> with a key of this server",
        )])
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code.as_str()
    }

    /// 503 for calls that were waiting when the server was told to stop.
    pub fn shutting_down() -> Self {
        Self::new(
            ErrorCode::Unavailable,
            "The server is stopping. Work that was accepted goes on; read its outcome from the session's events.",
        )
    }

    fn with_problems(mut self, problems: Vec<problem::Problem>) -> Self {
        self.problems =
            problems.into_iter().map(|problem::Problem { field, message }| Problem { field, message }).collect();
        self
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<InputRefusal> for ApiError {
    fn from(refusal: InputRefusal) -> Self {
        match refusal {
            InputRefusal::TextTooLong { bytes } => Self::new(
                ErrorCode::TooLarge,
                format!("The text has {bytes} bytes; a message may have {MAX_TEXT_BYTES} (1 MiB)."),
            ),
            InputRefusal::Invalid(problems) => Self::invalid(problems),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let sentence = sentence(&error.to_string());
        match error {
            EngineError::Invalid(problems) => Self::invalid(problems),
            EngineError::UnboundCredential { keys } => {
                let problem = |key: &String| {
                    problem::Problem::new(
                        format!("env_vars.{key}"),
                        "name the hosts it may be sent to in env_var_hosts, or list it in plain_env_vars",
                    )
                };
                let problems = keys.iter().map(problem).collect();
                Self::new(ErrorCode::UnboundCredential, sentence).with_problems(problems)
            }
            EngineError::NotFound { what, id } => Self::not_found(what, &id),
            EngineError::NotReady { status, detail: _ } => Self::new(ErrorCode::SessionNotReady, sentence)
                .with_problems(vec![problem::Problem::new("status", status)]),
            EngineError::HarnessNotInstalled { .. } => Self::new(ErrorCode::HarnessNotInstalled, sentence),
            EngineError::AgentDeleted => Self::new(ErrorCode::AgentDeleted, sentence),
            EngineError::Conflict(_) => Self::new(ErrorCode::Conflict, sentence),
            EngineError::IdempotencyMismatch => Self::new(ErrorCode::IdempotencyMismatch, sentence),
            EngineError::EventsExpired { oldest } => Self::new(ErrorCode::EventsExpired, sentence)
                .with_problems(vec![problem::Problem::new("after", format!("the oldest event kept is {oldest}"))]),
            EngineError::TooManyTurns { .. } => Self::new(ErrorCode::TooManyRequests, sentence),
            // An abort is what somebody asked for, not a failure of the harness.
            // Nor is a terminal that has the conversation.
            EngineError::TurnFailed { code, .. } if code == "aborted" || code == "conversation_in_use" => {
                Self::new(ErrorCode::Conflict, sentence)
            }
            EngineError::TurnFailed { code, .. } if code == "budget" => Self::new(ErrorCode::Budget, sentence),
            EngineError::TurnFailed { code, .. } => {
                Self::new(ErrorCode::HarnessFailed, sentence).with_problems(vec![problem::Problem::new("turn", code)])
            }
            EngineError::NoSuchFile(_) => Self::new(ErrorCode::NotFound, sentence),
            EngineError::EgressPending { .. } => Self::new(ErrorCode::EgressPending, sentence),
            EngineError::Unavailable(_) => Self::new(ErrorCode::Unavailable, sentence),
            EngineError::Internal(cause) => {
                tracing::error!(cause = chain(cause.as_ref()), "a request failed inside");
                Self::new(ErrorCode::Internal, INTERNAL)
            }
        }
    }
}

const INTERNAL: &str = "Something went wrong on the server; its log has the cause under this answer's x-request-id.";

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { code, message, problems } = self;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody { error: message, code: code.as_str().to_owned(), problems };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match code {
            ErrorCode::Unauthorized => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            ErrorCode::Unavailable | ErrorCode::TooManyRequests => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            _ => None,
        };
        response
    }
}

/// 500 out of a panic, for the layer that catches it. The panic hook has already written message and place to stderr.
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "no message",
    };
    tracing::error!(panic = message, "a handler panicked");
    ApiError::new(ErrorCode::Internal, INTERNAL).into_response()
}

/// Errors are written lower case and without a full stop so that they chain; a client reads a sentence.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let mut sentence: String = chars.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    sentence.push_str(chars.as_str());
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

/// A name given by the client, short enough to be repeated to it.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
