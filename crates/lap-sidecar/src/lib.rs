//! The trusted half of a sandbox: it makes the sandbox, guards its secrets as the vault, and keeps the link to the server.
//!
//! One per sandbox. It outlives the server: when the link drops it keeps the sandbox running and dials again. It does not
//! outlive the sandbox by more than it takes to deliver the log, and the sandbox does not outlive it at all. The guest is
//! not trusted: its frames are bounded and its words are data.

mod budget;
mod grants;
mod guest;
mod journal;
mod uplink;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lap_api::link::{EgressLine, GuestBoot, Hello, LogEntry, PROTOCOL, Report, ServerToSidecar, ToGuest};
use lap_domain::chain::chain;
use lap_sandbox_local::{BoundedLog, Launched, LimitHit, Started};
use lap_vault::{Record, Vault, VaultConfig};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::budget::Blame;
use crate::grants::Holder;
use crate::journal::Journal;
use crate::uplink::{ToChannels, Uplink};

/// Requests whose records wait for the journal. When full, further requests wait.
const RECORDS: usize = 1024;

/// Commands of the server that wait to be carried out. When full, the link is not read.
const COMMANDS: usize = 64;

/// Parts of channels on their way to the server. When full, the guest is not read.
const CHANNELS_UP: usize = 64;

/// Parts of channels on their way to the guest: more than all of a few channels may have under way. What does not fit is lost,
/// and its channel ends.
const CHANNELS_DOWN: usize = 1024;

/// After the sandbox ended, how long the rest of its log waits for the server.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// What the guest had sent when it died is in the socket already; reading it takes no longer than this.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(5);

/// A sandbox that ends this soon after the kernel killed something in it for memory ended because of that.
const OOM_WINDOW: Duration = Duration::from_secs(5);

/// How often a volume without a limit of its own is measured.
const USAGE_EVERY: Duration = Duration::from_secs(10);

