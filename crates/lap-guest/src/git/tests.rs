use super::*;

#[track_caller]
fn check_credential(operation: &str, question: &str, variables: &[(&str, &str)], expect: &str) {
    let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    assert_eq!(credential(operation, question, variable), expect);
}

#[test]
fn the_helper_answers_https_only_and_from_the_first_full_variable() {
    let https = "protocol=https\nhost=example.com\n";
    let both = [("GITHUB_TOKEN", "stub_a"), ("GH_TOKEN", "stub_b")];
    check_credential("get", https, &both, "username=x-access-token\npassword=stub_a\n");
    check_credential("get", https, &[("GITHUB_TOKEN", ""), ("GH_TOKEN", "b")], "username=x-access-token\npassword=b\n");
    check_credential(
        "get",
        https,
        &[("GITHUB_TOKEN", "a"), (CLONE_TOKEN, "c")],
        "username=x-access-token\npassword=c\n",
    );
    check_credential("get", https, &[], "");
    check_credential("get", "protocol=http\nhost=example.com\n", &both, "");
    check_credential("store", https, &both, "");
    check_credential("erase", https, &both, "");
}

#[track_caller]
fn check_reason(said: &str, blocked: Option<&str>, code: &str, words: &str) {
    let failure = explain("https://git.example.com/a/b.git", said, blocked, true);
    assert_eq!(failure.code, code, "{failure}");
    assert!(failure.reason.contains(words), "{failure}");
}

#[test]
fn failures_are_sentences() {
    check_reason(
        "fatal: repository 'https://git.example.com/a/b.git/' not found",
        None,
        "repo_not_found",
        "no repository at https://git.example.com/a/b.git",
    );
    check_reason("fatal: Authentication failed for 'https://…'", None, "repo_auth", "refused the token");
    check_reason("The requested URL returned error: 403", None, "repo_auth", "`git.example.com` refused");
    check_reason("The requested URL returned error: 403", Some("denied"), "repo_blocked", "allow_out");
    check_reason("The requested URL returned error: 502", Some("dns"), "repo_blocked", "does not resolve");
    check_reason("could not read Username for 'https://…': terminal prompts disabled", None, "repo_auth", "private");
    check_reason("server certificate verification failed", None, "repo_tls", "certificate of `git.example.com`");
    check_reason("fatal: Could not resolve host: git.example.com", None, "repo_unreachable", "does not resolve");
    check_reason("something\nfatal: strange things\n", None, "clone_failed", "strange things");
}

#[test]
fn progress_speaks_seldom() {
    let mut progress = Progress::default();
    let seen: Vec<String> = (0..=100)
        .map(|n| format!("Receiving objects: {n:3}% ({}/4000), 1.2 MiB | 3 MiB/s", n * 40))
        .chain(["Resolving deltas: 100% (12/12), done.".to_owned(), "Cloning into '.'...".to_owned()])
        .filter_map(|line| progress.report(&line))
        .map(|report| match report {
            Report::Phase { detail: Some(detail), .. } => detail,
            other => panic!("not a detail: {other:?}"),
        })
        .collect();
    assert_eq!(seen.len(), 11, "{seen:?}");
    assert_eq!(seen[3], "receiving objects: 30%");
}

#[test]
fn the_identity_cannot_break_out_of_its_line() {
    let text = configuration(&Layout::sandbox(), "A \"quoted\"\nname\\ <a@b.c>");
    assert!(text.contains("\tname = \"A \\\"quoted\\\"name\\\\\"\n"), "{text}");
    assert!(text.contains("\temail = \"a@b.c\"\n"), "{text}");
}
