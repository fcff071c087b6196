use super::*;

#[track_caller]
fn check(limit: usize, pushes: &[&str], from: u64, expect: (u64, u64, &str)) {
    let mut spool = Spool::new(100, limit);
    pushes.iter().for_each(|text| spool.push(text.as_bytes()));
    let after = spool.after(from, 1000);
    assert_eq!((spool.start(), spool.end(), std::str::from_utf8(&after).expect("ASCII")), expect);
    assert_eq!(spool.slices_after(from).concat(), after, "both ways to look see the same");
}

#[test]
fn everything_is_there_until_the_limit() {
    check(10, &["abc", "def"], 100, (100, 106, "abcdef"));
    check(10, &["abc", "def"], 104, (100, 106, "ef"));
    check(10, &["abc", "def"], 106, (100, 106, ""));
}

#[test]
fn the_oldest_is_forgotten() {
    check(4, &["abc", "def"], 102, (102, 106, "cdef"));
    check(4, &["abcdefghij"], 106, (106, 110, "ghij"));
    check(4, &["abcdefghij", "k"], 109, (107, 111, "jk"));
}
