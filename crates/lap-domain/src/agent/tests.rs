use super::*;

const HARNESSES: &[&str] = &["opencode", "codex"];

fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new((*value).to_owned()))).collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn valid() -> NewAgent {
    NewAgent { model: Some("anthropic/claude-opus-4-7".to_owned()), ..NewAgent::default() }
}

#[track_caller]
fn made(new: NewAgent) -> Agent {
    create(new, AgentId::new("a1"), HARNESSES, Timestamp(1)).expect("a valid agent")
}

fn fields<T>(result: Result<T, Vec<Problem>>) -> Vec<String> {
    result.err().unwrap_or_default().into_iter().map(|problem| problem.field).collect()
}

#[track_caller]
fn check_refused(new: NewAgent, expect: &[&str]) {
    assert_eq!(fields(create(new, AgentId::new("a1"), HARNESSES, Timestamp(1))), expect);
}

#[test]
fn absent_fields_get_their_defaults() {
    let agent = made(valid());
    assert_eq!((agent.harness_id.as_str(), agent.branch.as_str()), ("opencode", "main"));
    assert_eq!(agent.permission_mode, PermissionMode::Bypass);
    assert_eq!((agent.created_at, agent.updated_at), (Timestamp(1), Timestamp(1)));
}

#[test]
fn everything_wrong_is_said_at_once() {
    let new = NewAgent {
        name: Some(" ".to_owned()),
        model: Some(" ".to_owned()),
        prompt: Some("x".repeat(MAX_PROMPT_BYTES + 1)),
        harness_id: Some("nope".to_owned()),
        repo_url: Some("git@github.com:a/b.git".to_owned()),
        branch: Some("-x".to_owned()),
        mcp_servers: texts(&["ftp://x", "https://m.example/", "https://m.example/"]),
        mcp_headers: [("https://other.example/".to_owned(), [("Bad Name".to_owned(), "a\nb".to_owned())].into())]
            .into(),
        env_vars: secrets(&[("PATH", "x"), ("M", env_vars::MASK)]),
        plain_env_vars: texts(&["X"]),
        env_var_hosts: [("M".to_owned(), texts(&["http://x"]))].into(),
        skill_ids: vec![SkillId::new("s"), SkillId::new("s")],
        allow_out: texts(&["https://x.example"]),
        deny_out: texts(&[""]),
        sandbox_files: vec![NewFile::default()],
        permission_mode: Some("maybe".to_owned()),
        image: Some(String::new()),
        requirements: Some("x".repeat(MAX_REQUIREMENTS_BYTES + 1)),
        budget: Budget { max_tokens: Some(0), max_cost_usd: Some(-1.0) },
    };
    check_refused(
        new,
        &[
            "harness_id",
            "env_vars.M",
            "permission_mode",
            "sandbox_files[0].name",
            "sandbox_files[0].sandbox_path",
            "sandbox_files[0].content_type",
            "sandbox_files[0].content",
            "max_tokens",
            "max_cost_usd",
            "name",
            "model",
            "prompt",
            "repo_url",
            "branch",
            "requirements",
            "image",
            "mcp_servers[0]",
            "mcp_servers[2]",
            "mcp_headers.https://other.example/",
            "mcp_headers.https://other.example/.Bad Name",
            "mcp_headers.https://other.example/.Bad Name",
            "skill_ids[1]",
            "allow_out[0]",
            "deny_out[0]",
            "env_vars.PATH",
            "plain_env_vars[0]",
            "env_var_hosts.M[0]",
        ],
    );
}

#[test]
fn an_unknown_harness_is_told_the_known_ones() {
    let new = NewAgent { harness_id: Some("vim".to_owned()), ..valid() };
    let problems = create(new, AgentId::new("a1"), HARNESSES, Timestamp(1)).expect_err("vim is none");
    assert_eq!(problems[0].message, "`vim` is not a harness; there are opencode, codex");
}

#[track_caller]
fn check_repo(url: &str, expect: &str) {
    let found = check_repo_url(url).map_or_else(|why| why, |url| url.entry());
    assert!(found.starts_with(expect), "{url}: {found}");
}

