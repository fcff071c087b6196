use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use lap_api::error::ErrorBody;
use lap_domain::problem::Problem;
use lap_engine::EngineError as E;

use super::{ApiError, panicked, sentence, shortened};

async fn shown(response: Response) -> (u16, ErrorBody) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("whole bodies arrive").to_bytes();
    (status, serde_json::from_slice(&body).expect("errors are JSON"))
}

#[track_caller]
fn check(error: E, expected: &str) {
    let response = ApiError::from(error).into_response();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (status, ErrorBody { error, code, problems }) = runtime.block_on(shown(response));
    let problems: Vec<String> = problems.iter().map(|p| format!(" [{}: {}]", p.field, p.message)).collect();
    assert_eq!(format!("{status} {code}: {error}{}", problems.concat()), expected);
}

#[test]
fn every_refusal_of_the_engine_has_its_status() {
    check(
        E::Invalid(vec![Problem::new("model", "is required")]),
        "400 invalid_request: model: is required [model: is required]",
    );
    check(
        E::UnboundCredential { keys: vec!["K".to_owned()] },
        "400 unbound_credential: These credentials are not bound to hosts: K. [env_vars.K: name the hosts it may be sent to \
         in env_var_hosts, or list it in plain_env_vars]",
    );
    check(E::NotFound { what: "agent", id: "a".to_owned() }, "404 not_found: There is no agent a.");
    check(
        E::NotReady { status: "dead".to_owned(), detail: "it ended (idle)".to_owned() },
        "409 session_not_ready: The session is dead: it ended (idle). [status: dead]",
    );
    check(E::AgentDeleted, "409 agent_deleted: The agent was deleted.");
    check(E::Conflict("no turn is running".to_owned()), "409 conflict: No turn is running.");
    check(
        E::EventsExpired { oldest: 17 },
        "410 events_expired: Events before 17 are no longer kept. [after: the oldest event kept is 17]",
    );
    check(E::IdempotencyMismatch, "422 idempotency_mismatch: This Idempotency-Key was used with another body.");
    check(E::TooManyTurns { limit: 100 }, "429 too_many_requests: 100 turns are waiting already; wait for one to end.");
    check(E::Unavailable("the database is busy".to_owned()), "503 unavailable: The database is busy.");
    check(
        E::TurnFailed { code: "harness_failed".to_owned(), error: "the model said no".to_owned() },
        "502 harness_failed: The model said no. [turn: harness_failed]",
    );
    check(
        E::TurnFailed { code: "aborted".to_owned(), error: "the turn was aborted".to_owned() },
        "409 conflict: The turn was aborted.",
    );
}

#[test]
fn faults_of_the_server_say_nothing_of_themselves() {
    let inside =
        "500 internal: Something went wrong on the server; its log has the cause under this answer's x-request-id.";
    check(E::Internal("disk full at /var/lib/lap".into()), inside);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (status, body) = runtime.block_on(shown(panicked(Box::new("index out of bounds"))));
    assert_eq!((status, body.code.as_str()), (500, "internal"));
    assert!(!body.error.contains("index"));
}

#[test]
fn sentences_end_and_names_are_cut() {
    assert_eq!(sentence("éclair"), "Éclair.");
    assert_eq!(sentence("Really?"), "Really?");
    assert_eq!(sentence(""), ".");
    assert_eq!(shortened(&"ü".repeat(100)), "ü".repeat(100));
    assert_eq!(shortened(&"ü".repeat(101)), format!("{}…", "ü".repeat(100)));
}
