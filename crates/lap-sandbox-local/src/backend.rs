//! The local backend: a folder, a sidecar process and control groups per sandbox.
//!
//! What exists is read from the machine every time (folders, locks, groups), never remembered: so a server that starts after
//! a crash sees the same as the one before. A sidecar lives exactly as long as its folder's lock is held.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lap_sandbox::{
    Backend, BackendError, BootToken, Check, Limits, Outcome, SandboxExit, SandboxId, SandboxSpec, SandboxStatus,
};
use rustix::fs::FlockOperation;
use rustix::process::{PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cgroup::{self, CgroupPlan};
use crate::identity::Identity;
use crate::record;
use crate::spec::{LaunchReply, LaunchSpec, SidecarLaunch, VolumePlan};
use crate::volume::{self, Spare, Templates};
use crate::waiting::Waiting;
use crate::{doctor, image, log};

/// Longer than a launch on a machine with every processor busy; a sidecar that says nothing by then is hung.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(20);

/// The kernel ends killed processes in milliseconds; one that is stuck in a dying disk must not hold up the server.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);

/// A sidecar writes itself down in its first milliseconds.
const RECORD_DEADLINE: Duration = Duration::from_secs(2);

/// Between looks at things that cannot announce their end (a lock, a group): short beside a deletion, long beside a look.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Lines of the log that an exit is explained with.
const LAST_WORDS: usize = 3;

/// Volumes made ahead: one for the next sandbox, one for the one right after it.
const SPARES: usize = 2;

/// From the making of a sandbox to the preparations for the next: meanwhile the sandbox comes up, and shares no processor
/// with the mounting of a file system.
const SPARES_PAUSE: Duration = Duration::from_millis(10);

const LOG: &str = "sidecar.log";
/// In a sandbox's folder: [`Made`] as JSON.
const MADE: &str = "made.json";

/// What a later server must know of a sandbox: its own image and groups may be elsewhere.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Made {
    image: PathBuf,
    cgroups: CgroupPlan,
}

impl Made {
    fn of(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(MADE)).ok()?).ok()
    }
}

/// Where the backend finds what it needs.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// The server's data folder.
    pub data_dir: PathBuf,
    /// This program.
    pub lap_binary: PathBuf,
    /// Where sidecars dial.
    pub link_socket: PathBuf,
}

/// Sandboxes on this machine.
#[derive(Debug)]
pub struct LocalBackend {
    shared: Arc<Shared>,
    watchers: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    sandboxes: PathBuf,
    lap_binary: PathBuf,
    link_socket: PathBuf,
    image: PathBuf,
    /// Keeps other servers on the same folder from removing the image.
    _image_held: File,
    templates: Templates,
    cgroups: CgroupPlan,
    /// Set once, when the trial at the start is over.
    settled: OnceLock<Settled>,
    exits: Mutex<Option<mpsc::Sender<SandboxExit>>>,
    /// One provision or destroy per sandbox at a time.
    gates: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
    /// Volumes made ahead, all for the limits asked for last.
    spares: Mutex<Vec<Spare>>,
    /// A sidecar started ahead.
    waiting: Mutex<Option<Waiting>>,
    /// Taken by `destroy` to wait for the end of a child, by its watcher to report it.
    children: Mutex<BTreeMap<SandboxId, Child>>,
}

/// What a machine turned out to allow.
#[derive(Debug)]
struct Settled {
    volume: VolumePlan,
    found: Vec<Check>,
}

/// Everything `lap doctor` shows about this machine.
pub async fn checks(config: &LocalConfig) -> Vec<Check> {
    match LocalBackend::open(config.clone()).await {
        Ok(backend) => backend.shared.settled().found.clone(),
        Err(error) => vec![doctor::missing("local backend", &crate::launch::sentence(&error))],
    }
}

