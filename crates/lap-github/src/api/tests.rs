use super::*;

#[track_caller]
fn check(text: &str, expect: Option<(&str, &str)>) {
    let base = ApiBase::parse(text);
    let seen = base.as_ref().map(|base| (base.authority(), base.repository_host())).ok();
    assert_eq!(seen, expect.map(|(api, host)| (api.to_owned(), host.to_owned())), "{text}");
}

#[test]
fn an_api_says_where_its_repositories_are() {
    check("https://api.github.com", Some(("api.github.com", "github.com")));
    check("https://api.github.com/", Some(("api.github.com", "github.com")));
    check("https://github.example.com/api/v3", Some(("github.example.com", "github.example.com")));
    check("https://api.acme.ghe.com", Some(("api.acme.ghe.com", "acme.ghe.com")));
    check("https://127.0.0.1:8443/api/v3", Some(("127.0.0.1:8443", "127.0.0.1:8443")));
    for text in
        ["http://api.github.com", "api.github.com", "https://user:x@api.github.com", "https://api.github.com?x=y", ""]
    {
        check(text, None);
    }
}
