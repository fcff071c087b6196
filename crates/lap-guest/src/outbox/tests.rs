use lap_api::event::DeltaKind;

use super::*;

fn delta(part: &str, text: &str) -> FromGuest {
    FromGuest::Report(Report::Delta {
        turn_id: "t".to_owned(),
        part_id: part.to_owned(),
        kind: DeltaKind::Text,
        delta: text.to_owned(),
    })
}

fn check(pieces: &[(&str, &str)], expect: &[(&str, &str)]) {
    let seen = joined(pieces.iter().map(|(part, text)| delta(part, text)));
    let seen: Vec<(String, String)> = seen
        .into_iter()
        .map(|message| match message {
            FromGuest::Report(Report::Delta { part_id, delta, .. }) => (part_id, delta),
            other => panic!("not a delta: {other:?}"),
        })
        .collect();
    let expect: Vec<(String, String)> = expect.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(seen, expect);
}

#[test]
fn neighbours_of_one_part_are_joined_and_nothing_is_lost() {
    check(&[("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")], &[("a", "12"), ("b", "3"), ("a", "4")]);
}

#[test]
fn a_joined_piece_stays_bounded() {
    let half = "x".repeat(DELTA_BYTES / 2 + 1);
    check(&[("a", &half), ("a", &half)], &[("a", &half), ("a", &half)]);
}

#[tokio::test]
async fn too_many_lines_are_counted_not_queued() {
    let (outbox, mut queue) = channel();
    for n in 0..LINES_PER_WINDOW + 50 {
        outbox.line("test", &n.to_string());
    }
    outbox.budget().since = Instant::now() - LINE_WINDOW;
    outbox.line("test", "last");
    drop(outbox);
    let mut lines = Vec::new();
    while let Some(FromGuest::Line { text, .. }) = queue.recv().await {
        lines.push(text);
    }
    assert_eq!(&lines[lines.len() - 2..], ["[50 lines left out]", "last"]);
    assert_eq!(lines.len(), LINES_PER_WINDOW as usize + 2);
}
