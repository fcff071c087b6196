use super::session_id;

#[track_caller]
fn check(text: &str, expected: Option<&str>) {
    assert_eq!(session_id(text).ok().as_deref(), expected, "{text}");
}

#[test]
fn sessions_are_named_by_id_or_url() {
    check(" 0192-ab ", Some("0192-ab"));
    check("https://lap.test/sessions/0192-ab", Some("0192-ab"));
    check("https://lap.test/base/sessions/0192-ab/log?x=1#y", Some("0192-ab"));
    check("https://lap.test/api/v1/managed_agents/sessions/0192-ab/events", Some("0192-ab"));
    check("https://lap.test/s/0192-ab/", Some("0192-ab"));
    check("https://lap.test/", None);
    check("", None);
}
