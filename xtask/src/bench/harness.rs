//! What LAP adds to the start of the real opencode: a session until it is ready, against the same program started bare.
//!
//! The bare start gets the environment that opencode had in a sandbox, read there, and the same files in its home folder;
//! it counts until the line that says that it listens: from there on it takes messages, as a session that is ready does.
//! Both kinds take turns, so that the machine's moods hit both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lap_api::agent::CreateAgent;
use lap_api::event::EventKind;
use lap_api::message::SendMessage;
use lap_api::session::CreateSession;
use lap_client::Client;
use lap_test::ca::TestCa;
use lap_test::gateway::{Gateway, Script, Step};
use lap_test::server::LapServer;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::sandbox::until_ready;
use super::table::{Line, Table, Times, added, ms};
use super::{Fault, Place};

/// What a session may add to opencode's own start.
const TARGET_ADDED: Duration = Duration::from_millis(100);

/// What opencode prints once it answers.
const LISTENING: &str = "opencode server listening on http://";

/// Asks the scripted model for opencode's environment.
const TASK: &str = "show your environment";

pub async fn measure(place: &Place, table: &mut Table) -> Result<(), Fault> {
    let gateway = Gateway::start(&TestCa::new("LAP bench CA")).await;
    // The shell's parent is opencode.
    gateway.script(Script::on(TASK, vec![Step::shell("tr '\\0' '\\n' < /proc/$PPID/environ"), Step::say("done")]));
    let env = [("LITELLM_API_BASE", gateway.http_url()), ("LITELLM_API_KEY", gateway.key().to_owned())];
    let prepare = async |folder: &Path| {
        lap_test::harness::give(folder, "opencode").await;
        Ok(())
    };
    place.with_server(&env, prepare, async |server| starts(place, server, table).await).await
}

async fn starts(place: &Place, server: &LapServer, table: &mut Table) -> Result<(), Fault> {
    let client = server.client();
    let new = CreateAgent { name: Some("bench".into()), model: Some("test-model".into()), ..CreateAgent::default() };
    let agent = client.create_agent(&new).await?.id;
    let gone = || async { server.delete_everything().await };
    let outside = Outside::prepare(server.data_dir(), environment(&client, &agent).await?)?;
    gone().await?;
    outside.start().await?;

    let samples = if place.quick { 3 } else { 10 };
    let (mut bare, mut ready) = (Times::default(), Times::default());
    let mut phases: BTreeMap<&str, Times> = BTreeMap::new();
    for _ in 0..samples {
        bare.add(outside.start().await?);
        let begun = Instant::now();
        let id = client.create_session(&agent, &CreateSession::default()).await?.id;
        let mut reached = Vec::new();
        until_ready(&client, &id, |phase| reached.push((phase.to_owned(), begun.elapsed()))).await?;
        ready.add(begun.elapsed());
        for name in SHOWN {
            if let Some((_, at)) = reached.iter().find(|(phase, _)| phase == name) {
                phases.entry(name).or_default().add(*at);
            }
        }
        gone().await?;
    }
    let title = format!("2. session start: the call until the real opencode is ready, n = {samples}");
    table.part(&title, "the same opencode in the same environment without LAP, until it listens");
    let between = ready.median().saturating_sub(bare.median());
    table.line(Line {
        what: "p50",
        measured: ms(ready.median()),
        baseline: ms(bare.median()),
        between: added(ready.median(), bare.median()),
        target: Some((format!("adds at most {} ms", TARGET_ADDED.as_millis()), between <= TARGET_ADDED)),
    });
    table.line(Line {
        what: "the slowest",
        measured: ms(ready.longest()),
        baseline: ms(bare.longest()),
        between: added(ready.longest(), bare.longest()),
        target: None,
    });
    for name in SHOWN {
        if let Some(times) = phases.get(name) {
            table.line(Line {
                what: &format!("  {name} reached, p50"),
                measured: ms(times.median()),
                ..Line::default()
            });
        }
    }
    Ok(())
}

