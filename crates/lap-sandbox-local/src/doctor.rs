//! Tries what a sandbox needs, one thing at a time, and says what to do where something is missing.
//!
//! Nothing is guessed from versions or files: each check does the thing, mostly by starting a sandbox that is thrown away.

use lap_sandbox::{Check, Outcome};

use crate::cgroup::CgroupPlan;
use crate::spec::VolumePlan;

/// How limits are enforced with these means.
pub(crate) fn limits(cgroups: &CgroupPlan, volume: VolumePlan) -> Vec<Check> {
    let version = |v1: bool| if v1 { "a version 1 control group" } else { "a version 2 control group" };
    let memory = if cgroups.limits_memory() {
        ok("memory limit", version(cgroups.v1_memory.is_some()))
    } else {
        degraded(
            "memory limit",
            "no control group for memory may be made: a sandbox can use all memory; start LAP as root, or delegate the memory controller to it (systemd: Delegate=yes)",
        )
    };
    let pids = if cgroups.limits_pids() {
        ok("process limit", version(cgroups.v1_pids.is_some()))
    } else {
        degraded(
            "process limit",
            "no control group for pids may be made: the limit counts per user namespace (RLIMIT_NPROC)",
        )
    };
    let cpu = if cgroups.limits_cpu() {
        ok("cpu limit", version(cgroups.v1_cpu.is_some()))
    } else {
        degraded(
            "cpu limit",
            "no control group for cpu may be made: a sandbox can use all processors; start LAP as root, or delegate the cpu controller to it",
        )
    };
    let disk = match volume {
        VolumePlan::Image | VolumePlan::Mounted => ok("disk limit", "each sandbox has a file system of its own"),
        VolumePlan::Folders => degraded(
            "disk limit",
            "sandboxes share the server's file system: the limit is measured now and then, not enforced; start LAP as root with loop devices and e2fsprogs",
        ),
    };
    vec![memory, pids, cpu, disk]
}

/// How connections get to the vault.
pub(crate) fn redirect(missing: Option<&str>) -> Check {
    match missing {
        None => ok("network redirection", "every TCP connection of a sandbox arrives at its sidecar"),
        Some(why) => degraded(
            "network redirection",
            &format!(
                "nf_tables is missing ({why}): sandboxes reach the vault on the usual ports only; load the modules nf_tables, nft_redir and nft_chain_nat"
            ),
        ),
    }
}

/// The second fence around files.
pub(crate) fn fence(missing: &str) -> Check {
    match missing {
        "" => ok("landlock", "a second fence around a sandbox's files"),
        why => degraded(
            "landlock",
            &format!("{why}; sandboxes do without this second fence (boot with lsm=landlock,… to have it)"),
        ),
    }
}

/// The second fence around what a sidecar may write.
pub(crate) fn sidecar_fence(missing: Option<&str>) -> Check {
    match missing {
        None => ok("sidecar landlock", "a sidecar can write to its sandbox's own folder alone"),
        Some(why) => degraded(
            "sidecar landlock",
            &format!(
                "{why}; what a sidecar may write follows from its user alone (boot with lsm=landlock,… to have more)"
            ),
        ),
    }
}

pub(crate) fn ok(name: &str, detail: &str) -> Check {
    Check { name: name.to_owned(), outcome: Outcome::Ok, detail: detail.to_owned() }
}

pub(crate) fn degraded(name: &str, detail: &str) -> Check {
    Check { name: name.to_owned(), outcome: Outcome::Degraded, detail: detail.to_owned() }
}

pub(crate) fn missing(name: &str, detail: &str) -> Check {
    Check { name: name.to_owned(), outcome: Outcome::Missing, detail: detail.to_owned() }
}

/// What a person can do about a step that failed.
pub(crate) fn advice(step: &str) -> &'static str {
    if step.contains("make namespaces") {
        "Allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns=0) or start LAP as root."
    } else if step.contains("/proc") {
        "Inside a container, /proc must not be masked (docker run --security-opt systempaths=unconfined)."
    } else if step.contains("volume") || step.contains("loop") {
        "Install e2fsprogs and make /dev/loop-control available."
    } else if step.contains("network") || step.contains("sockets") {
        "The kernel needs network namespaces with IPv4."
    } else {
        "Run LAP directly on a Linux host, version 5.12 or later."
    }
}
