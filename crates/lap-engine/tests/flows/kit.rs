//! An engine on a fresh database with a backend that makes nothing, and a sidecar that speaks the link by hand. Everything
//! waits for events; the deadlines only turn a hang into a failure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lap_api::event::Event;
use lap_api::link::{
    Boot, CredentialGrant, Hello, LogEntry, PROTOCOL, Report, ServerToSidecar, SidecarToServer, ToGuest, Turn,
};
use lap_api::message::{Message, MessageInfo, Part};
use lap_api::session::Usage;
use lap_domain::agent::{AgentEdit, NewAgent};
use lap_domain::ids::{AgentId, SessionId};
use lap_domain::secret::Secret;
use lap_domain::session::SessionState;
use lap_engine::{Engine, EngineConfig, EngineError, NewSession, NewTurn, QueuedTurn, RepositoryTokens};
use lap_link::{MAX_FRAME_BYTES, Reader, Writer};
use lap_sandbox::SandboxSpec;
use lap_sandbox::fake::FakeBackend;
use lap_store::{EncryptionKey, Store};
use lap_test::in_process::engine_config;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives up on a hang.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

pub fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new((*value).to_owned()))).collect()
}

pub struct World {
    pub engine: Engine,
    pub backend: FakeBackend,
    pub store: Store,
    pub data: tempfile::TempDir,
    tokens: Option<RepositoryTokens>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl World {
    pub async fn start() -> Self {
        Self::with_tokens(None).await
    }

    /// With an app that makes tokens for repositories.
    pub async fn with_tokens(tokens: Option<RepositoryTokens>) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        let database = data.path().join("lap.db");
        let store = Store::open(&database, EncryptionKey::new(&[7; 32])).await.expect("a fresh database opens");
        let backend = FakeBackend::new();
        let (engine, stop, running) = Self::run(&data, &store, &backend, tokens.clone());
        Self { engine, backend, store, data, tokens, stop, running }
    }

    fn run(
        data: &tempfile::TempDir,
        store: &Store,
        backend: &FakeBackend,
        repository_tokens: Option<RepositoryTokens>,
    ) -> (Engine, CancellationToken, JoinHandle<()>) {
        let socket = data.path().join("link.sock");
        let _ = std::fs::remove_file(&socket);
        let links = UnixListener::bind(socket).expect("a socket can be made");
        let config = EngineConfig { repository_tokens, ..engine_config(data.path()) };
        let engine = Engine::new(config, store.clone(), Arc::new(backend.clone()), "fake");
        let stop = CancellationToken::new();
        let running = {
            let (engine, stop) = (engine.clone(), stop.clone());
            tokio::spawn(async move { engine.run(links, stop).await })
        };
        (engine, stop, running)
    }

