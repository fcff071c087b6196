use std::collections::BTreeMap;

use super::expand;

#[track_caller]
fn check(text: &str, expect: &str) {
    let env = BTreeMap::from([("KEY".to_owned(), "stub_key_1".to_owned())]);
    assert_eq!(expand(text, &env), expect);
}

#[test]
fn variables_in_headers() {
    check("Bearer ${KEY}", "Bearer stub_key_1");
    check("${KEY}${KEY}", "stub_key_1stub_key_1");
    check("${OTHER} and ${KEY", "${OTHER} and ${KEY");
    check("plain", "plain");
}
