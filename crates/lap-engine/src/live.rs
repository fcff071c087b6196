//! What only the server's memory knows of live sessions: their links, the session-level secrets on their way to the
//! sidecar, the turn that runs. Lost with the server by design; a sidecar that dials again brings back what matters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lap_api::link::{Hello, ServerToSidecar};
use lap_domain::ids::{SessionId, TurnId};
use lap_domain::secret::Secret;
use lap_domain::time::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::channels::ChannelLink;

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
    /// See [`LiveSessions::order`].
    order: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Link {
    /// Tells this link from the one that replaced it.
    number: u64,
    to: mpsc::Sender<ServerToSidecar>,
    channels: ChannelLink,
    /// Its lists can be changed; sidecars of before that was possible would end the link.
    takes_lists: bool,
    /// Ends the link's task.
    over: CancellationToken,
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

impl Live {
    fn has_booted(&mut self) {
        self.booted = true;
        self.vars = None;
    }
}

impl LiveSessions {
    fn with<T>(&self, session: &SessionId, now: Timestamp, work: impl FnOnce(&mut Live) -> T) -> T {
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = || Live { bring_up_since: now, unlinked_since: now, ..Live::default() };
        work(entries.entry(session.clone()).or_insert_with(fresh))
    }

    /// Like `with`, for what is of no consequence when the session is not known here: it may just have been deleted.
    fn known<T>(&self, session: &SessionId, work: impl FnOnce(&mut Live) -> T) -> Option<T> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_mut(session).map(work)
    }

    /// Held while something is read and then sent down the link: so what was read later is never sent earlier.
    pub fn order(&self, session: &SessionId, now: Timestamp) -> Arc<tokio::sync::Mutex<()>> {
        self.with(session, now, |live| live.order.clone())
    }

    /// The session's sandbox has just been started: its time to call back begins.
    pub fn provisioned(&self, session: &SessionId, now: Timestamp) {
        self.known(session, |live| {
            live.bring_up_since = now;
            live.unlinked_since = now;
        });
    }

    /// The session is over: its variables are wiped.
    pub fn forget_vars(&self, session: &SessionId) {
        self.known(session, |live| live.vars = None);
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
    pub fn vars(&self, session: &SessionId) -> Option<SessionVars> {
        self.known(session, |live| live.vars.clone()).flatten()
    }

    /// The sidecar has its boot message: the session's variables are its alone from now on.
    pub fn booted(&self, session: &SessionId) {
        self.known(session, Live::has_booted);
    }

    /// A link came up; it replaces an older one, whose task is told to end. What the sidecar says of itself in its hello is
    /// known together with the link, so that nobody sees one without the other. Answers with what ends this link.
    pub fn link_up(
        &self,
        session: &SessionId,
        number: u64,
        to: mpsc::Sender<ServerToSidecar>,
        channels: ChannelLink,
        hello: &Hello,
        now: Timestamp,
    ) -> CancellationToken {
        let over = CancellationToken::new();
        let takes_lists = hello.egress_revision.is_some();
        self.with(session, now, |live| {
            if hello.booted {
                live.has_booted();
            }
            if let Some(older) = live.link.replace(Link { number, to, channels, takes_lists, over: over.clone() }) {
                older.over.cancel();
            }
        });
        self.linked.notify_waiters();
        over
    }

    /// A link ended. Nothing happens when another has replaced it.
    pub fn link_down(&self, session: &SessionId, number: u64, now: Timestamp) {
        self.known(session, |live| {
            if live.link.as_ref().is_some_and(|link| link.number == number) {
                live.link = None;
                live.unlinked_since = now;
            }
        });
    }

    /// Where to send what the sidecar should do; none while there is no link.
    pub fn link(&self, session: &SessionId) -> Option<mpsc::Sender<ServerToSidecar>> {
        self.known(session, |live| live.link.as_ref().map(|link| link.to.clone())).flatten()
    }

    /// The same, waiting for a sidecar that is dialling again.
    pub async fn link_within(&self, session: &SessionId, at_most: Duration) -> Option<mpsc::Sender<ServerToSidecar>> {
        self.within(at_most, || self.link(session)).await
    }

    /// The link's channels, waiting for a sidecar that is dialling again.
    pub async fn channels_within(&self, session: &SessionId, at_most: Duration) -> Option<ChannelLink> {
        let channels = |live: &mut Live| live.link.as_ref().map(|link| link.channels.clone());
        self.within(at_most, || self.known(session, channels).flatten()).await
    }

    async fn within<T>(&self, at_most: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
        let there = async {
            loop {
                let linked = self.linked.notified();
                tokio::pin!(linked);
                linked.as_mut().enable();
                if let Some(found) = look() {
                    return found;
                }
                linked.await;
            }
        };
        tokio::time::timeout(at_most, there).await.ok()
    }

    /// Where to send other lists; none while there is no link, or when its sidecar cannot take them.
    pub fn link_for_lists(&self, session: &SessionId) -> Option<mpsc::Sender<ServerToSidecar>> {
        let takes = |live: &mut Live| live.link.as_ref().filter(|link| link.takes_lists).map(|link| link.to.clone());
        self.known(session, takes).flatten()
    }

    /// A turn runs now.
    pub fn turn_running(&self, session: &SessionId, turn: TurnId, now: Timestamp) {
        self.known(session, |live| live.running = Some(Running { turn, last_life: now }));
    }

    /// The sandbox said something.
    pub fn life(&self, session: &SessionId, now: Timestamp) {
        self.known(session, |live| {
            if let Some(running) = &mut live.running {
                running.last_life = now;
            }
        });
    }

    /// No turn runs any more.
    pub fn turn_over(&self, session: &SessionId) {
        self.known(session, |live| live.running = None);
    }

    /// The turn that runs.
    pub fn running(&self, session: &SessionId) -> Option<TurnId> {
        self.known(session, |live| live.running.as_ref().map(|running| running.turn.clone())).flatten()
    }
}
