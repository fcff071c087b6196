//! The egress record: one line for every request that left or wanted to leave a sandbox.

use lap_domain::ids::SessionId;
use lap_domain::time::Timestamp;

use crate::change::Change;
use crate::{Page, Store, StoreError, numbers};

/// One request. Holds names of credentials and never their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressLine {
    pub method: String,
    /// `host:port` as the sandbox meant it.
    pub host: String,
    /// As the sandbox sent it, query values redacted.
    pub path: String,
    /// Status the sandbox saw.
    pub status: Option<u16>,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub duration_ms: u64,
    /// Names of the credentials swapped in.
    pub credentials: Vec<String>,
    /// `allowed`, or the code of the refusal.
    pub verdict: String,
    /// Why it was refused, in words.
    pub detail: Option<String>,
}

/// A stored line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRecord {
    /// Position in the session's record, from 1.
    pub id: u64,
    /// When the request began.
    pub at: Timestamp,
    /// The request.
    pub line: EgressLine,
}

impl Store {
    /// A page of a session's record, newest first. Works after the session's deletion, too.
    pub async fn interceptions(
        &self,
        session: &SessionId,
        limit: u32,
        offset: u64,
    ) -> Result<Page<EgressRecord>, StoreError> {
        let (key, limit, offset) = (session.as_str(), i64::from(limit), numbers::to_sql(offset));
        let rows = sqlx::query_as!(
            EgressRow,
            "SELECT id, at, method, host, path, status, bytes_out, bytes_in, duration_ms, credentials, verdict, detail
             FROM egress_lines WHERE session_id = ?1 ORDER BY id DESC LIMIT ?2 OFFSET ?3",
            key,
            limit,
            offset
        )
        .fetch_all(self.readers())
        .await?;
        let total = sqlx::query_scalar!("SELECT COUNT(*) FROM egress_lines WHERE session_id = ?1", key)
            .fetch_one(self.readers())
            .await?;
        Ok(Page { rows: into_records(rows)?, total: numbers::from_sql(total) })
    }

    /// Lines after number `after`, oldest first, for an export.
    pub async fn interceptions_after(
        &self,
        session: &SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EgressRecord>, StoreError> {
        let (key, after, limit) = (session.as_str(), numbers::to_sql(after), i64::from(limit));
        let rows = sqlx::query_as!(
            EgressRow,
            "SELECT id, at, method, host, path, status, bytes_out, bytes_in, duration_ms, credentials, verdict, detail
             FROM egress_lines WHERE session_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            key,
            after,
            limit
        )
        .fetch_all(self.readers())
        .await?;
        into_records(rows)
    }
}

impl Change<'_> {
    /// Adds a line to the session's record.
    pub(crate) async fn egress(&mut self, at: Timestamp, line: &EgressLine) -> Result<(), StoreError> {
        let EgressLine { method, host, path, status, bytes_out, bytes_in, duration_ms, credentials, verdict, detail } =
            line;
        let id = self.next_egress_id();
        let session = self.id.as_str();
        let status = status.map(i64::from);
        let (bytes_out, bytes_in) = (numbers::to_sql(*bytes_out), numbers::to_sql(*bytes_in));
        let duration_ms = numbers::to_sql(*duration_ms);
        let credentials = numbers::to_json(credentials);
        sqlx::query!(
            "INSERT INTO egress_lines (session_id, id, at, method, host, path, status, bytes_out, bytes_in, duration_ms,
                credentials, verdict, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            session,
            id,
            at.0,
            method,
            host,
            path,
            status,
            bytes_out,
            bytes_in,
            duration_ms,
            credentials,
            verdict,
            detail
        )
        .execute(&mut *self.db)
        .await?;
        Ok(())
    }
}

struct EgressRow {
    id: i64,
    at: i64,
    method: String,
    host: String,
    path: String,
    status: Option<i64>,
    bytes_out: i64,
    bytes_in: i64,
    duration_ms: i64,
    credentials: String,
    verdict: String,
    detail: Option<String>,
}

fn into_records(rows: Vec<EgressRow>) -> Result<Vec<EgressRecord>, StoreError> {
    rows.into_iter()
        .map(|row| {
            let EgressRow {
                id,
                at,
                method,
                host,
                path,
                status,
                bytes_out,
                bytes_in,
                duration_ms,
                credentials,
                verdict,
                detail,
            } = row;
            let line = EgressLine {
                method,
                host,
                path,
                status: status.and_then(|status| u16::try_from(status).ok()),
                bytes_out: numbers::from_sql(bytes_out),
                bytes_in: numbers::from_sql(bytes_in),
                duration_ms: numbers::from_sql(duration_ms),
                credentials: numbers::from_json("egress_lines.credentials", &credentials)?,
                verdict,
                detail,
            };
            Ok(EgressRecord { id: numbers::from_sql(id), at: Timestamp(at), line })
        })
        .collect()
}
