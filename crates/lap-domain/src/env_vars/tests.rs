use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new((*value).to_owned()))).collect()
}

fn hosts(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    pairs
        .iter()
        .map(|(key, hosts)| ((*key).to_owned(), hosts.iter().map(|host| (*host).to_owned()).collect()))
        .collect()
}

fn problems(env: &BTreeMap<String, Secret>, plain: &[&str], bound: &[(&str, &[&str])]) -> Vec<String> {
    let plain: Vec<String> = plain.iter().map(|key| (*key).to_owned()).collect();
    let vars = Vars { env_vars: env, plain_env_vars: &plain, env_var_hosts: &hosts(bound) };
    validate(&vars).into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

#[track_caller]
fn check_fields(pairs: &[(&str, &str)], plain: &[&str], bound: &[(&str, &[&str])], expect: &[&str]) {
    let found = problems(&map(pairs), plain, bound);
    let fields: Vec<&str> = found.iter().map(|problem| problem.split(':').next().unwrap_or_default()).collect();
    assert_eq!(fields, expect, "{found:#?}");
}

#[test]
fn ordinary_variables_pass() {
    let pairs = [
        ("GITHUB_TOKEN", "ghp_x"),
        ("_x1", ""),
        ("lower", "ä\n\""),
        ("NODE_OPTIONS", "--x"),
        ("TZ", "UTC"),
        ("path", "p"),
    ];
    check_fields(&pairs, &["TZ"], &[("GITHUB_TOKEN", &["github.com", "*.github.com#body", "10.0.0.0/8:443"])], &[]);
}

#[test]
fn every_reserved_key_is_named() {
    let reserved = [
        "REPO_URL",
        "BRANCH",
        "LITELLM_API_KEY",
        "LITELLM_API_BASE",
        "LITELLM_DEFAULT_MODEL",
        "AGENT_PROMPT",
        "PORT",
        "GIT_TOKEN",
        "AGENT_REQUIREMENTS",
        "PATH",
        "HOME",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LAP_X",
        "HTTP_PROXY",
        "https_proxy",
        "No_Proxy",
        "SSL_CERT_FILE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "REQUESTS_CA_BUNDLE",
        "BASH_ENV",
    ];
    for key in reserved {
        check_fields(&[(key, "x")], &[], &[], &[&format!("env_vars.{key}")]);
    }
    let mut all: Vec<String> = reserved.iter().map(|key| format!("env_vars.{key}")).collect();
    all.sort();
    let pairs: Vec<(&str, &str)> = reserved.iter().map(|key| (*key, "x")).collect();
    check_fields(&pairs, &[], &[], &all.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn keys_have_the_form_of_variables() {
    for bad in ["", "1A", "A-B", "A B", "Ä", "A=B", "A.B"] {
        assert!(!is_key(bad), "{bad}");
        check_fields(&[(bad, "x")], &[], &[], &[&format!("env_vars.{bad}")]);
    }
}

#[test]
fn fifty_keys_pass_and_one_more_does_not() {
    let many = |n: usize| -> BTreeMap<String, Secret> {
        (0..n).map(|i| (format!("K{i}"), Secret::new("x".to_owned()))).collect()
    };
    assert_eq!(problems(&many(50), &[], &[]), Vec::<String>::new());
    assert_eq!(problems(&many(51), &[], &[]), ["env_vars: has 51 keys; at most 50 are allowed"]);
}

#[test]
fn the_json_encoding_is_counted_to_the_byte() {
    // {"K":"…"} is 8 bytes around the value.
    let sized = |n: usize| map(&[("K", &"x".repeat(n - 8))]);
    assert_eq!(json_length(&sized(16_384)), 16_384);
    assert_eq!(problems(&sized(16_384), &[], &[]), Vec::<String>::new());
    assert_eq!(problems(&sized(16_385), &[], &[]), ["env_vars: takes 16385 bytes as JSON; at most 16384 are allowed"]);
    assert_eq!(json_length(&map(&[])), "{}".len());
    assert_eq!(json_length(&map(&[("A", "\"\\\n\u{1}é"), ("B", "")])), r#"{"A":"\"\\\n\u0001é","B":""}"#.len());
}

#[test]
fn problems_come_together() {
    check_fields(
        &[("1A", "x"), ("PATH", "x"), ("OK", "a\0b")],
        &["NOPE"],
        &[("ALSO_NOT", &["github.com"]), ("OK", &["https://x.example", "x.example#nowhere"])],
        &[
            "env_vars.1A",
            "env_vars.OK",
            "env_vars.PATH",
            "plain_env_vars[0]",
            "env_var_hosts.ALSO_NOT",
            "env_var_hosts.OK[0]",
            "env_var_hosts.OK[1]",
        ],
    );
}

#[test]
fn no_problem_quotes_a_value() {
    let found = problems(&map(&[("PATH", "s3cret-value"), ("1", "s3cret-value"), ("N", "s3cret-value\0")]), &[], &[]);
    assert_eq!(found.len(), 3);
    assert!(!found.join(" ").contains("s3cret"));
}

#[test]
fn a_mask_keeps_what_is_stored_and_nothing_else() {
    let mut found = Vec::new();
    let resolved =
        resolve_masks(map(&[("A", MASK), ("B", "new"), ("C", MASK)]), &map(&[("A", "old"), ("B", "old")]), &mut found);
    assert_eq!(resolved["A"].expose(), "old");
    assert_eq!(resolved["B"].expose(), "new");
    assert_eq!(found.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), ["env_vars.C"]);
}

#[test]
fn the_session_wins_and_each_level_speaks_for_its_own_keys() {
    let (agent, session) =
        (map(&[("A", "agent"), ("B", "agent"), ("E", "")]), map(&[("B", "session"), ("C", "session")]));
    let (agent_plain, session_plain) = (vec!["B".to_owned()], vec!["C".to_owned()]);
    let bound = hosts(&[("A", &["a.example"]), ("B", &["agent.example"])]);
    let merged = merge(
        &Vars { env_vars: &agent, plain_env_vars: &agent_plain, env_var_hosts: &bound },
        &Vars { env_vars: &session, plain_env_vars: &session_plain, env_var_hosts: &BTreeMap::new() },
    );
    let shown: Vec<_> = merged
        .iter()
        .map(|(key, it)| (key.as_str(), it.value.expose().as_str(), it.plain, it.hosts.is_some(), it.level))
        .collect();
    assert_eq!(
        shown,
        [
            ("A", "agent", false, true, Level::Agent),
            ("B", "session", false, false, Level::Session),
            ("C", "session", true, false, Level::Session),
            ("E", "", true, false, Level::Agent),
        ]
    );
}
