use std::sync::Arc;

use futures_util::FutureExt as _;

use super::*;

fn entry(text: &str) -> LogEntry {
    LogEntry::Limit { limit: "disk".into(), detail: text.into() }
}

#[tokio::test]
async fn entries_are_numbered_and_kept_until_acknowledged() {
    let journal = Journal::new(MAX_BYTES);
    for text in ["a", "b", "c"] {
        journal.add(0, entry(text)).await;
    }
    assert_eq!(journal.after(0).await.seq, 1);
    assert_eq!(journal.after(2).await.seq, 3);
    journal.acknowledge(2);
    assert_eq!(journal.after(0).await.seq, 3, "what is stored is not sent again");
    assert_eq!(journal.head(), 3);
    assert!(journal.drained().now_or_never().is_none());
    journal.acknowledge(3);
    journal.drained().await;
}

#[tokio::test]
async fn a_full_journal_makes_the_next_one_wait() {
    let journal = Arc::new(Journal::new(100));
    journal.add(0, entry(&"x".repeat(60))).await;
    let second = journal.add(0, entry("y"));
    tokio::pin!(second);
    assert!(second.as_mut().now_or_never().is_none());
    journal.acknowledge(1);
    second.await;
    assert_eq!(journal.head(), 2);
}

#[tokio::test]
async fn an_acknowledgement_beyond_the_head_is_harmless() {
    let journal = Journal::new(100);
    journal.acknowledge(7);
    journal.add(0, entry("a")).await;
    assert_eq!(journal.after(0).await.seq, 1);
}
