//! What every backend must do, as functions that a backend's tests call with a working instance.
//!
//! Each panics with a sentence when the backend does not conform, uses sandbox names of its own (starting with `conf-`), and
//! leaves nothing behind. Nothing here looks into a sandbox: that is for the backend's own tests.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{Backend, BootToken, Limits, Outcome, SandboxId, SandboxSpec};

/// Longer than any backend takes to notice that a sandbox has ended; reaching it means it never will.
const NOTICE_DEADLINE: Duration = Duration::from_secs(60);

/// Limits that any machine able to run tests can grant.
pub const SMALL: Limits = Limits {
    memory_bytes: 256 << 20,
    pids: 100,
    cpu_millis: 1000,
    disk_bytes: 64 << 20,
    inodes: 4096,
    tmp_bytes: 16 << 20,
};

/// Every check below, one after the other.
pub async fn all(backend: &dyn Backend) {
    it_can_isolate(backend).await;
    provision_makes_one_running_sandbox(backend).await;
    provision_twice_is_harmless(backend).await;
    destroy_removes_everything(backend).await;
    destroy_of_nothing_is_fine(backend).await;
    an_exit_is_told_once(backend).await;
    the_last_listener_hears_of_exits(backend).await;
    a_name_can_be_used_again(backend).await;
    logs_of_anything_can_be_asked_for(backend).await;
    many_at_once(backend, 8).await;
    provision_and_destroy_of_one_name_at_once(backend).await;
}

/// A sandbox of these tests.
pub fn spec(name: &str) -> SandboxSpec {
    SandboxSpec { id: id(name), boot_token: BootToken(format!("boot-{name}")), limits: SMALL, tools: Vec::new() }
}

fn id(name: &str) -> SandboxId {
    SandboxId::new(&format!("conf-{name}")).expect("test names are good names")
}

/// The state of a sandbox as `list` tells it: `None` when there is none.
async fn state(backend: &dyn Backend, id: &SandboxId) -> Option<bool> {
    let all = backend.list().await.expect("list works");
    let mut found = all.into_iter().filter(|status| status.id == *id);
    let first = found.next();
    assert!(found.next().is_none(), "{id} is listed twice");
    first.map(|status| status.running)
}

/// The tests below mean something only where sandboxes are allowed.
pub async fn it_can_isolate(backend: &dyn Backend) {
    let checks = backend.checks().await;
    assert!(!checks.is_empty(), "a backend has something to check");
    for check in checks {
        assert_ne!(check.outcome, Outcome::Missing, "{}: {}", check.name, check.detail);
        assert!(!check.detail.is_empty(), "{} says nothing", check.name);
    }
}

/// After `provision`, the sandbox is listed and runs.
pub async fn provision_makes_one_running_sandbox(backend: &dyn Backend) {
    let spec = spec("one");
    assert_eq!(state(backend, &spec.id).await, None);
    backend.provision(&spec).await.expect("provision works");
    assert_eq!(state(backend, &spec.id).await, Some(true));
    backend.destroy(&spec.id).await.expect("destroy works");
}

/// The second call changes nothing.
pub async fn provision_twice_is_harmless(backend: &dyn Backend) {
    let spec = spec("twice");
    backend.provision(&spec).await.expect("provision works");
    backend.provision(&spec).await.expect("provision works again");
    assert_eq!(state(backend, &spec.id).await, Some(true));
    backend.destroy(&spec.id).await.expect("destroy works");
}

/// After `destroy`, nothing is listed any more, and destroying again is fine.
pub async fn destroy_removes_everything(backend: &dyn Backend) {
    let spec = spec("gone");
    backend.provision(&spec).await.expect("provision works");
    backend.destroy(&spec.id).await.expect("destroy works");
    assert_eq!(state(backend, &spec.id).await, None);
    backend.destroy(&spec.id).await.expect("destroy works again");
}

/// A sandbox that never was can be destroyed.
pub async fn destroy_of_nothing_is_fine(backend: &dyn Backend) {
    backend.destroy(&id("never")).await.expect("destroying nothing works");
}

