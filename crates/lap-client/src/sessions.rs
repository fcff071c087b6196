//! Sessions: runs of an agent, their conversation and their record.

use std::time::Duration;

use http::Method;
use hyper::body::Incoming;
use lap_api::list::{EventPage, List};
use lap_api::message::{Message, SendMessage};
use lap_api::session::{
    AnswerPermission, CreateSession, Interception, PatchEgress, PatchSession, PermissionDecision, Session,
};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::events::{EventStream, LogEntry, TurnStream};
use crate::transport::{ANSWER_DEADLINE, Call, Client};

/// What to list; everything absent is the server's default (50 rows, newest first).
#[derive(Debug, Clone, Default)]
pub struct SessionListQuery {
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// `creating`, `ready`, `failed` or `dead`.
    pub status: Option<String>,
    /// Page size, 1..=200.
    pub limit: Option<u32>,
    /// Rows to skip.
    pub offset: Option<u64>,
}

/// A page of the log is asked for in the largest size the server gives.
const EVENT_PAGE: u32 = 200;

impl Client {
    /// Opens a session of an agent; it is `creating` when this returns.
    pub async fn create_session(&self, agent_id: &str, new: &CreateSession) -> Result<Session, Error> {
        self.json(Call::managed(Method::POST, &["agents", agent_id, "session"]).body(new)).await
    }

    /// One session as it stands.
    pub async fn session(&self, id: &str) -> Result<Session, Error> {
        self.json(Call::managed(Method::GET, &["sessions", id])).await
    }

    /// One session, as soon as it is not `creating` any more, or as it stands after `at_most`.
    pub async fn session_when_ready(&self, id: &str, at_most: Duration) -> Result<Session, Error> {
        let call = Call::managed(Method::GET, &["sessions", id])
            .query("wait", Some("ready"))
            .query("timeout_s", Some(at_most.as_secs().max(1)))
            .deadline(Some(at_most + ANSWER_DEADLINE));
        self.json(call).await
    }

    /// One page of sessions.
    pub async fn sessions(&self, query: &SessionListQuery) -> Result<List<Session>, Error> {
        let SessionListQuery { agent_id, status, limit, offset } = query;
        let call = Call::managed(Method::GET, &["sessions"])
            .query("agent_id", agent_id.as_ref())
            .query("status", status.as_ref())
            .query("limit", *limit)
            .query("offset", *offset);
        self.json(call).await
    }

    /// Changes a session's title or limits.
    pub async fn edit_session(&self, id: &str, edit: &PatchSession) -> Result<Session, Error> {
        self.json(Call::managed(Method::PATCH, &["sessions", id]).body(edit)).await
    }

    /// Changes where a live session's sandbox may go; returns once its vault lives by it.
    pub async fn change_egress(&self, id: &str, lists: &PatchEgress) -> Result<Session, Error> {
        self.json(Call::managed(Method::PATCH, &["sessions", id, "egress"]).body(lists)).await
    }

    /// Ends a session; what was said stays readable.
    pub async fn stop_session(&self, id: &str) -> Result<Session, Error> {
        self.json(Call::managed(Method::POST, &["sessions", id, "stop"])).await
    }

    /// Ends a session and erases its events.
    pub async fn delete_session(&self, id: &str) -> Result<(), Error> {
        self.empty(Call::managed(Method::DELETE, &["sessions", id])).await
    }

    /// Runs one turn and waits for its answer, however long it takes.
    ///
    /// With an `idempotency_key` the call is repeated after a lost connection and still runs only once.
    pub async fn message(
        &self,
        session_id: &str,
        message: &SendMessage,
        idempotency_key: Option<&str>,
    ) -> Result<Message, Error> {
        let call = || turn_call(session_id, "message", message, idempotency_key);
        self.repeated(idempotency_key.is_some(), || self.json(call())).await
    }

    /// Runs one turn and yields its part of the log as it happens.
    ///
    /// Returns once the server has taken the message. A connection that breaks later is replaced by reading the log from
    /// where it stood, so nothing is lost and the message is sent once; dropping the stream leaves the turn running.
    pub async fn message_stream(&self, session_id: &str, message: &SendMessage) -> Result<TurnStream, Error> {
        let key = uuid::Uuid::now_v7().to_string();
        let body = self.open_turn(session_id, message, &key).await?;
        Ok(TurnStream::new(self.clone(), session_id.to_owned(), message.clone(), key, body))
    }

