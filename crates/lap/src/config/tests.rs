use super::*;

#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(parse: fn(&str) -> Result<T, String>, text: &str, expect: Option<T>) {
    assert_eq!(parse(text).ok(), expect, "{text}");
}

#[test]
fn sizes() {
    check(size, "4GiB", Some(4 << 30));
    check(size, "512m", Some(512 << 20));
    check(size, "100", Some(100));
    check(size, "1 KiB", Some(1024));
    check(size, "GiB", None);
    check(size, "-1", None);
    check(size, "99999999999T", None);
}

#[test]
fn times() {
    check(duration_ms, "24h", Some(86_400_000));
    check(duration_ms, "90s", Some(90_000));
    check(duration_ms, "5", Some(5_000));
    check(duration_ms, "1min", Some(60_000));
    check(duration_ms, "0s", None);
    check(duration_ms, "soon", None);
}

#[test]
fn processors() {
    check(cpus, "2", Some(2000));
    check(cpus, "0.5", Some(500));
    check(cpus, "0", None);
    check(cpus, "many", None);
}

#[test]
fn authors() {
    let author = |text: &str| author(text.to_owned());
    assert!(author("A Name <a@example.com>").is_ok());
    for bad in ["A Name", "<a@example.com>", "A <b> <a@example.com>", "A\n <a@example.com>", "... <a@example.com>"] {
        assert!(author(bad).is_err(), "{bad}");
    }
}

#[derive(clap::Parser)]
struct Alone {
    #[command(flatten)]
    args: ServeArgs,
}

#[test]
fn every_problem_is_told_at_once() {
    let flags = "lap --listen nowhere --sandbox-memory big --idle-timeout never --vault-resolve x --git-author nobody \
        --git-token-hosts https://github.com --gateway ftp://x";
    let alone = <Alone as clap::Parser>::try_parse_from(flags.split_whitespace());
    let mut args = alone.unwrap_or_else(|problem| panic!("{problem}")).args;
    args.encryption_key = Some(Secret::new("short".to_owned()));
    args.gateway_key = Some(Secret::new("key".to_owned()));
    let problems = args.check().err().expect("nothing of this is right");
    let names = [
        "LAP_LISTEN",
        "LAP_SANDBOX_MEMORY",
        "LAP_SESSION_IDLE_TIMEOUT",
        "LAP_VAULT_RESOLVE",
        "LAP_GIT_AUTHOR",
        "LAP_GIT_TOKEN_HOSTS",
        "LAP_ENCRYPTION_KEY",
        "LITELLM_API_BASE",
    ];
    for name in names {
        assert!(problems.iter().any(|problem| problem.starts_with(name)), "{name} in {problems:?}");
    }
    // A gateway that cannot be used is not missing as well.
    assert_eq!(problems.len(), names.len(), "{problems:?}");
}

#[test]
fn hosts_that_pass_unread_are_names() {
    assert!(unread("pinned.example.com").is_ok() && unread("*.example.com:8443").is_ok());
    for bad in ["10.0.0.0/8", "93.184.216.34", "https://x", ""] {
        assert!(unread(bad).is_err(), "{bad}");
    }
}
