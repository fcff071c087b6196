//! A store in a folder of its own, and short ways to make things.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lap_domain::agent::{self, Agent, NewAgent};
pub use lap_domain::budget::Budget;
use lap_domain::ids::{AgentId, SessionId, TurnId};
use lap_domain::secret::Secret;
use lap_domain::session::{Session, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use lap_domain::usage::{ModelSpend, Spend};
use lap_store::{EncryptionKey, Event, EventBody, LogItem, NewSession, NewTurn, Store, Write};

pub struct Kit {
    pub folder: tempfile::TempDir,
    pub store: Store,
}

pub const NOW: Timestamp = Timestamp(1_000);

impl Kit {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder.path().join("lap.db"), 1).await;
        Self { folder, store }
    }

    /// With agent `a1`.
    pub async fn with_agent() -> Self {
        let kit = Self::new().await;
        kit.store.insert_agent(&agent("a1")).await.expect("inserts");
        kit
    }

    /// With agent `a1` and its session `s1`, ready.
    pub async fn ready() -> Self {
        let kit = Self::with_agent().await;
        kit.session("s1").await;
        kit.store.apply(&sid("s1"), 1, SessionEvent::GuestReady, NOW).await.expect("becomes ready");
        kit
    }

    pub async fn session(&self, id: &str) -> Session {
        let new = NewSession {
            session: session(id, "a1"),
            stubs: BTreeMap::new(),
            first_turn: None,
            boot_token: "of-the-first".into(),
            budget: Budget::default(),
        };
        self.store.insert_session(new).await.expect("inserts")
    }

    /// What the session has used, one line per model.
    pub async fn used(&self, id: &str) -> Vec<String> {
        let used = self.store.usage_of_sessions(&[&sid(id)]).await.expect("reads").remove(id).unwrap_or_default();
        used.iter().map(|ModelSpend { model, spend }| format!("{model}: {}", told(spend))).collect()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("lap.db")
    }

    /// The session's log, one line per event.
    pub async fn log(&self, id: &str) -> Vec<String> {
        let events = self.store.events(&sid(id), 0, 1_000).await.expect("reads");
        events.iter().map(|Event { id, kind, data, .. }| format!("{id} {kind} {data}")).collect()
    }
}

pub async fn open(path: &std::path::Path, key: u8) -> Store {
    Store::open(path, EncryptionKey::new(&[key; 32])).await.expect("opens")
}

pub fn aid(id: &str) -> AgentId {
    AgentId::new(id)
}

pub fn sid(id: &str) -> SessionId {
    SessionId::new(id)
}

pub fn tid(id: &str) -> TurnId {
    TurnId::new(id)
}

pub fn agent(id: &str) -> Agent {
    let new = NewAgent {
        name: Some(format!("Agent {id}")),
        model: Some("m".to_owned()),
        env_vars: [("A", "alpha-value"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), Secret::new(v.to_owned()))).into(),
        ..NewAgent::default()
    };
    agent::create(new, aid(id), &["opencode"], NOW).expect("valid")
}

pub fn session(id: &str, agent: &str) -> Session {
    Session {
        id: sid(id),
        agent_id: aid(agent),
        title: None,
        state: SessionState::Creating,
        phase: None,
        phase_detail: None,
        incarnation: 1,
        harness_id: "opencode".to_owned(),
        harness_session_id: None,
        branch: None,
        commit: None,
        title_preview: None,
        response: None,
        session_env_keys: vec!["KEY".to_owned()],
        created_at: NOW,
        last_seen_at: NOW,
        idle_timeout_ms: 10_000,
    }
}

pub fn turn(session: &str, id: &str) -> NewTurn {
    NewTurn {
        id: tid(id),
        session_id: sid(session),
        idempotency: None,
        input: format!("input of {id}"),
        message_id: format!("message of {id}"),
        message: format!("{{\"said\":\"{id}\"}}"),
        event: event("turn.queued", &format!("{{\"turn_id\":\"{id}\"}}")),
        title_preview: Some(format!("preview {id}")),
        at: NOW,
    }
}

pub fn event(kind: &str, data: &str) -> EventBody {
    EventBody { kind: kind.to_owned(), data: data.to_owned() }
}

pub fn item(seq: u64, write: Write) -> LogItem {
    LogItem { seq, at: NOW, writes: vec![write] }
}

pub fn completed(turn: &str, text: &str) -> Write {
    Write::TurnCompleted {
        turn_id: tid(turn),
        answer: format!("{{\"answer\":\"{text}\"}}"),
        text: text.to_owned(),
        event: event("turn.completed", "{}"),
    }
}

/// A call of this model with so many tokens in.
pub fn metered(model: &str, input_tokens: u64, cost_usd: Option<f64>) -> Write {
    let spend = Spend { calls: 1, input_tokens, cost_usd, ..Spend::default() };
    Write::Metered(ModelSpend { model: model.to_owned(), spend })
}

/// A sum in words.
pub fn told(spend: &Spend) -> String {
    let Spend { calls, input_tokens, output_tokens, cost_usd, .. } = spend;
    let cost = cost_usd.map(|cost| format!(" ${cost}")).unwrap_or_default();
    format!("{calls} calls {input_tokens} in {output_tokens} out{cost}")
}