    /// Begins a turn, or comes back to the one that was begun with this key.
    pub(crate) async fn open_turn(
        &self,
        session_id: &str,
        message: &SendMessage,
        key: &str,
    ) -> Result<Incoming, Error> {
        let call = || {
            turn_call(session_id, "message_stream", message, Some(key))
                .accept("text/event-stream")
                .deadline(Some(ANSWER_DEADLINE))
        };
        Ok(self.repeated(true, || self.open(call())).await?.into_body())
    }

    /// The conversation so far, also after the session's end.
    pub async fn messages(&self, session_id: &str) -> Result<Vec<Message>, Error> {
        self.json(Call::managed(Method::GET, &["sessions", session_id, "messages"])).await
    }

    /// The log from event `after` on (0: from its beginning), as it grows.
    pub fn events(&self, session_id: &str, after: u64) -> EventStream {
        EventStream::open(self.clone(), session_id.to_owned(), after)
    }

    /// One page of the log: what follows event `after`; empty at its end.
    pub async fn event_page(&self, session_id: &str, after: u64) -> Result<Vec<LogEntry>, Error> {
        let call = Call::managed(Method::GET, &["sessions", session_id, "events"])
            .query("after", Some(after))
            .query("limit", Some(EVENT_PAGE));
        let page: EventPage<Box<RawValue>> = self.json(call).await?;
        page.data.iter().map(|raw| LogEntry::read(raw.get()).map_err(|e| self.unintelligible(&e))).collect()
    }

    /// The whole log as it stands.
    pub async fn all_events(&self, session_id: &str) -> Result<Vec<LogEntry>, Error> {
        let mut all: Vec<LogEntry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.id);
            let page = self.event_page(session_id, after).await?;
            let n_before = all.len();
            all.extend(page.into_iter().filter(|entry| entry.id > after));
            if all.len() == n_before {
                return Ok(all);
            }
        }
    }

    /// Stops the running turn.
    pub async fn abort(&self, session_id: &str) -> Result<(), Error> {
        self.empty(Call::managed(Method::POST, &["sessions", session_id, "abort"])).await
    }

    /// Answers a permission request.
    pub async fn answer_permission(
        &self,
        session_id: &str,
        request_id: &str,
        decision: PermissionDecision,
    ) -> Result<(), Error> {
        let call = Call::managed(Method::POST, &["sessions", session_id, "permissions", request_id]);
        self.empty(call.body(&AnswerPermission { decision })).await
    }

    /// One page of the egress record.
    pub async fn interceptions(
        &self,
        session_id: &str,
        limit: Option<u32>,
        offset: Option<u64>,
    ) -> Result<List<Interception>, Error> {
        let call = Call::managed(Method::GET, &["sessions", session_id, "interceptions"])
            .query("limit", limit)
            .query("offset", offset);
        self.json(call).await
    }

    /// Names of the credentials the vault holds for a session.
    pub async fn vault_keys(&self, session_id: &str) -> Result<Vec<String>, Error> {
        let call = Call::managed(Method::GET, &["sessions", session_id, "vault-keys"]);
        Ok(self.json::<List<String>>(call).await?.data)
    }

    /// What guest, clone, installation and harness wrote, newest lines last.
    pub async fn sandbox_logs(&self, session_id: &str, tail_lines: Option<u32>) -> Result<String, Error> {
        let call = Call::managed(Method::GET, &["sessions", session_id, "sandbox_logs"]);
        self.text(call.query("tailLines", tail_lines).accept("text/plain")).await
    }

    /// Repeats a call whose connection failed, where a repeat cannot do a thing twice.
    async fn repeated<T, F: Future<Output = Result<T, Error>>>(
        &self,
        may_repeat: bool,
        call: impl Fn() -> F,
    ) -> Result<T, Error> {
        /// Three tries in about a second: a server that restarts is met again, a dead one is reported soon.
        const PAUSES_MS: [u64; 2] = [200, 800];
        for pause in PAUSES_MS {
            match call().await {
                Err(Error::Lost { .. } | Error::Unreachable { .. }) if may_repeat => {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                settled => return settled,
            }
        }
        call().await
    }
}

fn turn_call<'a>(session_id: &'a str, route: &'a str, message: &SendMessage, key: Option<&str>) -> Call<'a> {
    let call = Call::managed(Method::POST, &["sessions", session_id, route]).body(message).deadline(None);
    match key {
        Some(key) => call.header("idempotency-key", key),
        None => call,
    }
}
