use super::*;

#[track_caller]
fn check(output: &str, expect: (u64, u64, u64)) {
    let mut tally = Tally::default();
    output.lines().for_each(|line| tally.line(line));
    let Count { passed, failed, skipped } = tally.total();
    assert_eq!((passed, failed, skipped), expect);
}

const GOOD: &str = "running 2 tests\ntest a ... ok\ntest b ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";

#[test]
fn programs_are_summed_up() {
    check(GOOD, (2, 0, 0));
    check(
        &[GOOD, "test result: FAILED. 1 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out"].join("\n"),
        (3, 3, 1),
    );
    check("running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n", (0, 0, 0));
}

#[test]
fn a_program_that_dies_fails_what_it_had_announced() {
    check("running 5 tests\ntest a ... ok\ntest b ... ignored, why\n", (1, 3, 1));
    check(&["running 1 test", GOOD].join("\n"), (2, 1, 0));
}

#[test]
fn talk_of_tests_is_not_counted() {
    check("running 3 tests in my head\ntest result of the day: 9 passed", (0, 0, 0));
}

#[test]
fn a_command_is_heard_to_its_end() {
    let (mut tally, mut shown) = (Tally::default(), Vec::new());
    assert!(listen(Command::new("printf").arg(GOOD).stdout(Stdio::piped()), &mut tally, &mut shown).unwrap());
    assert_eq!((tally.total().passed, shown.as_slice()), (2, GOOD.as_bytes()));
    assert!(!listen(Command::new("false").stdout(Stdio::piped()), &mut Tally::default(), &mut shown).unwrap());
}