/// The role `lap sidecar`. Must be the first thing the process does: it is still single-threaded.
pub fn main() -> ExitCode {
    let started = match lap_sandbox_local::start_sidecar() {
        Ok(started) => started,
        Err(problem) => {
            eprintln!("{}", chain(&problem));
            return ExitCode::FAILURE;
        }
    };
    let log = match BoundedLog::stderr() {
        Ok(log) => log,
        Err(problem) => {
            eprintln!("could not use the log: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let writer = log.clone();
    // A log that cannot be written (a full disk) must not stop the sandbox; complaining about it to stderr would.
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(started, log)),
        Err(problem) => {
            tracing::error!("could not start: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What the parts of a sidecar share.
struct Sidecar {
    id: String,
    boot_token: String,
    journal: Arc<Journal>,
    vault: Arc<Vault>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holder: Option<Holder>,
    last_turn_id: Option<String>,
    killed_for_memory: Option<Instant>,
    blame: Blame,
    /// Whether the vault keeps limits.
    limited: bool,
}

impl uplink::Standing for Sidecar {
    fn hello(&self) -> Hello {
        let state = self.state();
        Hello {
            protocol: PROTOCOL,
            sandbox_id: self.id.clone(),
            boot_token: self.boot_token.clone(),
            log_head: self.journal.head(),
            booted: state.holder.is_some(),
            last_turn_id: state.last_turn_id.clone(),
            holds: state.holder.iter().flat_map(|holder| holder.session_keys().to_vec()).collect(),
            pid: std::process::id(),
            limited: state.limited,
            egress_revision: Some(state.holder.as_ref().map_or(0, Holder::egress_revision)),
        }
    }
}

impl Sidecar {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps what happened until the server has it.
    async fn log(&self, entry: LogEntry) {
        self.journal.add(now_ms(), entry).await;
    }

    /// Takes limits into use, for the next model call.
    fn limit(&self, budget: lap_api::link::Budget) {
        let allowances = budget::allowances(budget);
        self.state().limited = !allowances.is_empty();
        self.vault.set_allowances(allowances);
    }

    /// Takes grants into use. When the vault refuses them the old ones stay; before the first ones it lets nothing out.
    fn apply_grants(&self, change: impl FnOnce(&mut Option<Holder>)) -> Result<(), String> {
        let mut state = self.state();
        change(&mut state.holder);
        let Some(holder) = &state.holder else { return Ok(()) };
        let grants = holder.for_vault().map_err(|problem| chain(&problem))?;
        self.vault.set_grants(grants).map_err(|problem| chain(&problem))
    }

    /// Takes lists into use; false before there are grants they could change.
    fn apply_lists(&self, revision: u64, allow_out: Vec<String>, deny_out: Vec<String>) -> Result<bool, String> {
        let mut changed = Ok(false);
        self.apply_grants(|holder| {
            if let Some(holder) = holder {
                changed = holder.replace_lists(revision, allow_out, deny_out).map(|()| true);
            }
        })?;
        changed.map_err(|problem| chain(&problem))
    }
}

async fn run(started: Started, log: BoundedLog) -> ExitCode {
    // What is left in `started` is the proof that this sidecar lives; it goes with this function.
    let Started { id, boot_token, link, limits: _, launched, .. } = started;
    let (records_in, records) = mpsc::channel(RECORDS);
    let vault = match Vault::new(vault_config(), records_in) {
        Ok(vault) => vault,
        Err(problem) => {
            tracing::error!("could not make the vault: {}", chain(&problem));
            return ExitCode::FAILURE;
        }
    };
    let sidecar = Arc::new(Sidecar {
        id: id.to_string(),
        boot_token: boot_token.0,
        journal: Arc::new(Journal::new(journal::MAX_BYTES)),
        vault,
        state: Mutex::default(),
    });
    let Launched { guest, tcp, dns, init, output, limits, volume, confinement, .. } = launched;
    for check in confinement.iter().filter(|check| check.outcome != lap_sandbox::Outcome::Ok) {
        tracing::warn!("{}: {}", check.name, check.detail);
    }
    let guest = match UnixStream::from_std(guest) {
        Ok(guest) => guest,
        Err(problem) => {
            tracing::error!("could not use the guest's socket: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let stop = CancellationToken::new();
    let (to_guest, guest_inbox) = mpsc::channel(COMMANDS);
    let (commands_in, mut commands) = mpsc::channel(COMMANDS);
    let (channels_up, from_channels) = mpsc::channel(CHANNELS_UP);
    let (channels_down, to_channels) = mpsc::channel(CHANNELS_DOWN);
    let trust = ToGuest::Trust { protocol: PROTOCOL, ca_pem: sidecar.vault.ca_pem().to_owned() };
    let mut tasks = tokio::task::JoinSet::new();
    let dialing = {
        let uplink = Uplink {
            standing: sidecar.clone(),
            journal: sidecar.journal.clone(),
            commands: commands_in,
            from_channels,
            to_channels: ToChannels::new(channels_down),
        };
        tokio::spawn(async move { uplink.keep(&link).await })
    };
    let talk = guest::Talk { inbox: guest_inbox, to_channels, from_channels: channels_up, log: log.clone() };
    let talking = tokio::spawn(talk.run(sidecar.clone(), guest, trust));
    tasks.spawn(guest::drain_output(output, log));
    tasks.spawn(keep_records(sidecar.clone(), records));
    tasks.spawn(rest(sidecar.vault.clone()));
    tasks.spawn(watch_limits(sidecar.clone(), limits));
    tasks.spawn(watch_volume(sidecar.clone(), volume));
    {
        let (vault, stop) = (sidecar.vault.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(problem) = vault.serve(tcp, dns, stop).await {
                // Without a vault nothing leaves the sandbox: the session notices, and this says why.
                tracing::error!("the vault ended: {}", chain(&problem));
            }
        });
    }
    let ended = tokio::select! {
        ended = sandbox_end(&init) => ended,
        () = obey(&sidecar, &mut commands, &to_guest) => Ended::Told,
    };
    // It may be gone already.
    let _ = lap_sandbox_local::kill(&init);
    stop.cancel();
    if let Ended::ByItself = ended {
        let oom = sidecar.oom();
        let delivery = async {
            // The last words come before the end.
            let _ = tokio::time::timeout(LAST_WORDS_DEADLINE, talking).await;
            sidecar.log(LogEntry::SandboxExited { detail: "the sandbox's processes ended".into(), oom }).await;
            sidecar.journal.drained().await;
        };
        // Commands are taken as before: without somebody who takes them the link would end, and nothing be delivered.
        tokio::select! {
            _ = tokio::time::timeout(DELIVERY_DEADLINE, delivery) => {}
            () = obey(&sidecar, &mut commands, &to_guest) => {}
        }
    }
    dialing.abort();
    tasks.shutdown().await;
    ExitCode::SUCCESS
}

/// As many connections as the descriptors of this process allow.
fn vault_config() -> VaultConfig {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let max_descriptors = limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
    VaultConfig { max_descriptors, ..VaultConfig::default() }
}

enum Ended {
    /// The sandbox's first process ended.
    ByItself,
    /// The server said so.
    Told,
}

async fn sandbox_end(init: &std::os::fd::OwnedFd) -> Ended {
    let watched = init.try_clone().and_then(lap_sandbox_local::readable);
    match watched {
        Ok(watched) => {
            let _ = watched.readable().await;
        }
        Err(problem) => tracing::error!("could not watch the sandbox, so it ends: {problem}"),
    }
    Ended::ByItself
}

/// Carries out what the server says until it says stop.
async fn obey(sidecar: &Sidecar, commands: &mut mpsc::Receiver<ServerToSidecar>, to_guest: &mpsc::Sender<ToGuest>) {
    while let Some(command) = commands.recv().await {
        match command {
            ServerToSidecar::Stop => return,
            ServerToSidecar::Boot(boot) => {
                if sidecar.state().holder.is_some() {
                    continue;
                }
                let lap_api::link::Boot { grants, guest, session_keys, budget } = *boot;
                sidecar.limit(budget);
                let revision = grants.egress_revision;
                match sidecar.apply_grants(|holder| *holder = Some(Holder::new(grants, session_keys))) {
                    Ok(()) => {
                        sidecar.log(LogEntry::Booted).await;
                        if revision > 0 {
                            sidecar.log(LogEntry::EgressInForce { revision }).await;
                        }
                        deliver(sidecar, to_guest, ToGuest::Boot(Box::<GuestBoot>::new(guest))).await;
                    }
                    Err(problem) => {
                        let failed = Report::BootFailed { code: "grants".into(), reason: problem };
                        sidecar.log(LogEntry::Guest(failed)).await;
                    }
                }
            }
            ServerToSidecar::Credentials { credentials, keep } => {
                let applied = sidecar.apply_grants(|holder| {
                    if let Some(holder) = holder {
                        holder.replace(credentials, &keep);
                    }
                });
                if let Err(problem) = applied {
                    tracing::error!("could not use new credentials: {problem}");
                }
            }
            ServerToSidecar::Budget(budget) => sidecar.limit(budget),
            ServerToSidecar::Egress { revision, allow_out, deny_out } => {
                match sidecar.apply_lists(revision, allow_out, deny_out) {
                    Ok(true) => sidecar.log(LogEntry::EgressInForce { revision }).await,
                    // The boot message will bring them.
                    Ok(false) => {}
                    // Not confirmed, so whoever asked is told that they do not hold.
                    Err(problem) => tracing::error!("could not use new egress lists: {problem}"),
                }
            }
            ServerToSidecar::Guest(message) => {
                if let ToGuest::Turn(turn) = &*message {
                    let mut state = sidecar.state();
                    if state.last_turn_id.as_ref() == Some(&turn.turn_id) {
                        continue;
                    }
                    state.last_turn_id = Some(turn.turn_id.clone());
                }
                deliver(sidecar, to_guest, *message).await;
            }
            ServerToSidecar::Welcome { .. } | ServerToSidecar::Ack { .. } | ServerToSidecar::Channel(_) => {
                tracing::warn!("the server sent a greeting in the middle of a conversation");
            }
        }
    }
}

/// Never waits for the guest: one that does not listen must not keep the sidecar from taking new grants, or from ending.
async fn deliver(sidecar: &Sidecar, to_guest: &mpsc::Sender<ToGuest>, message: ToGuest) {
    match to_guest.try_send(message) {
        // A guest that is gone cannot be told anything; its end is noticed elsewhere.
        Ok(()) | Err(TrySendError::Closed(_)) => {}
        Err(TrySendError::Full(ToGuest::Turn(turn))) => {
            let error = "the sandbox does not take messages any more".to_owned();
            let failed = Report::TurnFailed { turn_id: turn.turn_id, code: "harness_failed".into(), error };
            sidecar.log(LogEntry::Guest(failed)).await;
        }
        Err(TrySendError::Full(_)) => tracing::warn!("the guest does not listen; it misses an order"),
    }
}

/// Moves the vault's records into the journal.
async fn keep_records(sidecar: Arc<Sidecar>, mut records: mpsc::Receiver<Record>) {
    while let Some(record) = records.recv().await {
        let Record {
            started: _,
            method,
            host,
            path,
            status,
            bytes_out,
            bytes_in,
            duration,
            credentials,
            verdict,
            detail,
            metered,
        } = record;
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let line =
            EgressLine { method, host, path, status, bytes_out, bytes_in, duration_ms, credentials, verdict, detail };
        sidecar.log(LogEntry::Egress(line)).await;
        if let Some(metered) = metered {
            sidecar.log(LogEntry::Metered(budget::metered(metered))).await;
        }
    }
}

/// After work comes rest: a sandbox may wait for days, and its sidecar with it.
async fn rest(vault: Arc<Vault>) {
    loop {
        vault.calm().await;
        lap_sandbox_local::give_back_heap();
        if let Err(problem) = lap_sandbox_local::give_back_program() {
            tracing::debug!("could not give memory back: {problem}");
        }
    }
}

async fn watch_limits(sidecar: Arc<Sidecar>, mut limits: lap_sandbox_local::LimitWatch) {
    loop {
        let (limit, detail) = match limits.next().await {
            Err(problem) => {
                tracing::warn!("cannot tell any more when a limit is hit: {problem}");
                return;
            }
            Ok(LimitHit::Memory { killed }) => {
                sidecar.state().killed_for_memory = Some(Instant::now());
                (
                    "memory",
                    format!("the sandbox reached its memory limit; the kernel has ended {killed} of its processes"),
                )
            }
            Ok(LimitHit::Pids) => {
                ("pids", "the sandbox reached its limit of processes; new ones are refused".to_owned())
            }
        };
        sidecar.log(LogEntry::Limit { limit: limit.into(), detail }).await;
    }
}

/// Says once when the volume is full, and again after it had room in between.
async fn watch_volume(sidecar: Arc<Sidecar>, volume: lap_sandbox_local::Volume) {
    let mut full = false;
    loop {
        tokio::time::sleep(USAGE_EVERY).await;
        let Ok(usage) = volume.usage() else { continue };
        let hit = usage.is_full().then(|| {
            if usage.has_no_inodes() {
                ("inodes", format!("the sandbox reached {} files and folders, which is its limit", usage.inodes))
            } else {
                ("disk", format!("the sandbox's files take {} bytes of {}: it is full", usage.bytes, usage.bytes_limit))
            }
        });
        match hit {
            Some((limit, detail)) if !full => {
                full = true;
                sidecar.log(LogEntry::Limit { limit: limit.into(), detail }).await;
            }
            Some(_) => {}
            None => full = false,
        }
    }
}

impl Sidecar {
    fn oom(&self) -> bool {
        self.state().killed_for_memory.is_some_and(|at| at.elapsed() < OOM_WINDOW)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
