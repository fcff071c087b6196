//! Encrypts everything again with another key, while no server runs.
//!
//! One transaction: a program that is killed at any point leaves the database as it was, or done. Which of the two, the
//! database says itself ([`key_of`]), since each value names its key.

use std::path::Path;

use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::crypt::{EncryptionKey, KeyId, sealed_with};
use crate::{BUSY_TIMEOUT, StoreError, agents, meta};

/// How often the caller hears of progress: after this many values.
const TOLD_EVERY: u64 = 100;

/// The key a database was written with; none where there is no database yet.
pub async fn key_of(database: &Path) -> Result<Option<KeyId>, StoreError> {
    if !database.exists() {
        return Ok(None);
    }
    let mut db = connect(database).await?;
    let there =
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'");
    if there.fetch_one(&mut db).await? == 0 {
        return Ok(None);
    }
    let mark = sqlx::query_scalar!("SELECT value FROM meta WHERE name = 'key_check'").fetch_optional(&mut db).await?;
    db.close().await?;
    match mark {
        None => Ok(None),
        Some(sealed) => match sealed_with(&sealed) {
            Some(id) => Ok(Some(id)),
            None => Err(StoreError::Corrupt("the mark of the encryption key is none".to_owned())),
        },
    }
}

/// Encrypts every value of the database again, from `old` to `new`; how many there were. `tell` hears how many are done.
/// When this returns, the change is on the disk and no byte that `old` opens is left in the database's files.
pub async fn rotate(
    database: &Path,
    old: &EncryptionKey,
    new: &EncryptionKey,
    mut tell: impl FnMut(u64),
) -> Result<u64, StoreError> {
    let mut db = connect(database).await?;
    sqlx::migrate!().run(&mut db).await.map_err(StoreError::Migrate)?;
    let mut tx = db.begin_with("BEGIN IMMEDIATE").await?;
    meta::check_key(&mut tx, old).await?;
    let mut done = 0;
    let mut count = |values: u64| {
        done += values;
        if done % TOLD_EVERY == 0 {
            tell(done);
        }
    };
    for name in sqlx::query_scalar!("SELECT name FROM meta").fetch_all(&mut *tx).await? {
        let value = sqlx::query_scalar!("SELECT value FROM meta WHERE name = ?1", name).fetch_one(&mut *tx).await?;
        // Facts that are no secrets stand there as they are.
        if sealed_with(&value) == Some(old.id()) {
            let value = new.seal(&meta::place(&name), old.open(&meta::place(&name), &value)?.expose());
            sqlx::query!("UPDATE meta SET value = ?2 WHERE name = ?1", name, value).execute(&mut *tx).await?;
            count(1);
        }
    }
    agents::seal_again(&mut tx, old, new, &mut count).await?;
    nothing_left(&mut tx, old).await?;
    tx.commit().await?;
    // Moves everything from the write-ahead log into the database, to the disk, and empties the log.
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await?;
    db.close().await?;
    tell(done);
    Ok(done)
}

/// Every commit goes to the disk, since a key file is replaced after it; what is overwritten is wiped.
async fn connect(database: &Path) -> Result<SqliteConnection, StoreError> {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(database)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("secure_delete", "ON");
    SqliteConnection::connect_with(&options).await.map_err(StoreError::Unavailable)
}

/// Looks through every column of every table, also those that this file has never heard of.
async fn nothing_left(db: &mut SqliteConnection, old: &EncryptionKey) -> Result<(), StoreError> {
    let mark = old.mark();
    let columns = sqlx::query_as::<_, (String, String)>(
        "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
         WHERE t.type = 'table' AND upper(c.type) IN ('BLOB', 'ANY', '')",
    );
    for (table, column) in columns.fetch_all(&mut *db).await? {
        let quoted = |name: &str| name.replace('"', "\"\"");
        let find = format!(
            "SELECT count(*) FROM \"{}\" WHERE substr(\"{}\", 1, {}) = ?1",
            quoted(&table),
            quoted(&column),
            mark.len()
        );
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(find)).bind(&mark).fetch_one(&mut *db).await?;
        if left > 0 {
            return Err(StoreError::NotRotated { place: format!("{table}.{column}") });
        }
    }
    Ok(())
}
