//! Nothing of a sandbox outlives it, however it ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use lap_sandbox::Backend;
use rustix::process::{Pid, Signal};

use crate::kit::{Kit, LIMITS, id, spec};

/// What can be recognised as belonging to the sandboxes of one kit.
#[derive(Default)]
struct Traces {
    /// Control groups.
    groups: BTreeSet<PathBuf>,
    /// Number and start of each sidecar and each pid 1; the kernel ends all else inside with pid 1.
    processes: BTreeSet<(i32, u64)>,
}

impl Traces {
    /// Takes down everything of the running sandboxes.
    fn note(&mut self, kit: &Kit) {
        for sandbox in std::fs::read_dir(kit.data.join("sandboxes")).expect("the folder").flatten() {
            let made = std::fs::read(sandbox.path().join("made.json")).unwrap_or_default();
            let made: serde_json::Value = serde_json::from_slice(&made).unwrap_or_default();
            let parents =
                made["cgroups"].as_object().into_iter().flat_map(|groups| groups.values()).filter_map(|at| at.as_str());
            self.groups.extend(parents.map(|parent| Path::new(parent).join(sandbox.file_name())));
            let text = std::fs::read_to_string(sandbox.path().join("processes")).unwrap_or_default();
            for line in text.lines() {
                let fields: Vec<&str> = line.split(' ').collect();
                let (pid, start) = (fields[1].parse().expect("a number"), fields[2].parse().expect("a number"));
                self.processes.insert((pid, start));
            }
        }
    }

    /// Fails when anything is left.
    fn assert_gone(&self, kit: &Kit) {
        for (pid, start) in &self.processes {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Orphans are buried by the machine's init, when it gets to it.
            if stat.contains(") Z 1 ") {
                continue;
            }
            let same = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)) == Some(&start.to_string());
            assert!(!same, "process {pid} is left: {stat}");
        }
        let folders: Vec<_> = std::fs::read_dir(kit.data.join("sandboxes")).expect("the folder").flatten().collect();
        assert!(folders.is_empty(), "{folders:?} are left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        assert!(!mounts.contains(&*kit.data.to_string_lossy()), "a mount is left: {mounts}");
        assert_eq!(loop_devices_below(&kit.data.join("sandboxes")), [""; 0], "loop devices are left");
        // A group with a process in it could not have been removed: so this is about processes as well.
        for group in &self.groups {
            assert!(!group.exists(), "{} is left", group.display());
        }
    }
}

