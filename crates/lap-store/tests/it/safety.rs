//! What must hold when the power fails, the key is wrong, somebody reads the disk, or a second server starts.

use lap_domain::agent::Agent;
use lap_domain::files::SandboxFile;
use lap_domain::secret::Secret;
use lap_domain::session::{EndReason, SessionEvent};
use lap_store::{DataLock, EncryptionKey, LockError, Store, StoreError, Write};

use crate::kit::*;

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let kit = Kit::ready().await;
    kit.store.append_log(&sid("s1"), 1, vec![item(1, Write::Event(event("e", "{}")))]).await.expect("works");
    // The files as a killed server leaves them: the log of the database has not been merged.
    let after = tempfile::tempdir().expect("a folder");
    for name in ["lap.db", "lap.db-wal"] {
        std::fs::copy(kit.folder.path().join(name), after.path().join(name)).expect("copies");
    }
    let store = open(&after.path().join("lap.db"), 1).await;
    assert_eq!(
        store.events(&sid("s1"), 0, 10).await.expect("reads"),
        kit.store.events(&sid("s1"), 0, 10).await.expect("reads")
    );
    assert_eq!(store.log_seq(&sid("s1"), 1).await.expect("reads"), 1);
    store.append_log(&sid("s1"), 1, vec![item(1, Write::Event(event("e", "{}")))]).await.expect("works");
    assert_eq!(store.event_bounds(&sid("s1")).await.expect("reads").newest, 3);
}

#[tokio::test]
async fn a_call_given_up_half_way_happens_whole_or_not_at_all() {
    let kit = Kit::with_agent().await;
    let (mut kept, mut undone) = (0, 0);
    for waits in 0..40 {
        let id = sid(&format!("s{waits}"));
        kit.session(id.as_str()).await;
        let mut bell = kit.store.subscribe(&id);
        let end = kit.store.apply(&id, 1, SessionEvent::End { reason: EndReason::Idle }, NOW);
        drop_after(end, waits).await;
        // The one writer is free again only when what was given up is over.
        kit.store.touch(&id, NOW).await.expect("works");
        let alive = kit.store.session(&id).await.expect("reads").state.wants_sandbox();
        let events = kit.log(id.as_str()).await.len();
        assert_eq!(events, if alive { 1 } else { 2 }, "state and event go together");
        if alive {
            undone += 1;
        } else {
            kept += 1;
            bell.changed().await.expect("whoever waits for the event hears of it");
        }
    }
    assert!(kept > 0 && undone > 0, "{kept} kept, {undone} undone");
}

/// Runs a future through so many of its waits, then drops it if it is not done.
async fn drop_after<F: Future>(future: F, waits: usize) {
    let mut future = std::pin::pin!(future);
    let mut left = waits;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Pending if left > 0 => {
            left -= 1;
            std::task::Poll::Pending
        }
        _ => std::task::Poll::Ready(()),
    })
    .await;
}

#[tokio::test]
async fn a_wrong_key_is_refused_at_the_door() {
    let kit = Kit::with_agent().await;
    kit.store.close().await;
    let wrong = Store::open(&kit.database(), EncryptionKey::new(&[2; 32])).await;
    assert!(matches!(wrong, Err(StoreError::WrongKey { .. })));
    let right = open(&kit.database(), 1).await;
    assert_eq!(right.agent(&aid("a1")).await.expect("reads"), agent("a1"));
    assert!(matches!(kit.store.ping().await, Err(StoreError::Unavailable(_))), "the closed one says so");
    right.ping().await.expect("answers");
}

fn anywhere(folder: &std::path::Path, needle: &[u8]) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| std::fs::read(path).expect("readable").windows(needle.len()).any(|window| window == needle))
        .map(|path| path.display().to_string())
        .collect()
}

#[tokio::test]
async fn no_value_can_be_read_off_the_disk() {
    const CANARY: &str = "canary-9f2c81d07b";
    let kit = Kit::new().await;
    let with = |name: &str, value: &str| {
        let mut made = Agent { name: Some(name.to_owned()), ..agent("a1") };
        made.env_vars.insert("SECRET".to_owned(), Secret::new(value.to_owned()));
        made.sandbox_files = vec![SandboxFile {
            name: "f".to_owned(),
            sandbox_path: "~/f".to_owned(),
            content: value.as_bytes().to_vec(),
            content_type: "text/plain".to_owned(),
            size: value.len() as u64,
        }];
        made
    };
    kit.store.insert_agent(&with("visible-name", CANARY)).await.expect("inserts");
    kit.store
        .update_agent(&aid("a1"), |_| Ok::<_, ()>(with("visible-name", CANARY)))
        .await
        .expect("works")
        .expect("accepted");
    kit.session("s1").await;
    kit.store.set_boot_token(&sid("s1"), 1, CANARY).await.expect("works");
    assert_eq!(anywhere(kit.folder.path(), CANARY.as_bytes()), Vec::<String>::new());
    assert_ne!(anywhere(kit.folder.path(), b"visible-name"), Vec::<String>::new(), "the search itself works");
    kit.store.close().await;
    assert_eq!(anywhere(kit.folder.path(), CANARY.as_bytes()), Vec::<String>::new());
    let reopened = open(&kit.database(), 1).await;
    assert_eq!(reopened.agent(&aid("a1")).await.expect("reads").env_vars["SECRET"].expose(), CANARY);
}

#[tokio::test]
async fn the_files_are_their_owners() {
    use std::os::unix::fs::PermissionsExt;
    let kit = Kit::with_agent().await;
    for entry in std::fs::read_dir(kit.folder.path()).expect("a folder") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[test]
fn one_server_per_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = DataLock::acquire(folder.path()).expect("free");
    match DataLock::acquire(folder.path()) {
        Err(LockError::Held { holder, .. }) => assert_eq!(holder, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    drop(first);
    DataLock::acquire(folder.path()).expect("free again");
}
