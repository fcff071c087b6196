//! The log of a session: numbered without gaps, paged, announced.

use lap_domain::time::Timestamp;
use lap_store::EventBounds;

use crate::kit::*;

#[tokio::test]
async fn pages_follow_each_other() {
    let kit = Kit::with_agent().await;
    kit.session("s1").await;
    for i in 0..25 {
        kit.store.append_event(&sid("s1"), Timestamp(i), event("e", "{}")).await.expect("works");
    }
    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let page = kit.store.events(&sid("s1"), after, 10).await.expect("reads");
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.iter().map(|event| event.id));
    }
    assert_eq!(seen, (1..=26).collect::<Vec<_>>());
    assert_eq!(kit.store.event_bounds(&sid("s1")).await.expect("reads"), EventBounds { oldest: Some(1), newest: 26 });
    assert_eq!(kit.store.events(&sid("s1"), u64::MAX, 10).await.expect("reads"), []);
}

#[tokio::test]
async fn many_writers_number_without_gaps_and_a_reader_sees_each_event_once() {
    const WRITERS: usize = 10;
    const EACH: usize = 20;
    let kit = Kit::with_agent().await;
    for s in ["s1", "s2"] {
        kit.session(s).await;
    }
    let reader = |id: &'static str| {
        let store = kit.store.clone();
        let mut bell = store.subscribe(&sid(id));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 1 + WRITERS * EACH {
                let after = seen.last().copied().unwrap_or(0);
                let page = store.events(&sid(id), after, 7).await.expect("reads");
                if page.is_empty() {
                    bell.changed().await.expect("rings");
                }
                seen.extend(page.into_iter().map(|event| event.id));
            }
            seen
        })
    };
    let readers = [reader("s1"), reader("s2")];
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        for id in ["s1", "s2"] {
            let store = kit.store.clone();
            writers.spawn(async move {
                for _ in 0..EACH {
                    store.append_event(&sid(id), NOW, event("e", "{}")).await.expect("works");
                }
            });
        }
    }
    while let Some(done) = writers.join_next().await {
        done.expect("runs");
    }
    for reader in readers {
        assert_eq!(reader.await.expect("runs"), (1..=(1 + WRITERS * EACH) as u64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_bell_rings_with_the_newest_number() {
    let kit = Kit::with_agent().await;
    kit.session("s1").await;
    let mut bell = kit.store.subscribe(&sid("s1"));
    let other = kit.store.subscribe(&sid("s2"));
    kit.store.append_event(&sid("s1"), NOW, event("e", "{}")).await.expect("works");
    bell.changed().await.expect("rings");
    assert_eq!(*bell.borrow_and_update(), 2);
    assert_eq!(*other.borrow(), 0, "nothing happened there");
}

#[tokio::test]
async fn large_events_come_back_whole() {
    let kit = Kit::with_agent().await;
    kit.session("s1").await;
    let large = format!("\"{}\"", "x".repeat(4_000_000));
    kit.store.append_event(&sid("s1"), NOW, event("e", &large)).await.expect("works");
    assert_eq!(kit.store.events(&sid("s1"), 1, 1).await.expect("reads")[0].data, large);
}
