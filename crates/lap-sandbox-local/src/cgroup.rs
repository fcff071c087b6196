//! Limits by control groups, on either version and on hosts that mix them.
//!
//! The server decides once where groups may be made (`CgroupPlan`); each sidecar makes its sandbox's groups there and keeps
//! an eye on them (`LimitWatch`). On version 1, limits sit in their own hierarchies and the unified tree, when present,
//! serves to kill; on version 2 one group does everything.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lap_sandbox::{Limits, SandboxId};
use rustix::fs::{Mode, OFlags, inotify};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::spec::{Attempt, LaunchError};

/// The folders in which a sandbox's groups are made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Version 1 hierarchies.
    pub v1_memory: Option<PathBuf>,
    pub v1_pids: Option<PathBuf>,
    pub v1_cpu: Option<PathBuf>,
    /// The unified tree.
    pub unified: Option<PathBuf>,
    /// Which controllers the unified tree offers to our groups.
    pub v2_memory: bool,
    pub v2_pids: bool,
    pub v2_cpu: bool,
}

impl CgroupPlan {
    /// Finds where this process may make groups, and makes the folder `name` there.
    pub fn prepare(name: &str) -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let places = places(&mounts, &own);
        let mut plan = Self::default();
        for place in places {
            let Ok(folder) = make(&place.folder, name) else { continue };
            match place.controllers {
                Controllers::Unified => {
                    let offered = enable_v2(&place.folder, &folder);
                    plan.v2_memory = offered.contains(&"memory");
                    plan.v2_pids = offered.contains(&"pids");
                    plan.v2_cpu = offered.contains(&"cpu");
                    plan.unified = Some(folder);
                }
                Controllers::V1(list) => {
                    for controller in list {
                        match controller.as_str() {
                            "memory" => plan.v1_memory = Some(folder.clone()),
                            "pids" => plan.v1_pids = Some(folder.clone()),
                            "cpu" => plan.v1_cpu = Some(folder.clone()),
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(plan)
    }

    fn make_group(&self, parent: &Path, name: &str) -> io::Result<PathBuf> {
        match make(parent, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another server on the same data folder, such as a passing `lap doctor`, has tidied up behind itself.
                let base = parent.parent().unwrap_or(parent);
                if let Some(own) = parent.file_name().and_then(|name| name.to_str()) {
                    make(base, own)?;
                }
                if self.unified.as_deref() == Some(parent) {
                    enable_v2(base, parent);
                }
                make(parent, name)
            }
            result => result,
        }
    }

    /// Every folder of ours, each once.
    pub fn folders(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = [&self.v1_memory, &self.v1_pids, &self.v1_cpu, &self.unified]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Memory is limited.
    pub fn limits_memory(&self) -> bool {
        self.v1_memory.is_some() || self.v2_memory
    }

    /// The number of processes is limited.
    pub fn limits_pids(&self) -> bool {
        self.v1_pids.is_some() || self.v2_pids
    }

    /// Processor time is limited.
    pub fn limits_cpu(&self) -> bool {
        self.v1_cpu.is_some() || self.v2_cpu
    }

    /// Makes the groups of one sandbox and writes its limits.
    pub(crate) fn create(&self, id: &SandboxId, limits: &Limits) -> Result<SandboxGroups, LaunchError> {
        let mut attach = Vec::new();
        let mut files = Watched::default();
        let group = |parent: &Path| self.make_group(parent, id.as_str()).attempt("make a control group");
        if let Some(parent) = &self.v1_memory {
            let folder = group(parent)?;
            write(&folder.join("memory.limit_in_bytes"), limits.memory_bytes).attempt("limit memory")?;
            // Present only where swap is counted; without it there is nothing to limit.
            let _ = write(&folder.join("memory.memsw.limit_in_bytes"), limits.memory_bytes);
            files.v1_memory = Some(watch_v1_memory(&folder).attempt("watch the memory limit")?);
            attach.push(folder);
        }
        if let Some(parent) = &self.v1_pids {
            let folder = group(parent)?;
            write(&folder.join("pids.max"), limits.pids).attempt("limit processes")?;
            files.v1_pids = Some(folder.join("pids.events"));
            attach.push(folder);
        }
        if let Some(parent) = &self.v1_cpu {
            let folder = group(parent)?;
            write(&folder.join("cpu.cfs_period_us"), CPU_PERIOD_US).attempt("limit processor time")?;
            write(&folder.join("cpu.cfs_quota_us"), cpu_quota(limits)).attempt("limit processor time")?;
            attach.push(folder);
        }
        attach.sort();
        attach.dedup();
        let enter = attach
            .iter()
            .map(|folder| File::options().write(true).open(folder.join("tasks")))
            .collect::<io::Result<_>>()
            .attempt("open a control group")?;
        let mut into = None;
        if let Some(parent) = &self.unified {
            let folder = group(parent)?;
            if self.v2_memory {
                write(&folder.join("memory.max"), limits.memory_bytes).attempt("limit memory")?;
                let _ = write(&folder.join("memory.swap.max"), 0);
                // A sandbox is one thing: a half-killed one helps nobody find out what happened... but its agent may well
                // survive the loss of one compiler, so the kernel picks the largest process only.
                let _ = write(&folder.join("memory.oom.group"), 0);
                files.memory = Some(folder.join("memory.events"));
            }
            if self.v2_pids {
                write(&folder.join("pids.max"), limits.pids).attempt("limit processes")?;
                files.pids = Some(folder.join("pids.events"));
            }
            if self.v2_cpu {
                write(&folder.join("cpu.max"), format_args!("{} {CPU_PERIOD_US}", cpu_quota(limits)))
                    .attempt("limit processor time")?;
            }
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            into = Some(rustix::fs::open(&folder, flags, Mode::empty()).attempt("open a control group")?);
        }
        Ok(SandboxGroups { enter, into, watch: LimitWatch::new(files).attempt("watch the limits")? })
    }
}

const CPU_PERIOD_US: u64 = 100_000;

fn cpu_quota(limits: &Limits) -> u64 {
    // The kernel refuses quotas below a millisecond.
    (limits.cpu_millis * CPU_PERIOD_US / 1000).max(1000)
}

/// The groups of one sandbox.
#[derive(Debug)]
pub(crate) struct SandboxGroups {
    enter: Vec<File>,
    /// The unified group, for starting straight inside it.
    pub(crate) into: Option<OwnedFd>,
    pub(crate) watch: LimitWatch,
}

impl SandboxGroups {
    /// Moves this thread, the only one of its process, into the version 1 groups.
    ///
    /// A thread that moves itself, as "0" in `tasks`, costs microseconds; moving another process makes the kernel wait until
    /// no processor is inside fork or exit, which takes many milliseconds on a busy machine.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        self.enter.iter_mut().try_for_each(|tasks| tasks.write_all(b"0"))
    }
}

#[derive(Debug)]
enum Controllers {
    Unified,
    V1(Vec<String>),
}

#[derive(Debug)]
struct Place {
    controllers: Controllers,
    folder: PathBuf,
}

/// Where this process's own groups are, from `mountinfo` and `cgroup` of /proc/self.
fn places(mounts: &str, own: &str) -> Vec<Place> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(root), Some(point), Some(kind)) = (left.get(3), left.get(4), right.first()) else { continue };
        let own_path = |wanted: &dyn Fn(&str) -> bool| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                wanted(controllers).then(|| path.to_owned())
            })
        };
        let (controllers, path) = match *kind {
            "cgroup2" => (Controllers::Unified, own_path(&|controllers| controllers.is_empty())),
            "cgroup" => {
                let options: Vec<&str> = right.get(2).map(|options| options.split(',').collect()).unwrap_or_default();
                let list: Vec<String> = ["memory", "pids", "cpu"]
                    .into_iter()
                    .filter(|name| options.contains(name))
                    .map(str::to_owned)
                    .collect();
                let Some(first) = list.first().cloned() else { continue };
                (Controllers::V1(list), own_path(&|controllers| controllers.split(',').any(|name| name == first)))
            }
            _ => continue,
        };
        let Some(path) = path else { continue };
        // A container sees its own subtree mounted: the path is then relative to the mount's root.
        let below = path.strip_prefix(root).unwrap_or(&path).trim_start_matches('/');
        found.push(Place { controllers, folder: Path::new(point).join(below) });
    }
    found
}

