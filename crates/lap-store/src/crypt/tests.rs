use super::*;

fn place<'a>(owner: &'a str, item: &'a str) -> Place<'a> {
    Place { table: "agents", column: "env_vars", owner, item }
}

#[test]
fn what_is_sealed_opens_at_its_place_only() {
    let key = EncryptionKey::new(&[7; 32]);
    for plain in [&b""[..], b"x", &[0; 100_000]] {
        let sealed = key.seal(&place("a", "1"), plain);
        assert_eq!(key.open(&place("a", "1"), &sealed).expect("its place").expose().as_slice(), plain);
        for other in [place("b", "1"), place("a", "2"), place("a1", ""), Place { column: "x", ..place("a", "1") }] {
            assert!(matches!(key.open(&other, &sealed), Err(StoreError::Corrupt(_))));
        }
    }
}

#[test]
fn each_seal_is_another() {
    let key = EncryptionKey::new(&[7; 32]);
    assert_ne!(key.seal(&place("a", ""), b"same"), key.seal(&place("a", ""), b"same"));
}

#[test]
fn every_changed_byte_is_noticed() {
    let key = EncryptionKey::new(&[7; 32]);
    let sealed = key.seal(&place("a", ""), b"value");
    for i in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[i] ^= 1;
        assert!(key.open(&place("a", ""), &changed).is_err(), "byte {i}");
        assert!(key.open(&place("a", ""), &sealed[..i]).is_err(), "cut at {i}");
    }
}

#[test]
fn another_key_is_told_from_damage() {
    let sealed = EncryptionKey::new(&[7; 32]).seal(&place("a", ""), b"value");
    let other = EncryptionKey::new(&[8; 32]);
    let problem = other.open(&place("a", ""), &sealed).expect_err("another key");
    assert!(matches!(problem, StoreError::WrongKey { .. }));
    let (given, needed) = (other.id().to_string(), EncryptionKey::new(&[7; 32]).id().to_string());
    let text = problem.to_string();
    assert!(text.contains(&given) && text.contains(&needed) && given != needed, "{text}");
    assert_eq!(format!("{other:?}"), "EncryptionKey(***)");
}