    /// A new server on the same database, sandboxes as they are. All links end.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        soon("the engine ends", &mut self.running).await.expect("the engine does not panic");
        (self.engine, self.stop, self.running) = Self::run(&self.data, &self.store, &self.backend, self.tokens.clone());
    }

    pub async fn agent(&self, env_vars: &[(&str, &str)]) -> AgentId {
        let new = NewAgent {
            model: Some("test/model".into()),
            harness_id: Some("shell".into()),
            env_vars: secrets(env_vars),
            ..NewAgent::default()
        };
        self.engine.create_agent(new).await.expect("an agent").agent.id
    }

    /// An agent of a repository.
    pub async fn agent_of(&self, repo_url: &str, env_vars: &[(&str, &str)]) -> AgentId {
        let new = NewAgent {
            model: Some("test/model".into()),
            harness_id: Some("shell".into()),
            repo_url: Some(repo_url.into()),
            env_vars: secrets(env_vars),
            ..NewAgent::default()
        };
        self.engine.create_agent(new).await.expect("an agent").agent.id
    }

    pub async fn edit_vars(&self, agent: &AgentId, env_vars: &[(&str, &str)]) {
        let edit = AgentEdit { env_vars: Some(secrets(env_vars)), ..AgentEdit::default() };
        self.engine.update_agent(agent, edit).await.expect("an edit");
    }

    pub async fn session(&self, agent: &AgentId, new: NewSession) -> SessionId {
        self.engine.create_session(agent, new).await.expect("a session").session.id
    }

    /// The session's sandbox as it was asked for, as soon as it is.
    pub async fn sandbox(&self) -> SandboxSpec {
        soon("a sandbox is made", self.backend.wait_running(1)).await.remove(0)
    }

    pub async fn dial(&self, spec: &SandboxSpec, memory: Memory) -> Sidecar {
        Sidecar::dial(self, spec, memory).await
    }

    /// A session that is ready, with its sidecar.
    pub async fn ready(&self, agent: &AgentId, new: NewSession) -> (SessionId, Sidecar) {
        let session = self.session(agent, new).await;
        let spec = self.sandbox().await;
        let mut sidecar = self.dial(&spec, Memory::default()).await;
        sidecar.boot().await;
        sidecar.report(Report::Ready).await;
        self.state(&session, "ready").await;
        (session, sidecar)
    }

    /// Waits for the session to get there, whatever it was before; answers with the state.
    pub async fn state(&self, session: &SessionId, name: &str) -> SessionState {
        let mut newest = self.store.subscribe(session);
        soon(name, async {
            loop {
                newest.borrow_and_update();
                let state = self.store.session(session).await.expect("the session").state;
                if state.as_str() == name {
                    return state;
                }
                newest.changed().await.expect("the session stays");
            }
        })
        .await
    }

    /// Waits for an event of this name; answers with its data.
    pub async fn event(&self, session: &SessionId, name: &str) -> String {
        let mut newest = self.store.subscribe(session);
        soon(name, async {
            loop {
                newest.borrow_and_update();
                let events = self.store.events(session, 0, 1000).await.expect("the log");
                if let Some(event) = events.into_iter().rev().find(|event| event.kind == name) {
                    return event.data;
                }
                newest.changed().await.expect("the session stays");
            }
        })
        .await
    }

    pub async fn no_sandboxes(&self) {
        soon("the sandboxes go", self.backend.wait_running(0)).await;
    }

    pub async fn say(&self, session: &SessionId, text: &str) -> QueuedTurn {
        let turn = NewTurn { text: text.into(), attachments: Vec::new(), idempotency: None };
        self.engine.send(session, turn).await.expect("a turn")
    }

    /// The words of the answer, or the code of the failure.
    pub async fn answer(&self, session: &SessionId, turn: &QueuedTurn) -> String {
        match soon("the answer", self.engine.answer(session, &turn.id)).await {
            Ok(message) => format!("{:?}", message.parts),
            Err(EngineError::TurnFailed { code, .. }) => code,
            Err(problem) => panic!("{problem}"),
        }
    }

    /// The session's log: numbers and names.
    pub async fn log(&self, session: &SessionId) -> Vec<(u64, String)> {
        let events: Vec<Event> = self.engine.events(session, 0, 1000).await.expect("the log");
        let name = |event: &Event| {
            serde_json::to_value(&event.kind).expect("plain data")["type"]
                .as_str()
                .expect("events have types")
                .to_owned()
        };
        events.iter().map(|event| (event.id, name(event))).collect()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        soon("the engine ends", self.running).await.expect("the engine does not panic");
        self.store.close().await;
    }
}

/// What a sidecar keeps across links.
#[derive(Default)]
pub struct Memory {
    pub booted: bool,
    pub last_turn_id: Option<String>,
    /// Entry `n` has the number `n + 1`.
    pub log: Vec<LogEntry>,
    /// Up to here the server has acknowledged.
    pub acked: u64,
    /// None: a sidecar of before lists could change.
    pub egress_revision: Option<u64>,
}

pub struct Sidecar {
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
    pub memory: Memory,
    pub resume_after: u64,
    waiting: VecDeque<ServerToSidecar>,
}

impl Sidecar {
    async fn dial(world: &World, spec: &SandboxSpec, memory: Memory) -> Self {
        let mut sidecar = Self::hello(world, spec, memory).await;
        match sidecar.read().await {
            Some(ServerToSidecar::Welcome { resume_after, .. }) => sidecar.resume_after = resume_after,
            other => panic!("not a welcome: {other:?}"),
        }
        for number in sidecar.resume_after..sidecar.memory.log.len() as u64 {
            sidecar.send_entry(number).await;
        }
        sidecar
    }

    /// Only dials and says hello.
    pub async fn hello(world: &World, spec: &SandboxSpec, memory: Memory) -> Self {
        let stream = UnixStream::connect(world.data.path().join("link.sock")).await.expect("the server listens");
        let (from, to) = stream.into_split();
        let (reader, mut writer) = (Reader::new(from, MAX_FRAME_BYTES), Writer::new(to));
        let hello = Hello {
            protocol: PROTOCOL,
            sandbox_id: spec.id.to_string(),
            boot_token: spec.boot_token.0.clone(),
            log_head: memory.log.len() as u64,
            booted: memory.booted,
            last_turn_id: memory.last_turn_id.clone(),
            holds: Vec::new(),
            pid: 1,
            limited: false,
            egress_revision: memory.egress_revision,
        };
        writer.send(&SidecarToServer::Hello(hello)).await.expect("the server reads");
        Self { reader, writer, memory, resume_after: 0, waiting: VecDeque::new() }
    }

    async fn read(&mut self) -> Option<ServerToSidecar> {
        soon("a message of the server", self.reader.next()).await.expect("the link holds")
    }

