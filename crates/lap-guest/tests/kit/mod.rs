//! Runs the guest in this process, outside of a sandbox: its places are below a temporary folder, and the test is its
//! sidecar.
#![allow(dead_code)] // Each test program uses its part of this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lap_api::link::{FromGuest, GuestBoot, HarnessFileContent, HarnessLaunch, PROTOCOL, Repo, Report, ToGuest, Turn};
use lap_api::message::{Attachment, Message, Part, ToolCall};
use lap_guest::Layout;
use lap_link::{MAX_GUEST_FRAME_BYTES, Reader, Writer};
use lap_test::ca::TestCa;
use lap_test::gateway::Gateway;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

/// Nothing the guest is waited for takes nearly so long; a test that waits longer has failed.
const DEADLINE: Duration = Duration::from_secs(90);

pub struct Guest {
    pub layout: Layout,
    root: tempfile::TempDir,
    reader: Reader<OwnedReadHalf>,
    writer: Option<Writer<OwnedWriteHalf>>,
    task: JoinHandle<()>,
    /// Everything it said so far.
    pub log: Vec<FromGuest>,
}

impl Guest {
    /// Starts a guest and waits for its hello.
    pub async fn start() -> Guest {
        let root = tempfile::Builder::new().prefix("lap-guest-").tempdir().expect("a folder");
        Guest::start_in(root).await
    }

