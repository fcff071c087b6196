//! Another encryption key for a database that has one: everything is encrypted again, nothing is lost, nothing of the old
//! key stays. And what sealed values do not do: move to another agent.

use std::path::Path;

use lap_domain::agent::Agent;
use lap_domain::files::SandboxFile;
use lap_store::{EncryptionKey, Store, StoreError, key_of, rotate};
use sqlx::{Connection as _, SqliteConnection};

use crate::kit::*;

fn key(byte: u8) -> EncryptionKey {
    EncryptionKey::new(&[byte; 32])
}

/// An agent with variables, an empty one among them, and two files.
fn full_agent(id: &str) -> Agent {
    let file = |name: &str, content: &[u8]| SandboxFile {
        name: name.to_owned(),
        sandbox_path: format!("~/{name}"),
        content: content.to_vec(),
        content_type: "text/plain".to_owned(),
        size: content.len() as u64,
    };
    Agent { sandbox_files: vec![file("small", b"s"), file("large", &[7; 200_000])], ..agent(id) }
}

/// A closed database of three agents, one of them deleted, written with key 1.
async fn database() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("lap.db"), 1).await;
    for id in ["a1", "a2", "a3"] {
        store.insert_agent(&full_agent(id)).await.expect("inserts");
    }
    store.delete_agent(&aid("a3"), NOW).await.expect("deletes");
    store.close().await;
    folder
}

async fn raw(database: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.expect("opens")
}

async fn sealed(database: &Path) -> Vec<Vec<u8>> {
    let mut db = raw(database).await;
    let query = "SELECT env_vars FROM agents WHERE env_vars IS NOT NULL UNION ALL SELECT content FROM agent_files
                 UNION ALL SELECT value FROM meta";
    let values = sqlx::query_scalar(query).fetch_all(&mut db).await.expect("reads");
    db.close().await.expect("closes");
    values
}

#[tokio::test]
async fn everything_is_encrypted_again_and_nothing_of_the_old_key_stays() {
    let folder = database().await;
    let database = folder.path().join("lap.db");
    let before = sealed(&database).await;
    assert_eq!(before.len(), 2 + 4 + 2, "variables, files, and the database's own facts");
    assert_eq!(key_of(&database).await.expect("says"), Some(key(1).id()));

    let mut told = Vec::new();
    let done = rotate(&database, &key(1), &key(2), |done| told.push(done)).await.expect("rotates");
    assert_eq!((done, told), (8, vec![8]));

    assert_eq!(key_of(&database).await.expect("says"), Some(key(2).id()));
    for file in std::fs::read_dir(folder.path()).expect("a folder") {
        let path = file.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("readable");
        for value in &before {
            // From the middle on: headers and page borders aside.
            let piece = &value[17..value.len().min(80)];
            assert!(!bytes.windows(piece.len()).any(|window| window == piece), "{} keeps an old value", path.display());
        }
    }
    let old = Store::open(&database, key(1)).await.expect_err("the old key is refused");
    let text = old.to_string();
    assert!(text.contains(&key(1).id().to_string()) && text.contains(&key(2).id().to_string()), "{text}");
    let store = Store::open(&database, key(2)).await.expect("the new key opens it");
    for id in ["a1", "a2"] {
        let agent = store.agent(&aid(id)).await.expect("reads");
        assert_eq!(agent, full_agent(id));
        assert_eq!(agent.env_vars["EMPTY"].expose(), "", "an empty value stays one");
    }
}

#[tokio::test]
async fn keyed_hashes_outlive_the_key() {
    let folder = database().await;
    let database = folder.path().join("lap.db");
    let hash = async |byte| {
        let store = open(&database, byte).await;
        let hash = store.hmac(b"a body");
        store.close().await;
        hash
    };
    let before = hash(1).await;
    rotate(&database, &key(1), &key(2), |_| ()).await.expect("rotates");
    assert_eq!(hash(2).await, before, "a repeated request is still known");
    let other = Kit::new().await;
    assert_ne!(other.store.hmac(b"a body"), before, "and means nothing to another database");
}

#[tokio::test]
async fn a_rotation_that_cannot_be_whole_changes_nothing() {
    let folder = database().await;
    let database = folder.path().join("lap.db");
    let before = sealed(&database).await;
    let wrong = rotate(&database, &key(3), &key(2), |_| ()).await.expect_err("not its key");
    assert!(matches!(wrong, StoreError::WrongKey { .. }), "{wrong}");
    assert_eq!(sealed(&database).await, before);

    // A damaged value in the middle.
    let mut db = raw(&database).await;
    sqlx::query("UPDATE agent_files SET content = substr(content, 1, length(content) - 1) WHERE agent_id = 'a2' AND position = 1")
        .execute(&mut db)
        .await
        .expect("writes");
    db.close().await.expect("closes");
    let before = sealed(&database).await;
    let damaged = rotate(&database, &key(1), &key(2), |_| ()).await.expect_err("does not open");
    assert!(matches!(damaged, StoreError::Corrupt(_)), "{damaged}");
    assert_eq!(sealed(&database).await, before);

    // A place that the rotation does not know: it would be lost with the old key.
    let mut db = raw(&database).await;
    sqlx::raw_sql(
        "DELETE FROM agent_files WHERE agent_id = 'a2' AND position = 1; CREATE TABLE news (id INTEGER, secret BLOB);
         INSERT INTO news SELECT 1, env_vars FROM agents WHERE id = 'a1'",
    )
    .execute(&mut db)
    .await
    .expect("writes");
    db.close().await.expect("closes");
    let before = sealed(&database).await;
    let unknown = rotate(&database, &key(1), &key(2), |_| ()).await.expect_err("knows no such table");
    assert!(unknown.to_string().contains("news.secret"), "{unknown}");
    assert_eq!(sealed(&database).await, before);
}

#[tokio::test]
async fn a_sealed_value_does_not_open_elsewhere() {
    let swap = "UPDATE agents SET env_vars = (SELECT b.env_vars FROM agents AS b WHERE b.id != agents.id AND b.env_vars IS NOT NULL)
                WHERE env_vars IS NOT NULL";
    let same_agent = "UPDATE agent_files SET content = (SELECT b.content FROM agent_files AS b
                      WHERE b.agent_id = agent_files.agent_id AND b.position != agent_files.position)";
    let other_agent = "UPDATE agent_files SET content = (SELECT b.content FROM agent_files AS b
                       WHERE b.agent_id != agent_files.agent_id AND b.position = agent_files.position)";
    let across =
        "UPDATE agents SET env_vars = (SELECT content FROM agent_files WHERE agent_id = agents.id AND position = 0)
                  WHERE env_vars IS NOT NULL";
    for change in [swap, same_agent, other_agent, across] {
        let folder = database().await;
        let database = folder.path().join("lap.db");
        let mut db = raw(&database).await;
        sqlx::raw_sql(change).execute(&mut db).await.expect("writes");
        db.close().await.expect("closes");
        let store = open(&database, 1).await;
        let problem = store.agent(&aid("a1")).await.expect_err("refused");
        assert!(matches!(problem, StoreError::Corrupt(_)), "{change}: {problem}");
    }
}
