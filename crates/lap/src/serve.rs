//! `lap serve`: opens what is on disk, wires store, backend, engine and routes, and runs until told to stop.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use lap_domain::chain::chain;
use lap_engine::Engine;
use lap_sandbox::{Check, Outcome};
use lap_sandbox_local::{LocalBackend, LocalConfig};
use lap_server::ServerConfig;
use lap_store::{DataLock, Store};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{ServeArgs, ServeConfig};
use crate::keys;

/// Runs the server; 2 for configuration that cannot be used, 1 when it could not start.
pub async fn run(args: ServeArgs) -> ExitCode {
    let config = match args.check() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("lap serve cannot start; {} to fix:", count(problems.len()));
            for problem in problems {
                eprintln!("  - {problem}");
            }
            return ExitCode::from(2);
        }
    };
    log_to_stderr();
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("lap serve: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn count(problems: usize) -> String {
    if problems == 1 { "one thing".into() } else { format!("{problems} things") }
}

/// Where this node's parts live below the data folder.
pub fn local_config(data_dir: &Path) -> io::Result<LocalConfig> {
    Ok(LocalConfig {
        data_dir: data_dir.to_owned(),
        lap_binary: std::env::current_exe()?,
        link_socket: data_dir.join("run").join("link.sock"),
    })
}

/// The database in the data folder.
pub fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("lap.db")
}

async fn serve(config: ServeConfig) -> Result<(), String> {
    let ServeConfig { data_dir, listen, master_key, encryption_key, engine } = config;
    // From here on a signal ends the server in good order.
    let mut signals = Signals::listen().map_err(|cause| format!("could not listen for signals: {cause}"))?;
    make_private(&data_dir)
        .map_err(|cause| format!("could not use the data folder {}: {cause}", data_dir.display()))?;
    let _lock = DataLock::acquire(&data_dir).map_err(|problem| chain(&problem))?;
    let master =
        keys::master(&data_dir, master_key).map_err(|cause| format!("could not use the master key: {cause}"))?;
    let database = database(&data_dir);
    if encryption_key.is_none() {
        let written_with = lap_store::key_of(&database).await.map_err(|problem| chain(&problem))?;
        keys::finish_rotation(&data_dir, written_with)
            .map_err(|cause| format!("could not finish the rotation of the encryption key: {cause}"))?;
    }
    let encryption = keys::encryption(&data_dir, encryption_key)
        .map_err(|cause| format!("could not use the encryption key: {cause}"))?;
    let store = Store::open(&database, encryption).await;
    let store = store.map_err(|problem| format!("could not open the database: {}", chain(&problem)))?;
    // The address is taken before anything that others can see is started.
    let listener = TcpListener::bind(listen).await.map_err(|cause| {
        format!("could not listen on {listen}: {cause}; choose another address with --listen or LAP_LISTEN")
    })?;
    let address = listener.local_addr().map_err(|cause| cause.to_string())?;
    let local = local_config(&data_dir).map_err(|cause| cause.to_string())?;
    let link_socket = local.link_socket.clone();
    let backend = LocalBackend::open(local).await.map_err(|problem| chain(&problem))?;
    let checks = lap_sandbox::Backend::checks(&backend).await;
    let links =
        link_listener(&link_socket).map_err(|cause| format!("could not make {}: {cause}", link_socket.display()))?;
    let gateway = engine.gateway.as_ref().map(|gateway| gateway.base_url.clone());
    let engine = Engine::new(engine, store.clone(), Arc::new(backend), "local");
    let router = lap_server::router(engine.clone(), ServerConfig { master_key: master.value.clone() });
    announce(&Announcement {
        address: &address.to_string(),
        data_dir: &data_dir,
        master: &master,
        gateway,
        checks: &checks,
    });

    let stop = CancellationToken::new();
    let engine_stop = CancellationToken::new();
    let mut running = {
        let (engine, stop) = (engine.clone(), engine_stop.clone());
        tokio::spawn(async move { engine.run(links, stop).await })
    };
    let signalled = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let name = signals.next().await;
            tracing::info!("{name}: finishing what is under way; sandboxes stay up for the next start");
            stop.cancel();
            let name = signals.next().await;
            // What is under way is found by the next server, as after a crash.
            tracing::warn!("{name} again: stopping at once");
            std::process::exit(1);
        })
    };
    let serving = lap_server::serve(listener, router, stop.clone());
    tokio::pin!(serving);
    let (served, ran) = tokio::select! {
        served = &mut serving => (served, None),
        // Only a fault ends the engine before it is told to; a server without one only looks alive.
        ran = &mut running => {
            stop.cancel();
            (serving.await, Some(ran))
        }
    };
    // Requests are over: now the links and the reconciler, then the database.
    engine_stop.cancel();
    let failed = match ran {
        Some(_) => true,
        None => running.await.is_err(),
    };
    store.close().await;
    let _ = std::fs::remove_file(&link_socket);
    signalled.abort();
    if failed {
        return Err("the engine ended unasked; its last words are in the log".to_owned());
    }
    served.map_err(|cause| format!("could not go on serving: {cause}"))
}

