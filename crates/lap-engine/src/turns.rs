//! Turns: taken in, handed to the sandbox one at a time, answered. A turn is handed over at most once.

use std::time::Duration;

use lap_api::event::EventKind;
use lap_api::link::{ServerToSidecar, ToGuest, Turn as WireTurn};
use lap_api::message::{Attachment, Message, MessageInfo, Part};
use lap_domain::ids::{SessionId, TurnId};
use lap_domain::session::{SessionState, title_preview};
use lap_domain::time::Timestamp;
use lap_domain::turn::TurnState;
use lap_store::{StoreError, TurnRecord};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::events::body;
use crate::{Engine, EngineError, fresh_id, now, rfc3339, whole};

/// How many turns of one session may wait, the running one included.
pub const MAX_WAITING_TURNS: u32 = 100;

/// After a restart of the server a sidecar dials again within two seconds; whoever has something for it waits this long.
const REDIAL_PATIENCE: Duration = Duration::from_secs(5);

/// Page size when a whole conversation is read.
const MESSAGES_AT_ONCE: u32 = 500;

/// A user message to be answered. Its content has been checked.
#[derive(Debug, Clone)]
pub struct NewTurn {
    pub text: String,
    pub attachments: Vec<Attachment>,
    pub idempotency: Option<Idempotency>,
}

/// What makes two requests the same one.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub key: String,
    /// The body as it came.
    pub body: Vec<u8>,
}

/// A turn that was taken in.
#[derive(Debug, Clone)]
pub struct QueuedTurn {
    pub id: TurnId,
    /// A position in the log before the turn's first event, to follow it from.
    pub before: u64,
}

/// An answer to a permission request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This once.
    Allow,
    /// From now on.
    AllowAlways,
    /// No.
    Deny,
}

impl Decision {
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowAlways => "allow_always",
            Self::Deny => "deny",
        }
    }
}

/// What the store keeps of a turn until it is over.
#[derive(Serialize, Deserialize)]
struct Input {
    text: String,
    attachments: Vec<Attachment>,
}

impl Engine {
    /// Takes a user message in; it runs when its predecessors are over. It does so even when the caller goes away.
    pub async fn send(&self, session: &SessionId, turn: NewTurn) -> Result<QueuedTurn, EngineError> {
        let (engine, session) = (self.clone(), session.clone());
        whole(async move { engine.take_in(&session, turn).await }).await
    }

    async fn take_in(&self, session: &SessionId, turn: NewTurn) -> Result<QueuedTurn, EngineError> {
        let row = self.inner.store.session(session).await?;
        let idempotency = turn.idempotency.as_ref().map(|given| lap_store::Idempotency {
            key: given.key.clone(),
            body_hmac: self.inner.store.hmac(&given.body),
        });
        let new = stored_turn(session, &turn.text, turn.attachments, idempotency, row.title_preview.is_none(), now());
        let (id, newest) = (new.id.clone(), self.inner.store.event_bounds(session).await?.newest);
        let record = self.inner.store.insert_turn(new, MAX_WAITING_TURNS).await?;
        // A repeated request is given the turn of the first one; where that began in the log is not kept.
        let before = if record.turn.id == id { newest } else { 0 };
        self.dispatch(session).await;
        Ok(QueuedTurn { id: record.turn.id, before })
    }

    /// Waits until the turn is over. Dropping the future stops the waiting, not the turn.
    pub async fn answer(&self, session: &SessionId, turn: &TurnId) -> Result<Message, EngineError> {
        let mut newest = self.inner.store.subscribe(session);
        loop {
            newest.borrow_and_update();
            let TurnRecord { turn, answer, .. } = self.inner.store.turn(session, turn).await?;
            match (turn.state, answer) {
                (TurnState::Failed { code, error }, _) => return Err(EngineError::TurnFailed { code, error }),
                (TurnState::Completed, Some(answer)) => return parsed(&answer),
                (TurnState::Completed, None) => {
                    return Err(EngineError::Internal(format!("turn {} has no answer", turn.id).into()));
                }
                (TurnState::Queued | TurnState::Sent, _) => {}
            }
            if newest.changed().await.is_err() {
                return Err(EngineError::NotFound { what: "session", id: session.to_string() });
            }
        }
    }

    /// Stops the running turn; fine when none runs.
    pub async fn abort(&self, session: &SessionId) -> Result<(), EngineError> {
        let row = self.inner.store.session(session).await?;
        if !row.state.wants_sandbox() {
            return Err(crate::error::not_ready(&row.state));
        }
        let to = self.link_of(session).await?;
        // A turn that is on its way is sent before its abort is.
        let _order = self.inner.live.order(session, now()).lock_owned().await;
        let Some(sent) = self.inner.store.sent_turn(session).await? else { return Ok(()) };
        tell_guest(&to, ToGuest::Abort { turn_id: sent.turn.id.to_string() }).await
    }

