use super::*;

#[test]
fn a_key_is_made_once_and_kept_private() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = master(folder.path(), None).expect("made");
    assert!(first.fresh);
    let file = master_key_file(folder.path());
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = master(folder.path(), None).expect("read");
    assert!(!second.fresh);
    assert_eq!(first.value.expose(), second.value.expose());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    master(folder.path(), None).expect("made");
    let file = master_key_file(folder.path());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("mine");
    let problem = master(folder.path(), None).err().expect("refused");
    assert!(problem.to_string().contains("chmod 600"), "{problem}");
}

#[test]
fn an_encryption_key_is_64_digits() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |text: &str, good: bool| {
        assert_eq!(encryption(folder.path(), Some(Secret::new(text.to_owned()))).is_ok(), good, "{text}");
    };
    check(&"a1".repeat(32), true);
    check(&"a1".repeat(31), false);
    check(&"zz".repeat(32), false);
    check(&"é".repeat(32), false);
    let key = || encryption(folder.path(), None).expect("made or read").id();
    assert_eq!(key(), key());
}

#[test]
fn the_next_key_takes_its_place_when_the_database_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = || encryption(folder.path(), None).expect("kept").id();
    let old = key();
    assert!(!finish_rotation(folder.path(), Some(old)).expect("nothing to do"));
    let next = next_encryption(folder.path()).expect("made").id();
    assert_eq!(next_encryption(folder.path()).expect("kept").id(), next, "what was begun goes on");
    for written_with in [None, Some(old)] {
        assert!(!finish_rotation(folder.path(), written_with).expect("too early"));
        assert_eq!(key(), old);
    }
    assert!(finish_rotation(folder.path(), Some(next)).expect("finished"));
    assert_eq!(key(), next);
    assert!(!finish_rotation(folder.path(), Some(next)).expect("finished before"));
}
