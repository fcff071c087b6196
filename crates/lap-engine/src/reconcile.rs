//! The one loop that makes and removes sandboxes: observe, plan, execute. Signals make it fast, a timer makes it true.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lap_api::link::{ServerToSidecar, ToGuest};
use lap_domain::chain::chain;
use lap_domain::ids::SessionId;
use lap_domain::session::{Phase, Session, SessionEvent, SessionState};
use lap_sandbox::{BootToken, SandboxId, SandboxSpec};
use lap_store::StoreError;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::plan::{Action, Observed, SessionSeen, is_idle, plan};
use crate::{Engine, EngineError, hex, now, random};

/// Truth is looked up this often even when no signal came.
const EVERY: Duration = Duration::from_secs(15);

/// Sandboxes made or removed at the same time: the work is mostly the kernel's, and more at once only make each slower.
const AT_ONCE: usize = 8;

/// Lines of a sandbox's log that are kept when it goes.
const KEPT_LOG_LINES: usize = 500;

/// Sandboxes that a task is working on.
#[derive(Default)]
pub struct Busy {
    ids: Mutex<BTreeSet<SandboxId>>,
}

impl Busy {
    fn all(&self) -> BTreeSet<SandboxId> {
        self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn claim(&self, id: &SandboxId) -> bool {
        self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id.clone())
    }
}

/// A claim on a sandbox, given back however its task ends.
struct Claim {
    engine: Engine,
    id: SandboxId,
}

impl Claim {
    fn take(engine: &Engine, id: &SandboxId) -> Option<Self> {
        engine.inner.busy.claim(id).then(|| Self { engine: engine.clone(), id: id.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Busy { ids } = &self.engine.inner.busy;
        ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.id);
    }
}

/// Sessions about to be stored. Such a session has no sandbox, and nobody need look around to know it: this spares the
/// common case a look at everything that runs. Whatever goes wrong with an entry, the next look finds the session.
#[derive(Default)]
pub struct Fresh {
    sessions: Mutex<Vec<Coming>>,
    stored: tokio::sync::Notify,
}

struct Coming {
    session: Session,
    /// What it is stored with, for its first sandbox.
    boot_token: BootToken,
    stored: bool,
}

impl Fresh {
    /// To be called before the session is stored: whoever finds it stored can then forget it here.
    pub fn add(&self, session: Session, boot_token: BootToken) {
        self.lock().push(Coming { session, boot_token, stored: false });
    }

    /// The session is stored: its sandbox may be made.
    pub fn stored(&self, id: &SessionId) {
        for coming in self.lock().iter_mut().filter(|coming| coming.session.id == *id) {
            coming.stored = true;
        }
        self.stored.notify_one();
    }

    /// The session could not be stored.
    pub fn drop(&self, id: &SessionId) {
        self.lock().retain(|coming| coming.session.id != *id);
    }

    fn take(&self) -> Vec<Coming> {
        self.lock().extract_if(.., |coming| coming.stored).collect()
    }

