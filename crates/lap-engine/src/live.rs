//! What only the server's memory knows of live sessions: their links, the session-level secrets on their way to the
//! sidecar, the turn that runs. Lost with the server by design; a sidecar that dials again brings back what matters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use lap_api::link::ServerToSidecar;
use lap_domain::ids::{SessionId, TurnId};
use lap_domain::secret::Secret;
use lap_domain::time::Timestamp;
use tokio::sync::{Notify, mpsc};

/// Variables given at session creation, kept here until the sidecar has them and nowhere else.
#[derive(Debug, Clone, Default)]
pub struct SessionVars {
    pub env_vars: BTreeMap<String, Secret>,
    pub plain_env_vars: Vec<String>,
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
}

/// One session's entry.
#[derive(Debug, Default)]
pub struct Live {
    pub vars: Option<SessionVars>,
    /// The sidecar has said that it has its boot message.
    pub booted: bool,
    pub bring_up_since: Timestamp,
    pub unlinked_since: Timestamp,
    link: Option<Link>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Link {
    /// Tells this link from the one that replaced it.
    number: u64,
    to: mpsc::Sender<ServerToSidecar>,
}

#[derive(Debug)]
struct Running {
    turn: TurnId,
    last_life: Timestamp,
}

/// All entries.
#[derive(Default)]
pub struct LiveSessions {
    entries: Mutex<HashMap<SessionId, Live>>,
    /// Some link came up.
    linked: Notify,
}

/// A copy of what the reconciler wants to know.
pub struct Seen {
    pub bring_up_since: Timestamp,
    pub unlinked_ms: Option<i64>,
    pub booted: bool,
    pub held_keys: BTreeSet<String>,
    pub turn_quiet_ms: Option<i64>,
}

impl LiveSessions {
    fn with<T>(&self, session: &SessionId, now: Timestamp, work: impl FnOnce(&mut Live) -> T) -> T {
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = || Live { bring_up_since: now, unlinked_since: now, ..Live::default() };
        work(entries.entry(session.clone()).or_insert_with(fresh))
    }

    /// Starts an entry that holds the session's variables.
    pub fn open(&self, session: &SessionId, vars: SessionVars, now: Timestamp) {
        self.with(session, now, |live| live.vars = Some(vars));
    }

    /// Forgets a session; its secrets are wiped.
    pub fn close(&self, session: &SessionId) {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(session);
    }

    /// Forgets every session but these.
    pub fn retain(&self, keep: &BTreeSet<SessionId>, created_before: Timestamp) {
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.retain(|id, live| keep.contains(id) || live.bring_up_since >= created_before);
    }

    /// What is known now; an unknown session gets an entry as of `now`.
    pub fn see(&self, session: &SessionId, now: Timestamp) -> Seen {
        self.with(session, now, |live| Seen {
            bring_up_since: live.bring_up_since,
            unlinked_ms: live.link.is_none().then(|| now.since(live.unlinked_since)),
            booted: live.booted,
            held_keys: live.vars.iter().flat_map(|vars| vars.env_vars.keys().cloned()).collect(),
            turn_quiet_ms: live.running.as_ref().map(|running| now.since(running.last_life)),
        })
    }

    /// The session's variables, as long as they are here.
    pub fn vars(&self, session: &SessionId, now: Timestamp) -> Option<SessionVars> {
        self.with(session, now, |live| live.vars.clone())
    }

    /// The sidecar has its boot message: the session's variables are its alone from now on.
    pub fn booted(&self, session: &SessionId, now: Timestamp) {
        self.with(session, now, |live| {
            live.booted = true;
            live.vars = None;
        });
    }

    /// A link came up; it replaces an older one, whose task ends when its sender is dropped.
    pub fn link_up(&self, session: &SessionId, number: u64, to: mpsc::Sender<ServerToSidecar>, now: Timestamp) {
        self.with(session, now, |live| live.link = Some(Link { number, to }));
        self.linked.notify_waiters();
    }

    /// A link ended. Nothing happens when another has replaced it.
    pub fn link_down(&self, session: &SessionId, number: u64, now: Timestamp) {
        self.with(session, now, |live| {
            if live.link.as_ref().is_some_and(|link| link.number == number) {
                live.link = None;
                live.unlinked_since = now;
            }
        });
    }

    /// Where to send what the sidecar should do; none while there is no link.
    pub fn link(&self, session: &SessionId, now: Timestamp) -> Option<mpsc::Sender<ServerToSidecar>> {
        self.with(session, now, |live| live.link.as_ref().map(|link| link.to.clone()))
    }

    /// The same, waiting for a sidecar that is dialling again.
    pub async fn link_within(&self, session: &SessionId, at_most: Duration) -> Option<mpsc::Sender<ServerToSidecar>> {
        let there = async {
            loop {
                let linked = self.linked.notified();
                tokio::pin!(linked);
                linked.as_mut().enable();
                if let Some(link) = self.link(session, crate::now()) {
                    return link;
                }
                linked.await;
            }
        };
        tokio::time::timeout(at_most, there).await.ok()
    }

    /// A turn runs now.
    pub fn turn_running(&self, session: &SessionId, turn: TurnId, now: Timestamp) {
        self.with(session, now, |live| live.running = Some(Running { turn, last_life: now }));
    }

    /// The sandbox said something.
    pub fn life(&self, session: &SessionId, now: Timestamp) {
        self.with(session, now, |live| {
            if let Some(running) = &mut live.running {
                running.last_life = now;
            }
        });
    }

    /// No turn runs any more.
    pub fn turn_over(&self, session: &SessionId, now: Timestamp) {
        self.with(session, now, |live| live.running = None);
    }

    /// The turn that runs.
    pub fn running(&self, session: &SessionId, now: Timestamp) -> Option<TurnId> {
        self.with(session, now, |live| live.running.as_ref().map(|running| running.turn.clone()))
    }
}
