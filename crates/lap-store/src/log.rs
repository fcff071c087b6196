//! What a sandbox did, stored exactly once: its log arrives in numbered entries, and the number of the last one is
//! stored in the same transaction as what the entries say.
//!
//! The entries come from a machine that may be hostile. A move the table of states does not know, a report about a turn
//! that is over: such writes are dropped and told to the caller, and the rest of the log goes on.

use lap_domain::ids::{SessionId, TurnId};
use lap_domain::session::{IllegalTransition, Phase, Session, SessionEvent};
use lap_domain::time::Timestamp;
use lap_domain::usage::ModelSpend;

use crate::change::Change;
use crate::events::EventBody;
use crate::records::EgressLine;
use crate::{Store, StoreError, numbers};

/// One entry of a sandbox's log.
#[derive(Debug, Clone)]
pub struct LogItem {
    /// Its number. Numbers rise.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What it means for the store, in this order.
    pub writes: Vec<Write>,
}

/// One thing to store.
#[derive(Debug, Clone)]
pub enum Write {
    /// A fact about the session.
    Event(EventBody),
    /// A fact about a turn; dropped unless that turn is under way.
    TurnEvent { turn_id: TurnId, event: EventBody },
    /// Progress of the bring-up; dropped unless it is progress.
    Phase { phase: Phase, detail: Option<String> },
    /// What was cloned.
    Repo { branch: Option<String>, commit: Option<String> },
    /// The harness's own name of the conversation.
    HarnessSession { id: String },
    /// A move of the session.
    Move(SessionEvent),
    /// A finished utterance; dropped unless its turn is under way.
    Message { turn_id: TurnId, id: String, role: String, data: String, event: EventBody },
    /// The turn under way is answered. `text` becomes the session's response if it was its first prompt.
    TurnCompleted { turn_id: TurnId, answer: String, text: String, event: EventBody },
    /// The turn ended without an answer.
    TurnFailed { turn_id: TurnId, code: String, error: String, event: EventBody },
    /// What a model call used.
    Metered(ModelSpend),
    /// A line of the egress record.
    Egress(EgressLine),
    /// The vault judges by this revision of the session's lists now.
    EgressInForce { revision: u64 },
}

/// What came of a piece of log.
#[derive(Debug, Clone)]
pub struct Appended {
    /// Everything up to this number is stored.
    pub seq: u64,
    /// Numbers of the events that were appended.
    pub events: Vec<u64>,
    /// The session afterwards.
    pub session: Session,
    /// Moves that were dropped.
    pub refused: Vec<IllegalTransition>,
    /// True when a turn ended: the next one can be claimed.
    pub turn_over: bool,
}

impl Store {
    /// Stores entries of the log of the sandbox `incarnation`, all or none; those that are stored already are skipped.
    /// From a sandbox that has been replaced, or whose session was deleted, only egress lines and what
    /// model calls used are kept.
    pub async fn append_log(
        &self,
        session: &SessionId,
        incarnation: u32,
        items: Vec<LogItem>,
    ) -> Result<Appended, StoreError> {
        let (key, number) = (session.as_str(), i64::from(incarnation));
        let mut tx = self.begin().await?;
        let stored = sqlx::query_scalar!(
            "SELECT log_seq FROM sandboxes WHERE session_id = ?1 AND incarnation = ?2",
            key,
            number
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| StoreError::no_session(session))?;
        let mut seq = numbers::from_sql(stored);
        let mut change = Change::load_any(&mut tx, session).await?;
        let before = change.newest();
        let counts = !change.deleted && change.session.incarnation == incarnation;
        let mut outcome = Outcome::default();
        for LogItem { seq: number, at, writes } in items {
            if number <= seq {
                continue;
            }
            for write in writes {
                match write {
                    Write::Egress(line) => change.egress(at, &line).await?,
                    Write::Metered(spent) => change.metered(at, incarnation, &spent).await?,
                    write if counts => store(&mut change, at, write, &mut outcome).await?,
                    _ => {}
                }
            }
            seq = number;
        }
        let events = (before + 1..=change.newest()).collect();
        let saved = change.save().await?;
        let new_seq = numbers::to_sql(seq);
        sqlx::query!(
            "UPDATE sandboxes SET log_seq = ?3 WHERE session_id = ?1 AND incarnation = ?2",
            key,
            number,
            new_seq
        )
        .execute(&mut *tx)
        .await?;
        self.commit_and_ring(tx, session, saved.newest).await?;
        let Outcome { refused, turn_over } = outcome;
        Ok(Appended { seq, events, session: saved.session, refused, turn_over })
    }
}

