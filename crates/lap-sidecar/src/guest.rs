//! The relay between guest and journal. What the guest sends is bounded and believed only as data about itself.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lap_api::link::{FromGuest, LogEntry, PROTOCOL, Report, SidecarToServer, ToGuest};
use lap_domain::chain::chain;
use lap_link::{Frame, MAX_GUEST_FRAME_BYTES, Reader, Writer};
use lap_sandbox_local::BoundedLog;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::Sidecar;

/// Longest line of output that is kept whole.
const MAX_LINE_BYTES: usize = 4096;

/// What goes to the guest, and where what it says goes.
pub struct Talk {
    pub inbox: mpsc::Receiver<ToGuest>,
    pub to_channels: mpsc::Receiver<Frame<ToGuest>>,
    pub from_channels: mpsc::Sender<Frame<SidecarToServer>>,
    pub log: BoundedLog,
}

impl Talk {
    /// Speaks with the guest until it hangs up: `trust` first, then what comes in.
    pub async fn run(self, sidecar: Arc<Sidecar>, guest: UnixStream, trust: ToGuest) {
        let Self { mut inbox, mut to_channels, from_channels, log } = self;
        let (from, to) = guest.into_split();
        let (mut reader, mut writer) = (Reader::new(from, MAX_GUEST_FRAME_BYTES), Writer::new(to));
        let sending = async {
            let mut next = Some(Frame::Message(trust));
            while let Some(frame) = next {
                if writer.frame(&frame).await.is_err() {
                    break;
                }
                next = tokio::select! {
                    message = inbox.recv() => message.map(Frame::Message),
                    Some(frame) = to_channels.recv() => Some(frame),
                };
            }
            // Reading goes on: a guest that no longer listens may still have something to say.
            std::future::pending::<()>().await;
        };
        let receiving = async {
            loop {
                match reader.frame::<FromGuest>().await {
                    Ok(Some(frame)) => hear(&sidecar, frame, &from_channels, &log).await,
                    Ok(None) => return,
                    Err(problem) => {
                        tracing::warn!("the guest's words end here: {}", chain(&problem));
                        return;
                    }
                }
            }
        };
        tokio::select! { () = sending => {}, () = receiving => {} }
    }
}

async fn hear(
    sidecar: &Sidecar,
    frame: Frame<FromGuest>,
    channels: &mpsc::Sender<Frame<SidecarToServer>>,
    log: &BoundedLog,
) {
    let message = match frame {
        Frame::Message(message) => message,
        Frame::Data(data) => {
            // Closed only when the sidecar ends.
            let _ = channels.send(Frame::Data(data)).await;
            return;
        }
    };
    match message {
        FromGuest::Channel(message) => {
            let _ = channels.send(Frame::Message(SidecarToServer::Channel(message))).await;
        }
        FromGuest::Hello { protocol } if protocol == PROTOCOL => {
            let phase = Report::Phase { phase: "pod_running".into(), detail: None };
            sidecar.log(LogEntry::Guest(phase)).await;
        }
        FromGuest::Hello { protocol } => {
            let reason = format!("the guest speaks version {protocol} of the link, the sidecar {PROTOCOL}");
            let failed = Report::BootFailed { code: "protocol".into(), reason };
            sidecar.log(LogEntry::Guest(failed)).await;
        }
        FromGuest::Line { source, text } => line(log, &source, &text),
        FromGuest::Report(mut report) => {
            sidecar.state().blame.look(&mut report, &sidecar.vault);
            if let Report::CloneDone { .. } = &report
                && let Err(problem) = sidecar.apply_grants(|holder| {
                    if let Some(holder) = holder {
                        holder.end_clone();
                    }
                })
            {
                tracing::error!("could not end the grants of the clone: {problem}");
            }
            let started = matches!(report, Report::Ready);
            sidecar.log(LogEntry::Guest(report)).await;
            if started && let Err(problem) = lap_sandbox_local::give_back_program() {
                tracing::debug!("could not give memory back: {problem}");
            }
        }
    }
}

/// Keeps what the sandbox's own processes print before or beside the guest's frames.
pub async fn drain_output(output: OwnedFd, log: BoundedLog) {
    let Ok(output) = lap_sandbox_local::readable(output) else { return };
    let mut buffer = [0; MAX_LINE_BYTES];
    loop {
        let Ok(mut ready) = output.readable().await else { return };
        match ready.try_io(|output| rustix::io::read(output, &mut buffer).map_err(Into::into)) {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(length)) => line(&log, "sandbox", &String::from_utf8_lossy(&buffer[..length])),
            Err(_would_block) => {}
        }
    }
}

fn line(log: &BoundedLog, source: &str, text: &str) {
    let source: String = source.chars().filter(|c| !c.is_control()).take(32).collect();
    for text in text.lines() {
        let text: String = text.chars().filter(|c| !c.is_control() || *c == '\t').take(MAX_LINE_BYTES).collect();
        // A log that cannot be written must not stop the sandbox.
        let _ = writeln!(log.clone(), "[{source}] {text}");
    }
}
