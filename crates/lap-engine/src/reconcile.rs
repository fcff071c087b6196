//! The one loop that makes and removes sandboxes: observe, plan, execute. Signals make it fast, a timer makes it true.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lap_domain::chain::chain;
use lap_domain::ids::SessionId;
use lap_domain::session::{Phase, Session, SessionEvent, SessionState};
use lap_sandbox::{BootToken, SandboxId, SandboxSpec};
use lap_store::StoreError;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::plan::{Action, Observed, SessionSeen, plan};
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

    fn release(&self, id: &SandboxId) {
        self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
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
            loop {
                if let Err(problem) = self.reconcile(&mut tasks, &slots).await {
                    tracing::error!(problem = &problem as &dyn std::error::Error, "could not reconcile");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.inner.wake.notified() => {}
                    exit = exits.recv() => if let Some(exit) = exit {
                        tracing::info!(sandbox.id = %exit.id, "a sidecar ended: {}", exit.detail);
                    } else {
                        tokio::time::sleep(EVERY).await;
                    },
                    () = tokio::time::sleep(EVERY) => {}
                }
                while tasks.try_join_next().is_some() {}
            }
            // What is half made is finished or undone; nothing new is begun.
            while tasks.join_next().await.is_some() {}
        };
        tokio::join!(serving, reconciling);
    }

    async fn reconcile(&self, tasks: &mut JoinSet<()>, slots: &Arc<tokio::sync::Semaphore>) -> Result<(), EngineError> {
        let before = now();
        // Busy first, sandboxes before sessions: a sandbox made in between is then either busy or has its session.
        let busy = self.inner.busy.all();
        let sandboxes = self.inner.backend.list().await.map_err(|p| EngineError::Unavailable(p.to_string()))?;
        let sessions = self.inner.store.live_sessions().await?;
        let keep = sessions.iter().map(|session| session.id.clone()).collect();
        self.inner.live.retain(&keep, before.plus_ms(-60_000));
        let wanting = sessions.into_iter().map(|session| self.see(session)).collect();
        let observed = Observed { wanting, sandboxes, busy };
        for action in plan(&observed, self.inner.config.turn_stall_timeout_ms, now()) {
            match action {
                Action::Provision(id) => {
                    let Some(seen) = observed.wanting.iter().find(|seen| seen.session.id == id) else { continue };
                    self.spawn_provision(seen.session.clone(), tasks, slots);
                }
                Action::Destroy(id) => self.spawn_destroy(id, tasks, slots),
                Action::Move(id, event) => self.move_session(&id, event).await?,
                Action::FailTurn(id) => self.fail_stalled_turn(&id).await?,
            }
        }
        Ok(())
    }

    fn see(&self, session: Session) -> SessionSeen {
        let seen = self.inner.live.see(&session.id, now());
        SessionSeen {
            bring_up_since: seen.bring_up_since.max(session.created_at),
            unlinked_ms: seen.unlinked_ms,
            booted: seen.booted,
            held_keys: seen.held_keys,
            turn_quiet_ms: seen.turn_quiet_ms,
            session,
        }
    }

    fn spawn_provision(&self, session: Session, tasks: &mut JoinSet<()>, slots: &Arc<tokio::sync::Semaphore>) {
        let Some(id) = SandboxId::new(&session.sandbox_name()) else { return };
        if !self.inner.busy.claim(&id) {
            return;
        }
        let (engine, slots) = (self.clone(), slots.clone());
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            if let Err(problem) = engine.provision(&session, &id).await {
                let why = chain(&problem);
                tracing::error!(session.id = %session.id, "could not make a sandbox: {why}");
                let event = SessionEvent::BootFailed { reason: why };
                if let Err(problem) = engine.move_session(&session.id, event).await {
                    tracing::error!(problem = &problem as &dyn std::error::Error, "could not fail a session");
                }
            }
            engine.inner.busy.release(&id);
            engine.inner.wake.notify_one();
        });
    }

    async fn provision(&self, session: &Session, id: &SandboxId) -> Result<(), EngineError> {
        let token = hex(&random::<32>());
        let store = &self.inner.store;
        store.set_boot_token(&session.id, session.incarnation, &token).await?;
        store.set_phase(&session.id, session.incarnation, Phase::CreatingSandbox, None, now()).await?;
        let spec = SandboxSpec {
            id: id.clone(),
            boot_token: BootToken(token),
            limits: self.inner.config.limits,
            tools: self.tools_of(&session.harness_id),
        };
        let made = self.inner.backend.provision(&spec).await;
        made.map_err(|problem| EngineError::Unavailable(chain(&problem)))
    }

    fn spawn_destroy(&self, id: SandboxId, tasks: &mut JoinSet<()>, slots: &Arc<tokio::sync::Semaphore>) {
        if !self.inner.busy.claim(&id) {
            return;
        }
        let (engine, slots) = (self.clone(), slots.clone());
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            engine.keep_logs(&id).await;
            if let Err(problem) = engine.inner.backend.destroy(&id).await {
                // The timer brings the next try.
                tracing::error!(sandbox.id = %id, "could not remove a sandbox: {}", chain(&problem));
            }
            engine.inner.busy.release(&id);
        });
    }

    async fn move_session(&self, id: &SessionId, event: SessionEvent) -> Result<(), EngineError> {
        let incarnation = match self.inner.store.session(id).await {
            Ok(session) => session.incarnation,
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(problem) => return Err(problem.into()),
        };
        match self.inner.store.apply(id, incarnation, event, now()).await {
            Ok(_) => {
                self.inner.wake.notify_one();
                Ok(())
            }
            Err(StoreError::Illegal(illegal)) => {
                tracing::error!(session.id = %id, "{illegal}");
                Ok(())
            }
            Err(StoreError::NotFound { .. } | StoreError::StaleSandbox { .. }) => Ok(()),
            Err(problem) => Err(problem.into()),
        }
    }

    async fn fail_stalled_turn(&self, id: &SessionId) -> Result<(), EngineError> {
        let Some(turn) = self.inner.live.running(id, now()) else { return Ok(()) };
        let minutes = self.inner.config.turn_stall_timeout_ms / 60_000;
        let error = format!("the turn gave no sign of life for {minutes} minutes");
        let _ = self.abort(id).await;
        self.inner.store.fail_turn(id, &turn, "turn_stalled", &error, now()).await?;
        self.inner.live.turn_over(id, now());
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
                tokio::fs::create_dir_all(folder).await?;
            }
            tokio::fs::write(path, text).await
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
