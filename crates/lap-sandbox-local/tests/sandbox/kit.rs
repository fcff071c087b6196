//! What the tests of this crate share: a backend in a folder of its own, and a way to run commands inside a sandbox.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lap_sandbox::{Backend, BootToken, Limits, SandboxId, SandboxSpec};
use lap_sandbox_local::{LocalBackend, LocalConfig};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Much longer than anything here takes: reaching it means that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const LIMITS: Limits = Limits {
    memory_bytes: 512 << 20,
    pids: 200,
    cpu_millis: 2000,
    disk_bytes: 256 << 20,
    inodes: 20_000,
    tmp_bytes: 64 << 20,
};

pub struct Kit {
    pub backend: LocalBackend,
    pub data: PathBuf,
    arrivals: mpsc::UnboundedReceiver<Inside>,
    waiting: HashMap<String, Inside>,
    folder: Arc<tempfile::TempDir>,
}

/// A way into a running sandbox.
pub struct Inside {
    pub id: String,
    pub token: String,
    pub confinement: Vec<String>,
    pub sidecar: i32,
    /// What its sidecar tried, confined, and succeeded with.
    pub succeeded: Vec<String>,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Kit {
    pub async fn new() -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().expect("a folder"))).await
    }

    /// Another server on the same folder, as after a restart.
    ///
    /// The first kit stays: it would end its sandboxes.
    pub async fn restarted(&self) -> Self {
        Self::in_folder(self.folder.clone()).await
    }

    async fn in_folder(folder: Arc<tempfile::TempDir>) -> Self {
        let data = folder.path().join("data");
        let link_socket = data.join("run/link.sock");
        let _ = std::fs::remove_file(&link_socket);
        let lap_binary = PathBuf::from(env!("CARGO_BIN_EXE_lap-sandbox-testbox"));
        let config = LocalConfig { data_dir: data.clone(), lap_binary, link_socket: link_socket.clone() };
        let backend = LocalBackend::open(config).await.expect("a backend");
        let arrivals = serve(&link_socket);
        Self { backend, data, arrivals, waiting: HashMap::new(), folder }
    }

    /// Provisions a sandbox and waits until its guest says hello.
    pub async fn sandbox(&mut self, name: &str) -> Inside {
        self.sandbox_with(name, LIMITS).await
    }

    pub async fn sandbox_with(&mut self, name: &str, limits: Limits) -> Inside {
        self.backend.provision(&spec(name, limits)).await.expect("provision");
        self.arrival(name).await
    }

    pub async fn arrival(&mut self, name: &str) -> Inside {
        if let Some(found) = self.waiting.remove(name) {
            return found;
        }
        loop {
            let next = tokio::time::timeout(PATIENCE, self.arrivals.recv())
                .await
                .expect("a sandbox in time")
                .expect("serving");
            if next.id == name {
                return next;
            }
            self.waiting.insert(next.id.clone(), next);
        }
    }

    pub async fn destroy(&self, name: &str) {
        self.backend.destroy(&id(name)).await.expect("destroy");
    }

    pub async fn log(&self, name: &str) -> String {
        self.backend.logs(&id(name), 1000).await.expect("the log")
    }
}

impl Drop for Kit {
    /// A test that fails half-way leaves no sandbox running.
    fn drop(&mut self) {
        for sandbox in std::fs::read_dir(self.data.join("sandboxes")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(sandbox.path().join("processes")).unwrap_or_default();
            for pid in text.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

impl Inside {
    /// Runs a shell command inside; status and output.
    pub async fn run(&mut self, command: &str) -> (i32, String) {
        let line = format!("{}\n", serde_json::to_string(command).expect("text"));
        self.writer.write_all(line.as_bytes()).await.expect("a guest that listens");
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, self.reader.read_line(&mut answer))
            .await
            .expect("an answer in time")
            .expect("a guest");
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no answer to `{command}`: {answer:?}"))
    }

    /// Runs a command that must succeed; its output.
    #[track_caller]
    pub fn ok<'a>(&'a mut self, command: &'a str) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let (status, output) = self.run(command).await;
            assert_eq!(status, 0, "`{command}` at {place}: {output}");
            output.trim().to_owned()
        }
    }

    /// Sends a command that ends the guest, and waits for the end.
    pub async fn hang_up(&mut self, command: &str) {
        let line = format!("{}\n", serde_json::to_string(command).expect("text"));
        self.writer.write_all(line.as_bytes()).await.expect("a guest that listens");
        self.end().await;
    }

    /// Waits until the sandbox's end closes the stream.
    pub async fn end(&mut self) {
        let mut rest = String::new();
        let read = tokio::io::AsyncReadExt::read_to_string(&mut self.reader, &mut rest);
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("an end in time");
    }
}

pub fn id(name: &str) -> SandboxId {
    SandboxId::new(name).expect("a good name")
}

pub fn spec(name: &str, limits: Limits) -> SandboxSpec {
    SandboxSpec { id: id(name), boot_token: BootToken(format!("token-of-{name}")), limits, tools: Vec::new() }
}

fn serve(socket: &Path) -> mpsc::UnboundedReceiver<Inside> {
    use std::os::unix::fs::PermissionsExt;
    let listener = UnixListener::bind(socket).expect("a socket");
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).expect("a socket for all");
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Some(inside) = greet(stream).await {
                    let _ = sender.send(inside);
                }
            });
        }
    });
    receiver
}

async fn greet(stream: UnixStream) -> Option<Inside> {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let (id, token, confinement, sidecar, succeeded) = serde_json::from_str(&line).ok()?;
    line.clear();
    reader.read_line(&mut line).await.ok()?;
    (line.trim() == "\"hello\"").then_some(Inside { id, token, confinement, sidecar, succeeded, reader, writer })
}
