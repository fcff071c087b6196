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

#[track_caller]
fn check_preview(text: &str, expect: Option<&str>) {
    assert_eq!(title_preview(text).as_deref(), expect);
}

#[test]
fn previews_are_whole_words_on_one_line() {
    check_preview(" fix the\n\tfailing   test ", Some("fix the failing test"));
    check_preview(" \n", None);
    let preview = title_preview(&"word ".repeat(40)).expect("there are words");
    assert!(preview.ends_with("word…") && preview.chars().count() <= 81, "{preview}");
    let preview = title_preview(&"é".repeat(200)).expect("there is a word");
    assert_eq!(preview.chars().count(), 80);
}

#[test]
fn everything_wrong_with_a_new_session_is_said_at_once() {
    let env_vars =
        [("PATH", "x"), ("A", crate::env_vars::MASK)].map(|(k, v)| (k.to_owned(), Secret::new(v.to_owned())));
    let input = SessionInput {
        title: Some(" "),
        branch: Some("-x"),
        initial_prompt: Some(""),
        initial_attachments: &[],
        budget: Budget { max_tokens: Some(0), max_cost_usd: None },
        vars: Vars { env_vars: &env_vars.into(), plain_env_vars: &["B".to_owned()], env_var_hosts: &BTreeMap::new() },
    };
    let Err(InputRefusal::Invalid(problems)) = validate_new(&input) else { panic!("taken") };
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        ["title", "branch", "max_tokens", "env_vars.PATH", "plain_env_vars[0]", "env_vars.A", "initial_prompt"]
    );
    let long = "x".repeat(turn::MAX_TEXT_BYTES + 1);
    let too_long = SessionInput { initial_prompt: Some(&long), ..input };
    assert!(matches!(validate_new(&too_long), Err(InputRefusal::TextTooLong { .. })));
    let empty = BTreeMap::new();
    let fine = SessionInput {
        title: Some("t"),
        branch: None,
        initial_prompt: None,
        initial_attachments: &[],
        budget: Budget::default(),
        vars: Vars { env_vars: &empty, plain_env_vars: &[], env_var_hosts: &BTreeMap::new() },
    };
    assert_eq!(validate_new(&fine), Ok(()));
}
