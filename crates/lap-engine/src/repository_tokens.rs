//! Tokens of the platform's own for single repositories, as a GitHub App has them: made when a sandbox needs one, shared by
//! all sessions of a repository, made anew before they end, and told to the vaults that use them.
//!
//! They live in memory alone. After a restart of the server the sidecars keep what they have until a new one is made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lap_api::event::EventKind;
use lap_domain::egress::Entry;
use lap_domain::ids::SessionId;
use lap_domain::repository_token::{Repository, TOKEN_KEY, renew_at, retry_in_ms};
use lap_domain::secret::Secret;
use lap_domain::session::{Session, SessionState};
use lap_domain::time::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::body;
use crate::{Engine, EngineError, bringup, now, rfc3339};

/// How often is looked whether a token is due when nothing else says so. Only a clock that jumped makes this matter.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Tokens made at the same time, so that a restart with many sessions does not look like an attack.
const MINTED_AT_ONCE: usize = 8;

/// What an app that makes tokens for single repositories is to the engine.
#[derive(Clone)]
pub struct RepositoryTokens {
    /// Host, with port where it matters, of the repositories it may have tokens for.
    pub host: Entry,
    /// Where such a token may go, as `env_var_hosts` would say it.
    pub credential_hosts: Vec<String>,
    /// How long a session that starts waits for a server that does not answer.
    pub patience: Duration,
    pub minter: Arc<dyn TokenMinter>,
}

impl std::fmt::Debug for RepositoryTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryTokens").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Makes a token for one repository, by asking whoever issues them.
pub trait TokenMinter: Send + Sync {
    /// One try, with a deadline of its own.
    fn mint<'a>(&'a self, repository: &'a Repository) -> Minting<'a>;
}

/// A token under way.
pub type Minting<'a> = Pin<Box<dyn Future<Output = Result<Minted, MintError>> + Send + 'a>>;

/// A fresh token.
#[derive(Debug, Clone)]
pub struct Minted {
    pub token: Secret,
    pub expires_at: Timestamp,
}

/// Why there is no token; each text is a sentence for a person and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The app may not have one for this repository. Whoever reads a public one needs none.
    #[error("{0}")]
    NotGranted(String),
    /// The app itself is refused: trying again will not help.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers, or not now.
    #[error("{0}")]
    Unavailable(String),
}

/// All tokens at hand, and who has which.
#[derive(Default)]
pub struct Tokens {
    entries: Mutex<HashMap<Repository, Token>>,
    /// The number of the token that a session's vault was sent last.
    given: Mutex<HashMap<SessionId, u64>>,
    /// Something is due earlier than was known.
    changed: Notify,
}

#[derive(Default)]
struct Token {
    made: Option<Made>,
    /// Tries in a row that failed.
    failures: u32,
    /// Its sessions have been told that it cannot be made.
    failure_told: bool,
    next_try: Timestamp,
    /// Held by whoever asks for it, so that one asks at a time.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Made {
    minted: Minted,
    at: Timestamp,
    /// Tells it from the one before.
    number: u64,
}

impl Made {
    fn renew_at(&self) -> Timestamp {
        renew_at(self.at, self.minted.expires_at)
    }
}

impl Token {
    /// When it is to be made anew.
    fn due(&self) -> Timestamp {
        self.made.as_ref().map_or(Timestamp(0), Made::renew_at).max(self.next_try)
    }
}

impl Tokens {
    fn entries(&self) -> MutexGuard<'_, HashMap<Repository, Token>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> MutexGuard<'_, HashMap<SessionId, u64>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, repository: &Repository, work: impl FnOnce(&mut Token) -> T) -> T {
        work(self.entries().entry(repository.clone()).or_default())
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.entries().values().map(Token::due).min()
    }

    fn give(&self, session: &Session, made: &Made) -> Secret {
        self.given().insert(session.id.clone(), made.number);
        made.minted.token.clone()
    }

    fn has(&self, session: &Session, made: &Made) -> bool {
        self.given().get(&session.id) == Some(&made.number)
    }
}

