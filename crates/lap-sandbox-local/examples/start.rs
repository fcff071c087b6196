//! How long a sandbox takes from the call to the guest's first word, beside a bare fork and exec.
//!
//! `cargo run --release -p lap-sandbox-local --example start [count]`, after `cargo build --release -p lap-sandbox-local`.
#![allow(clippy::print_stdout)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lap_sandbox::{Backend, BootToken, Limits, SandboxId, SandboxSpec};
use lap_sandbox_local::{LocalBackend, LocalConfig};
use tokio::io::{AsyncBufReadExt, BufReader};

const LIMITS: Limits = Limits {
    memory_bytes: 2 << 30,
    pids: 512,
    cpu_millis: 2000,
    disk_bytes: 10 << 30,
    inodes: 655_360,
    tmp_bytes: 1 << 30,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(200), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().join("data");
    let link_socket = data_dir.join("run/link.sock");
    let lap_binary = std::env::current_exe()?.ancestors().nth(2).ok_or("no folder")?.join("lap-sandbox-testbox");
    let backend = LocalBackend::open(LocalConfig { data_dir, lap_binary, link_socket: link_socket.clone() }).await?;
    for check in backend.checks().await {
        println!("{:<22} {:?}: {}", check.name, check.outcome, check.detail);
    }
    let listener = tokio::net::UnixListener::bind(&link_socket)?;
    std::fs::set_permissions(&link_socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let (mut bare, mut answered, mut hello, mut gone) = (vec![], vec![], vec![], vec![]);
    for number in 0..count {
        let start = Instant::now();
        Command::new("/bin/true").stdout(Stdio::null()).status()?;
        bare.push(start.elapsed());
        let id = SandboxId::new(&format!("bench-{number}")).ok_or("a bad name")?;
        let spec = SandboxSpec { id: id.clone(), boot_token: BootToken(String::new()), limits: LIMITS, tools: vec![] };
        let start = Instant::now();
        let made = async {
            let result = backend.provision(&spec).await;
            (result, start.elapsed())
        };
        let spoke = async {
            let (stream, _) = listener.accept().await?;
            let mut lines = BufReader::new(stream).lines();
            lines.next_line().await?;
            lines.next_line().await?;
            Ok::<_, std::io::Error>((start.elapsed(), lines))
        };
        let ((result, made), spoke) = tokio::join!(made, spoke);
        result?;
        let (spoke, _stream) = spoke?;
        answered.push(made);
        hello.push(spoke);
        let start = Instant::now();
        backend.destroy(&id).await?;
        gone.push(start.elapsed());
    }
    for (name, times) in [
        ("fork+exec /bin/true", &mut bare),
        ("provision answers", &mut answered),
        ("guest says hello", &mut hello),
        ("destroy", &mut gone),
    ] {
        times.sort();
        let at = |share: f64| ms(times[((times.len() - 1) as f64 * share) as usize]);
        println!(
            "{name:<22} n={count} p50={:.2} p90={:.2} p99={:.2} max={:.2} ms",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
