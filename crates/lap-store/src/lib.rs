//! Everything LAP keeps: agents, sessions with their event logs, turns, messages, the egress record. SQLite today.
//!
//! Takes and returns domain types; knows no HTTP and no link, and not what an event means beyond the few facts it states
//! itself (`session.state`, `session.phase`, `turn.failed`, `egress.changed`), because a state and its event share one transaction.
//!
//! One connection writes, several read. Values of environment variables and contents of files are encrypted before
//! SQLite sees them.

mod agents;
mod change;
mod crypt;
mod error;
mod events;
mod facts;
mod idempotency;
mod lock;
mod log;
mod messages;
mod meta;
mod numbers;
mod records;
mod rotate;
mod session_egress;
mod sessions;
mod turns;
mod usage;
mod wake;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lap_domain::ids::SessionId;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};

pub use agents::{AgentFilter, AgentRow, AgentSort, Order};
pub use crypt::{EncryptionKey, KeyId};
pub use error::StoreError;
pub use events::{Event, EventBody, EventBounds};
pub use idempotency::{Begun, IdempotencyGuard, KeptAnswer};
pub use lock::{DataLock, LockError};
pub use log::{Appended, LogItem, Write};
pub use messages::StoredMessage;
pub use records::{EgressLine, EgressRecord};
pub use rotate::{key_of, rotate};
pub use sessions::{Counts, NewSession, SessionFilter};
pub use turns::{Idempotency, NewTurn, TurnRecord};
pub use usage::{SpentElsewhere, UsageBy, UsageFilter, UsageRow};

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows of this page.
    pub rows: Vec<T>,
    /// How many rows there are in all.
    pub total: u64,
}

/// How long a statement waits for a lock. The server's writes queue for its one writer instead; only a person with the
/// `sqlite3` program open can make this wait happen.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for a free connection. Longer than any transaction takes on a disk that works; beyond it the
/// caller hears "unavailable" instead of hanging.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// Readers run beside the writer and beside each other; more than this many only wait for the processor.
const READERS: u32 = 4;

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    writer: SqlitePool,
    readers: SqlitePool,
    key: EncryptionKey,
    hmac_key: aws_lc_rs::hmac::Key,
    wakers: wake::Wakers,
    running: idempotency::Running,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the database at `database`, makes it when there is none, brings its tables up to date and proves that `key`
    /// is the one it was written with.
    pub async fn open(database: &Path, key: EncryptionKey) -> Result<Self, StoreError> {
        create_private(database)?;
        let options = SqliteConnectOptions::new()
            .filename(database)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("secure_delete", "FAST");
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await
            .map_err(StoreError::Unavailable)?;
        sqlx::migrate!().run(&writer).await.map_err(StoreError::Migrate)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.read_only(true))
            .await
            .map_err(StoreError::Unavailable)?;
        let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
        meta::check_key(&mut tx, &key).await?;
        let hmac_key = meta::hmac_key(&mut tx, &key).await?;
        tx.commit().await?;
        let (wakers, running) = (wake::Wakers::default(), idempotency::Running::default());
        Ok(Self { shared: Arc::new(Shared { writer, readers, key, hmac_key, wakers, running }) })
    }

    /// Finishes what is under way and closes the files. Calls afterwards are `Unavailable`.
    pub async fn close(&self) {
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }

    /// Answers when the database does, for readiness.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!(r#"SELECT 1 AS "one!: i64""#).fetch_one(self.readers()).await?;
        Ok(())
    }

    fn readers(&self) -> &SqlitePool {
        &self.shared.readers
    }

    fn key(&self) -> &EncryptionKey {
        &self.shared.key
    }

    /// Begins a transaction that holds the write lock from its first statement on, so that what it reads stays true.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.shared.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Commits, then does what follows from it, such as ringing a bell. A caller may be dropped at any await, as a handler
    /// is whose client hung up; from here on that makes no difference, or what is stored would not be told. The task
    /// lives as long as the commit takes.
    async fn commit(
        &self,
        tx: Transaction<'static, Sqlite>,
        then: impl FnOnce(&wake::Wakers) + Send + 'static,
    ) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let whole = tokio::spawn(async move {
            tx.commit().await?;
            then(&shared.wakers);
            Ok(())
        });
        // The runtime ends before the task does only while the program ends.
        whole.await.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolClosed)))
    }

    /// Commits and rings the session's bell.
    async fn commit_and_ring(
        &self,
        tx: Transaction<'static, Sqlite>,
        session: &SessionId,
        newest: u64,
    ) -> Result<(), StoreError> {
        let session = session.clone();
        self.commit(tx, move |wakers| wakers.ring(&session, newest)).await
    }
}

/// Makes the file readable for its owner alone before SQLite opens it; WAL and shared memory files take over its mode.
fn create_private(database: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(database);
    made.map(drop).map_err(|cause| StoreError::Open { path: database.to_owned(), cause })
}

#[cfg(test)]
mod tests;