    /// The same on the files of an earlier one.
    pub async fn start_in(root: tempfile::TempDir) -> Guest {
        let layout = Layout {
            // What `lap git-credential` does, without a `lap` here.
            credential_helper: "!f() { token=${LAP_CLONE_TOKEN:-${GITHUB_TOKEN:-$GH_TOKEN}}; \
                                test \"$1\" = get && test -n \"$token\" && \
                                echo username=x-access-token && echo \"password=$token\"; }; f"
                .to_owned(),
            ..Layout::below(root.path())
        };
        for folder in ["tmp", "work", "home/agent", "run/lap/tls", "etc/ssl"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        let for_guest = layout.clone();
        let task = tokio::spawn(async move {
            // A link that breaks is how some tests end it.
            let _ = lap_guest::run(far, for_guest).await;
        });
        let (from, to) = near.into_split();
        let reader = Reader::new(from, MAX_GUEST_FRAME_BYTES);
        let mut guest = Guest { layout, root, reader, writer: Some(Writer::new(to)), task, log: Vec::new() };
        match guest.next().await {
            Some(FromGuest::Hello { protocol: PROTOCOL }) => guest,
            other => panic!("no hello but {other:?}"),
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub async fn send(&mut self, message: ToGuest) {
        let writer = self.writer.as_mut().expect("the link is open");
        writer.send(&message).await.expect("the guest reads");
    }

    pub async fn next(&mut self) -> Option<FromGuest> {
        let message = tokio::time::timeout(DEADLINE, self.reader.next::<FromGuest>()).await;
        let message = message.unwrap_or_else(|_| panic!("the guest is silent after {:#?}", self.log));
        let message = message.expect("the guest writes frames");
        if let Some(message) = &message {
            self.log.push(message.clone());
        }
        message
    }

    /// The next report; lines are kept in the log only.
    pub async fn report(&mut self) -> Report {
        loop {
            match self.next().await {
                Some(FromGuest::Report(report)) => return report,
                Some(_) => {}
                None => panic!("the guest is gone: {:#?}", self.log),
            }
        }
    }

    /// All reports up to and with the first that fits.
    pub async fn until(&mut self, fits: impl Fn(&Report) -> bool) -> Vec<Report> {
        let mut reports = Vec::new();
        loop {
            let report = self.report().await;
            let found = fits(&report);
            if !found && matches!(report, Report::BootFailed { .. }) {
                panic!("bring-up failed: {report:?}");
            }
            reports.push(report);
            if found {
                return reports;
            }
        }
    }

    /// Boots and waits until it is ready; returns the reports of bring-up.
    pub async fn boot(&mut self, boot: GuestBoot) -> Vec<Report> {
        self.send(ToGuest::Boot(Box::new(boot))).await;
        self.until(|report| matches!(report, Report::Ready)).await
    }

    /// Boots and waits until the conversation is open; returns the harness's name for it.
    pub async fn converse(&mut self, boot: GuestBoot) -> String {
        self.boot(boot).await;
        match self.until(|report| matches!(report, Report::Conversation { .. })).await.pop() {
            Some(Report::Conversation { harness_session_id }) => harness_session_id,
            other => panic!("{other:?}"),
        }
    }

    /// Boots something that cannot come up; returns code and reason.
    pub async fn boot_fails(&mut self, boot: GuestBoot) -> (String, String) {
        self.send(ToGuest::Boot(Box::new(boot))).await;
        match self.until(|report| matches!(report, Report::BootFailed { .. })).await.pop() {
            Some(Report::BootFailed { code, reason }) => (code, reason),
            other => panic!("{other:?}"),
        }
    }

    pub async fn turn(&mut self, turn_id: &str, text: &str) {
        self.turn_with(turn_id, text, Vec::new()).await;
    }

    pub async fn turn_with(&mut self, turn_id: &str, text: &str, attachments: Vec<Attachment>) {
        let turn = Turn { turn_id: turn_id.to_owned(), text: text.to_owned(), attachments };
        self.send(ToGuest::Turn(turn)).await;
    }

    /// Runs a turn to its end; returns its reports, the last being the end.
    pub async fn run(&mut self, turn_id: &str, text: &str) -> Vec<Report> {
        self.turn(turn_id, text).await;
        self.end(turn_id).await
    }

    /// The reports up to a turn's end.
    pub async fn end(&mut self, turn: &str) -> Vec<Report> {
        self.until(|report| match report {
            Report::TurnCompleted { turn_id, .. } | Report::TurnFailed { turn_id, .. } => turn_id == turn,
            _ => false,
        })
        .await
    }

    /// Kills those of its programs the hard way that have this in their command line.
    pub fn kill_program(&self, mark: &str) {
        let home = format!("HOME={}", self.layout.home().display());
        for path in processes(&home) {
            let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(mark) {
                let pid = path.file_name().and_then(|name| name.to_str()).expect("a process id");
                assert!(std::process::Command::new("kill").args(["-9", pid]).status().expect("kill").success());
            }
        }
    }

    /// Closes the link and waits until the guest has ended; gives its files back.
    pub async fn close(mut self) -> tempfile::TempDir {
        self.writer = None;
        tokio::time::timeout(DEADLINE, &mut self.task)
            .await
            .expect("it ends with its link")
            .expect("it does not panic");
        self.root
    }
}

/// A guest and a gateway, and the boot that joins them by a real harness.
pub async fn place(harness: &str, model: &str) -> (Guest, Gateway, GuestBoot) {
    let gateway = Gateway::start(&TestCa::new("test authority")).await;
    let guest = Guest::start().await;
    std::fs::create_dir_all(guest.layout.repo()).expect("a folder");
    git(&guest.layout.repo(), &["init", "-q"]);
    let boot = GuestBoot {
        prompt: Some("You are the LAP test agent.".to_owned()),
        gateway_url: gateway.http_url(),
        gateway_key: gateway.key().to_owned(),
        model: model.to_owned(),
        harness: launch(harness).await,
        ..boot()
    };
    (guest, gateway, boot)
}

/// A harness as it is launched in a sandbox, with the paths of its installation outside of one.
async fn launch(id: &str) -> HarnessLaunch {
    let data_dir = lap_test::harness::data_dir_with(id).await;
    let harness = lap_harness::find(id).expect("it is known");
    let folder = harness.folder(&data_dir).expect("it has an installation").display().to_string();
    let outside = |path: &str| path.replacen("/opt/lap/harness", &folder, 1);
    let mut launch = harness.launch();
    launch.command[0] = outside(&launch.command[0]);
    for file in &mut launch.files {
        if let HarnessFileContent::Link(to) = &mut file.content {
            *to = outside(to);
        }
    }
    launch
}

/// The tool calls in these reports.
pub fn tools(reports: &[Report]) -> Vec<&ToolCall> {
    let calls = reports.iter().filter_map(|report| match report {
        Report::Tool { call, .. } => Some(call),
        _ => None,
    });
    calls.collect()
}

/// A boot with the shell harness and no repository.
pub fn boot() -> GuestBoot {
    GuestBoot {
        session_id: "ses_test".to_owned(),
        env: BTreeMap::new(),
        git_author: "Test Agent <agent@example.com>".to_owned(),
        repo: None,
        files: Vec::new(),
        skills: Vec::new(),
        requirements: None,
        prompt: None,
        model: "test-model".to_owned(),
        permission_mode: "bypass".to_owned(),
        mcp_servers: Vec::new(),
        harness: HarnessLaunch {
            id: "shell".to_owned(),
            version: "1".to_owned(),
            adapter: "shell".to_owned(),
            command: Vec::new(),
            env: BTreeMap::new(),
            skills_dir: "~/.config/shell/skills".to_owned(),
            files: Vec::new(),
            tui: None,
        },
        gateway_url: "http://gateway.invalid".to_owned(),
        gateway_key: "stub_litellm_0000000000000000".to_owned(),
        resume: None,
    }
}

pub fn repo(url: &str, token: Option<&str>) -> Repo {
    Repo { url: url.to_owned(), branch: "main".to_owned(), clone_token: token.map(str::to_owned), no_token: None }
}

/// The deltas of a kind, joined.
pub fn said(reports: &[Report], of: lap_api::event::DeltaKind) -> String {
    let deltas = reports.iter().filter_map(|report| match report {
        Report::Delta { kind, delta, .. } if *kind == of => Some(delta.as_str()),
        _ => None,
    });
    deltas.collect()
}

/// The text parts of a message, joined.
pub fn text(message: &Message) -> String {
    let parts = message.parts.iter().filter_map(|part| match part {
        Part::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    parts.collect()
}

/// The answer of a turn that went well.
#[track_caller]
pub fn answer(reports: &[Report]) -> String {
    match reports.last() {
        Some(Report::TurnCompleted { message, .. }) => text(message),
        other => panic!("not completed but {other:?}"),
    }
}

/// Code and reason of a turn that did not.
#[track_caller]
pub fn failure(reports: &[Report]) -> (String, String) {
    match reports.last() {
        Some(Report::TurnFailed { code, error, .. }) => (code.clone(), error.clone()),
        other => panic!("not failed but {other:?}"),
    }
}

/// Names of the phases in these reports.
pub fn phases(reports: &[Report]) -> Vec<String> {
    let mut names = Vec::new();
    for report in reports {
        if let Report::Phase { phase, .. } = report
            && names.last() != Some(phase)
        {
            names.push(phase.clone());
        }
    }
    names
}

/// What git prints in a folder.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git").args(arguments).current_dir(folder).output().expect("git is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// All processes with this text in their command line or environment.
pub fn processes(mark: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").expect("there is /proc");
    let own = std::process::id().to_string();
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name != own && name.parse::<u32>().is_ok()))
        .map(|entry| entry.path())
        .filter(|path| {
            let holds = |file: &str| {
                std::fs::read(path.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(mark))
            };
            holds("environ") || holds("cmdline")
        })
        .collect()
}
