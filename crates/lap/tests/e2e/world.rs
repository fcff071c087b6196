//! The world around a server in a test: gateway, git upstream, echo upstream, and the server itself on a data folder of
//! its own. Ends with a check that nothing of any sandbox is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lap_api::agent::{Agent, CreateAgent};
use lap_api::message::{Message, Part, SendMessage};
use lap_api::session::{CreateSession, Session};
use lap_client::Client;
use lap_test::ca::TestCa;
use lap_test::echo::Echo;
use lap_test::gateway::Gateway;
use lap_test::git::GitServer;
use lap_test::server::LapServer;

pub const GIT_HOST: &str = "git.test";
pub const ECHO_HOST: &str = "echo.test";

/// Longer than any bring-up on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lap"))
}

pub struct World {
    pub gateway: Gateway,
    pub git: GitServer,
    pub echo: Echo,
    pub server: LapServer,
    pub client: Client,
    env: Vec<(&'static str, String)>,
    data_dir: PathBuf,
    _folder: tempfile::TempDir,
}

/// Which harness the sessions of a test need.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The `shell` harness: a turn runs its text as a command.
    Shell,
    /// A real harness, installed once for all tests.
    Harness(&'static str),
}

impl World {
    /// Everything up, the server on an empty data folder.
    pub async fn new(needs: Needs) -> World {
        Self::with_env(needs, &[]).await
    }

