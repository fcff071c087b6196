//! Situations in, decisions out; the snapshots are meant to be read.

use expect_test::{Expect, expect};
use lap_domain::ids::AgentId;

use super::*;

const NOW: Timestamp = Timestamp(10_000_000_000);
const HOUR: i64 = 3_600_000;

fn session(name: &str, state: SessionState) -> SessionSeen {
    SessionSeen {
        session: Session {
            id: SessionId::new(name),
            agent_id: AgentId::new("a"),
            title: None,
            state,
            phase: None,
            phase_detail: None,
            incarnation: 1,
            harness_id: "opencode".into(),
            harness_session_id: None,
            branch: None,
            commit: None,
            title_preview: None,
            response: None,
            session_env_keys: Vec::new(),
            created_at: NOW,
            last_seen_at: NOW,
            idle_timeout_ms: 24 * HOUR,
        },
        bring_up_since: NOW,
        unlinked_ms: None,
        booted: true,
        held_keys: BTreeSet::new(),
        turn_quiet_ms: None,
        open_turns: false,
    }
}

fn sandbox(name: &str, running: bool) -> SandboxStatus {
    SandboxStatus { id: SandboxId::new(name).expect("a good name"), running }
}

#[track_caller]
fn check(wanting: Vec<SessionSeen>, sandboxes: Vec<SandboxStatus>, busy: &[&str], expect: Expect) {
    let busy = busy.iter().map(|name| SandboxId::new(name).expect("a good name")).collect();
    let actions = plan(&Observed { wanting, sandboxes, busy }, HOUR, NOW);
    expect.assert_eq(&actions.iter().map(|action| format!("{action:?}\n")).collect::<String>());
}

#[test]
fn a_new_session_gets_a_sandbox_once() {
    check(
        vec![session("s", SessionState::Creating)],
        vec![],
        &[],
        expect![[r#"
        Provision(SessionId("s"))
    "#]],
    );
    check(vec![session("s", SessionState::Creating)], vec![], &["s-1"], expect![[""]]);
    check(vec![session("s", SessionState::Creating)], vec![sandbox("s-1", true)], &[], expect![[""]]);
}

#[test]
fn a_sandbox_nobody_wants_goes() {
    check(
        vec![],
        vec![sandbox("s-1", true), sandbox("t-1", false)],
        &["t-1"],
        expect![[r#"
        Destroy(SandboxId("s-1"))
    "#]],
    );
    // One of an earlier incarnation is not taken for this one.
    let mut second = session("s", SessionState::Creating);
    second.session.incarnation = 2;
    check(
        vec![second],
        vec![sandbox("s-1", true)],
        &[],
        expect![[r#"
        Provision(SessionId("s"))
        Destroy(SandboxId("s-1"))
    "#]],
    );
}

#[test]
fn a_lost_sandbox_ends_its_session() {
    check(
        vec![session("s", SessionState::Ready)],
        vec![],
        &[],
        expect![[r#"
        Move(SessionId("s"), End { reason: SandboxLost })
    "#]],
    );
    check(
        vec![session("s", SessionState::Ready)],
        vec![sandbox("s-1", false)],
        &[],
        expect![[r#"
        Move(SessionId("s"), End { reason: SandboxLost })
    "#]],
    );
    check(
        vec![session("s", SessionState::Creating)],
        vec![sandbox("s-1", false)],
        &[],
        expect![[r#"
        Move(SessionId("s"), BootFailed { reason: "the sandbox ended while it was being set up; `lap logs --sandbox` shows its last lines" })
    "#]],
    );
    let mut silent = session("s", SessionState::Ready);
    silent.unlinked_ms = Some(LINK_LOST_DEADLINE_MS + 1);
    check(
        vec![silent],
        vec![sandbox("s-1", true)],
        &[],
        expect![[r#"
        Move(SessionId("s"), End { reason: SandboxLost })
    "#]],
    );
}

#[test]
fn lost_session_variables_fail_the_session_by_name() {
    let mut lost = session("s", SessionState::Creating);
    lost.session.session_env_keys = vec!["A".into(), "B".into()];
    lost.held_keys = ["A".to_owned()].into();
    lost.booted = false;
    check(
        vec![lost.clone()],
        vec![],
        &[],
        expect![[r#"
        Move(SessionId("s"), BootFailed { reason: "session_env_lost: the server restarted before the sandbox had the session's variables (B); open a new session" })
    "#]],
    );
    check(
        vec![lost.clone()],
        vec![sandbox("s-1", true)],
        &[],
        expect![[r#"
        Move(SessionId("s"), BootFailed { reason: "session_env_lost: the server restarted before the sandbox had the session's variables (B); open a new session" })
    "#]],
    );
    lost.booted = true;
    check(vec![lost], vec![sandbox("s-1", true)], &[], expect![[""]]);
}

#[test]
fn idleness_ends_a_session_but_never_a_running_turn() {
    let mut idle = session("s", SessionState::Ready);
    idle.session.last_seen_at = Timestamp(NOW.0 - 25 * HOUR);
    check(
        vec![idle.clone()],
        vec![sandbox("s-1", true)],
        &[],
        expect![[r#"
        Move(SessionId("s"), End { reason: Idle })
    "#]],
    );
    // A server that was away for days: neither turns that wait nor sidecars that have not called yet are idle.
    let waiting = SessionSeen { open_turns: true, ..idle.clone() };
    check(vec![waiting], vec![sandbox("s-1", true)], &[], expect![[""]]);
    let away = SessionSeen { unlinked_ms: Some(0), ..idle.clone() };
    check(vec![away], vec![sandbox("s-1", true)], &[], expect![[""]]);
    idle.turn_quiet_ms = Some(HOUR / 2);
    check(vec![idle.clone()], vec![sandbox("s-1", true)], &[], expect![[""]]);
    idle.turn_quiet_ms = Some(HOUR + 1);
    check(
        vec![idle],
        vec![sandbox("s-1", true)],
        &[],
        expect![[r#"
        FailTurn(SessionId("s"))
    "#]],
    );
}

#[test]
fn a_sidecar_that_never_calls_fails_the_bring_up() {
    let mut waiting = session("s", SessionState::Creating);
    waiting.unlinked_ms = Some(0);
    check(vec![waiting.clone()], vec![sandbox("s-1", true)], &[], expect![[""]]);
    // A link that broke a moment ago, long after the bring-up began: the sidecar dials again.
    waiting.bring_up_since = Timestamp(NOW.0 - DIAL_DEADLINE_MS - 1);
    check(vec![waiting.clone()], vec![sandbox("s-1", true)], &[], expect![[""]]);
    waiting.unlinked_ms = Some(DIAL_DEADLINE_MS + 1);
    check(
        vec![waiting],
        vec![sandbox("s-1", true)],
        &[],
        expect![[r#"
        Move(SessionId("s"), BootFailed { reason: "the sandbox was started but never called back; `lap logs --sandbox` shows its last lines" })
    "#]],
    );
}