    fn forget(&self, seen: &[Session]) {
        self.lock().retain(|coming| seen.iter().all(|seen| seen.id != coming.session.id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Coming>> {
        self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Engine {
    /// Runs links and reconciler until told to stop. Sandboxes live on: the next server takes them over.
    pub async fn run(&self, links: UnixListener, stop: CancellationToken) {
        let serving = self.serve_links(links, stop.clone());
        let reconciling = async {
            let mut tasks = JoinSet::new();
            let mut exits = self.inner.backend.exits();
            let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
            let mut look = true;
            loop {
                for Coming { session, boot_token, .. } in self.inner.fresh.take() {
                    self.spawn_provision(session, Some(boot_token), &mut tasks, &slots);
                }
                if std::mem::replace(&mut look, true)
                    && let Err(problem) = self.reconcile(&mut tasks, &slots).await
                {
                    tracing::error!(problem = &problem as &dyn std::error::Error, "could not reconcile");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.inner.wake.notified() => {}
                    // Only this one is new; the look around comes when its sandbox is made.
                    () = self.inner.fresh.stored.notified() => look = false,
                    Some(exit) = exits.recv() => {
                        tracing::info!(sandbox.id = %exit.id, "a sidecar ended: {}", exit.detail);
                    }
                    () = tokio::time::sleep(EVERY) => {}
                }
                while tasks.try_join_next().is_some() {}
            }
            // What is half made is finished or undone; nothing new is begun.
            slots.close();
            while tasks.join_next().await.is_some() {}
        };
        tokio::join!(serving, reconciling, self.renew_tokens(&stop));
    }

    async fn reconcile(&self, tasks: &mut JoinSet<()>, slots: &Arc<tokio::sync::Semaphore>) -> Result<(), EngineError> {
        let before = now();
        // Busy first, sandboxes before sessions: a sandbox made in between is then either busy or has its session.
        let busy = self.inner.busy.all();
        let sandboxes = self.inner.backend.list().await.map_err(|p| EngineError::Unavailable(p.to_string()))?;
        let sessions = self.inner.store.live_sessions().await?;
        self.inner.fresh.forget(&sessions);
        let keep = sessions.iter().map(|session| session.id.clone()).collect();
        self.inner.live.retain(&keep, before.plus_ms(-60_000));
        let mut wanting = Vec::with_capacity(sessions.len());
        for session in sessions {
            wanting.push(self.see(session).await?);
        }
        let observed = Observed { wanting, sandboxes, busy };
        for action in plan(&observed, self.inner.config.turn_stall_timeout_ms, now()) {
            match action {
                Action::Provision(id) => {
                    let Some(seen) = observed.wanting.iter().find(|seen| seen.session.id == id) else { continue };
                    self.spawn_provision(seen.session.clone(), None, tasks, slots);
                }
                Action::Destroy(id) => self.spawn_destroy(id, tasks, slots),
                Action::Move(id, event) => {
                    let Some(seen) = observed.wanting.iter().find(|seen| seen.session.id == id) else { continue };
                    told(&id, self.move_session(&id, seen.session.incarnation, event).await);
                }
                Action::FailTurn(id) => told(&id, self.fail_stalled_turn(&id).await),
            }
        }
        Ok(())
    }

    async fn see(&self, session: Session) -> Result<SessionSeen, EngineError> {
        let seen = self.inner.live.see(&session.id, now());
        // Asked only where it matters: the reconciler looks often.
        let open_turns = is_idle(&session, now()) && self.inner.store.waiting_turns(&session.id).await? > 0;
        Ok(SessionSeen {
            open_turns,
            bring_up_since: seen.bring_up_since.max(session.created_at),
            unlinked_ms: seen.unlinked_ms,
            booted: seen.booted,
            held_keys: seen.held_keys,
            turn_quiet_ms: seen.turn_quiet_ms,
            session,
        })
    }

    /// Makes a session's sandbox. `stored` is the token that a fresh session was stored with.
    fn spawn_provision(
        &self,
        session: Session,
        stored: Option<BootToken>,
        tasks: &mut JoinSet<()>,
        slots: &Arc<tokio::sync::Semaphore>,
    ) {
        let Some(id) = SandboxId::new(&session.sandbox_name()) else { return };
        let Some(claim) = Claim::take(self, &id) else { return };
        let (engine, slots) = (self.clone(), slots.clone());
        tasks.spawn(async move {
            // Waiting for somebody else's server takes none of the slots.
            let token = engine.token_for_provision(&session, &slots).await;
            // Closed: the server stops, and the next one begins anew.
            let waited = slots.available_permits() == 0;
            let Ok(_slot) = slots.acquire().await else { return };
            let made = match (token, stored) {
                (Ok(()), Some(token)) if !waited => engine.make_sandbox(&session, &id, token).await,
                (Ok(()), _) => engine.provision(&session, &id).await,
                (Err(problem), _) => Err(problem),
            };
            if let Err(problem) = made {
                let why = chain(&problem);
                tracing::error!(session.id = %session.id, "could not make a sandbox: {why}");
                let event = SessionEvent::BootFailed { reason: why };
                told(&session.id, engine.move_session(&session.id, session.incarnation, event).await);
            }
            drop(claim);
            engine.inner.wake.notify_one();
        });
    }

    async fn provision(&self, session: &Session, id: &SandboxId) -> Result<(), EngineError> {
        let store = &self.inner.store;
        // It may have ended while it waited for its turn.
        match store.session(&session.id).await {
            Ok(now) if now.state == SessionState::Creating && now.incarnation == session.incarnation => {}
            Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(problem) => return Err(problem.into()),
        }
        let token = fresh_boot_token();
        // Before the sandbox can call.
        store.set_boot_token(&session.id, session.incarnation, &token.0).await?;
        self.make_sandbox(session, id, token).await
    }

    /// Makes the sandbox of a session that is stored with this token. That it is being made is told meanwhile.
    async fn make_sandbox(&self, session: &Session, id: &SandboxId, boot_token: BootToken) -> Result<(), EngineError> {
        let store = &self.inner.store;
        let spec = SandboxSpec {
            id: id.clone(),
            boot_token,
            limits: self.inner.config.limits,
            tools: self.tools_of(&session.harness_id),
        };
        let telling = store.set_phase(&session.id, session.incarnation, Phase::CreatingSandbox, None, now());
        let (made, told) = tokio::join!(self.inner.backend.provision(&spec), telling);
        self.inner.live.provisioned(&session.id, now());
        made.map_err(|problem| EngineError::Unavailable(chain(&problem)))?;
        told?;
        Ok(())
    }

    fn spawn_destroy(&self, id: SandboxId, tasks: &mut JoinSet<()>, slots: &Arc<tokio::sync::Semaphore>) {
        let Some(claim) = Claim::take(self, &id) else { return };
        let (engine, slots) = (self.clone(), slots.clone());
        tasks.spawn(async move {
            let _claim = claim;
            let Ok(_slot) = slots.acquire().await else { return };
            engine.keep_logs(&id).await;
            if let Err(problem) = engine.inner.backend.destroy(&id).await {
                // The timer brings the next try.
                tracing::error!(sandbox.id = %id, "could not remove a sandbox: {}", chain(&problem));
            }
        });
    }

    /// Moves a session of which this was seen. It may have moved by itself meanwhile; then that counts.
    pub(crate) async fn move_session(
        &self,
        id: &SessionId,
        incarnation: u32,
        event: SessionEvent,
    ) -> Result<(), EngineError> {
        match self.inner.store.apply(id, incarnation, event, now()).await {
            Ok(_) => {
                self.inner.live.forget_vars(id);
                self.inner.wake.notify_one();
                Ok(())
            }
            Err(StoreError::Illegal(illegal)) => {
                tracing::warn!(session.id = %id, "{illegal}");
                Ok(())
            }
            Err(StoreError::NotFound { .. } | StoreError::StaleSandbox { .. }) => Ok(()),
            Err(problem) => Err(problem.into()),
        }
    }

    async fn fail_stalled_turn(&self, id: &SessionId) -> Result<(), EngineError> {
        let Some(turn) = self.inner.live.running(id) else { return Ok(()) };
        let minutes = self.inner.config.turn_stall_timeout_ms / 60_000;
        let error = format!("the turn gave no sign of life for {minutes} minutes");
        if let Some(link) = self.inner.live.link(id) {
            // A sandbox that takes nothing any more must not hold up the reconciler.
            let abort = ToGuest::Abort { turn_id: turn.to_string() };
            let _ = link.try_send(ServerToSidecar::Guest(Box::new(abort)));
        }
        self.inner.store.fail_turn(id, &turn, "turn_stalled", &error, now()).await?;
        self.inner.live.turn_over(id);
        self.inner.store.touch(id, now()).await?;
        self.dispatch(id).await;
        Ok(())
    }

    /// Keeps the last lines of a sandbox whose session still exists, for whoever asks why it ended.
    async fn keep_logs(&self, sandbox: &SandboxId) {
        let Some((session, _)) = sandbox.as_str().rsplit_once('-') else { return };
        let session = SessionId::new(session);
        let kept = async {
            if !matches!(self.inner.store.session(&session).await, Ok(s) if !matches!(s.state, SessionState::Ready)) {
                return Ok(());
            }
            let text = self.inner.backend.logs(sandbox, KEPT_LOG_LINES).await.unwrap_or_default();
            let path = self.kept_logs(&session);
            if let Some(folder) = path.parent() {
                tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
            }
            tokio::fs::write(path, text).await?;
            if matches!(self.inner.store.session(&session).await, Err(StoreError::NotFound { .. })) {
                // Deleted meanwhile, when there was nothing to delete yet.
                self.remove_kept_logs(&session).await;
            }
            Ok::<(), std::io::Error>(())
        };
        if let Err(problem) = kept.await {
            tracing::warn!(session.id = %session, "could not keep the log of a sandbox: {problem}");
        }
    }

    pub(crate) async fn remove_kept_logs(&self, session: &SessionId) {
        let _ = tokio::fs::remove_file(self.kept_logs(session)).await;
    }

    pub(crate) fn kept_logs(&self, session: &SessionId) -> std::path::PathBuf {
        self.inner.config.data_dir.join("logs").join(format!("{session}.log"))
    }
}

/// What a sidecar will prove itself with.
pub fn fresh_boot_token() -> BootToken {
    BootToken(hex(&random::<32>()))
}

/// What goes wrong for one session must not keep the others waiting; the next round tries again.
fn told(session: &SessionId, result: Result<(), EngineError>) {
    if let Err(problem) = result {
        tracing::error!(session.id = %session, problem = &problem as &dyn std::error::Error, "could not do what was planned");
    }
}
