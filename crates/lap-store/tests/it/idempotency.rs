//! A repeated request gets the first one's answer.

use lap_domain::time::Timestamp;
use lap_store::{Begun, IdempotencyGuard, KeptAnswer, StoreError};

use crate::kit::*;

fn answer(body: &str) -> KeptAnswer {
    KeptAnswer { status: 201, body: body.to_owned() }
}

async fn first(kit: &Kit, key: &str) -> IdempotencyGuard {
    match kit.store.begin_idempotent("caller POST /x", key, b"body").await.expect("works") {
        Begun::First(guard) => guard,
        Begun::Repeat(kept) => panic!("kept {kept:?}"),
    }
}

async fn repeat(kit: &Kit, key: &str) -> KeptAnswer {
    match kit.store.begin_idempotent("caller POST /x", key, b"body").await.expect("works") {
        Begun::Repeat(kept) => kept,
        Begun::First(_) => panic!("nothing was kept"),
    }
}

#[tokio::test]
async fn a_repeat_gets_the_kept_answer() {
    let kit = Kit::new().await;
    first(&kit, "k").await.finish(answer("{}"), NOW).await.expect("keeps");
    assert_eq!(repeat(&kit, "k").await, answer("{}"));
    let other = kit.store.begin_idempotent("caller POST /x", "k", b"other").await;
    assert!(matches!(other, Err(StoreError::IdempotencyMismatch)));
    let elsewhere = kit.store.begin_idempotent("caller POST /y", "k", b"other").await;
    assert!(matches!(elsewhere, Ok(Begun::First(_))), "a key means something per caller and route");
}

#[tokio::test]
async fn a_repeat_waits_for_the_first() {
    let kit = Kit::new().await;
    let guard = first(&kit, "k").await;
    let mismatch = kit.store.begin_idempotent("caller POST /x", "k", b"other").await;
    assert!(matches!(mismatch, Err(StoreError::IdempotencyMismatch)), "told at once");
    let store = kit.store.clone();
    let waiting = tokio::spawn(async move { store.begin_idempotent("caller POST /x", "k", b"body").await });
    // Lets the repeat reach its wait; whether it does so before or after the end, the outcome is the same.
    tokio::task::yield_now().await;
    guard.finish(answer("done"), NOW).await.expect("keeps");
    match waiting.await.expect("runs").expect("works") {
        Begun::Repeat(kept) => assert_eq!(kept, answer("done")),
        Begun::First(_) => panic!("ran twice"),
    }
}

#[tokio::test]
async fn an_unfinished_first_leaves_its_place() {
    let kit = Kit::new().await;
    drop(first(&kit, "k").await);
    first(&kit, "k").await.finish(answer("x"), NOW).await.expect("keeps");
}

#[tokio::test]
async fn answers_are_forgotten_in_time_and_survive_a_restart_until_then() {
    let kit = Kit::new().await;
    first(&kit, "old").await.finish(answer("old"), Timestamp(1)).await.expect("keeps");
    first(&kit, "new").await.finish(answer("new"), Timestamp(100)).await.expect("keeps");
    kit.store.prune_idempotency(Timestamp(50)).await.expect("prunes");
    kit.store.close().await;
    let kit = Kit { store: open(&kit.database(), 1).await, folder: kit.folder };
    drop(first(&kit, "old").await);
    assert_eq!(repeat(&kit, "new").await, answer("new"));
}