/// Exactly one exit comes for a sandbox, also when it was destroyed.
pub async fn an_exit_is_told_once(backend: &dyn Backend) {
    let spec = spec("exit");
    let mut exits = backend.exits();
    backend.provision(&spec).await.expect("provision works");
    backend.destroy(&spec.id).await.expect("destroy works");
    let exit =
        tokio::time::timeout(NOTICE_DEADLINE, exits.recv()).await.expect("an exit in time").expect("exits go on");
    assert_eq!(exit.id, spec.id);
    assert!(!exit.detail.is_empty(), "an exit says something");
    // Whatever is still to come would come before the exit of a later sandbox.
    let later = self::spec("exit-later");
    backend.provision(&later).await.expect("provision works");
    backend.destroy(&later.id).await.expect("destroy works");
    let next =
        tokio::time::timeout(NOTICE_DEADLINE, exits.recv()).await.expect("an exit in time").expect("exits go on");
    assert_eq!(next.id, later.id, "the first exit was told twice");
}

/// A second listener takes over.
pub async fn the_last_listener_hears_of_exits(backend: &dyn Backend) {
    let spec = spec("listener");
    let mut first = backend.exits();
    let mut second = backend.exits();
    backend.provision(&spec).await.expect("provision works");
    backend.destroy(&spec.id).await.expect("destroy works");
    let exit =
        tokio::time::timeout(NOTICE_DEADLINE, second.recv()).await.expect("an exit in time").expect("exits go on");
    assert_eq!(exit.id, spec.id);
    assert!(first.recv().await.is_none(), "the first listener is cut off");
}

/// Names are free again after `destroy`.
pub async fn a_name_can_be_used_again(backend: &dyn Backend) {
    let spec = spec("again");
    for _ in 0..3 {
        backend.provision(&spec).await.expect("provision works");
        assert_eq!(state(backend, &spec.id).await, Some(true));
        backend.destroy(&spec.id).await.expect("destroy works");
        assert_eq!(state(backend, &spec.id).await, None);
    }
}

/// Asking for logs is never an error, and `tail` is obeyed.
pub async fn logs_of_anything_can_be_asked_for(backend: &dyn Backend) {
    let spec = spec("logs");
    assert_eq!(backend.logs(&spec.id, 10).await.expect("logs of nothing work"), "");
    backend.provision(&spec).await.expect("provision works");
    let text = backend.logs(&spec.id, 2).await.expect("logs work");
    assert!(text.lines().count() <= 2, "asked for two lines, got {text:?}");
    backend.destroy(&spec.id).await.expect("destroy works");
}

/// Provisions and destroys `count` sandboxes at once; nothing is left.
pub async fn many_at_once(backend: &dyn Backend, count: usize) {
    let specs: Vec<SandboxSpec> = (0..count).map(|number| spec(&format!("many-{number}"))).collect();
    for result in futures_util::future::join_all(specs.iter().map(|spec| backend.provision(spec))).await {
        result.expect("provision works");
    }
    let running: BTreeSet<SandboxId> = backend
        .list()
        .await
        .expect("list works")
        .into_iter()
        .filter(|status| status.running)
        .map(|status| status.id)
        .collect();
    for spec in &specs {
        assert!(running.contains(&spec.id), "{} is not running", spec.id);
    }
    for result in futures_util::future::join_all(specs.iter().map(|spec| backend.destroy(&spec.id))).await {
        result.expect("destroy works");
    }
    for spec in &specs {
        assert_eq!(state(backend, &spec.id).await, None);
    }
}

/// Whichever of the two wins, the sandbox is wholly there or wholly gone, and a later `destroy` ends it.
pub async fn provision_and_destroy_of_one_name_at_once(backend: &dyn Backend) {
    let spec = spec("race");
    for _ in 0..3 {
        let (made, ended) = futures_util::future::join(backend.provision(&spec), backend.destroy(&spec.id)).await;
        made.expect("provision works");
        ended.expect("destroy works");
        assert!(matches!(state(backend, &spec.id).await, None | Some(true)));
        backend.destroy(&spec.id).await.expect("destroy works");
        assert_eq!(state(backend, &spec.id).await, None);
    }
}