    /// Answers a permission request of the harness.
    pub async fn answer_permission(
        &self,
        session: &SessionId,
        request_id: &str,
        decision: Decision,
    ) -> Result<(), EngineError> {
        let row = self.inner.store.session(session).await?;
        if !row.state.wants_sandbox() {
            return Err(crate::error::not_ready(&row.state));
        }
        let (request_id, decision) = (request_id.to_owned(), decision.as_str().to_owned());
        let answer = ToGuest::Permission { request_id: request_id.clone(), decision: decision.clone() };
        tell_guest(&self.link_of(session).await?, answer).await?;
        let event = body(&EventKind::PermissionAnswered { request_id, decision });
        self.inner.store.append_event(session, now(), event).await?;
        Ok(())
    }

    /// The conversation, oldest first.
    pub async fn messages(&self, session: &SessionId) -> Result<Vec<Message>, EngineError> {
        self.inner.store.session(session).await?;
        let (mut messages, mut after) = (Vec::new(), 0);
        loop {
            let page = self.inner.store.messages(session, after, MESSAGES_AT_ONCE).await?;
            let Some(last) = page.last() else { return Ok(messages) };
            after = last.position;
            for row in &page {
                messages.push(parsed(&row.data)?);
            }
        }
    }

    /// Hands the oldest waiting turn to the sandbox, if none runs. Whoever makes a turn possible calls this.
    pub(crate) async fn dispatch(&self, session: &SessionId) {
        let result = async {
            let row = match self.inner.store.session(session).await {
                Ok(row) if row.state == SessionState::Ready => row,
                Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(problem) => return Err(problem.into()),
            };
            let _order = self.inner.live.order(session, now()).lock_owned().await;
            let Some(link) = self.inner.live.link(session) else { return Ok(()) };
            let Some(claimed) = self.inner.store.claim_next_turn(session, row.incarnation, now()).await? else {
                return Ok(());
            };
            self.hand_over(session, claimed, &link).await
        };
        if let Err(problem) = result.await {
            tracing::error!(session.id = %session, problem = &problem as &dyn std::error::Error, "could not hand over the next turn");
        }
    }

    /// Sends a claimed turn. When the link is gone the turn stays claimed; the next hello tells whether it arrived.
    pub(crate) async fn hand_over(
        &self,
        session: &SessionId,
        claimed: TurnRecord,
        link: &mpsc::Sender<ServerToSidecar>,
    ) -> Result<(), EngineError> {
        let id = claimed.turn.id;
        let input = claimed.input.unwrap_or_default();
        let Input { text, attachments } = match parsed(&input) {
            Ok(input) => input,
            Err(problem) => {
                let error = "the message could not be read back from the database; send it again";
                self.inner.store.fail_turn(session, &id, "internal", error, now()).await?;
                return Err(problem);
            }
        };
        self.inner.live.turn_running(session, id.clone(), now());
        let turn = WireTurn { turn_id: id.to_string(), text, attachments };
        // A closed link is no error here: see above.
        let _ = link.send(ServerToSidecar::Guest(Box::new(ToGuest::Turn(turn)))).await;
        Ok(())
    }

    /// The link, waited for while the sidecar dials again.
    async fn link_of(&self, session: &SessionId) -> Result<mpsc::Sender<ServerToSidecar>, EngineError> {
        self.inner.live.link_within(session, REDIAL_PATIENCE).await.ok_or_else(away)
    }
}

async fn tell_guest(to: &mpsc::Sender<ServerToSidecar>, what: ToGuest) -> Result<(), EngineError> {
    to.send(ServerToSidecar::Guest(Box::new(what))).await.map_err(|_| away())
}

fn away() -> EngineError {
    EngineError::Unavailable("the sandbox does not answer at the moment; try again".into())
}

/// A turn with its user message, as the store takes it.
pub(crate) fn stored_turn(
    session: &SessionId,
    text: &str,
    attachments: Vec<Attachment>,
    idempotency: Option<lap_store::Idempotency>,
    is_first: bool,
    at: Timestamp,
) -> lap_store::NewTurn {
    let (turn_id, message_id) = (fresh_id(), fresh_id());
    let words = Part::Text { id: format!("{message_id}-0"), text: text.to_owned() };
    let files = attachments.iter().enumerate().map(|(index, file)| Part::File {
        id: format!("{message_id}-{}", index + 1),
        name: file.name.clone(),
        content_type: file.content_type.clone(),
    });
    let info = MessageInfo {
        id: message_id.clone(),
        turn_id: turn_id.clone(),
        role: "user".into(),
        created_at: rfc3339(at),
        model: None,
        usage: None,
        error: None,
    };
    let message = Message { info, parts: std::iter::once(words).chain(files).collect() };
    let as_json = |value: serde_json::Result<String>| value.expect("wire types are plain data with string keys");
    lap_store::NewTurn {
        id: TurnId::new(turn_id.clone()),
        session_id: session.clone(),
        idempotency,
        input: as_json(serde_json::to_string(&Input { text: text.to_owned(), attachments })),
        message_id,
        message: as_json(serde_json::to_string(&message)),
        event: body(&EventKind::TurnQueued { turn_id, message }),
        title_preview: if is_first { title_preview(text) } else { None },
        at,
    }
}

fn parsed<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, EngineError> {
    serde_json::from_str(json).map_err(|cause| EngineError::Internal(Box::new(cause)))
}