/// Lets groups below `folder` (itself below `base`) use controllers, as far as the host has delegated them.
fn enable_v2(base: &Path, folder: &Path) -> Vec<&'static str> {
    const WANTED: [&str; 3] = ["memory", "pids", "cpu"];
    let offered = |at: &Path| -> Vec<&'static str> {
        let list = std::fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        WANTED.into_iter().filter(|name| list.split_whitespace().any(|offered| offered == *name)).collect()
    };
    if offered(base).is_empty() {
        return Vec::new();
    }
    let enable = |at: &Path| {
        for name in offered(at) {
            // Each on its own: one that is refused must not take the others along.
            let _ = write(&at.join("cgroup.subtree_control"), format_args!("+{name}"));
        }
    };
    enable(base);
    if offered(folder).len() < offered(base).len() {
        // A group with processes of its own may not share out controllers: move ours, the server's, one down.
        if let Ok(leaf) = make(base, "lap-server") {
            for pid in std::fs::read_to_string(base.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = write(&leaf.join("cgroup.procs"), pid);
            }
            enable(base);
        }
    }
    enable(folder);
    let control = std::fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    WANTED.into_iter().filter(|name| control.split_whitespace().any(|on| on == *name)).collect()
}

fn make(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let folder = parent.join(name);
    match DirBuilder::new().mode(0o755).create(&folder) {
        Ok(()) => Ok(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(folder),
        Err(error) => Err(error),
    }
}

fn write(file: &Path, value: impl std::fmt::Display) -> io::Result<()> {
    // One write call: the kernel takes each as a whole command.
    File::options().write(true).open(file)?.write_all(value.to_string().as_bytes())
}

/// A limit that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitHit {
    /// Memory ran out; this many processes have been killed for it since the last report.
    Memory {
        /// May be 0: processes were made to wait, or the kernel found enough after all.
        killed: u64,
    },
    /// Starting a process was refused.
    Pids,
}

