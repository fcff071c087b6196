//! A server inside the test's own process: the real routes and engine on a fresh database, on a free port. What backend
//! stands below is the test's choice; the built program as a child process is in [`crate::server`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lap_domain::secret::Secret;
use lap_engine::{Engine, EngineConfig};
use lap_sandbox::{Backend, Limits};
use lap_store::{EncryptionKey, Store};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The master key of every in-process server.
pub const KEY: &str = "lap_master_0123456789abcdef";

/// Serving that has not ended after this long has a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running server. Dropping it stops it without waiting; [`InProcessServer::stop`] waits.
pub struct InProcessServer {
    pub address: SocketAddr,
    pub engine: Engine,
    /// The engine's own store, to play what a sandbox would report or to look at what is kept.
    pub store: Store,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
    running: Option<JoinHandle<()>>,
    data: tempfile::TempDir,
}

impl InProcessServer {
    /// Routes and engine without its reconciler: sessions stay as the test moves them in the store.
    pub async fn routes_only(backend: Arc<dyn Backend>) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        let database = data.path().join("lap.db");
        let store = Store::open(&database, EncryptionKey::new(&[7; 32])).await.expect("a fresh database opens");
        let engine = Engine::new(engine_config(data.path()), store.clone(), backend, "fake");
        let config = lap_server::ServerConfig { master_key: Secret::new(KEY.to_owned()) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let stop = CancellationToken::new();
        let router = lap_server::router(engine.clone(), config);
        let serving = tokio::spawn(lap_server::serve(listener, router, stop.clone()));
        Self { address, engine, store, stop, serving, running: None, data }
    }

    /// Everything: the reconciler works, and sidecars are expected at [`InProcessServer::link_socket`].
    pub async fn whole(backend: Arc<dyn Backend>) -> Self {
        let mut server = Self::routes_only(backend).await;
        let links = UnixListener::bind(server.link_socket()).expect("a fresh folder has room for a socket");
        let (engine, stop) = (server.engine.clone(), server.stop.clone());
        server.running = Some(tokio::spawn(async move { engine.run(links, stop).await }));
        server
    }

    /// Where sidecars dial.
    pub fn link_socket(&self) -> std::path::PathBuf {
        self.data.path().join("link.sock")
    }

    /// Stops and waits until every connection is closed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let served = tokio::time::timeout(PATIENCE, &mut self.serving).await.expect("serving ends when it is told to");
        served.expect("serving does not panic").expect("serving ends well");
        if let Some(running) = self.running.take() {
            tokio::time::timeout(PATIENCE, running)
                .await
                .expect("the engine ends when it is told to")
                .expect("no panic");
        }
    }
}

impl Drop for InProcessServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A configuration in which nothing is set up but the `shell` harness.
pub fn engine_config(data_dir: &std::path::Path) -> EngineConfig {
    EngineConfig {
        data_dir: data_dir.to_owned(),
        limits: Limits {
            memory_bytes: 1 << 30,
            pids: 512,
            cpu_millis: 1000,
            disk_bytes: 1 << 30,
            inodes: 100_000,
            tmp_bytes: 1 << 28,
        },
        idle_timeout_ms: 86_400_000,
        turn_stall_timeout_ms: 3_600_000,
        gateway: None,
        private_allow: Vec::new(),
        resolve: Vec::new(),
        extra_ca_pem: None,
        passthrough: Vec::new(),
        outbound: None,
        require_binding: false,
        git_author: None,
        git_token: None,
        git_token_hosts: Vec::new(),
        repository_tokens: None,
        test_harnesses: true,
    }
}