fn loop_devices_below(folder: &Path) -> Vec<String> {
    std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok())
        .filter(|file| file.starts_with(&*folder.to_string_lossy()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once() {
    let mut kit = Kit::new().await;
    let names: Vec<String> = (0..50).map(|number| format!("leftover-many-{number}")).collect();
    let specs: Vec<_> = names.iter().map(|name| spec(name, LIMITS)).collect();
    for result in join_all(specs.iter().map(|spec| kit.backend.provision(spec))).await {
        result.expect("provision");
    }
    for name in &names {
        let mut inside = kit.arrival(name).await;
        assert_eq!(inside.ok("echo $(id -u)").await, "1000");
    }
    let mut traces = Traces::default();
    traces.note(&kit);
    assert_eq!(traces.processes.len(), 100, "a sidecar and an init each");
    for result in join_all(specs.iter().map(|spec| kit.backend.destroy(&spec.id))).await {
        result.expect("destroy");
    }
    traces.assert_gone(&kit);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_sandboxes_share_a_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut kit = Kit::new().await;
    let mut users = BTreeSet::new();
    for number in 0..5 {
        let name = format!("leftover-user-{number}");
        let inside = kit.sandbox(&name).await;
        let line = inside.confinement.iter().find(|line| line.starts_with("users: ")).expect("a line").clone();
        assert!(users.insert(line.clone()), "{line} twice");
    }
    for number in 0..5 {
        kit.destroy(&format!("leftover-user-{number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_takes_its_sandbox_along() {
    let mut kit = Kit::new().await;
    let mut exits = kit.backend.exits();
    let mut inside = kit.sandbox("leftover-killed").await;
    inside.ok("for i in 1 2 3; do (setsid sleep 1000 >/dev/null 2>&1 &) ; done").await;
    let mut traces = Traces::default();
    traces.note(&kit);
    kill(inside.sidecar);
    inside.end().await;
    let exit = tokio::time::timeout(crate::kit::PATIENCE, exits.recv()).await.expect("an exit in time").expect("exits");
    assert!(exit.detail.contains("signal: 9"), "{}", exit.detail);
    let listed = kit.backend.list().await.expect("list");
    assert_eq!(listed.len(), 1, "the remains are listed");
    assert!(!listed[0].running);
    // The sandbox is dead already, before anybody tidies up.
    let init = traces.processes.iter().map(|(pid, _)| *pid).find(|pid| *pid != inside.sidecar).expect("an init");
    wait_for_end(init).await;
    kit.destroy("leftover-killed").await;
    traces.assert_gone(&kit);
}

/// Kills a sidecar at many moments of its life, early ones above all.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_killed_at_any_moment_leaves_nothing() {
    let kit = Kit::new().await;
    let mut traces = Traces::default();
    for step in 0..60_u64 {
        let name = format!("leftover-moment-{step}");
        let spec = spec(&name, LIMITS);
        let processes = kit.data.join("sandboxes").join(&name).join("processes");
        let killer = async {
            let pid = loop {
                let text = tokio::fs::read_to_string(&processes).await.unwrap_or_default();
                if let Some(pid) = text.split(' ').nth(1).and_then(|pid| pid.parse().ok()) {
                    break pid;
                }
                tokio::task::yield_now().await;
            };
            // Spread over what a launch takes.
            tokio::time::sleep(Duration::from_micros(step * 300)).await;
            kill(pid);
        };
        let (made, ()) = tokio::join!(kit.backend.provision(&spec), killer);
        traces.note(&kit);
        // Whether the kill came before or after the answer, destroying is enough.
        drop(made);
        kit.backend.destroy(&id(&name)).await.expect("destroy");
    }
    traces.assert_gone(&kit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_finds_what_the_old_one_left() {
    let mut kit = Kit::new().await;
    let running = kit.sandbox("leftover-runs").await;
    let dead = kit.sandbox("leftover-died").await;
    let mut traces = Traces::default();
    traces.note(&kit);
    kill(dead.sidecar);
    let old = kit;
    let kit = old.restarted().await;
    let mut exits = kit.backend.exits();
    let listed = kit.backend.list().await.expect("list");
    let seen: Vec<(&str, bool)> = listed.iter().map(|status| (status.id.as_str(), status.running)).collect();
    assert_eq!(seen, [("leftover-died", false), ("leftover-runs", true)]);
    // Provisioning what runs changes nothing; the exit of an adopted sidecar is told as well.
    kit.backend.provision(&spec("leftover-runs", LIMITS)).await.expect("provision");
    kill(running.sidecar);
    // The one that died just before may or may not have been noticed by the new server.
    loop {
        let exit =
            tokio::time::timeout(crate::kit::PATIENCE, exits.recv()).await.expect("an exit in time").expect("exits");
        if exit.id.as_str() == "leftover-runs" {
            break;
        }
    }
    for name in ["leftover-runs", "leftover-died"] {
        kit.destroy(name).await;
    }
    traces.assert_gone(&kit);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_made_remains_are_removed() {
    let kit = Kit::new().await;
    let folder = kit.data.join("sandboxes/leftover-half");
    std::fs::create_dir_all(folder.join("volume/work/locked/deep")).expect("a folder");
    std::fs::set_permissions(folder.join("volume/work/locked"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .expect("locked");
    assert_eq!(kit.backend.list().await.expect("list").len(), 1);
    kit.destroy("leftover-half").await;
    assert!(!folder.exists());
    assert_eq!(kit.backend.list().await.expect("list").len(), 0);
}

fn kill(pid: i32) {
    // Gone already is as good.
    let _ = rustix::process::kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL);
}

async fn wait_for_end(pid: i32) {
    let deadline = tokio::time::Instant::now() + crate::kit::PATIENCE;
    loop {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "process {pid} lives on: {state}");
        tokio::task::yield_now().await;
    }
}
