use super::*;

#[tokio::test]
async fn the_linked_sqlite_has_the_fix_of_the_wal_bug() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("lap.db"), EncryptionKey::new(&[1; 32])).await.expect("opens");
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(store.readers()).await.expect("answers");
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
    assert!(parts >= vec![3, 51, 3], "{version} can corrupt a WAL database that several connections use");
}

#[tokio::test]
async fn connections_are_set_up_as_meant() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("lap.db"), EncryptionKey::new(&[1; 32])).await.expect("opens");
    for pool in [store.readers(), &store.shared.writer] {
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(pool).await.expect("answers");
        let keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(pool).await.expect("answers");
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(pool).await.expect("answers");
        assert_eq!((mode.as_str(), keys, synchronous), ("wal", 1, 1));
    }
    assert!(sqlx::query("DELETE FROM meta").execute(store.readers()).await.is_err(), "readers cannot write");
}

#[tokio::test]
async fn bells_that_nobody_hears_are_taken_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("lap.db"), EncryptionKey::new(&[1; 32])).await.expect("opens");
    for i in 0..100 {
        drop(store.subscribe(&lap_domain::ids::SessionId::new(format!("s{i}"))));
    }
    assert_eq!(store.shared.wakers.len(), 1);
}
