use super::*;

#[track_caller]
fn check(from: SessionState, event: SessionEvent, expect: Option<&str>) {
    assert_eq!(from.apply(event).ok().map(|state| state.as_str()), expect);
}

#[test]
fn the_table_of_states() {
    let failed = || SessionState::Failed { reason: "no such branch".into() };
    let dead = || SessionState::Dead { reason: EndReason::Idle };
    let end = || SessionEvent::End { reason: EndReason::Stopped };
    let broke = || SessionEvent::BootFailed { reason: "x".into() };
    check(SessionState::Creating, SessionEvent::GuestReady, Some("ready"));
    check(SessionState::Creating, broke(), Some("failed"));
    check(SessionState::Creating, end(), Some("dead"));
    check(SessionState::Creating, SessionEvent::Restart, None);
    check(SessionState::Ready, SessionEvent::GuestReady, None);
    check(SessionState::Ready, broke(), None);
    check(SessionState::Ready, end(), Some("dead"));
    check(SessionState::Ready, SessionEvent::Restart, Some("creating"));
    for over in [failed(), dead()] {
        check(over.clone(), SessionEvent::GuestReady, None);
        check(over.clone(), broke(), None);
        check(over.clone(), end(), None);
        check(over, SessionEvent::Restart, Some("creating"));
    }
}
