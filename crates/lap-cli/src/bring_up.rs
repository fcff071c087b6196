//! Shows a session coming up, phase by phase, and waits for it.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lap_api::event::EventKind;
use lap_client::{EventStream, Feed};

use crate::context::Io;
use crate::failure::{Exit, Failure};
use crate::signals::Signals;
use crate::text::one_line;

/// Reads the session's log up to `ready`; returns the number of the last event read.
pub(crate) async fn wait(
    io: &mut Io,
    session_id: &str,
    events: &mut EventStream,
    signals: &mut Signals,
) -> Result<u64, Failure> {
    let mut progress = Progress::new(io);
    loop {
        let feed = tokio::select! {
            feed = events.next() => feed,
            _ = signals.next() => {
                progress.end();
                io.talk(&format!("The session goes on: `lap attach {session_id}` returns, `lap stop {session_id}` ends it."));
                return Err(Failure::interrupted());
            }
        };
        let entry = match feed {
            Some(Ok(Feed::Entry(entry))) => entry,
            Some(Ok(Feed::Lost { .. })) => {
                progress.show(io, "reconnecting to the server", None);
                continue;
            }
            Some(Ok(Feed::Back)) => continue,
            Some(Err(e)) => {
                progress.end();
                return Err(e.into());
            }
            None => return Err(Failure::new(Exit::Failure, "the event stream ended")),
        };
        match entry.event.map(|event| event.kind) {
            Some(EventKind::SessionPhase { phase, detail }) => {
                progress.show(io, &words(&phase), detail.as_deref());
            }
            Some(EventKind::SessionState { status, failure_reason, end_reason }) => match status.as_str() {
                "ready" => {
                    progress.ready(io);
                    return Ok(entry.id);
                }
                "failed" => {
                    progress.end();
                    let reason = failure_reason.unwrap_or_else(|| "the server gave no reason".to_owned());
                    return Err(Failure::new(Exit::Session, format!("the session failed: {reason}"))
                        .hint(format!("`lap logs {session_id} --sandbox` shows what the sandbox wrote.")));
                }
                "dead" => {
                    progress.end();
                    let reason = end_reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                    return Err(Failure::new(Exit::Session, format!("the session ended before it was ready{reason}")));
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// A phase as people say it; phases of later servers are shown as they are.
fn words(phase: &str) -> String {
    match phase {
        "creating_sandbox" => "creating the sandbox",
        "pod_pending" => "waiting for a place to run",
        "pod_running" => "sandbox running",
        "injecting_files" => "writing files",
        "cloning_repo" => "cloning the repository",
        "installing_deps" => "installing requirements",
        "waiting_harness" => "starting the harness",
        "harness_listening" => "harness listening",
        "harness_ready" => "harness ready",
        "ready" => "ready",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// A moving sign on standard error that something goes on; gone when dropped.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// Shows it, where standard error is a terminal.
    pub fn start(io: &Io, words: &'static str) -> Option<Self> {
        io.err_is_terminal.then(|| {
            let spinner = ProgressBar::new_spinner().with_message(words);
            spinner.set_draw_target(ProgressDrawTarget::stderr());
            let style = if io.color { "{spinner:.cyan} {msg} {elapsed:.dim}" } else { "{spinner} {msg} {elapsed}" };
            spinner.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()));
            spinner.enable_steady_tick(Duration::from_millis(100));
            Self(spinner)
        })
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A spinner on a terminal, lines elsewhere; both on standard error.
struct Progress {
    started: Instant,
    spinner: Option<Spinner>,
    last: String,
}

impl Progress {
    fn new(io: &Io) -> Self {
        Self { started: Instant::now(), spinner: Spinner::start(io, "starting"), last: String::new() }
    }

    fn show(&mut self, io: &mut Io, phase: &str, detail: Option<&str>) {
        let text = match detail {
            Some(detail) => format!("{phase}: {}", one_line(detail, 100)),
            None => phase.to_owned(),
        };
        if text == self.last {
            return;
        }
        match &self.spinner {
            Some(Spinner(bar)) => bar.set_message(text.clone()),
            None => io.talk(&format!("{text} …")),
        }
        self.last = text;
    }

    fn ready(mut self, io: &mut Io) {
        self.end();
        io.talk(&format!("ready after {:.1} s", self.started.elapsed().as_secs_f64()));
    }

    fn end(&mut self) {
        self.spinner = None;
    }
}