/// The signals that end a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! { _ = self.terminate.recv() => "SIGTERM", _ = self.interrupt.recv() => "SIGINT" }
    }
}

/// The data folder, readable by its owner alone. A folder that holds other people's things is left as it is: closing
/// `/tmp` or a home folder to everybody else would break the machine.
fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let open = std::fs::metadata(folder)?.permissions().mode() & 0o077 != 0;
    if !open {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let ours = ["harnesses", "images", "logs", "run", "sandboxes"].iter().any(|name| entry.file_name() == *name);
        if !ours && entry.file_type()?.is_dir() {
            let what = format!(
                "others can use it and it holds more than LAP's things ({}); name a folder of its own, or chmod 700 it",
                entry.file_name().display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// The socket that sidecars dial. They run under users of their own, so anyone may connect; the boot token decides.
fn link_listener(socket: &PathBuf) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

struct Announcement<'a> {
    address: &'a str,
    data_dir: &'a Path,
    master: &'a keys::Key,
    gateway: Option<String>,
    checks: &'a [Check],
}

/// What a person who started the server wants to know.
fn announce(about: &Announcement<'_>) {
    let Announcement { address, data_dir, master, gateway, checks } = about;
    let mut out = io::stdout().lock();
    let mut say = |line: String| {
        // A closed stdout must not stop the server.
        let _ = writeln!(out, "{line}");
    };
    say(format!("LAP {} listens on http://{address}", env!("CARGO_PKG_VERSION")));
    say(format!("data folder: {}", data_dir.display()));
    if master.fresh {
        let file = keys::master_key_file(data_dir);
        say(format!("master key (printed this once, kept in {}): {}", file.display(), master.value.expose()));
    }
    match gateway {
        Some(url) => say(format!("model gateway: {url}")),
        None => say("model gateway: none; set LITELLM_API_BASE and LITELLM_API_KEY, or model calls will fail".into()),
    }
    for check in checks.iter().filter(|check| check.outcome != Outcome::Ok) {
        let word = if check.outcome == Outcome::Missing { "no sandboxes" } else { "limited" };
        say(format!("{word}: {}: {}", check.name, check.detail));
    }
}

/// Logs to stderr: sentences on a terminal, JSON lines otherwise. `LAP_LOG` filters, as in `info,lap_engine=debug`.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LAP_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A closed stderr must not stop the server; complaining about it to stderr would.
    let base = tracing_subscriber::fmt().with_writer(io::stderr).log_internal_errors(false).with_env_filter(filter);
    if io::stderr().is_terminal() {
        base.init();
    } else {
        base.json().flatten_event(true).init();
    }
}