#[derive(Debug, Default)]
struct Watched {
    v1_memory: Option<V1Memory>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    v1_pids: Option<PathBuf>,
}

/// Version 1 counts refused processes and tells nobody (neither poll nor inotify on pids.events): somebody has to look.
const V1_PIDS_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct V1Memory {
    event: OwnedFd,
    control: File,
}

/// Tells when a limit is hit, by the kernel's own notifications where it has them.
///
/// Opened with the sidecar's first rights and used after it has dropped them.
#[derive(Debug)]
pub struct LimitWatch {
    v1_memory: Option<V1Memory>,
    changes: Option<OwnedFd>,
    memory: Option<File>,
    pids: Option<File>,
    /// How often to look at `pids`, where nothing tells.
    pids_interval: Option<Duration>,
    kills_seen: u64,
    refusals_seen: u64,
    registered: Option<Registered>,
}

#[derive(Debug)]
struct Registered {
    event: Option<AsyncFd<OwnedFd>>,
    changes: Option<AsyncFd<OwnedFd>>,
}

impl LimitWatch {
    fn new(files: Watched) -> io::Result<Self> {
        let mut changes = None;
        for path in [&files.memory, &files.pids].into_iter().flatten() {
            let fd = match changes.take() {
                Some(fd) => fd,
                None => inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?,
            };
            inotify::add_watch(&fd, path, inotify::WatchFlags::MODIFY)?;
            changes = Some(fd);
        }
        let open = |path: &Option<PathBuf>| path.as_ref().map(File::open).transpose();
        Ok(Self {
            changes,
            memory: open(&files.memory)?,
            pids_interval: files.v1_pids.is_some().then_some(V1_PIDS_INTERVAL),
            pids: open(&files.v1_pids.or(files.pids))?,
            v1_memory: files.v1_memory,
            kills_seen: 0,
            refusals_seen: 0,
            registered: None,
        })
    }

