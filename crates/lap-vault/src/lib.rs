//! The vault: everything that leaves a sandbox goes through here.
//!
//! One [`Vault`] serves one sandbox. It takes connections however they come (redirected, or by CONNECT), ends their TLS with
//! certificates of the sandbox's own authority, judges every single request, swaps stubs for secrets where that is allowed,
//! speaks to the real server over verified TLS, takes secrets out of what comes back and leaves one record per request.
//! It knows nothing of sessions, stores or the link: grants come in through [`Vault::set_grants`], records go out through a
//! channel.

mod authority;
mod body;
mod codec;
mod connection;
mod dns;
mod error;
mod forms;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gateway;
mod grants;
mod listener;
mod meter;
mod names;
mod needles;
mod passthrough;
mod proxy;
mod reached;
mod record;
mod refusal;
mod request;
mod room;
mod route;
mod scrub;
mod sigv4;
mod substitute;
mod tasks;
mod tunnel;
mod upstream;
mod websocket;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use lap_domain::budget::Allowance;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{GrantsError, VaultError};
pub use grants::{Gateway, Grants, ResolveOverride};
pub use meter::Metered;
pub use names::InsideNet;
pub use record::Record;
pub use upstream::outbound::Outbound;

use authority::Authority;
use grants::Table;
use meter::Meter;
use names::Names;
use record::Exchange;
use refusal::Refusal;
use room::Room;
use upstream::Pool;
use upstream::resolve::Resolver;
use upstream::tls::UpstreamTls;

/// The name of the model gateway inside the sandbox.
pub const GATEWAY_NAME: &str = gateway::NAME;

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(20);
/// The server may be away for a moment; much longer and a client had better know.
const RECORD_DEADLINE: Duration = Duration::from_secs(30);
/// How long a stopping vault waits for its tasks; they end at once unless something is wrong.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Numbers of a vault that do not change while it runs.
#[derive(Debug, Clone)]
pub struct VaultConfig {
    /// The range whose addresses stand for names. Its second address is the explicit proxy.
    pub inside: InsideNet,
    /// Port of the explicit proxy.
    pub proxy_port: u16,
    /// Connections of the sandbox at once; more are refused.
    pub max_connections: usize,
    /// Descriptors this process may have; some are kept for what must go on.
    pub max_descriptors: u32,
    /// A request whose record has no room for so long does not go out.
    pub record_deadline: Duration,
}

impl Default for VaultConfig {
    fn default() -> Self {
        let inside = InsideNet { base: Ipv4Addr::new(198, 18, 0, 0), bits: 15 };
        Self {
            inside,
            proxy_port: 3128,
            max_connections: 8192,
            max_descriptors: u32::MAX,
            record_deadline: RECORD_DEADLINE,
        }
    }
}

/// The only way out of one sandbox.
pub struct Vault {
    config: VaultConfig,
    authority: Authority,
    names: Arc<Names>,
    table: ArcSwapOption<Table>,
    /// Counts grants; connections look again at the rules when it moves.
    changed: watch::Sender<u64>,
    /// Bounded; full: requests wait until there is room for their record.
    records: mpsc::Sender<Record>,
    meter: Arc<Meter>,
    pool: Arc<Pool>,
    resolver: Resolver,
    signing_room: sigv4::Room,
    tasks: TaskTracker,
    room: Arc<Room>,
    /// Requests begun and connections ended.
    moved: AtomicU64,
    calm: Notify,
    stop: CancellationToken,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

impl Vault {
    /// Makes a vault with a certificate authority of its own. Until grants are set it refuses everything. Each request
    /// reserves a place in `records` before it goes out.
    pub fn new(config: VaultConfig, records: mpsc::Sender<Record>) -> Result<Arc<Self>, VaultError> {
        let tasks = TaskTracker::new();
        let room = Arc::new(Room::new(config.max_connections, config.max_descriptors));
        Ok(Arc::new(Self {
            authority: Authority::new()?,
            names: Arc::new(Names::new(config.inside)),
            table: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            records,
            pool: Pool::new(tasks.clone(), room.clone()),
            meter: Arc::default(),
            resolver: Resolver::new(),
            signing_room: sigv4::Room::new(),
            tasks,
            room,
            moved: AtomicU64::new(0),
            calm: Notify::new(),
            stop: CancellationToken::new(),
            config,
        }))
    }