    /// The same with more environment for the server.
    pub async fn with_env(needs: Needs, more: &[(&'static str, &str)]) -> World {
        Self::with_ca(TestCa::new("LAP test CA"), needs, more).await
    }

    /// On a machine that allows its processes so many descriptors.
    pub async fn with_descriptors(needs: Needs, descriptors: u32) -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("lap");
        let script = format!("#!/bin/sh\nulimit -n {descriptors}\nexec {} \"$@\"\n", binary().display());
        std::fs::write(&program, script).expect("mine");
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mine");
        Self::made(folder, &program, TestCa::new("LAP test CA"), needs, &[]).await
    }

    /// The same with an authority that has signed for other upstreams too. Names and openings add to the world's own.
    pub async fn with_ca(ca: TestCa, needs: Needs, more: &[(&'static str, &str)]) -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::made(folder, binary(), ca, needs, more).await
    }

    async fn made(
        folder: tempfile::TempDir,
        program: &Path,
        ca: TestCa,
        needs: Needs,
        more: &[(&'static str, &str)],
    ) -> World {
        let data_dir = folder.path().join("data");
        std::fs::create_dir_all(&data_dir).expect("mine");
        let ca_file = ca.write(folder.path()).expect("mine");
        let (gateway, git, echo) =
            (Gateway::start(&ca).await, GitServer::start(&ca).await, Echo::start(&ca, &[]).await);
        if let Needs::Harness(id) = needs {
            lap_test::harness::give(&data_dir, id).await;
        }
        let mut env = vec![
            ("LITELLM_API_BASE", gateway.http_url()),
            ("LITELLM_API_KEY", gateway.key().to_owned()),
            ("LAP_TEST_HARNESSES", "true".into()),
            ("LAP_SANDBOX_DISK", "256MiB".into()),
            ("LAP_VAULT_EXTRA_CA", ca_file.display().to_string()),
            ("LAP_VAULT_RESOLVE", format!("{GIT_HOST}=127.0.0.1,{ECHO_HOST}=127.0.0.1")),
            (
                "LAP_VAULT_PRIVATE_ALLOW",
                format!("{GIT_HOST}:{},{ECHO_HOST}:{},{ECHO_HOST}:{}", git.port(), echo.https_port(), echo.http_port()),
            ),
        ];
        for (name, value) in more {
            match env.iter_mut().find(|(known, _)| known == name) {
                Some((_, list)) if name.starts_with("LAP_VAULT_") => *list = format!("{list},{value}"),
                _ => env.push((*name, (*value).to_owned())),
            }
        }
        let server = LapServer::start(program, &data_dir, &env).await.unwrap_or_else(|problem| panic!("{problem}"));
        let client = server.client();
        World { gateway, git, echo, server, client, env, data_dir, _folder: folder }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Kills the server with -9 and starts it again on the same folder.
    pub async fn kill_and_restart(&mut self) {
        self.server.kill().await.expect("it can be killed");
        let again = LapServer::start(binary(), &self.data_dir, &self.env).await;
        self.server = again.unwrap_or_else(|problem| panic!("{problem}"));
        self.client = self.server.client();
    }

    /// Starts a server that was killed again, on the same folder and address.
    pub async fn start_again_on(&mut self, address: &str) {
        let again = LapServer::start_on(binary(), &self.data_dir, address, &self.env).await;
        self.server = again.unwrap_or_else(|problem| panic!("{problem}"));
        self.client = self.server.client();
    }

    pub async fn agent(&self, agent: CreateAgent) -> Agent {
        self.client.create_agent(&agent).await.unwrap_or_else(|problem| panic!("{problem}"))
    }

    pub async fn open(&self, agent: &Agent, new: CreateSession) -> Session {
        self.client.create_session(&agent.id, &new).await.unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The session once it is no longer creating.
    pub async fn settled(&self, session: &Session) -> Session {
        let settled = self.client.session_when_ready(&session.id, PATIENCE).await;
        settled.unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// A session that is ready; panics with the reason if it is not.
    pub async fn ready(&self, agent: &Agent, new: CreateSession) -> Session {
        let session = self.settled(&self.open(agent, new).await).await;
        if session.status != "ready" {
            let log = self.client.sandbox_logs(&session.id, None).await.unwrap_or_default();
            panic!("{} {:?}\n{log}\n{}", session.status, session.failure_reason, self.server.log());
        }
        session
    }

    /// Sends a message and returns the words of the answer.
    pub async fn ask(&self, session: &Session, text: &str) -> String {
        words(&self.client.message(&session.id, &say(text), None).await.unwrap_or_else(|problem| panic!("{problem}")))
    }

    /// Deletes everything, stops the server and looks for leftovers.
    pub async fn end(self) {
        self.server.delete_everything().await.unwrap_or_else(|problem| panic!("{problem}\n{}", self.server.log()));
        let data_dir = self.data_dir.clone();
        let status = self.server.stop().await.expect("it stops");
        assert!(status.success(), "{status}");
        let left = leftovers(&data_dir);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// An agent of the shell harness.
pub fn shell_agent() -> CreateAgent {
    CreateAgent {
        name: Some("shell".into()),
        model: Some("test-model".into()),
        harness_id: Some("shell".into()),
        ..CreateAgent::default()
    }
}

pub fn say(text: &str) -> SendMessage {
    SendMessage { text: Some(text.into()), ..SendMessage::default() }
}

pub fn words(message: &Message) -> String {
    let texts = message.parts.iter().filter_map(|part| match part {
        Part::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

pub fn vars<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whatever of sandboxes below this data folder the machine still has: processes, mounts, loop devices, cgroups, files.
pub fn leftovers(data_dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let name = data_dir.display().to_string();
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    let has = |bytes: &[u8]| !name.is_empty() && bytes.windows(name.len()).any(|window| window == name.as_bytes());
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        if !process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let environ_or_argv = has(&read(&path.join("cmdline"))) || has(&read(&path.join("mountinfo")));
        let cwd = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(data_dir));
        if environ_or_argv || cwd {
            left.push(format!("process {} {}", path.display(), String::from_utf8_lossy(&read(&path.join("cmdline")))));
        }
    }
    let loops = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    for device in loops {
        if has(&read(&device.path().join("loop/backing_file"))) {
            left.push(format!("loop device {}", device.path().display()));
        }
    }
    let sandboxes = std::fs::read_dir(data_dir.join("sandboxes")).into_iter().flatten().flatten();
    left.extend(sandboxes.map(|entry| format!("file {}", entry.path().display())));
    let sockets = String::from_utf8_lossy(&read(Path::new("/proc/net/unix"))).into_owned();
    left.extend(sockets.lines().filter(|line| line.contains(&name)).map(|line| format!("socket {line}")));
    left
}

/// Folders of control groups whose name contains one of these.
pub fn cgroups_named(ids: &[String]) -> Vec<PathBuf> {
    fn walk(folder: &Path, ids: &[String], depth: usize, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if ids.iter().any(|id| entry.file_name().to_string_lossy().contains(id)) {
                found.push(path.clone());
            }
            if depth > 0 {
                walk(&path, ids, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), ids, 5, &mut found);
    found
}