    /// Waits for the next hit; for ever where nothing can be watched. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<LimitHit> {
        if self.registered.is_none() {
            self.registered = Some(Registered {
                event: self
                    .v1_memory
                    .as_ref()
                    .map(|memory| memory.event.try_clone())
                    .transpose()?
                    .map(crate::sys::readable)
                    .transpose()?,
                changes: self
                    .changes
                    .as_ref()
                    .map(OwnedFd::try_clone)
                    .transpose()?
                    .map(crate::sys::readable)
                    .transpose()?,
            });
        }
        loop {
            if let Some(hit) = self.look()? {
                return Ok(hit);
            }
            let registered = self.registered.as_ref().expect("set above");
            tokio::select! {
                ready = drained(registered.event.as_ref()) => {
                    ready?;
                    // Being out of memory was announced; whether it came to a kill shows in the counter, perhaps later.
                    let killed = self.kills()?;
                    let new = killed.saturating_sub(self.kills_seen);
                    self.kills_seen = killed;
                    return Ok(LimitHit::Memory { killed: new });
                }
                ready = drained(registered.changes.as_ref()) => ready?,
                () = passed(self.pids_interval) => {}
            }
        }
    }

    fn look(&mut self) -> io::Result<Option<LimitHit>> {
        let killed = self.kills()?;
        if killed > self.kills_seen {
            let new = killed - self.kills_seen;
            self.kills_seen = killed;
            return Ok(Some(LimitHit::Memory { killed: new }));
        }
        let refused = self.pids.as_mut().map(|file| counter(file, "max")).transpose()?.unwrap_or(0);
        if refused > self.refusals_seen {
            self.refusals_seen = refused;
            return Ok(Some(LimitHit::Pids));
        }
        Ok(None)
    }

    fn kills(&mut self) -> io::Result<u64> {
        if let Some(memory) = &mut self.v1_memory {
            return counter(&mut memory.control, "oom_kill");
        }
        self.memory.as_mut().map(|file| counter(file, "oom_kill")).transpose().map(|seen| seen.unwrap_or(0))
    }
}

async fn passed(interval: Option<Duration>) {
    match interval {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

/// Waits until the descriptor has something and takes it all, so that the next wait is for something new.
async fn drained(fd: Option<&AsyncFd<OwnedFd>>) -> io::Result<()> {
    let Some(fd) = fd else { return std::future::pending().await };
    loop {
        let mut guard = fd.readable().await?;
        let mut scrap = [0; 4096];
        let taken = guard.try_io(|fd| match rustix::io::read(fd.get_ref(), &mut scrap) {
            Ok(count) => Ok(count),
            Err(error) => Err(error.into()),
        });
        match taken {
            Ok(result) => return result.map(drop),
            Err(_not_ready) => continue,
        }
    }
}

fn counter(file: &mut File, name: &str) -> io::Result<u64> {
    let mut text = String::new();
    file.rewind()?;
    match file.read_to_string(&mut text) {
        Ok(_) => {}
        // The group has been removed: nothing more will be counted.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(0),
        Err(error) => return Err(error),
    }
    Ok(text
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()))
        .unwrap_or(0))
}

fn watch_v1_memory(folder: &Path) -> io::Result<V1Memory> {
    let event =
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?;
    let control = File::open(folder.join("memory.oom_control"))?;
    let order = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    write(&folder.join("cgroup.event_control"), order)?;
    Ok(V1Memory { event, control })
}

/// Kills everything in a sandbox's groups. The groups stay.
pub(crate) fn kill_all(plan: &CgroupPlan, id: &str) -> io::Result<()> {
    for parent in plan.folders() {
        let folder = parent.join(id);
        match write(&folder.join("cgroup.kill"), 1) {
            Ok(()) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Version 1, or a kernel before 5.14.
        for pid in members(&folder) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

fn members(folder: &Path) -> Vec<rustix::process::Pid> {
    let list = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw).collect()
}

/// Removes a sandbox's groups; false while something still lives in one.
pub(crate) fn remove(plan: &CgroupPlan, id: &str) -> io::Result<bool> {
    let mut gone = true;
    for parent in plan.folders() {
        match std::fs::remove_dir(parent.join(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => gone = false,
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

/// The sandboxes that have groups.
pub(crate) fn remains(plan: &CgroupPlan) -> Vec<String> {
    let mut names: Vec<String> = plan
        .folders()
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|list| list.flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}