#[derive(Default)]
struct Outcome {
    refused: Vec<IllegalTransition>,
    turn_over: bool,
}

async fn store(change: &mut Change<'_>, at: Timestamp, write: Write, outcome: &mut Outcome) -> Result<(), StoreError> {
    match write {
        Write::Event(event) => {
            change.event(at, &event).await?;
        }
        Write::TurnEvent { turn_id, event } => {
            if under_way(change, &turn_id).await? {
                change.event(at, &event).await?;
                change.seen(at);
            }
        }
        Write::Phase { phase, detail } => {
            change.phase(phase, detail, at).await?;
        }
        Write::Repo { branch, commit } => {
            change.session.branch = branch.or(change.session.branch.take());
            change.session.commit = commit.or(change.session.commit.take());
        }
        Write::HarnessSession { id } => change.session.harness_session_id = Some(id),
        Write::Move(event) => match change.apply(event, at).await {
            Ok(()) => outcome.turn_over = true,
            Err(StoreError::Illegal(illegal)) => {
                tracing::warn!(session.id = %change.id, "dropped a move from the sandbox: {illegal}");
                outcome.refused.push(illegal);
            }
            Err(error) => return Err(error),
        },
        Write::Message { turn_id, id, role, data, event } => {
            if under_way(change, &turn_id).await? {
                change.message(at, &id, &turn_id, &role, &data).await?;
                change.event(at, &event).await?;
                change.seen(at);
            }
        }
        Write::TurnCompleted { turn_id, answer, text, event } => {
            if let Some(initial) = complete(change, &turn_id, &answer).await? {
                if initial {
                    change.session.response = Some(text);
                }
                change.event(at, &event).await?;
                change.seen(at);
                outcome.turn_over = true;
            }
        }
        Write::TurnFailed { turn_id, code, error, event } => {
            if under_way(change, &turn_id).await? && change.fail_turn(&turn_id, &code, &error, &event, at).await? {
                change.seen(at);
                outcome.turn_over = true;
            }
        }
        Write::EgressInForce { revision } => change.lists_in_force(at, revision).await?,
        // Both are kept whatever became of the session, and so never come here.
        Write::Metered(_) | Write::Egress(_) => {}
    }
    Ok(())
}

/// Whether the sandbox has this turn and it is not over.
async fn under_way(change: &mut Change<'_>, turn: &TurnId) -> Result<bool, StoreError> {
    let (session, id) = (change.id.as_str(), turn.as_str());
    let found = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!: i64" FROM turns WHERE session_id = ?1 AND id = ?2 AND state = 'sent'"#,
        session,
        id
    )
    .fetch_optional(&mut *change.db)
    .await?;
    if found.is_none() {
        tracing::warn!(session.id = %change.id, turn.id = %turn, "dropped a report about a turn that is not under way");
    }
    Ok(found.is_some())
}

/// Answers the turn under way; says whether it was the session's first prompt, or nothing when it was not under way.
async fn complete(change: &mut Change<'_>, turn: &TurnId, answer: &str) -> Result<Option<bool>, StoreError> {
    let (session, id) = (change.id.as_str(), turn.as_str());
    let initial = sqlx::query_scalar!(
        r#"UPDATE turns SET state = 'completed', answer = ?3, input = NULL
           WHERE session_id = ?1 AND id = ?2 AND state = 'sent'
           RETURNING initial AS "initial!: i64""#,
        session,
        id,
        answer
    )
    .fetch_optional(&mut *change.db)
    .await?;
    if initial.is_none() {
        tracing::warn!(session.id = %change.id, turn.id = %turn, "dropped the answer to a turn that is not under way");
    }
    Ok(initial.map(|initial| initial != 0))
}
