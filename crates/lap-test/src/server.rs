//! The built `lap serve` as a child process: started, asked through the typed client, stopped or killed.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lap_client::{ApiKey, Client, ClientConfig};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A server that is not up, or not gone, after this long has a fault.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running server. Dropping it kills it; its sandboxes live on, so delete sessions first or call
/// [`LapServer::delete_everything`].
pub struct LapServer {
    child: Child,
    url: String,
    data_dir: PathBuf,
    key: String,
}

impl LapServer {
    /// Starts `binary serve` on a free port with nothing in its environment but `PATH`, `HOME` and `env`. Its log goes to
    /// `serve.log` in the data folder.
    pub async fn start(binary: &Path, data_dir: &Path, env: &[(&str, String)]) -> io::Result<LapServer> {
        Self::spawn(binary, data_dir, "127.0.0.1:0", env, None).await
    }

    /// The same as another user of this machine, who must be able to run `binary`; takes root to do.
    pub async fn start_as(user: u32, binary: &Path, data_dir: &Path, env: &[(&str, String)]) -> io::Result<LapServer> {
        Self::spawn(binary, data_dir, "127.0.0.1:0", env, Some(user)).await
    }

    /// The same on a chosen address.
    pub async fn start_on(
        binary: &Path,
        data_dir: &Path,
        listen: &str,
        env: &[(&str, String)],
    ) -> io::Result<LapServer> {
        Self::spawn(binary, data_dir, listen, env, None).await
    }

    async fn spawn(
        binary: &Path,
        data_dir: &Path,
        listen: &str,
        env: &[(&str, String)],
        user: Option<u32>,
    ) -> io::Result<LapServer> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(0o700))?;
        let log_file = data_dir.join("serve.log");
        let log = std::fs::File::options().create(true).append(true).open(&log_file)?;
        let mut command = Command::new(binary);
        if let Some(user) = user {
            std::os::unix::fs::chown(data_dir, Some(user), Some(user))?;
            command.uid(user).gid(user);
        }
        let mut child = command
            .args(["serve", "--listen", listen])
            .env_clear()
            .envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("LAP_DATA_DIR", data_dir)
            .envs(env.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            // Ctrl-C is for whoever started it, who then has something to tidy up with it.
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let said = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, url)) = line.split_once(" listens on ") {
                    return Ok(url.trim().to_owned());
                }
            }
            let log = std::fs::read_to_string(&log_file).unwrap_or_default();
            Err(io::Error::other(format!("the server did not start; its log ends with:\n{}", last_lines(&log, 20))))
        };
        let url =
            tokio::time::timeout(DEADLINE, said).await.map_err(|_| io::Error::other("the server did not start"))??;
        // Whatever it says later must not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let key = match env.iter().find(|(name, _)| *name == "LAP_MASTER_KEY") {
            Some((_, key)) => key.clone(),
            None => std::fs::read_to_string(data_dir.join("master.key"))?.trim().to_owned(),
        };
        Ok(LapServer { child, url, data_dir: data_dir.to_owned(), key })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The master key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A client with the master key.
    pub fn client(&self) -> Client {
        let server = lap_client::server_url(&self.url).expect("the server says a good address");
        let config = ClientConfig { server, key: Some(ApiKey::new(&self.key)), extra_ca_pem: None };
        Client::new(config).expect("the key can be sent")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("serve.log")).unwrap_or_default()
    }

    /// Deletes every session and waits until no sandbox is left in the data folder.
    pub async fn delete_everything(&self) -> Result<(), String> {
        let client = self.client();
        let fault = |problem: lap_client::Error| problem.to_string();
        loop {
            let sessions = client.sessions(&lap_client::SessionListQuery::default()).await.map_err(fault)?;
            if sessions.data.is_empty() {
                break;
            }
            for session in sessions.data {
                client.delete_session(&session.id).await.map_err(fault)?;
            }
        }
        let sandboxes = self.data_dir.join("sandboxes");
        crate::wait::until_empty(&sandboxes, DEADLINE).await
    }

    /// Asks it to stop, as an init system does, and waits for its end.
    pub async fn stop(mut self) -> io::Result<std::process::ExitStatus> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        ended.map_err(|_| io::Error::other("the server did not stop"))?
    }

    /// `kill -9`, and waits for its end.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
