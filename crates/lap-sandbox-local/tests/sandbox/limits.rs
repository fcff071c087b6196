//! Every limit holds, and being hit is told by name.

use lap_sandbox::Limits;

use crate::kit::{Inside, Kit, LIMITS, PATIENCE};

/// Whether this machine enforces something for this user; where not, the sandbox's confinement must say so.
fn enforced(inside: &Inside, what: &str) -> bool {
    let line = inside.confinement.iter().find(|line| line.starts_with(what)).expect("every limit is reported");
    assert!(line.contains(": Ok: ") || line.contains(": Degraded: "), "{line}");
    line.contains(": Ok: ")
}

/// Waits for a line in the sidecar's log: the log has no events, the file does.
async fn logged(kit: &Kit, name: &str, wanted: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !kit.log(name).await.contains(wanted) {
        assert!(tokio::time::Instant::now() < deadline, "no `{wanted}` in: {}", kit.log(name).await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox_with("memory", Limits { memory_bytes: 64 << 20, ..LIMITS }).await;
    if enforced(&inside, "memory limit") {
        let (status, _) = inside.run("perl -e '$x = \"x\" x (300<<20); print length $x'").await;
        assert_ne!(status, 0, "300 MiB fit into 64");
        logged(&kit, "memory", "limit: Memory").await;
    }
    // The guest itself is still there.
    inside.ok("true").await;
    kit.destroy("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox_with("pids", Limits { pids: 20, ..LIMITS }).await;
    let started = inside.ok("perl -e '$n = 0; for (1..60) { $p = fork; last unless defined $p; if (!$p) { sleep 5; exit } $n++ } print $n; kill 9, -getpgrp if 0'").await;
    let started: u32 = started.parse().expect("a number");
    assert!(started < 20, "{started} processes with a limit of 20");
    if enforced(&inside, "process limit") {
        logged(&kit, "pids", "limit: Pids").await;
    }
    kit.destroy("pids").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_time() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox_with("cpu", Limits { cpu_millis: 200, ..LIMITS }).await;
    if enforced(&inside, "cpu limit") {
        // One second of wall time must not give a second of processor time.
        let used = inside
            .ok("perl -e 'use Time::HiRes \"time\"; $e = time + 1; 1 while time < $e; @t = times; print $t[0] + $t[1]'")
            .await;
        let used: f64 = used.parse().expect("a number");
        assert!(used < 0.6, "{used} s of processor time in a second at 20 %");
    }
    kit.destroy("cpu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_and_inodes() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox_with("disk", Limits { disk_bytes: 32 << 20, inodes: 1024, ..LIMITS }).await;
    if enforced(&inside, "disk limit") {
        let (status, output) = inside.run("head -c 64M /dev/zero > /work/big").await;
        assert!(status != 0 && output.contains("No space left"), "{output}");
        inside.ok("rm /work/big; echo still works > /work/f").await;
        let (status, output) = inside.run("cd /home/agent && for i in $(seq 2000); do : > f$i || exit 1; done").await;
        assert!(status != 0 && output.contains("No space left"), "{output}");
    }
    kit.destroy("disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox_with("tmp", Limits { tmp_bytes: 4 << 20, ..LIMITS }).await;
    for folder in ["/tmp", "/dev/shm"] {
        let (status, output) = inside.run(&format!("head -c 8M /dev/zero > {folder}/big")).await;
        assert!(status != 0 && output.contains("No space left"), "{folder}: {output}");
    }
    kit.destroy("tmp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_cannot_fill_the_log() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox("log").await;
    inside.ok(&format!("!log 200000 {}", "x".repeat(100))).await;
    inside.ok("!log 1 the end").await;
    logged(&kit, "log", "the end").await;
    let size = std::fs::metadata(kit.data.join("sandboxes/log/sidecar.log")).expect("the log").len();
    assert!(size < 3 << 20, "the log has {size} bytes");
    kit.destroy("log").await;
}
