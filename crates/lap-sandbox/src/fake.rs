//! A backend without sandboxes, for the engine's tests: remembers what was asked and does what the test says.
//!
//! Time, processes and the link are the test's business: `provision` succeeds at once unless told otherwise, and a sandbox
//! ends when the test says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use crate::{Backend, BackendError, Check, Outcome, SandboxExit, SandboxId, SandboxSpec, SandboxStatus};

/// A backend in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeBackend {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    calls: Vec<Call>,
    exits: Option<mpsc::Sender<SandboxExit>>,
    provision_fails: Option<String>,
    destroy_fails: Option<String>,
    cannot_isolate: Option<String>,
}

#[derive(Debug)]
struct Sandbox {
    spec: SandboxSpec,
    running: bool,
    log: Vec<String>,
}

/// What the engine asked for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A sandbox was asked for, whether or not it was made.
    Provision(SandboxId),
    /// A sandbox was to go, whether or not there was one.
    Destroy(SandboxId),
}

impl FakeBackend {
    /// No sandboxes, and everything works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets every `provision` fail with this reason, or work again.
    pub fn fail_provision(&self, reason: Option<&str>) {
        self.state().provision_fails = reason.map(str::to_owned);
    }

    /// Lets every `destroy` fail with this reason, or work again.
    pub fn fail_destroy(&self, reason: Option<&str>) {
        self.state().destroy_fails = reason.map(str::to_owned);
    }

    /// Makes this a machine that cannot isolate, or a good one again.
    pub fn cannot_isolate(&self, reason: Option<&str>) {
        self.state().cannot_isolate = reason.map(str::to_owned);
    }

    /// Ends a sandbox as if its sidecar had died; false when it does not run.
    pub fn crash(&self, id: &SandboxId, detail: &str) -> bool {
        let ended = self.state().end(id, detail);
        self.inner.changed.notify_waiters();
        ended
    }

    /// Leaves remains of a sandbox that nobody provisioned, as a crashed server would.
    pub fn leave_remains(&self, spec: SandboxSpec) {
        let mut state = self.state();
        state.sandboxes.insert(spec.id.clone(), Sandbox { spec, running: false, log: Vec::new() });
    }

    /// Adds a line to a sandbox's log.
    pub fn write_log(&self, id: &SandboxId, line: &str) {
        if let Some(sandbox) = self.state().sandboxes.get_mut(id) {
            sandbox.log.push(line.to_owned());
        }
    }

    /// What a sandbox was provisioned with, while there is one: its boot token for instance.
    pub fn spec(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.state().sandboxes.get(id).map(|sandbox| sandbox.spec.clone())
    }

    /// The sandboxes that run, by name.
    pub fn running(&self) -> Vec<SandboxId> {
        self.state().sandboxes.iter().filter(|(_, sandbox)| sandbox.running).map(|(id, _)| id.clone()).collect()
    }

    /// Everything asked so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Waits until exactly `count` sandboxes run, and returns their specs.
    pub async fn wait_running(&self, count: usize) -> Vec<SandboxSpec> {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // Listening before looking, so that no change falls between the two.
            changed.as_mut().enable();
            let running: Vec<SandboxSpec> = self
                .state()
                .sandboxes
                .values()
                .filter(|sandbox| sandbox.running)
                .map(|sandbox| sandbox.spec.clone())
                .collect();
            if running.len() == count {
                return running;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, id: &SandboxId, detail: &str) -> bool {
        let Some(sandbox) = self.sandboxes.get_mut(id).filter(|sandbox| sandbox.running) else { return false };
        sandbox.running = false;
        if let Some(exits) = &self.exits {
            // A listener that is gone misses nothing.
            let _ = exits.try_send(SandboxExit { id: id.clone(), detail: detail.to_owned() });
        }
        true
    }

    fn provision(&mut self, spec: &SandboxSpec) -> Result<(), BackendError> {
        self.calls.push(Call::Provision(spec.id.clone()));
        if let Some(reason) = &self.cannot_isolate {
            return Err(BackendError::CannotIsolate(reason.clone()));
        }
        if let Some(what) = &self.provision_fails {
            return Err(BackendError::Provision { id: spec.id.clone(), what: what.clone(), cause: None });
        }
        let running = self.sandboxes.get(&spec.id).is_some_and(|sandbox| sandbox.running);
        if !running {
            let sandbox = Sandbox { spec: spec.clone(), running: true, log: Vec::new() };
            self.sandboxes.insert(spec.id.clone(), sandbox);
        }
        Ok(())
    }

    fn destroy(&mut self, id: &SandboxId) -> Result<(), BackendError> {
        self.calls.push(Call::Destroy(id.clone()));
        if let Some(what) = &self.destroy_fails {
            return Err(BackendError::Destroy { id: id.clone(), what: what.clone(), cause: None });
        }
        self.end(id, "destroyed");
        self.sandboxes.remove(id);
        Ok(())
    }
}

impl Backend for FakeBackend {
    fn provision<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let result = self.state().provision(spec);
            self.inner.changed.notify_waiters();
            result
        })
    }

    fn destroy<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let result = self.state().destroy(id);
            self.inner.changed.notify_waiters();
            result
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, BackendError>> {
        Box::pin(async move {
            let state = self.state();
            let status =
                |(id, sandbox): (&SandboxId, &Sandbox)| SandboxStatus { id: id.clone(), running: sandbox.running };
            Ok(state.sandboxes.iter().map(status).collect())
        })
    }

    fn exits(&self) -> mpsc::Receiver<SandboxExit> {
        let (sender, receiver) = mpsc::channel(crate::EXITS);
        self.state().exits = Some(sender);
        receiver
    }

    fn logs<'a>(&'a self, id: &'a SandboxId, tail: usize) -> BoxFuture<'a, Result<String, BackendError>> {
        Box::pin(async move {
            let state = self.state();
            let lines = state.sandboxes.get(id).map_or(&[][..], |sandbox| &sandbox.log);
            Ok(lines[lines.len().saturating_sub(tail)..].join("\n"))
        })
    }

    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async move {
            let (outcome, detail) = match &self.state().cannot_isolate {
                None => (Outcome::Ok, "nothing is isolated, and nothing needs to be".to_owned()),
                Some(reason) => (Outcome::Missing, reason.clone()),
            };
            vec![Check { name: "fake".to_owned(), outcome, detail }]
        })
    }
}
