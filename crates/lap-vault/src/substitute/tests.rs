use super::*;

#[track_caller]
fn check(name: &str, expected: bool) {
    assert_eq!(is_credential_header(&name.parse().expect("a header name")), expected, "{name}");
}

#[test]
fn knows_headers_made_for_credentials() {
    for name in [
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "api-key",
        "apikey",
        "Private-Token",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "DD-API-KEY",
        "X-Goog-Api-Key",
        "X-Shopify-Access-Token",
        "X-Registry-Auth",
        "x-client-secret",
        "X-Litellm-Api-Key",
        "sec-websocket-protocol",
        "X-Authorization",
        "token",
    ] {
        check(name, true);
    }
    for name in [
        "Content-Type",
        "User-Agent",
        "X-Note",
        "Referer",
        "Sec-WebSocket-Key",
        "Idempotency-Key",
        "Accept",
        "X-Request-Id",
        "Origin",
        "author",
    ] {
        check(name, false);
    }
}

#[test]
fn reads_basic_credentials_padded_or_not() {
    let read = |text: &'static str| basic_credentials(&HeaderValue::from_static(text));
    assert_eq!(read("Basic dTpw"), Some(b"u:p".to_vec()));
    assert_eq!(read("basic  dTpwdw=="), Some(b"u:pw".to_vec()));
    assert_eq!(read("BASIC dTpwdw"), Some(b"u:pw".to_vec()));
    assert_eq!(read("Basic !!!"), None);
    assert_eq!(read("Bearer dTpw"), None);
    assert_eq!(read("Basi"), None);
}
