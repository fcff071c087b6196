//! The use cases of LAP and the reconciler: agents, sessions, bring-up, turns, events.
//!
//! Handlers call the methods of [`Engine`]; they write intent and read state. Only the reconciler makes and removes
//! sandboxes. Knows no HTTP, no Kubernetes, no TLS, and reads no environment.

mod agents;
mod bringup;
mod budget;
mod channels;
mod error;
mod events;
mod links;
mod live;
mod log;
mod once;
mod plan;
mod platform;
mod reconcile;
mod repository_tokens;
mod session_egress;
mod sessions;
mod turns;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lap_domain::secret::Secret;
use lap_domain::time::Timestamp;
use lap_sandbox::{Backend, Limits};
use lap_store::Store;
use tokio::sync::Notify;

pub use agents::{AgentQuery, AgentView};
pub use channels::{Channel, ChannelEvent, Opening};
pub use error::EngineError;
pub use events::EventFollower;
pub use lap_store::{AgentSort, Order, UsageBy, UsageFilter, UsageRow};
pub use once::{FirstRun, Once};
pub use platform::{HarnessView, Stats};
pub use repository_tokens::{MintError, Minted, Minting, RepositoryTokens, TokenMinter};
pub use sessions::{NewSession, SessionQuery, SessionView};
pub use turns::{Decision, Idempotency, NewTurn, QueuedTurn};

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where harnesses are installed and logs of ended sandboxes are kept.
    pub data_dir: PathBuf,
    pub limits: Limits,
    pub idle_timeout_ms: i64,
    /// A turn without a sign of life for this long fails.
    pub turn_stall_timeout_ms: i64,
    /// None: sessions open, but every model call fails with a clear message.
    pub gateway: Option<GatewayConfig>,
    /// `LAP_VAULT_PRIVATE_ALLOW`.
    pub private_allow: Vec<String>,
    /// `LAP_VAULT_RESOLVE`.
    pub resolve: Vec<String>,
    /// Certificates trusted upstream beside the system's.
    pub extra_ca_pem: Option<String>,
    /// `LAP_VAULT_PASSTHROUGH`.
    pub passthrough: Vec<String>,
    /// `HTTPS_PROXY` and `NO_PROXY`.
    pub outbound: Option<OutboundConfig>,
    /// Refuse credentials that may go anywhere.
    pub require_binding: bool,
    /// `Name <mail>` of commits; none: the agent's name.
    pub git_author: Option<String>,
    /// The platform's token for clones.
    pub git_token: Option<Secret>,
    pub git_token_hosts: Vec<String>,
    /// The app that makes tokens for single repositories; none: agents bring their own.
    pub repository_tokens: Option<RepositoryTokens>,
    /// Offer the `shell` harness, which exists for tests and smoke checks.
    pub test_harnesses: bool,
}

/// The operator's own proxy.
#[derive(Debug, Clone)]
pub struct OutboundConfig {
    /// May hold a password.
    pub url: Secret,
    pub no_proxy: String,
}

/// The model gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub base_url: String,
    pub key: Secret,
}

/// A page of a list and how many rows there are in all.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub total: u64,
}

/// Everything that can be asked of LAP. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    store: Store,
    backend: Arc<dyn Backend>,
    backend_name: &'static str,
    /// What only memory knows of live sessions.
    live: live::LiveSessions,
    /// Wakes the reconciler.
    wake: Notify,
    /// Sessions it need not look around for.
    fresh: reconcile::Fresh,
    /// Sandboxes some task is making or removing.
    busy: reconcile::Busy,
    /// Tokens for single repositories.
    tokens: repository_tokens::Tokens,
}

impl Engine {
    /// Puts the parts together; nothing runs until [`Engine::run`].
    pub fn new(config: EngineConfig, store: Store, backend: Arc<dyn Backend>, backend_name: &'static str) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                store,
                backend,
                backend_name,
                live: live::LiveSessions::default(),
                wake: Notify::new(),
                fresh: reconcile::Fresh::default(),
                busy: reconcile::Busy::default(),
                tokens: repository_tokens::Tokens::default(),
            }),
        }
    }
}

/// Does work that must not stop half-way when its caller goes away, as a handler does whose client hung up.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::spawn(work).await.unwrap_or_else(|problem| Err(EngineError::Internal(Box::new(problem))))
}

/// The engine's clock.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// RFC 3339 in UTC with milliseconds.
fn rfc3339(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    format!("{at:.3}")
}

/// A fresh id: UUID version 7, so that ids sort by time.
fn fresh_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Random bytes from the operating system's generator.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
