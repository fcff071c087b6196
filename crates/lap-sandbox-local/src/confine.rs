//! What a process gives up before it runs what it does not trust, or before it starts to hold secrets.

use std::io;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use lap_sandbox::Check;

use crate::seccomp::Filters;
use crate::{doctor, sys};

/// Open files of a sandbox's processes, and of its sidecar: enough for every build tool, far from the machine's limit.
const OPEN_FILES: u64 = 65_536;

/// Everything a sandbox gives up; returns why there is no Landlock, where there is none. `processes` is a limit by user, for
/// where no control group counts them.
pub(crate) fn sandbox(filters: &Filters, processes: Option<u64>) -> io::Result<Option<String>> {
    lower(Resource::Core, 0)?;
    lower(Resource::Nofile, OPEN_FILES)?;
    // Queues live in kernel memory that no other limit counts.
    lower(Resource::Msgqueue, 0)?;
    if let Some(processes) = processes {
        lower(Resource::Nproc, processes)?;
    }
    drop_bounding_set()?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)?;
    let without_landlock = landlock().err().map(|error| error.to_string());
    filters.install()?;
    Ok(without_landlock)
}

/// Everything a sidecar gives up once its sandbox runs. `become_user` is called when rights to change users are still there.
/// Below `own` it may go on writing. Returns why there is no Landlock, where there is none.
pub(crate) fn sidecar(
    filters: &Filters,
    own: &Path,
    become_user: impl FnOnce() -> io::Result<()>,
) -> io::Result<Option<String>> {
    lower(Resource::Core, 0)?;
    // The vault of a busy sandbox has thousands of connections open.
    raise(Resource::Nofile)?;
    let own = landlock::PathFd::new(own).map_err(io::Error::other)?;
    // Nobody asks how the sandbox's first process ended, so nobody needs to bury it either.
    sys::ignore_children()?;
    drop_bounding_set()?;
    become_user()?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let without_landlock = sidecar_landlock(own).err().map(|error| error.to_string());
    filters.install()?;
    Ok(without_landlock)
}

/// Keeps secrets out of swap where allowed, and says how; to be called while still root.
pub(crate) fn lock_memory() -> Check {
    const NAME: &str = "secrets in memory";
    let Err(error) = sys::lock_memory() else {
        return doctor::ok(NAME, "the sidecar's memory is locked: it is never written to swap");
    };
    // A heading, and a line for each.
    let swaps = std::fs::read_to_string("/proc/swaps").map_or(0, |text| text.lines().skip(1).count());
    if swaps == 0 {
        return doctor::ok(NAME, "this machine has no swap that a sidecar's memory could be written to");
    }
    let detail = format!(
        "the sidecar's memory may be written to swap ({error}); let LAP lock memory (systemd: LimitMEMLOCK=infinity), or encrypt the swap"
    );
    doctor::degraded(NAME, &detail)
}

/// As far as it goes; more than this nobody needs.
fn raise(resource: Resource) -> io::Result<()> {
    let seen = rustix::process::getrlimit(resource);
    let limit = Some(seen.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES)));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?)
}

fn lower(resource: Resource, wanted: u64) -> io::Result<()> {
    let seen = rustix::process::getrlimit(resource);
    let limit = Some(seen.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?)
}

fn drop_bounding_set() -> io::Result<()> {
    for bit in 0..64 {
        let Some(capability) = CapabilitySet::from_bits(1 << bit) else { continue };
        if rustix::thread::capability_is_in_bounding_set(capability).is_ok_and(|present| present) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // An ordinary user's sidecar has none and may not even lower the bound.
                Ok(()) | Err(rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// Places a sandbox may write to, should a mount ever be less read-only than meant.
const WRITABLE: [&str; 6] = ["/work", "/home", "/tmp", "/run", "/dev", "/proc"];

/// A second, independent fence around files, and no abstract sockets beyond it; best effort by design of Landlock.
fn landlock() -> Result<(), Box<dyn std::error::Error>> {
    use landlock::{
        ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
    };
    // Device ioctls (ABI 5) are left alone: terminals need them.
    let abi = ABI::V4;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::from_read(abi)))?;
    for path in WRITABLE {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, AccessFs::from_all(abi)))?;
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock".into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// A sidecar reads what is public (certificates, name servers, its control groups), writes below its own folder alone, starts
/// no program and offers no port.
fn sidecar_landlock(own: landlock::PathFd) -> Result<(), Box<dyn std::error::Error>> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    };
    let all = AccessFs::from_all(ABI::V4);
    let status = Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::BindTcp)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rule(PathBeneath::new(own, all & !AccessFs::Execute))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock".into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