    /// The certificate that programs in the sandbox must trust.
    pub fn ca_pem(&self) -> &str {
        self.authority.ca_pem()
    }

    /// Replaces what the sandbox may do, at once and as a whole: the next request is judged by it, connections that are no
    /// longer allowed are closed. On an error the grants before stay in force.
    pub fn set_grants(&self, grants: Grants) -> Result<(), GrantsError> {
        let before = self.table.load_full();
        let tls = match &before {
            Some(table) => table.tls.with(grants.extra_ca_pem.as_ref())?,
            None => UpstreamTls::new(grants.extra_ca_pem.clone())?,
        };
        let same_trust = before.as_ref().is_some_and(|table| table.tls.is_same(&tls));
        let same_policy = before.is_some_and(|table| table.policy == grants.policy);
        let same_way = self.pool.set_outbound(grants.outbound.clone());
        self.table.store(Some(Arc::new(Table::new(grants, tls)?)));
        if !same_trust || !same_policy || !same_way {
            self.pool.clear();
        }
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Replaces the limits of what model calls may use; they hold for the next call. What this vault has metered itself is
    /// added to what counts against them.
    pub fn set_allowances(&self, allowances: Vec<Allowance>) {
        self.meter.set_allowances(allowances);
    }

    /// How many model calls were refused for a budget, and why the newest one was.
    pub fn refused_for_budget(&self) -> (u64, Option<String>) {
        self.meter.refused()
    }

    /// Serves the sandbox's connections and its resolver until `stop`; a vault serves once. Returns after its tasks have
    /// ended.
    pub async fn serve(
        self: &Arc<Self>,
        tcp: Vec<std::net::TcpListener>,
        dns: std::net::UdpSocket,
        stop: CancellationToken,
    ) -> Result<(), VaultError> {
        let mut listeners = Vec::new();
        for listener in tcp {
            listener.set_nonblocking(true).map_err(VaultError::Socket)?;
            listeners.push(tokio::net::TcpListener::from_std(listener).map_err(VaultError::Socket)?);
        }
        dns.set_nonblocking(true).map_err(VaultError::Socket)?;
        let dns = tokio::net::UdpSocket::from_std(dns).map_err(VaultError::Socket)?;
        for listener in listeners {
            self.tasks.spawn(listener::accept(self.clone(), listener));
        }
        self.tasks.spawn(dns::serve(dns, self.names.clone(), self.stop.clone()));
        let mut sweep = tokio::time::interval(SWEEP);
        let (mut seen, mut busy) = (0, false);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = sweep.tick() => {
                    self.pool.sweep();
                    let moved = self.moved.load(Ordering::Relaxed);
                    if moved == seen && busy {
                        self.calm.notify_one();
                    }
                    busy = moved != seen;
                    seen = moved;
                }
            }
        }
        self.stop.cancel();
        self.pool.clear();
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!("{} tasks of the vault did not end in time", self.tasks.len());
        }
        Ok(())
    }

    /// Waits until a while has passed without requests and without an end of connections, after there were some: the moment
    /// to give back what they took.
    pub async fn calm(&self) {
        self.calm.notified().await;
    }

    fn table(&self) -> Result<Arc<Table>, Refusal> {
        self.table.load_full().ok_or_else(|| {
            Refusal::new(
                http::StatusCode::FORBIDDEN,
                "not_ready",
                "This sandbox has not been told yet where it may go.",
            )
        })
    }

    /// Reserves the record of something that is about to happen. None: the record cannot be written, so it must not happen.
    async fn begin(&self, method: &str, path: String) -> Option<Arc<Exchange>> {
        self.moved.fetch_add(1, Ordering::Relaxed);
        let reserved = tokio::time::timeout(self.config.record_deadline, self.records.clone().reserve_owned());
        let permit = reserved.await.ok()?.ok()?;
        Some(Exchange::new(permit, method, path))
    }

    fn is_proxy(&self, addr: SocketAddr) -> bool {
        let proxy = Ipv4Addr::from(u32::from(self.config.inside.base) + 1);
        addr.port() == self.config.proxy_port && addr.ip() == IpAddr::V4(proxy)
    }
}