impl LocalBackend {
    /// Prepares folders, image and groups, tries a sandbox, and watches what an earlier server left running.
    pub async fn open(config: LocalConfig) -> Result<Self, BackendError> {
        let shared = tokio::task::spawn_blocking(move || Shared::prepare(config))
            .await
            .map_err(|error| BackendError::Observe(error.to_string()))?
            .map_err(|error| BackendError::Observe(format!("could not prepare the data folder: {error}")))?;
        let shared = Arc::new(shared);
        let settled = shared.settle().await;
        shared.settled.set(settled).expect("settled once, here");
        let backend = Self { shared, watchers: Mutex::new(JoinSet::new()) };
        backend.adopt().await.map_err(|error| BackendError::Observe(error.to_string()))?;
        Ok(backend)
    }

    /// Watches sidecars that an earlier server started.
    async fn adopt(&self) -> io::Result<()> {
        let deadline = tokio::time::Instant::now() + RECORD_DEADLINE;
        for (id, folder) in self.shared.folders()? {
            let process = loop {
                match record::find(&folder, "sidecar") {
                    // Started by a server that died at that moment; it writes itself down first of all.
                    None if self.shared.is_running(&id) && tokio::time::Instant::now() < deadline => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                    found => break found,
                }
            };
            if let Some(process) = process {
                self.watch(id, process)?;
            }
        }
        Ok(())
    }

    /// Prepares for the sandboxes to come, which mostly have the limits of this one: a sidecar, and volumes.
    fn make_spares(&self, limits: Limits) {
        let shared = self.shared.clone();
        let work = move || {
            if lock(&shared.waiting).is_none() {
                match Waiting::start(&shared.lap_binary) {
                    Ok(waiting) => drop(lock(&shared.waiting).replace(waiting)),
                    Err(error) => tracing::warn!("could not start a sidecar ahead: {error}"),
                }
            }
            if shared.settled().volume != VolumePlan::Image {
                return;
            }
            let stock = {
                let mut spares = lock(&shared.spares);
                spares.retain(|spare| spare.fits(&limits));
                spares.len()
            };
            for _ in stock..SPARES {
                match shared.templates.spare(&limits) {
                    Ok(spare) if lock(&shared.spares).len() < SPARES => lock(&shared.spares).push(spare),
                    Ok(_) => return,
                    Err(error) => return tracing::warn!("could not make a volume ahead: {error}"),
                }
            }
        };
        lock(&self.watchers).spawn(async move {
            tokio::time::sleep(SPARES_PAUSE).await;
            // It cannot fail but by panicking, and then there are no spares and nothing else is lost.
            let _ = tokio::task::spawn_blocking(work).await;
        });
    }

    fn watch(&self, id: SandboxId, process: OwnedFd) -> io::Result<()> {
        let process = crate::sys::readable(process)?;
        let shared = self.shared.clone();
        let mut watchers = lock(&self.watchers);
        while watchers.try_join_next().is_some() {}
        watchers.spawn(async move {
            if process.readable().await.is_ok() {
                shared.report(id).await;
            }
        });
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn provision<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let shared = &self.shared;
            shared.refuse_if_missing()?;
            let gate = shared.gate(&spec.id);
            let _one_at_a_time = gate.lock().await;
            if shared.is_running(&spec.id) {
                return Ok(());
            }
            shared.remove(&spec.id).await?;
            let order = SidecarLaunch {
                launch: shared.launch_spec(&spec.id, spec.limits, &spec.tools, shared.settled().volume),
                boot_token: spec.boot_token.clone(),
                link: shared.link_socket.clone(),
                trial: false,
            };
            let started = match shared.start(&order).await {
                Ok(process) => Ok(process),
                Err((what, cause)) => {
                    let failed = BackendError::Provision { id: spec.id.clone(), what, cause };
                    // What is left of the attempt must not outlive it; a second problem would only hide the first.
                    if let Err(error) = shared.remove(&spec.id).await {
                        tracing::warn!(sandbox.id = %spec.id, "remains of a failed start: {error}");
                    }
                    shared.forget(&spec.id);
                    Err(failed)
                }
            }?;
            self.make_spares(spec.limits);
            self.watch(spec.id.clone(), started.0).map_err(|cause| BackendError::Provision {
                id: spec.id.clone(),
                what: "watch the sidecar".to_owned(),
                cause: Some(cause),
            })
        })
    }

    fn destroy<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let gate = self.shared.gate(id);
            let _one_at_a_time = gate.lock().await;
            self.shared.remove(id).await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, BackendError>> {
        Box::pin(async move {
            let shared = self.shared.clone();
            tokio::task::spawn_blocking(move || shared.observe())
                .await
                .map_err(|error| BackendError::Observe(error.to_string()))?
                .map_err(|error| BackendError::Observe(error.to_string()))
        })
    }

    fn exits(&self) -> mpsc::Receiver<SandboxExit> {
        let (sender, receiver) = mpsc::channel(lap_sandbox::EXITS);
        *lock(&self.shared.exits) = Some(sender);
        receiver
    }

    fn logs<'a>(&'a self, id: &'a SandboxId, tail: usize) -> BoxFuture<'a, Result<String, BackendError>> {
        Box::pin(async move {
            let file = self.shared.folder(id).join(LOG);
            tokio::task::spawn_blocking(move || log::tail(&file, tail))
                .await
                .map_err(|error| BackendError::Observe(error.to_string()))?
                .map_err(|error| BackendError::Observe(format!("could not read the log of {id}: {error}")))
        })
    }

    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async move { self.shared.try_out(self.shared.settled().volume).await })
    }
}

