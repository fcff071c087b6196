//! The events that the store states itself, because they must be stored together with what they tell.

use lap_domain::egress::SessionLists;
use lap_domain::ids::TurnId;
use lap_domain::session::{Phase, SessionState};
use serde_json::json;

use crate::events::EventBody;

pub(crate) fn state(state: &SessionState) -> EventBody {
    let data = match state {
        SessionState::Creating | SessionState::Ready => json!({ "status": state.as_str() }),
        SessionState::Failed { reason } => json!({ "status": state.as_str(), "failure_reason": reason }),
        SessionState::Dead { reason } => json!({ "status": state.as_str(), "end_reason": reason.as_str() }),
    };
    EventBody { kind: "session.state".to_owned(), data: data.to_string() }
}

pub(crate) fn phase(phase: Phase, detail: Option<&str>) -> EventBody {
    let data = match detail {
        Some(detail) => json!({ "phase": phase.as_str(), "detail": detail }),
        None => json!({ "phase": phase.as_str() }),
    };
    EventBody { kind: "session.phase".to_owned(), data: data.to_string() }
}

pub(crate) fn turn_failed(turn: &TurnId, code: &str, error: &str) -> EventBody {
    let data = json!({ "turn_id": turn.as_str(), "code": code, "error": error });
    EventBody { kind: "turn.failed".to_owned(), data: data.to_string() }
}

pub(crate) fn egress_changed(lists: &SessionLists) -> EventBody {
    let SessionLists { allow_out, deny_out, revision, in_force: _ } = lists;
    let data = json!({ "allow_out": allow_out, "deny_out": deny_out, "revision": revision });
    EventBody { kind: "egress.changed".to_owned(), data: data.to_string() }
}
