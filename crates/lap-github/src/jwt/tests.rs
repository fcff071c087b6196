use super::*;

#[test]
fn what_is_no_key_is_said_to_be_none() {
    let ec = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
    for text in ["", "secret", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", ec] {
        assert!(SigningKey::from_pem(&Secret::new(text.to_owned())).is_err(), "{text}");
    }
}
