//! What the platform itself can say: harnesses, numbers, health; and the kept log of a session's sandbox.

use lap_api::link::HarnessLaunch;
use lap_api::session::Interception;
use lap_domain::chain::chain;
use lap_domain::ids::SessionId;
use lap_sandbox::{Outcome, SandboxId, ToolMount};

use crate::{Engine, EngineError, Page, rfc3339};

/// A harness and whether it can run here.
#[derive(Debug, Clone)]
pub struct HarnessView {
    pub id: String,
    pub name: String,
    pub version: String,
    pub installed: bool,
    pub supports_tui: bool,
    /// How to install it, or why it cannot be used, when it is not installed.
    pub detail: Option<String>,
}

/// Numbers of the whole platform.
#[derive(Debug, Clone)]
pub struct Stats {
    pub agents: u64,
    /// Sessions by state.
    pub sessions: Vec<(&'static str, u64)>,
    pub backend: &'static str,
    pub version: &'static str,
}

impl Engine {
    /// Every harness agents can be made for.
    pub async fn harnesses(&self) -> Vec<HarnessView> {
        self.offered().map(|harness| self.harness_view(harness)).collect()
    }

    /// Numbers of the whole platform.
    pub async fn stats(&self) -> Result<Stats, EngineError> {
        let counts = self.inner.store.counts().await?;
        Ok(Stats {
            agents: counts.agents,
            sessions: vec![
                ("creating", counts.creating),
                ("ready", counts.ready),
                ("failed", counts.failed),
                ("dead", counts.dead),
            ],
            backend: self.inner.backend_name,
            version: env!("CARGO_PKG_VERSION"),
        })
    }

    /// Whether sandboxes can be made; the error says what is missing.
    pub async fn backend_health(&self) -> Result<(), String> {
        let checks = self.inner.backend.checks().await;
        let missing = checks.iter().filter(|check| check.outcome == Outcome::Missing);
        let missing: Vec<String> = missing.map(|check| format!("{}: {}", check.name, check.detail)).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), String> {
        self.inner.store.ping().await.map_err(|problem| chain(&problem))
    }

    /// A page of the session's egress record, newest first.
    pub async fn interceptions(
        &self,
        session: &SessionId,
        limit: u32,
        offset: u64,
    ) -> Result<Page<Interception>, EngineError> {
        self.inner.store.session(session).await?;
        let page = self.inner.store.interceptions(session, limit, offset).await?;
        Ok(Page { rows: page.rows.into_iter().map(interception).collect(), total: page.total })
    }

    /// The egress record after line `after`, oldest first, for export.
    pub async fn interceptions_after(
        &self,
        session: &SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Interception>, EngineError> {
        self.inner.store.session(session).await?;
        let rows = self.inner.store.interceptions_after(session, after, limit).await?;
        Ok(rows.into_iter().map(interception).collect())
    }

    /// Names of the session's credentials; those that came with the session are among them.
    pub async fn vault_keys(&self, session: &SessionId) -> Result<Vec<String>, EngineError> {
        self.inner.store.session(session).await?;
        Ok(self.inner.store.stubs(session).await?.into_keys().collect())
    }

    /// The last `tail` lines of what sidecar, guest and harness wrote; of an ended sandbox, what was kept.
    pub async fn sandbox_logs(&self, id: &SessionId, tail: usize) -> Result<String, EngineError> {
        let session = self.inner.store.session(id).await?;
        let Some(sandbox) = SandboxId::new(&session.sandbox_name()) else { return Ok(String::new()) };
        let logs = self.inner.backend.logs(&sandbox, tail).await;
        let logs = logs.map_err(|problem| EngineError::Unavailable(chain(&problem)))?;
        // What is kept is written before the sandbox goes: asked in this order, the one or the other has it.
        if session.state.wants_sandbox() || !logs.is_empty() {
            return Ok(logs);
        }
        let kept = match tokio::fs::read_to_string(self.kept_logs(id)).await {
            Ok(text) => text,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(problem) => return Err(EngineError::Internal(Box::new(problem))),
        };
        let lines: Vec<&str> = kept.lines().collect();
        Ok(lines[lines.len().saturating_sub(tail)..].iter().flat_map(|line| [*line, "\n"]).collect())
    }

    fn offered(&self) -> impl Iterator<Item = &'static lap_harness::Harness> {
        let tests_too = self.inner.config.test_harnesses;
        lap_harness::known().iter().filter(move |harness| tests_too || !harness.test_only)
    }

    pub(crate) fn known_harness_ids(&self) -> Vec<String> {
        self.offered().map(|harness| harness.id.clone()).collect()
    }

    pub(crate) fn known_harness(&self, id: &str) -> Option<&'static lap_harness::Harness> {
        self.offered().find(|harness| harness.id == id)
    }

    /// The harness, if sessions of it can run here.
    pub(crate) fn installed_harness(&self, id: &str) -> Result<&'static lap_harness::Harness, EngineError> {
        let not_here = |how: String| EngineError::HarnessNotInstalled { harness: id.to_owned(), how };
        let harness = self.known_harness(id).ok_or_else(|| not_here("this server does not know it".into()))?;
        if harness.installed(&self.inner.config.data_dir) {
            Ok(harness)
        } else {
            Err(not_here(harness.how_to_install()))
        }
    }

    pub(crate) fn launch_of(&self, id: &str) -> Result<HarnessLaunch, EngineError> {
        Ok(self.installed_harness(id)?.launch())
    }

    pub(crate) fn tools_of(&self, id: &str) -> Vec<ToolMount> {
        let folder = self.known_harness(id).and_then(|harness| harness.folder(&self.inner.config.data_dir));
        folder.into_iter().map(|source| ToolMount { source, name: "harness".into() }).collect()
    }

    fn harness_view(&self, harness: &lap_harness::Harness) -> HarnessView {
        let installed = harness.installed(&self.inner.config.data_dir);
        HarnessView {
            id: harness.id.clone(),
            name: harness.name.clone(),
            version: harness.version.clone(),
            installed,
            supports_tui: harness.supports_tui,
            detail: (!installed).then(|| harness.how_to_install()),
        }
    }
}

fn interception(row: lap_store::EgressRecord) -> Interception {
    let lap_store::EgressRecord { id, at, line } = row;
    let lap_store::EgressLine {
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
    } = line;
    Interception {
        id,
        at: rfc3339(at),
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
    }
}
