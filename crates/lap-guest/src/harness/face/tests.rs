use super::*;

#[test]
fn the_newest_conversation_is_found_by_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(newest_conversation(folder.path()), None);
    let file = |name: &str, age_s: u64| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("mine");
        let file = std::fs::File::create(&path).expect("mine");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age_s)).expect("mine");
    };
    file("2026/11/25/rollout-2026-11-25T10-00-00-019a0000-0000-7000-8000-000000000001.jsonl", 50);
    file("2026/11/25/rollout-2026-11-25T11-00-00-019a0000-0000-7000-8000-000000000002.jsonl", 10);
    file("other/019a0000-0000-7000-8000-000000000003.jsonl", 90);
    file("short.jsonl", 0);
    file("state.sqlite", 0);
    assert_eq!(newest_conversation(folder.path()).as_deref(), Some("019a0000-0000-7000-8000-000000000002"));
}

#[test]
fn a_terminal_is_in_use_while_somebody_looks_or_it_prints() {
    let (loan, lent) = Loan::new();
    assert!(!loan.in_use());
    lent.looks.viewers(1);
    assert!(loan.in_use());
    lent.looks.viewers(0);
    lent.looks.printed();
    assert!(loan.in_use());
}

#[tokio::test]
async fn what_is_lent_comes_back() {
    let (mut loan, lent) = Loan::new();
    loan.recall();
    let Lent { _held, recalled, looks: _ } = lent;
    recalled.expect("nobody has heard it yet").await.expect("it is wanted back");
    drop(_held);
    loan.over().await;
}
