use super::*;

#[track_caller]
fn check(host: &str, url: &str, expect: Option<&str>) {
    let host = Entry::parse(host).expect("a host");
    assert_eq!(Repository::at(&host, url).map(|found| found.to_string()).as_deref(), expect, "{url}");
}

#[test]
fn a_url_names_a_repository_of_the_host() {
    check("github.com", "https://github.com/acme/pricing", Some("acme/pricing"));
    check("github.com", "https://GitHub.com:443/acme/pricing.git", Some("acme/pricing"));
    check("github.com", "https://github.com/acme/pricing.git/", Some("acme/pricing"));
    check("github.com", "https://github.com/acme/a.b_c-d", Some("acme/a.b_c-d"));
    check("git.test:8443", "https://git.test:8443/acme/pricing.git", Some("acme/pricing"));
    check("github.com", "http://github.com/acme/pricing", None);
    check("github.com", "https://gitlab.com/acme/pricing", None);
    check("git.test:8443", "https://git.test/acme/pricing", None);
    for path in ["", "/", "/acme", "/acme/", "/a/b/c", "/acme/..", "/../x", "/acme/x?y=1", "/acme/%2e%2e", "/acme/x#y"]
    {
        check("github.com", &format!("https://github.com{path}"), None);
    }
}

#[test]
fn a_token_is_renewed_while_there_is_time() {
    assert_eq!(renew_at(Timestamp(1_000), Timestamp(5_000)), Timestamp(4_000));
    assert_eq!(renew_at(Timestamp(0), Timestamp(3_600_000)), Timestamp(2_700_000));
    assert_eq!(renew_at(Timestamp(5_000), Timestamp(1_000)), Timestamp(5_000), "one that is over is renewed at once");
}

#[test]
fn tries_become_rarer_up_to_a_minute() {
    let waits: Vec<i64> = (1..=8).map(retry_in_ms).collect();
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    assert_eq!(retry_in_ms(0), 1_000);
    assert_eq!(retry_in_ms(u32::MAX), 60_000);
}
