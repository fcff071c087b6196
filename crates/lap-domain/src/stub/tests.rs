use super::*;

#[track_caller]
fn check(key: &str, secret_len: usize, expected: &str) {
    let random: Vec<u8> = (0..random_needed(secret_len)).map(|i| u8::try_from(i % 256).expect("reduced")).collect();
    assert_eq!(mint(key, secret_len, &random), expected);
}

#[test]
fn names_the_credential_in_short() {
    check("GITHUB_TOKEN", 10, "stub_github_0001020304050607");
    check("OPENAI_API_KEY", 5, "stub_openai_0001020304050607");
    check("STRIPE_SECRET", 0, "stub_stripe_0001020304050607");
    check("SSH_KEY", 1, "stub_ssh_0001020304050607");
    check("TOKEN", 1, "stub_token_0001020304050607");
    check("_TOKEN", 1, "stub_token_0001020304050607");
}

#[test]
fn is_as_long_as_the_secret_where_there_is_room() {
    check("GITHUB_TOKEN", 23, "stub_github_0001020304050607");
    check("GITHUB_TOKEN", 24, "stub_github_0001020304050607");
    check("GITHUB_TOKEN", 28, "stub_github_0001020304050607");
    check("GITHUB_TOKEN", 40, "stub_github_000102030405060708090a0b0c0d");
    for len in 28..=512 {
        assert_eq!(mint("GITHUB_TOKEN", len, &vec![7; random_needed(len)]).len(), len);
    }
    assert_eq!(mint("GITHUB_TOKEN", 513, &[7; 8]).len(), 28);
}

#[test]
fn long_names_are_cut() {
    let stub = mint(&"VERY_LONG_NAME_".repeat(10), 0, &[0; 8]);
    assert_eq!(stub, "stub_very_long_name_very_long_0000000000000000");
}