impl Engine {
    /// A token for the repository: the one at hand while it is fresh, else a new one.
    async fn token(&self, repository: &Repository) -> Result<Made, MintError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let asking = self.inner.tokens.with(repository, |token| token.asking.clone());
        let _turn = asking.lock().await;
        let at_hand = self.inner.tokens.with(repository, |token| token.made.clone());
        if let Some(fresh) = at_hand.filter(|made| now() < made.renew_at()) {
            return Ok(fresh);
        }
        let Some(tokens) = &self.inner.config.repository_tokens else {
            return Err(MintError::Refused("no GitHub App is configured any more".into()));
        };
        let result = tokens.minter.mint(repository).await;
        let at = now();
        let result = result.map(|minted| Made { minted, at, number: NUMBERS.fetch_add(1, Ordering::Relaxed) });
        self.inner.tokens.with(repository, |token| match &result {
            Ok(made) => {
                *token = Token { made: Some(made.clone()), asking: token.asking.clone(), ..Token::default() };
            }
            Err(_) => {
                token.failures = token.failures.saturating_add(1);
                token.next_try = at.plus_ms(retry_in_ms(token.failures));
            }
        });
        self.inner.tokens.changed.notify_one();
        result
    }

    /// Sees to it that a session about to get its sandbox finds its token, asking again while nobody answers. An app that
    /// may not have one is no reason to fail: the repository may be public.
    pub(crate) async fn token_for_provision(&self, session: &Session, slots: &Semaphore) -> Result<(), EngineError> {
        let Some(tokens) = &self.inner.config.repository_tokens else { return Ok(()) };
        let repository = match bringup::wanted_repository(self, session).await {
            Ok(Some(repository)) => repository,
            // An agent that cannot be read is told of where its session is made.
            Ok(None) | Err(_) => return Ok(()),
        };
        let patience = tokio::time::Instant::now() + tokens.patience;
        for failures in 1.. {
            let why = match self.token(&repository).await {
                Ok(_) | Err(MintError::NotGranted(_)) => return Ok(()),
                Err(MintError::Refused(why)) => return Err(EngineError::Conflict(why)),
                Err(MintError::Unavailable(why)) => why,
            };
            let pause = Duration::from_millis(retry_in_ms(failures).unsigned_abs());
            if tokio::time::Instant::now() + pause > patience {
                return Err(EngineError::Conflict(why));
            }
            tracing::warn!(session.id = %session.id, "{why}; asking again");
            tokio::time::sleep(pause).await;
            let wanted = self.inner.store.session(&session.id).await;
            if slots.is_closed() || !wanted.is_ok_and(|session| session.state == SessionState::Creating) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The token a sandbox gets at its start; else why it gets none.
    pub(crate) async fn token_for_boot(
        &self,
        session: &Session,
        repository: &Repository,
    ) -> Result<Result<Secret, String>, EngineError> {
        match self.token(repository).await {
            Ok(made) => Ok(Ok(self.inner.tokens.give(session, &made))),
            Err(MintError::NotGranted(reason)) => {
                let event = EventKind::CredentialFailed { name: TOKEN_KEY.into(), reason: reason.clone() };
                self.inner.store.append_event(&session.id, now(), body(&event)).await?;
                Ok(Err(reason))
            }
            Err(problem) => Err(EngineError::Conflict(problem.to_string())),
        }
    }

    /// The repository for which a sandbox that is up has a token.
    pub(crate) async fn token_repository(&self, session: &Session) -> Result<Option<Repository>, EngineError> {
        if self.inner.config.repository_tokens.is_none() {
            return Ok(None);
        }
        Ok(self.inner.store.token_repository(&session.id).await?.as_deref().and_then(Repository::parse))
    }

    /// The token at hand that still holds, about to be sent to this session's vault. Asks nobody; where there is none, one is
    /// made soon and the vault is told.
    pub(crate) fn token_at_hand(&self, session: &Session, repository: &Repository) -> Option<Secret> {
        let tokens = &self.inner.tokens;
        let made = tokens.with(repository, |token| token.made.clone());
        match made.filter(|made| now() < made.minted.expires_at) {
            Some(made) => Some(tokens.give(session, &made)),
            None => {
                tokens.changed.notify_one();
                None
            }
        }
    }

    /// Makes tokens of live sessions anew before they end, until told to stop.
    pub(crate) async fn renew_tokens(&self, stop: &CancellationToken) {
        if self.inner.config.repository_tokens.is_none() {
            return;
        }
        loop {
            let wait = match self.inner.tokens.next_due() {
                Some(due) => Duration::from_millis(due.since(now()).max(0).unsigned_abs()).min(LOOK_EVERY),
                None => LOOK_EVERY,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.tokens.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let renewing = self.renew_due();
            tokio::select! {
                () = stop.cancelled() => return,
                renewed = renewing => if let Err(problem) = renewed {
                    tracing::error!(problem = &problem as &dyn std::error::Error, "could not renew tokens");
                }
            }
        }
    }

    async fn renew_due(&self) -> Result<(), EngineError> {
        let mut sessions: BTreeMap<Repository, Vec<Session>> = BTreeMap::new();
        for session in self.inner.store.live_sessions().await? {
            if let Some(repository) = self.token_repository(&session).await? {
                sessions.entry(repository).or_default().push(session);
            }
        }
        let (tokens, at) = (&self.inner.tokens, now());
        // Nobody uses the others: what is left of them is of no use once it is due.
        tokens.entries().retain(|repository, token| sessions.contains_key(repository) || at < token.due());
        let live: BTreeSet<&SessionId> = sessions.values().flatten().map(|session| &session.id).collect();
        tokens.given().retain(|session, _| live.contains(session));
        let mut renewals = JoinSet::new();
        let slots = Arc::new(Semaphore::new(MINTED_AT_ONCE));
        for repository in sessions.keys() {
            if tokens.with(repository, |token| token.due()) <= at {
                let (engine, repository, slots) = (self.clone(), repository.clone(), slots.clone());
                renewals.spawn(async move {
                    // Never closed.
                    let _slot = slots.acquire().await;
                    let failed = engine.token(&repository).await.err();
                    (repository, failed)
                });
            }
        }
        while let Some(renewed) = renewals.join_next().await {
            let Ok((repository, Some(why))) = renewed else { continue };
            if tokens.with(&repository, |token| std::mem::replace(&mut token.failure_told, true)) {
                continue;
            }
            let reason =
                format!("{why}; the token for {repository} is tried again, the present one holds until it ends");
            tracing::warn!("{reason}");
            let event = EventKind::CredentialFailed { name: TOKEN_KEY.into(), reason };
            for session in sessions.get(&repository).into_iter().flatten() {
                self.note(session, &event).await;
            }
        }
        for (repository, sessions) in &sessions {
            let Some(made) = tokens.with(repository, |token| token.made.clone()) else { continue };
            for session in sessions.iter().filter(|session| !tokens.has(session, &made)) {
                self.tell_of_token(session, &made).await;
            }
        }
        Ok(())
    }

    /// Sends the vault what counts now, then says so: whoever reads the event can rely on it. A vault that is away gets it
    /// when it comes back.
    async fn tell_of_token(&self, session: &Session, made: &Made) {
        if let Err(problem) = self.send_grants(session).await {
            tracing::error!(session.id = %session.id, problem = &problem as &dyn std::error::Error, "could not send a new token");
        } else if self.inner.tokens.has(session, made) {
            let expires_at = rfc3339(made.minted.expires_at);
            self.note(session, &EventKind::CredentialRenewed { name: TOKEN_KEY.into(), expires_at }).await;
        }
    }

    async fn note(&self, session: &Session, event: &EventKind) {
        if let Err(problem) = self.inner.store.append_event(&session.id, now(), body(event)).await {
            tracing::warn!(session.id = %session.id, problem = &problem as &dyn std::error::Error, "could not note what came of a token");
        }
    }
}
