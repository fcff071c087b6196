use super::*;

#[test]
fn every_entry_is_well_formed_and_every_key_stands_once() {
    let mut seen = std::collections::BTreeSet::new();
    for (keys, entries) in CATALOGUE {
        for entry in *entries {
            assert_eq!(HostRule::parse(entry).map(|rule| rule.to_string()).as_deref(), Ok(*entry));
        }
        for key in *keys {
            assert!(seen.insert(*key), "{key} stands twice");
            assert!(rules_for(key).is_some());
        }
    }
    assert_eq!(rules_for("MY_OWN_KEY"), None);
}

#[test]
fn knows_credentials_that_sign() {
    for key in ["GITHUB_APP_PRIVATE_KEY", "webhook_signing_secret", "TLS_PEM"] {
        assert!(is_signing_key(key), "{key}");
    }
    for key in ["GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "OPENAI_API_KEY"] {
        assert!(!is_signing_key(key), "{key}");
    }
}

#[test]
fn knows_the_parts_of_an_aws_credential() {
    for (key, signs, stands_by) in [
        ("AWS_SECRET_ACCESS_KEY", true, false),
        ("R2_SECRET_ACCESS_KEY", true, false),
        ("AWS_ACCESS_KEY_ID", false, true),
        ("AWS_SESSION_TOKEN", false, true),
        ("SESSION_TOKEN", false, false),
        ("GITHUB_TOKEN", false, false),
    ] {
        assert_eq!((signs_aws(key), stands_by_aws_signature(key)), (signs, stands_by), "{key}");
    }
}
