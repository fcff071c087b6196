use super::*;

#[track_caller]
fn check(text: &str, expect: &str) {
    let found = match HttpUrl::parse(text) {
        Ok(url) => format!("{} {} {}", if url.tls { "https" } else { "http" }, url.entry(), url.rest),
        Err(why) => why,
    };
    assert!(found.starts_with(expect), "{text}: {found}");
}

#[test]
fn urls_in_parts() {
    check("https://GitHub.com/a/b.git", "https github.com:443 /a/b.git");
    check("http://10.0.0.1:8080", "http 10.0.0.1:8080 ");
    check("https://[2001:db8::1]/x?y#z", "https [2001:db8::1]:443 /x?y#z");
    check("HTTPS://example.com?q", "https example.com:443 ?q");
}

#[test]
fn what_is_no_url() {
    check("example.com", "is not a URL");
    check("ftp://example.com/", "has the scheme `ftp`");
    check("https://user:pw@example.com/", "carries user info");
    check("https://exa mple.com/", "has spaces");
    check("https://a\\b.com/", "has spaces");
    check("https:///path", "has no usable host");
    check("https://example.com:0/", "has no usable host");
    check("https://0x7f.1/", "has no usable host");
    check(&format!("https://example.com/{}", "a".repeat(MAX_BYTES)), "is longer");
}