/// Steps of the way that are shown.
const SHOWN: [&str; 4] = ["pod_running", "injecting_files", "waiting_harness", "harness_listening"];

/// The environment of opencode in a sandbox, as the kernel tells it there.
async fn environment(client: &Client, agent: &str) -> Result<BTreeMap<String, String>, Fault> {
    let id = client.create_session(agent, &CreateSession::default()).await?.id;
    until_ready(client, &id, |_| ()).await?;
    let message = SendMessage { text: Some(TASK.into()), ..SendMessage::default() };
    let mut turn = client.message_stream(&id, &message).await?;
    let mut text = String::new();
    while let Some(entry) = turn.next().await {
        if let Some(EventKind::Tool { call, .. }) = entry?.event.map(|event| event.kind)
            && let Some(output) = call.output
        {
            text = output;
        }
    }
    let found: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if found.contains_key("OPENCODE_CONFIG_CONTENT") {
        Ok(found)
    } else {
        Err("opencode's environment could not be read in its sandbox".into())
    }
}

/// A place outside of any sandbox that looks to opencode like the one inside.
struct Outside {
    /// The harness as its folder in the checkout describes it.
    harness: toml::Table,
    installed: PathBuf,
    folder: PathBuf,
    env: BTreeMap<String, String>,
}

impl Outside {
    fn prepare(data_dir: &Path, mut env: BTreeMap<String, String>) -> Result<Outside, Fault> {
        let harness: toml::Table =
            std::fs::read_to_string(crate::root().join("harnesses/opencode/harness.toml"))?.parse()?;
        let version = harness["version"].as_str().ok_or("the harness has a version")?;
        let installed = data_dir.join("harnesses/opencode").join(version);
        let folder = data_dir.join("outside");
        let moved = [
            ("/opt/lap/harness", &installed),
            ("/home/agent", &folder.join("home")),
            ("/run/lap", &folder.join("run")),
        ];
        for value in env.values_mut() {
            for (inside, outside) in &moved {
                *value = value.replace(inside, &outside.display().to_string());
            }
        }
        let tls = folder.join("run/tls");
        std::fs::create_dir_all(&tls)?;
        std::fs::create_dir_all(folder.join("repo"))?;
        std::fs::copy("/etc/ssl/certs/ca-certificates.crt", tls.join("ca-certificates.crt"))?;
        std::fs::write(tls.join("lap-ca.pem"), TestCa::new("LAP bench CA").pem())?;
        Ok(Outside { harness, installed, folder, env })
    }

    /// One start with a fresh home folder, as every session has one; how long it takes until it listens.
    async fn start(&self) -> Result<Duration, Fault> {
        let home = self.folder.join("home");
        self.fill(&home)?;
        let program = self.harness["install"]["program"].as_str().ok_or("the harness has a program")?;
        let arguments = self.harness["launch"]["args"].as_array().ok_or("the harness has arguments")?;
        let begun = Instant::now();
        let mut child = tokio::process::Command::new(self.installed.join(program))
            .args(arguments.iter().filter_map(toml::Value::as_str))
            .env_clear()
            .envs(&self.env)
            .current_dir(self.folder.join("repo"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("its output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if line.contains(LISTENING) {
                let listens = begun.elapsed();
                child.kill().await?;
                std::fs::remove_dir_all(home)?;
                return Ok(listens);
            }
        }
        Err("opencode ended before it listened".into())
    }

    /// Writes the harness's own files, as the guest does.
    fn fill(&self, home: &Path) -> Result<(), Fault> {
        let files = self.harness["launch"]["files"].as_array().ok_or("the harness has files")?;
        for file in files {
            let text = |key: &str| file.get(key).and_then(toml::Value::as_str);
            let path = home.join(text("path").ok_or("a file has a path")?.trim_start_matches("~/"));
            std::fs::create_dir_all(path.parent().ok_or("a file is in a folder")?)?;
            match (text("text"), text("link")) {
                (Some(text), _) => std::fs::write(path, text)?,
                (None, Some(target)) => std::os::unix::fs::symlink(self.installed.join(target), path)?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}