    /// The next thing to do; acknowledgements are noted on the way.
    pub async fn next(&mut self) -> Option<ServerToSidecar> {
        if let Some(message) = self.waiting.pop_front() {
            return Some(message);
        }
        loop {
            match self.read().await {
                Some(ServerToSidecar::Ack { seq }) => self.memory.acked = seq,
                other => return other,
            }
        }
    }

    /// Takes the boot message and says so.
    pub async fn boot(&mut self) -> Boot {
        let boot = self.boot_unsaid().await;
        self.memory.booted = true;
        self.entry(LogEntry::Booted).await;
        boot
    }

    /// Takes the boot message; the server does not hear of it.
    pub async fn boot_unsaid(&mut self) -> Boot {
        match self.next().await {
            Some(ServerToSidecar::Boot(boot)) => *boot,
            other => panic!("not the boot message: {other:?}"),
        }
    }

    pub async fn credentials(&mut self) -> Vec<CredentialGrant> {
        self.credentials_and_kept().await.0
    }

    /// The new credentials, and the names of those that stay as they are.
    pub async fn credentials_and_kept(&mut self) -> (Vec<CredentialGrant>, Vec<String>) {
        match self.next().await {
            Some(ServerToSidecar::Credentials { credentials, keep }) => (credentials, keep),
            other => panic!("not credentials: {other:?}"),
        }
    }

    /// Takes other lists: revision, `allow_out`, `deny_out`.
    pub async fn lists(&mut self) -> (u64, Vec<String>, Vec<String>) {
        match self.next().await {
            Some(ServerToSidecar::Egress { revision, allow_out, deny_out }) => {
                self.memory.egress_revision = Some(revision);
                (revision, allow_out, deny_out)
            }
            other => panic!("not lists: {other:?}"),
        }
    }

    pub async fn turn(&mut self) -> Turn {
        match self.next().await {
            Some(ServerToSidecar::Guest(message)) => match *message {
                ToGuest::Turn(turn) => {
                    self.memory.last_turn_id = Some(turn.turn_id.clone());
                    turn
                }
                other => panic!("not a turn: {other:?}"),
            },
            other => panic!("not a turn: {other:?}"),
        }
    }

    pub async fn abort(&mut self) -> String {
        match self.next().await {
            Some(ServerToSidecar::Guest(message)) => match *message {
                ToGuest::Abort { turn_id } => turn_id,
                other => panic!("not an abort: {other:?}"),
            },
            other => panic!("not an abort: {other:?}"),
        }
    }

    /// Adds an entry to the log, sends it, and waits until it is acknowledged.
    pub async fn entry(&mut self, entry: LogEntry) {
        self.entry_unacked(entry).await;
        self.all_acked().await;
    }

    /// Adds an entry to the log without sending it, as while the link is down.
    pub fn entry_unsent(&mut self, entry: LogEntry) {
        self.memory.log.push(entry);
    }

    /// Sends an entry and does not wait.
    pub async fn entry_unacked(&mut self, entry: LogEntry) {
        self.memory.log.push(entry);
        self.send_entry(self.memory.log.len() as u64 - 1).await;
    }

    async fn send_entry(&mut self, number: u64) {
        let entry = self.memory.log[usize::try_from(number).expect("small")].clone();
        let message = SidecarToServer::Log { seq: number + 1, at_ms: jiff::Timestamp::now().as_millisecond(), entry };
        self.writer.send(&message).await.expect("the server reads");
    }

    pub async fn all_acked(&mut self) {
        while self.memory.acked < self.memory.log.len() as u64 {
            match self.read().await.expect("the link holds") {
                ServerToSidecar::Ack { seq } => self.memory.acked = seq,
                other => self.waiting.push_back(other),
            }
        }
    }

    pub async fn report(&mut self, report: Report) {
        self.entry(LogEntry::Guest(report)).await;
    }

    pub async fn complete(&mut self, turn: &Turn, text: &str) {
        self.report(completed(turn, text)).await;
    }

    /// The server has nothing more to say and hangs up.
    pub async fn hung_up(&mut self) {
        while let Ok(Some(message)) = soon("the end of the link", self.reader.next::<ServerToSidecar>()).await {
            assert!(matches!(message, ServerToSidecar::Ack { .. }), "{message:?}");
        }
    }

    /// Breaks the link; what the sidecar knows stays.
    pub fn down(self) -> Memory {
        self.memory
    }
}

pub fn completed(turn: &Turn, text: &str) -> Report {
    let info = MessageInfo {
        id: format!("m-{}", turn.turn_id),
        turn_id: turn.turn_id.clone(),
        role: "assistant".into(),
        created_at: "2026-01-01T00:00:00.000Z".into(),
        model: None,
        usage: None,
        error: None,
    };
    let message = Message { info, parts: vec![Part::Text { id: "p".into(), text: text.into() }] };
    Report::TurnCompleted { turn_id: turn.turn_id.clone(), message, usage: Usage::default() }
}
