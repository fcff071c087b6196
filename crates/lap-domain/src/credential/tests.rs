use super::*;
use crate::egress::parse_authority;

/// The positions open for a credential bound to `rules` at `https://…` or `http://…`, as words.
#[track_caller]
fn check(rules: &str, destination: &str, expected: &str) {
    let rules = rules.split_whitespace().map(|r| HostRule::parse(r).expect("a rule")).collect();
    let (tls, rest) =
        destination.strip_prefix("https://").map_or_else(|| (false, &destination[7..]), |rest| (true, rest));
    let (host, port) = parse_authority(rest).expect("a destination");
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let positions = Scope::Hosts(rules).positions_at(&Destination { host: &host, port, tls });
    let words = positions.map_or("refused".to_owned(), |positions| {
        let open: Vec<_> =
            POSITION_WORDS.iter().filter(|(_, p)| positions.contains(*p)).map(|(word, _)| *word).collect();
        if open.is_empty() { "credential".to_owned() } else { open.join(" ") }
    });
    assert_eq!(words, expected);
}

#[test]
fn hosts_suffixes_addresses_and_ports() {
    check("github.com", "https://github.com", "credential");
    check("github.com", "https://api.github.com", "refused");
    check("*.github.com", "https://api.github.com", "credential");
    check("*.github.com", "https://github.com", "credential");
    check("*.github.com", "https://evilgithub.com", "refused");
    check("github.com", "https://github.com:8443", "credential");
    check("github.com:8443", "https://github.com", "refused");
    check("10.0.0.0/8", "https://10.1.2.3", "credential");
    check("10.0.0.0/8", "https://11.1.2.3", "refused");
    check("[2001:db8::1]:9", "https://[2001:db8::1]:9", "credential");
    check("", "https://github.com", "refused");
}

#[test]
fn plain_http_needs_the_port_named() {
    check("api.internal", "http://api.internal", "refused");
    check("api.internal:80", "http://api.internal", "credential");
    check("api.internal:8080", "http://api.internal:8080", "credential");
}

#[test]
fn positions_are_opened_per_rule() {
    check("slack.com#body", "https://slack.com", "body");
    check("a.com#path#query", "https://a.com", "path query");
    check("a.com#path *.com#body", "https://a.com", "path body");
    check("a.com#path *.com#body", "https://b.com", "body");
}

#[track_caller]
fn check_error(rule: &str, expected: &str) {
    assert_eq!(HostRule::parse(rule).map_err(|e| e.to_string()), Err(expected.to_owned()));
}

#[test]
fn errors_say_what_would_be_right() {
    check_error(
        "slack.com#text",
        "`slack.com#text` opens `#text`, which is none of #body, #query, #path, #header, #ws",
    );
    check_error("https://slack.com", "`https://slack.com` is a URL; write the host alone, such as `api.example.com`");
    check_error("", "`` is empty; write a host such as `api.example.com`");
    check_error("a.com:99999", "`a.com:99999` has no valid port after the colon (1 to 65535)");
    check_error("a b", "`a b` has spaces or control characters in it");
}

#[track_caller]
fn check_scope(key: &str, bound: Option<&str>, allow_out: &str, expected: (&str, Binding)) {
    let bound: Option<Vec<HostRule>> =
        bound.map(|b| b.split_whitespace().map(|r| HostRule::parse(r).expect("a rule")).collect());
    let allow_out: Vec<Entry> = allow_out.split_whitespace().map(|e| Entry::parse(e).expect("an entry")).collect();
    let (scope, binding) = resolve_scope(key, bound.as_deref(), &allow_out);
    let text = match scope {
        Scope::Anywhere => "anywhere".to_owned(),
        Scope::Gateway => "gateway".to_owned(),
        Scope::Hosts(rules) => rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    assert_eq!((text.as_str(), binding), expected);
}

#[test]
fn scopes_come_from_the_first_that_says_something() {
    check_scope("GITHUB_TOKEN", Some("ghe.corp:8443#body"), "x.com", ("ghe.corp:8443#body", Binding::Explicit));
    check_scope("GITHUB_TOKEN", Some(""), "x.com", ("", Binding::Explicit));
    check_scope("OPENAI_API_KEY", None, "x.com", ("api.openai.com *.api.openai.com", Binding::Catalogue));
    check_scope("MY_KEY", None, "x.com *.y.com:443", ("x.com *.y.com:443", Binding::AllowOut));
    check_scope("MY_KEY", None, "", ("anywhere", Binding::Unbound));
}

#[test]
fn gateway_keys_go_to_no_host() {
    let host = Host::parse("gateway.lap.internal").expect("a host");
    assert_eq!(Scope::Gateway.positions_at(&Destination { host: &host, port: 80, tls: false }), None);
}
