use super::*;

fn sent(outgoing: &mut Outgoing) -> String {
    std::iter::from_fn(|| outgoing.take()).map(|piece| String::from_utf8(piece).expect("ASCII")).collect()
}

#[test]
fn what_was_not_taken_is_sent_again() {
    let mut outgoing = Outgoing::default();
    outgoing.push(b"abcdef");
    assert_eq!(sent(&mut outgoing), "abcdef");
    outgoing.acknowledge(2);
    outgoing.push(b"gh");
    assert_eq!(sent(&mut outgoing), "gh");
    // The connection is lost; the next one says what had arrived.
    outgoing.resume(5);
    assert_eq!(sent(&mut outgoing), "fgh");
    outgoing.resume(8);
    assert_eq!(sent(&mut outgoing), "");
}

#[test]
fn no_more_is_under_way_than_a_window() {
    let mut outgoing = Outgoing::default();
    outgoing.push(&vec![b'x'; 200_000]);
    assert_eq!(sent(&mut outgoing).len() as u64, WINDOW);
    outgoing.acknowledge(1000);
    assert_eq!(sent(&mut outgoing).len(), 1000);
    assert!(!outgoing.is_full());
    outgoing.push(&vec![b'x'; MOST]);
    assert!(outgoing.is_full());
}