impl Shared {
    fn prepare(config: LocalConfig) -> io::Result<Self> {
        let LocalConfig { data_dir, lap_binary, link_socket } = config;
        let private = |path: &Path| DirBuilder::new().mode(0o700).recursive(true).create(path);
        private(&data_dir)?;
        let data_dir = data_dir.canonicalize()?;
        let sandboxes = data_dir.join("sandboxes");
        private(&sandboxes)?;
        let images = data_dir.join("images");
        private(&images)?;
        if let Some(folder) = link_socket.parent() {
            private(folder)?;
            // Sidecars run as users of their own; what they dial must be in reach, while listing the folder need not be.
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))?;
        }
        let image = image::build(&images)?;
        let image_held = image::hold(&image)?;
        let templates = Templates::new(images.join("volumes"))?;
        // Two servers on one machine must not share groups: the folder's path tells them apart.
        let cgroups = CgroupPlan::prepare(&format!("lap-{:08x}", fingerprint(&data_dir)))?;
        let shared = Self {
            sandboxes,
            lap_binary: lap_binary.canonicalize()?,
            link_socket: std::path::absolute(link_socket)?,
            image,
            _image_held: image_held,
            templates,
            cgroups,
            settled: OnceLock::new(),
            exits: Mutex::default(),
            gates: Mutex::default(),
            spares: Mutex::default(),
            waiting: Mutex::default(),
            children: Mutex::default(),
        };
        let in_use: Vec<PathBuf> =
            shared.folders()?.into_values().filter_map(|folder| Some(Made::of(&folder)?.image)).collect();
        image::prune(&images, |path| in_use.iter().any(|used| used == path))?;
        Ok(shared)
    }

    fn settled(&self) -> &Settled {
        self.settled.get().expect("set before the backend is handed out")
    }

    /// Finds out by trying what this machine allows.
    async fn settle(self: &Arc<Self>) -> Settled {
        if !rustix::process::geteuid().is_root() {
            return Settled { volume: VolumePlan::Folders, found: self.try_out(VolumePlan::Folders).await };
        }
        let found = self.try_out(VolumePlan::Image).await;
        let Some(problem) = found.iter().find(|check| check.outcome == Outcome::Missing) else {
            return Settled { volume: VolumePlan::Image, found };
        };
        let mut without = self.try_out(VolumePlan::Folders).await;
        if without.iter().any(|check| check.outcome == Outcome::Missing) {
            return Settled { volume: VolumePlan::Image, found };
        }
        for disk in without.iter_mut().filter(|check| check.name == "disk limit") {
            disk.detail = format!("{} ({})", disk.detail, problem.detail);
        }
        Settled { volume: VolumePlan::Folders, found: without }
    }

    /// Makes a sandbox that ends at once.
    async fn try_out(self: &Arc<Self>, volume: VolumePlan) -> Vec<Check> {
        match (rustix::process::geteuid().is_root(), Identity::range_is_mapped()) {
            (true, Ok(false)) => {
                return vec![doctor::missing(
                    "users",
                    "LAP runs as root, but the users it would give to sandboxes do not exist here (a container with a narrow user map?); start it as an ordinary user, or map users up to 2,000,131,072",
                )];
            }
            (true, Err(error)) => {
                return vec![doctor::missing("users", &format!("could not read the user map: {error}"))];
            }
            _ => {}
        }
        let name =
            format!("trial-{}-{}", std::process::id(), TRIALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let id = SandboxId::new(&name).expect("letters and digits");
        let order = SidecarLaunch {
            launch: self.launch_spec(&id, TRIAL_LIMITS, &[], volume),
            boot_token: BootToken(String::new()),
            link: self.link_socket.clone(),
            trial: true,
        };
        let result = self.start(&order).await;
        let removed = self.remove(&id).await;
        self.forget(&id);
        let mut checks = match result {
            Ok((_, confinement)) => {
                let made = [
                    doctor::ok("namespaces", "user, mount, pid, net, ipc, uts and cgroup namespaces were made"),
                    doctor::ok(
                        "root file system",
                        "a read-only system with its own /proc, /dev, /tmp was put together",
                    ),
                    doctor::ok("system call filter", "seccomp is in force"),
                ];
                made.into_iter().chain(confinement).collect()
            }
            Err((what, cause)) => {
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                vec![doctor::missing("sandbox", &format!("{what}{cause}. {}", doctor::advice(&what)))]
            }
        };
        if let Err(error) = removed {
            checks.push(doctor::missing("clean up", &crate::launch::sentence(&error)));
        }
        checks
    }

    fn refuse_if_missing(&self) -> Result<(), BackendError> {
        let missing: Vec<&str> = self
            .settled()
            .found
            .iter()
            .filter(|check| check.outcome == Outcome::Missing)
            .map(|check| check.detail.as_str())
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(BackendError::CannotIsolate(missing.join("; "))) }
    }

    fn launch_spec(
        &self,
        id: &SandboxId,
        limits: Limits,
        tools: &[lap_sandbox::ToolMount],
        volume: VolumePlan,
    ) -> LaunchSpec {
        LaunchSpec {
            id: id.clone(),
            limits,
            tools: tools.to_vec(),
            lap_binary: self.lap_binary.clone(),
            sandbox_dir: self.folder(id),
            host_image_dir: self.image.clone(),
            cgroups: self.cgroups.clone(),
            volume,
        }
    }

    fn folder(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes.join(id.as_str())
    }

    /// Every folder with a sandbox's name.
    fn folders(&self) -> io::Result<BTreeMap<SandboxId, PathBuf>> {
        Ok(std::fs::read_dir(&self.sandboxes)?
            .flatten()
            .filter_map(|entry| Some((SandboxId::new(entry.file_name().to_str()?)?, entry.path())))
            .collect())
    }

    fn observe(&self) -> io::Result<Vec<SandboxStatus>> {
        let mut seen: BTreeMap<SandboxId, bool> = self
            .folders()?
            .into_iter()
            .filter(|(id, _)| !id.as_str().starts_with("trial-"))
            .map(|(id, _)| {
                let running = self.is_running(&id);
                (id, running)
            })
            .collect();
        for id in cgroup::remains(&self.cgroups).iter().filter_map(|name| SandboxId::new(name)) {
            if !id.as_str().starts_with("trial-") {
                seen.entry(id).or_insert(false);
            }
        }
        Ok(seen.into_iter().map(|(id, running)| SandboxStatus { id, running }).collect())
    }

    fn is_running(&self, id: &SandboxId) -> bool {
        let Ok(file) = File::open(self.folder(id).join(record::LOCK)) else { return false };
        // Shared, so that two who look at once do not take each other for a sidecar.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    fn gate(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = lock(&self.gates);
        if let Some(gate) = gates.get(id).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(tokio::sync::Mutex::new(()));
        gates.insert(id.clone(), Arc::downgrade(&gate));
        gate
    }

    /// Starts a sidecar and waits for its answer.
    async fn start(
        self: &Arc<Self>,
        order: &SidecarLaunch,
    ) -> Result<(OwnedFd, Vec<Check>), (String, Option<io::Error>)> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |cause: io::Error| (what, Some(cause))
        };
        let spawned = {
            let (shared, order) = (self.clone(), order.clone());
            tokio::task::spawn_blocking(move || shared.spawn(order)).await.map_err(io::Error::other)
        };
        let (process, ours) = spawned.and_then(|result| result).map_err(failed("could not start the sidecar"))?;
        let mut ours = tokio::net::UnixStream::from_std(ours).map_err(failed("could not talk to the sidecar"))?;
        let talk = async {
            let mut reply = Vec::new();
            ours.read_to_end(&mut reply).await.map(|_| reply)
        };
        let reply = tokio::time::timeout(LAUNCH_DEADLINE, talk)
            .await
            .map_err(|_| ("the sidecar did not answer in time".to_owned(), None))?
            .map_err(failed("could not hear from the sidecar"))?;
        match serde_json::from_slice(&reply) {
            Ok(LaunchReply::Started { confinement }) => Ok((process, confinement)),
            Ok(LaunchReply::Failed { what }) => Err((what, None)),
            Err(_) => {
                let words = log::tail(&self.folder(&order.launch.id).join(LOG), LAST_WORDS).unwrap_or_default();
                Err((format!("the sidecar ended without an answer: {words}"), None))
            }
        }
    }

    /// Everything up to the running process; returns its handle and our end of its descriptor 0.
    fn spawn(&self, mut order: SidecarLaunch) -> io::Result<(OwnedFd, std::os::unix::net::UnixStream)> {
        let spec = &mut order.launch;
        let folder = spec.sandbox_dir.clone();
        DirBuilder::new().mode(0o700).create(&folder)?;
        let held = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(record::LOCK))?;
        // Waits at most for somebody who is just looking whether the lock is held.
        rustix::fs::flock(&held, FlockOperation::LockExclusive)?;
        let made = Made { image: self.image.clone(), cgroups: self.cgroups.clone() };
        std::fs::write(folder.join(MADE), serde_json::to_vec(&made)?)?;
        for tool in &spec.tools {
            image::ensure_tool(&self.image, &tool.name)?;
        }
        let mut handed = None;
        if spec.volume == VolumePlan::Image {
            let image = folder.join(volume::IMAGE);
            match self.take_spare(&spec.limits) {
                Some(spare) => {
                    handed = Some(spare.give(&image)?);
                    spec.volume = VolumePlan::Mounted;
                }
                None => self.templates.copy(&spec.limits, &image)?,
            }
        }
        let log = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(folder.join(LOG))?;
        let text = serde_json::to_vec(&order)?;
        // The lock travels with the order: whoever holds that file open holds the lock, and so does the socket on the way.
        // Nothing ever lies between the server's holding it and the sidecar's.
        let with: Vec<BorrowedFd<'_>> =
            [log.as_fd(), held.as_fd()].into_iter().chain(handed.iter().map(AsFd::as_fd)).collect();
        let waiting = lock(&self.waiting).take();
        // One that has died while it waited is no reason not to go on.
        let (child, ours) = match waiting.and_then(|waiting| waiting.launch(&text, &with).ok()) {
            Some(told) => told,
            None => Waiting::start(&self.lap_binary)?.launch(&text, &with)?,
        };
        let pid =
            i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process has a number");
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        lock(&self.children).insert(order.launch.id.clone(), child);
        Ok((process, ours))
    }

    fn take_spare(&self, limits: &Limits) -> Option<Spare> {
        let mut spares = lock(&self.spares);
        let at = spares.iter().position(|spare| spare.fits(limits))?;
        Some(spares.swap_remove(at))
    }

    /// Reports the end of a sidecar once it has happened.
    async fn report(&self, id: SandboxId) {
        let status = self.bury(&id);
        let words = log::tail(&self.folder(&id).join(LOG), LAST_WORDS).unwrap_or_default();
        let mut detail = status.unwrap_or_else(|| "it ended".to_owned());
        if !words.is_empty() {
            detail = format!("{detail}; its last words: {words}");
        }
        tracing::info!(sandbox.id = %id, "sidecar ended: {detail}");
        if let Some(listener) = &*lock(&self.exits) {
            // Nobody listens any more: then nobody needs to know.
            let _ = listener.try_send(SandboxExit { id, detail });
        }
    }

    /// Takes the exit status of a child that has ended, so that no zombie stays.
    fn bury(&self, id: &SandboxId) -> Option<String> {
        let mut children = lock(&self.children);
        let status = children.get_mut(id)?.try_wait().ok().flatten()?;
        children.remove(id);
        Some(status.to_string())
    }

    /// Lets go of a child that nobody watches.
    fn forget(&self, id: &SandboxId) {
        lock(&self.children).remove(id);
    }

    /// Ends whatever runs of a sandbox and removes everything of it.
    async fn remove(&self, id: &SandboxId) -> Result<(), BackendError> {
        let failed = |what: &'static str| {
            move |cause: io::Error| BackendError::Destroy { id: id.clone(), what: what.to_owned(), cause: Some(cause) }
        };
        let folder = self.folder(id);
        let deadline = tokio::time::Instant::now() + DEATH_DEADLINE;
        let cgroups = Made::of(&folder).map_or_else(|| self.cgroups.clone(), |made| made.cgroups);
        // The sandbox before its sidecar, which buries it; the other way round that would be left to the machine's init.
        for role in ["init", "sidecar"] {
            if let Some(process) = record::find(&folder, role) {
                end(process, deadline).await.map_err(failed("a process would not end"))?;
            }
        }
        if let Some(child) = lock(&self.children).get_mut(id) {
            // A sidecar too young to have written itself down.
            let _ = child.kill();
        }
        // A new process of the sandbox holds the lock until it is about to run its program.
        while self.is_running(id) {
            if tokio::time::Instant::now() > deadline {
                return Err(failed("its sidecar still holds the lock")(io::ErrorKind::TimedOut.into()));
            }
            for role in ["init", "sidecar"] {
                if let Some(process) = record::find(&folder, role) {
                    end(process, deadline).await.map_err(failed("a process would not end"))?;
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.await_burial(id, deadline).await.map_err(failed("its sidecar would not end"))?;
        loop {
            cgroup::kill_all(&cgroups, id.as_str())
                .map_err(failed("could not kill what is left in its control groups"))?;
            if cgroup::remove(&cgroups, id.as_str()).map_err(failed("could not remove its control groups"))? {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                return Err(failed("processes in its control groups would not end")(io::ErrorKind::TimedOut.into()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if !folder.exists() {
            return Ok(());
        }
        let gone = tokio::task::spawn_blocking(move || remove_tree(&folder)).await.map_err(io::Error::other);
        gone.and_then(|result| result).map_err(failed("could not remove its folder"))
    }

    async fn await_burial(&self, id: &SandboxId, deadline: tokio::time::Instant) -> io::Result<()> {
        loop {
            match lock(&self.children).get_mut(id).map(Child::try_wait).transpose()? {
                None | Some(Some(_)) => break,
                Some(None) => {}
            }
            if tokio::time::Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // The watcher, if it has not come by yet, finds the status here; a child without watcher has nobody to tell.
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for folder in self.cgroups.folders() {
            // Refused while sandboxes run, which is right: they outlive the server.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

static TRIALS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

const TRIAL_LIMITS: Limits = Limits {
    memory_bytes: 256 << 20,
    pids: 64,
    cpu_millis: 1000,
    disk_bytes: 64 << 20,
    inodes: 4096,
    tmp_bytes: 16 << 20,
};

/// Kills a process and waits for its end.
async fn end(process: OwnedFd, deadline: tokio::time::Instant) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let process = crate::sys::readable(process)?;
    tokio::time::timeout_at(deadline, process.readable())
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        .map(drop)
}

/// Removes a folder that a sandbox's user may have filled with anything, such as folders nobody may enter.
fn remove_tree(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder);
            std::fs::remove_dir_all(folder)
        }
        Err(error) => Err(error),
    }
}

fn open_up(folder: &Path) {
    // What cannot be opened shows when it cannot be removed.
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    let Ok(list) = std::fs::read_dir(folder) else { return };
    for entry in list.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// FNV-1a: short, stable, and not meant to withstand anybody.
fn fingerprint(path: &Path) -> u32 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
