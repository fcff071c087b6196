//! The opencode process: started, listened to, ended.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::config;
use super::http::Api;
use super::wire::{Event, Frames, parse};
use crate::Failure;
use crate::child::{self, Group, LastLines, Lines, ending};
use crate::harness::Setting;
use crate::outbox::Outbox;

/// Longest start. It takes 1.3 s of processor time; fifty at once on two processors are slow, not broken.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// What opencode prints once it answers. Before this line it takes connections and never answers them.
const LISTENING: &str = "opencode server listening on http://";

/// Events between the stream and the turn. When it is full the stream waits, and opencode keeps what follows.
const EVENTS: usize = 256;

/// How long a process may outlive its event stream before it counts as broken.
const LINGER: Duration = Duration::from_secs(2);

/// A running opencode. Dropping it kills the process and everything in its group.
pub(super) struct Server {
    pub(super) api: Api,
    group: Group,
    events: mpsc::Receiver<Event>,
    last: Arc<Mutex<LastLines>>,
    tasks: JoinSet<()>,
}

/// What comes from a running opencode.
pub(super) enum News {
    Event(Event),
    /// It is gone, and how it went.
    Ended(String),
}

impl Server {
    /// The next event, or the end. Safe to drop between polls.
    pub(super) async fn news(&mut self) -> News {
        tokio::select! {
            biased;
            event = self.events.recv() => {
                if let Some(event) = event {
                    return News::Event(event);
                }
            }
            status = self.group.wait() => return News::Ended(self.detail(status)),
        }
        match tokio::time::timeout(LINGER, self.group.wait()).await {
            Ok(status) => News::Ended(self.detail(status)),
            Err(_) => News::Ended("stopped telling what it does".to_owned()),
        }
    }

    /// Makes opencode load what its first message would load, without asking the model.
    pub(super) fn warm_up(&mut self) {
        let api = self.api.clone();
        self.tasks.spawn(async move {
            for path in config::WARM_UP {
                // Only an answer that comes sooner is lost.
                let _ = api.get(path).await;
            }
        });
    }

    fn detail(&self, status: std::io::Result<std::process::ExitStatus>) -> String {
        let how = status.map_or_else(|error| error.to_string(), ending);
        let last = self.last.lock().expect("nothing panics while it holds the lines");
        match last.last() {
            Some(line) => format!("{how}; its last words: {line}"),
            None => how,
        }
    }
}

/// A started process that does not answer yet.
pub(crate) struct Starting {
    group: Group,
    password: String,
    address: oneshot::Receiver<SocketAddr>,
    last: Arc<Mutex<LastLines>>,
    tasks: JoinSet<()>,
}

impl Starting {
    /// Starts the process.
    pub(crate) fn spawn(setting: &Setting, out: &Outbox) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new("harness_failed", format!("opencode could not be started: {why}"));
        let launch = &setting.boot.harness;
        let (program, arguments) =
            launch.command.split_first().ok_or_else(|| failed("its command is empty".to_owned()))?;
        let password = password().map_err(|error| failed(error.to_string()))?;
        let mut env = setting.env.clone();
        env.extend(config::environment(&setting.boot, &password));
        let mut command = child::command(program, &setting.layout.repo(), &env);
        command.args(arguments).args(config::arguments(arguments));
        let mut group = Group::spawn(&mut command).map_err(|error| failed(format!("{program}: {error}")))?;
        let stdout = group.child.stdout.take().expect("output is piped");
        let stderr = group.child.stderr.take().expect("output is piped");
        let last = Arc::new(Mutex::new(LastLines::default()));
        let (found, address) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(stdout, Some(found), out.clone(), Arc::clone(&last)));
        tasks.spawn(listen(stderr, None, out.clone(), Arc::clone(&last)));
        Ok(Self { group, password, address, last, tasks })
    }

    /// Waits until it answers.
    pub(super) async fn listening(self) -> Result<Listening, Failure> {
        let Self { mut group, password, address, last, mut tasks } = self;
        let failed = |why: String| Failure::new("harness_failed", format!("opencode did not start: {why}"));
        let silent = || failed(format!("it was silent for {} s", START_DEADLINE.as_secs()));
        let found = tokio::time::timeout(START_DEADLINE, address).await.map_err(|_| silent())?;
        let Ok(address) = found else {
            // Its output ended, so it did, or it is about to.
            let how = match tokio::time::timeout(LINGER, group.wait()).await {
                Ok(status) => status.map_or_else(|error| error.to_string(), ending),
                Err(_) => "closed its output".to_owned(),
            };
            // The last words may still be on their way through the other pipe.
            let _ = tokio::time::timeout(LINGER, async { while tasks.join_next().await.is_some() {} }).await;
            let last = last.lock().expect("nothing panics while it holds the lines");
            return Err(failed(match last.last() {
                Some(line) => format!("it {how} ({line})"),
                None => format!("it {how}"),
            }));
        };
        Ok(Listening { api: Api::new(address, &password), group, last, tasks })
    }
}

/// A process that would answer, and was not asked yet.
pub(super) struct Listening {
    pub(super) api: Api,
    group: Group,
    last: Arc<Mutex<LastLines>>,
    tasks: JoinSet<()>,
}

impl Listening {
    /// Makes its events flow.
    pub(super) async fn connect(self) -> Result<Server, Failure> {
        let Self { api, group, last, mut tasks } = self;
        let stream = api.events().await.map_err(|error| {
            Failure::new("harness_failed", format!("opencode started, but its events cannot be read: {error}"))
        })?;
        let (to, events) = mpsc::channel(EVENTS);
        tasks.spawn(follow(stream, to));
        Ok(Server { api, group, events, last, tasks })
    }
}

/// Passes output on as log lines, and finds the address in it.
async fn listen(
    from: impl AsyncRead + Unpin,
    mut found: Option<oneshot::Sender<SocketAddr>>,
    out: Outbox,
    last: Arc<Mutex<LastLines>>,
) {
    let mut lines = Lines::new(from);
    while let Some(line) = lines.next().await {
        out.line("harness", &line);
        last.lock().expect("nothing panics while it holds the lines").push(&line);
        let address = line.split_once(LISTENING).and_then(|(_, address)| address.trim().parse().ok());
        if let (Some(address), Some(found)) = (address, found.take_if(|_| address.is_some())) {
            // Nobody waits any more only when the start was given up.
            let _ = found.send(address);
        }
    }
}

/// Reads the event stream to its end.
async fn follow(mut stream: Incoming, to: mpsc::Sender<Event>) {
    let mut frames = Frames::default();
    while let Some(Ok(frame)) = stream.frame().await {
        let Some(bytes) = frame.data_ref() else { continue };
        let mut events = Vec::new();
        if !frames.take(bytes, |data| events.extend(parse(data))) {
            return;
        }
        for event in events {
            if to.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Keeps other programs of the sandbox from steering opencode by accident.
fn password() -> std::io::Result<String> {
    let mut bytes = [0; 24];
    crate::harness::random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
