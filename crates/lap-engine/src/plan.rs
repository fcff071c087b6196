//! Decides what must be done so that sandboxes match sessions. Pure: all that is seen comes in, actions come out.

use std::collections::{BTreeMap, BTreeSet};

use lap_domain::ids::SessionId;
use lap_domain::session::{EndReason, Session, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use lap_sandbox::{SandboxId, SandboxStatus};

/// Longer than the slowest honest clone and installation; a session still creating after it has failed.
pub const BRING_UP_DEADLINE_MS: i64 = 30 * 60 * 1000;

/// A sidecar dials within milliseconds of being started; one that has not after this long never will.
pub const DIAL_DEADLINE_MS: i64 = 30 * 1000;

/// A sidecar that lost its link dials again within seconds; one that has been silent this long is as good as dead.
pub const LINK_LOST_DEADLINE_MS: i64 = 5 * 60 * 1000;

/// Everything the decision rests on.
#[derive(Debug, Default)]
pub struct Observed {
    /// Sessions that want a sandbox (creating or ready).
    pub wanting: Vec<SessionSeen>,
    /// What the backend has.
    pub sandboxes: Vec<SandboxStatus>,
    /// Sandboxes that some task is making or removing right now.
    pub busy: BTreeSet<SandboxId>,
}

/// A session with what only the server's memory knows of it.
#[derive(Debug, Clone)]
pub struct SessionSeen {
    pub session: Session,
    /// When its current bring-up began.
    pub bring_up_since: Timestamp,
    /// How long its sidecar has been without a link; none while it has one.
    pub unlinked_ms: Option<i64>,
    /// Its sidecar has everything it needs: what the server's memory held is no longer needed.
    pub booted: bool,
    /// Session-level variables that the server still holds for it.
    pub held_keys: BTreeSet<String>,
    /// Milliseconds since the running turn gave its last sign of life; none without a running turn.
    pub turn_quiet_ms: Option<i64>,
    /// A turn waits or runs, whether or not this server has seen it.
    pub open_turns: bool,
}

/// One thing to do; each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the session's sandbox.
    Provision(SessionId),
    /// Move the session; its sandbox goes in a later round.
    Move(SessionId, SessionEvent),
    /// The running turn has shown no life for too long.
    FailTurn(SessionId),
    /// Remove a sandbox nobody wants.
    Destroy(SandboxId),
}

/// The whole decision.
pub fn plan(observed: &Observed, turn_stall_timeout_ms: i64, now: Timestamp) -> Vec<Action> {
    let present: BTreeMap<&str, &SandboxStatus> = observed.sandboxes.iter().map(|s| (s.id.as_str(), s)).collect();
    let mut actions = Vec::new();
    let mut wanted = BTreeSet::new();
    for seen in &observed.wanting {
        let name = seen.session.sandbox_name();
        let busy = observed.busy.iter().any(|id| id.as_str() == name);
        if !busy {
            actions.extend(for_session(seen, present.get(name.as_str()).copied(), turn_stall_timeout_ms, now));
        }
        wanted.insert(name);
    }
    for sandbox in &observed.sandboxes {
        if !wanted.contains(sandbox.id.as_str()) && !observed.busy.contains(&sandbox.id) {
            actions.push(Action::Destroy(sandbox.id.clone()));
        }
    }
    actions
}

fn for_session(
    seen: &SessionSeen,
    sandbox: Option<&SandboxStatus>,
    turn_stall_timeout_ms: i64,
    now: Timestamp,
) -> Option<Action> {
    let session = &seen.session;
    let id = || session.id.clone();
    let fail = |reason: String| Some(Action::Move(id(), SessionEvent::BootFailed { reason }));
    let waited = now.since(seen.bring_up_since);
    match (&session.state, sandbox) {
        (SessionState::Creating, None) => {
            let lost = lost_keys(seen);
            if lost.is_empty() { Some(Action::Provision(id())) } else { fail(env_lost(&lost)) }
        }
        (SessionState::Creating, Some(sandbox)) if !sandbox.running => {
            fail("the sandbox ended while it was being set up; `lap logs --sandbox` shows its last lines".into())
        }
        (SessionState::Creating, Some(_)) if seen.unlinked_ms.is_some_and(|ms| ms > DIAL_DEADLINE_MS) => {
            fail("the sandbox was started but never called back; `lap logs --sandbox` shows its last lines".into())
        }
        (SessionState::Creating, Some(_))
            if seen.unlinked_ms.is_none() && !seen.booted && !lost_keys(seen).is_empty() =>
        {
            fail(env_lost(&lost_keys(seen)))
        }
        (SessionState::Creating, Some(_)) if waited > BRING_UP_DEADLINE_MS => {
            fail(format!("the session was not ready after {} minutes", BRING_UP_DEADLINE_MS / 60_000))
        }
        (SessionState::Ready, sandbox) if sandbox.is_none_or(|s| !s.running) => {
            Some(Action::Move(id(), SessionEvent::End { reason: EndReason::SandboxLost }))
        }
        (SessionState::Ready, _) if seen.unlinked_ms.is_some_and(|ms| ms > LINK_LOST_DEADLINE_MS) => {
            Some(Action::Move(id(), SessionEvent::End { reason: EndReason::SandboxLost }))
        }
        (SessionState::Ready, _) => match seen.turn_quiet_ms {
            Some(quiet) if quiet > turn_stall_timeout_ms => Some(Action::FailTurn(id())),
            Some(_) => None,
            // A sidecar that is away may have news of this very session.
            None if is_idle(session, now) && !seen.open_turns && seen.unlinked_ms.is_none() => {
                Some(Action::Move(id(), SessionEvent::End { reason: EndReason::Idle }))
            }
            None => None,
        },
        _ => None,
    }
}

/// Whether the session's time without activity is over. A turn that is open counts as activity all the same.
pub fn is_idle(session: &Session, now: Timestamp) -> bool {
    now.since(session.last_seen_at) > session.idle_timeout_ms
}

fn lost_keys(seen: &SessionSeen) -> Vec<&str> {
    let keys = seen.session.session_env_keys.iter().map(String::as_str);
    keys.filter(|key| !seen.held_keys.contains(*key)).collect()
}

fn env_lost(keys: &[&str]) -> String {
    format!(
        "session_env_lost: the server restarted before the sandbox had the session's variables ({}); open a new session",
        keys.join(", ")
    )
}

#[cfg(test)]
mod tests;