#[test]
fn repositories_are_https() {
    check_repo("https://github.com/a/b.git", "github.com:443");
    check_repo("http://git.example:3000/a", "git.example:3000");
    check_repo("git@github.com:a/b.git", "is an ssh URL");
    check_repo("ssh://git@github.com/a/b", "is an ssh URL");
    check_repo("git://github.com/a/b", "has the scheme `git`");
    check_repo("file:///etc", "has the scheme `file`");
    check_repo("/srv/repo", "is not a URL");
    check_repo("ext::sh -c id", "has spaces");
    check_repo("--upload-pack=x", "is not a URL");
    check_repo("https://token@github.com/a/b", "carries user info");
    check_repo("https://github.com", "names a host");
    check_repo("https://github.com/", "names a host");
    check_repo("https://github.com/a/b?x", "has a query");
}

#[test]
fn branches_are_what_git_takes() {
    for good in ["main", "feature/x-1", "v1.0", "ümlaut", "a@b"] {
        assert_eq!(check_branch(good), Ok(()), "{good}");
    }
    let long = "x".repeat(251);
    for bad in [
        "",
        "-x",
        "--upload-pack=x",
        "a..b",
        "a b",
        "a~b",
        "a^b",
        "a:b",
        "a?b",
        "a*b",
        "a[b",
        "a\\b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        "@",
        "a@{b",
        "a\nb",
        "a\0b",
        &long,
    ] {
        assert!(check_branch(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_edit_changes_what_it_names() {
    let agent = made(NewAgent { name: Some("n".to_owned()), prompt: Some("p".to_owned()), ..valid() });
    let edited = edit(
        &agent,
        AgentEdit { prompt: Some(None), branch: Some("dev".to_owned()), ..AgentEdit::default() },
        Timestamp(9),
    )
    .expect("a valid edit");
    let expect = Agent { prompt: None, branch: "dev".to_owned(), updated_at: Timestamp(9), ..agent };
    assert_eq!(edited, expect);
}

#[test]
fn an_edit_is_judged_like_a_creation() {
    let agent = made(valid());
    let bad =
        AgentEdit { model: Some(String::new()), env_vars: Some(secrets(&[("HOME", "x")])), ..AgentEdit::default() };
    assert_eq!(fields(edit(&agent, bad, Timestamp(2))), ["model", "env_vars.HOME"]);
}

fn with_variables() -> Agent {
    made(NewAgent {
        env_vars: secrets(&[("A", "secret-a"), ("B", "secret-b"), ("P", "plain")]),
        plain_env_vars: texts(&["P"]),
        env_var_hosts: [("A".to_owned(), texts(&["a.example"])), ("B".to_owned(), texts(&["b.example"]))].into(),
        ..valid()
    })
}

#[test]
fn masks_keep_values_and_removed_keys_take_their_entries_along() {
    let given = secrets(&[("A", env_vars::MASK), ("C", "new")]);
    let edited = edit(&with_variables(), AgentEdit { env_vars: Some(given), ..AgentEdit::default() }, Timestamp(2))
        .expect("valid");
    assert_eq!(edited.env_vars, secrets(&[("A", "secret-a"), ("C", "new")]));
    assert_eq!(edited.plain_env_vars, Vec::<String>::new());
    assert_eq!(edited.env_var_hosts.keys().collect::<Vec<_>>(), ["A"]);
    let unknown = AgentEdit { env_vars: Some(secrets(&[("X", env_vars::MASK)])), ..AgentEdit::default() };
    assert_eq!(fields(edit(&with_variables(), unknown, Timestamp(2))), ["env_vars.X"]);
}

#[test]
fn a_stored_secret_is_never_shown_by_calling_it_plain() {
    let plain = |env_vars| AgentEdit { plain_env_vars: Some(texts(&["P", "A"])), env_vars, ..AgentEdit::default() };
    assert_eq!(fields(edit(&with_variables(), plain(None), Timestamp(2))), ["plain_env_vars[1]"]);
    let masked = Some(secrets(&[("A", env_vars::MASK), ("P", env_vars::MASK)]));
    assert_eq!(fields(edit(&with_variables(), plain(masked), Timestamp(2))), ["plain_env_vars[1]"]);
    let given = Some(secrets(&[("A", "another"), ("P", env_vars::MASK)]));
    assert!(edit(&with_variables(), plain(given), Timestamp(2)).is_ok());
}

#[track_caller]
fn check_warnings(new: NewAgent, expect: &[(&str, &[&str])]) {
    let found = warnings(&made(new));
    let shown: Vec<(&str, Vec<&str>)> =
        found.iter().map(|warning| (warning.code, warning.keys.iter().map(String::as_str).collect())).collect();
    let expect: Vec<(&str, Vec<&str>)> = expect.iter().map(|(code, keys)| (*code, keys.to_vec())).collect();
    assert_eq!(shown, expect);
}

#[test]
fn credentials_without_hosts_are_warned_of() {
    let env = secrets(&[
        ("GITHUB_TOKEN", "ghp_123456"),
        ("MINE", "long-enough"),
        ("BOUND", "long-enough"),
        ("OPEN", "v"),
        ("EMPTY", ""),
    ]);
    let new = NewAgent {
        env_vars: env,
        plain_env_vars: texts(&["OPEN"]),
        env_var_hosts: [("BOUND".to_owned(), texts(&["b.example"]))].into(),
        ..valid()
    };
    check_warnings(new.clone(), &[("unbound_credential", &["MINE"])]);
    check_warnings(NewAgent { allow_out: texts(&["x.example"]), ..new }, &[]);
}

#[test]
fn secrets_that_cannot_work_are_warned_of() {
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----";
    let new = NewAgent {
        env_vars: secrets(&[
            ("PIN", "1234567"),
            ("AWS_SECRET_ACCESS_KEY", "0123456789"),
            ("APP_HMAC_KEY", "0123456789"),
            ("CERT", pem),
        ]),
        allow_out: texts(&["x.example"]),
        ..valid()
    };
    check_warnings(new, &[("short_secret", &["PIN"]), ("signing_credential", &["APP_HMAC_KEY", "CERT"])]);
}

#[test]
fn repositories_the_sandbox_cannot_reach_are_warned_of() {
    let repo = |url: &str, allow: &[&str], deny: &[&str]| NewAgent {
        repo_url: Some(url.to_owned()),
        allow_out: texts(allow),
        deny_out: texts(deny),
        ..valid()
    };
    check_warnings(repo("https://git.example/a", &[], &[]), &[]);
    check_warnings(repo("http://git.example/a", &[], &[]), &[("http_repo", &["http://git.example/a"])]);
    check_warnings(repo("https://git.example/a", &["*.example"], &[]), &[]);
    check_warnings(repo("https://git.example/a", &["x.example"], &[]), &[("repo_not_allowed", &["git.example:443"])]);
    check_warnings(
        repo("https://git.example/a", &["git.example"], &["git.example"]),
        &[("repo_denied", &["git.example:443"])],
    );
}

#[test]
fn credentials_of_hosts_that_pass_unread_are_warned_of() {
    let new = NewAgent {
        env_vars: secrets(&[("GITHUB_TOKEN", "ghp_123456"), ("MINE", "long-enough"), ("BOUND", "long-enough")]),
        env_var_hosts: [("BOUND".to_owned(), texts(&["*.b.example"]))].into(),
        ..valid()
    };
    let keys = |entries: &[&str]| {
        let entries: Vec<Entry> = entries.iter().map(|entry| Entry::parse(entry).expect("an entry")).collect();
        unread_hosts(&made(new.clone()), &entries).map(|warning| (warning.code, warning.keys))
    };
    assert_eq!(keys(&["x.b.example"]), Some(("unread_host", texts(&["BOUND"]))));
    assert_eq!(keys(&["*.github.com"]), Some(("unread_host", texts(&["GITHUB_TOKEN"]))));
    assert_eq!(keys(&["b.example.com", "*.example.org"]), None);
    assert_eq!(keys(&[]), None);
}
