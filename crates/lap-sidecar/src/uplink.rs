//! The link to the server: dial, prove who we are, send the journal, take commands; for ever, until told to stop.
//!
//! Losing the link changes nothing for the sandbox. The sidecar dials again, with growing pauses, and goes on where the
//! server's store stands.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lap_api::link::{Hello, PROTOCOL, ServerToSidecar, SidecarToServer};
use lap_link::{MAX_FRAME_BYTES, Reader, Writer};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::journal::Journal;

/// First and longest pause between two tries to reach a server that is away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A server that accepts but does not answer the hello is given up after this long.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);

/// What the hello says of the sandbox besides its name; asked anew for each link.
pub trait Standing: Send + Sync {
    /// The hello of this moment, journal head excepted.
    fn hello(&self) -> Hello;
}

/// Keeps a link to the server at `socket` and hands on what it says. Returns when `commands` is closed.
pub async fn keep(
    socket: &Path,
    standing: Arc<dyn Standing>,
    journal: Arc<Journal>,
    commands: mpsc::Sender<ServerToSidecar>,
) {
    let mut pause = PAUSES.0;
    while !commands.is_closed() {
        match once(socket, &*standing, &journal, &commands).await {
            Ok(()) => pause = PAUSES.0,
            Err(problem) => {
                tracing::info!("no link to the server, trying again in {} ms: {problem}", pause.as_millis());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = commands.closed() => return,
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// One link from dial to loss. `Ok` when it had been welcomed, so that the pauses start over.
async fn once(
    socket: &Path,
    standing: &dyn Standing,
    journal: &Journal,
    commands: &mpsc::Sender<ServerToSidecar>,
) -> Result<(), String> {
    let stream = UnixStream::connect(socket).await.map_err(|cause| format!("could not dial: {cause}"))?;
    let (from, to) = stream.into_split();
    let (mut reader, mut writer) = (Reader::new(from, MAX_FRAME_BYTES), Writer::new(to));
    let hello = Hello { log_head: journal.head(), ..standing.hello() };
    writer.send(&SidecarToServer::Hello(hello)).await.map_err(|cause| cause.to_string())?;
    let welcome = tokio::time::timeout(WELCOME_DEADLINE, reader.next::<ServerToSidecar>()).await;
    let resume_after = match welcome {
        Ok(Ok(Some(ServerToSidecar::Welcome { protocol: PROTOCOL, resume_after }))) => resume_after,
        Ok(Ok(Some(ServerToSidecar::Stop))) => {
            let _ = commands.send(ServerToSidecar::Stop).await;
            return Ok(());
        }
        Ok(Ok(_)) => return Err("the server did not welcome this sandbox".into()),
        Ok(Err(cause)) => return Err(cause.to_string()),
        Err(_) => return Err("the server did not answer".into()),
    };
    journal.acknowledge(resume_after);
    let sending = async {
        let mut sent = resume_after;
        loop {
            let entry = journal.after(sent).await;
            sent = entry.seq;
            let message = SidecarToServer::Log { seq: entry.seq, at_ms: entry.at_ms, entry: entry.entry };
            if let Err(cause) = writer.send(&message).await {
                return cause.to_string();
            }
        }
    };
    let receiving = async {
        loop {
            match reader.next::<ServerToSidecar>().await {
                Ok(Some(ServerToSidecar::Ack { seq })) => journal.acknowledge(seq),
                Ok(Some(command)) => {
                    if commands.send(command).await.is_err() {
                        return "stopping".to_owned();
                    }
                }
                Ok(None) => return "the server closed the link".to_owned(),
                Err(cause) => return cause.to_string(),
            }
        }
    };
    let end = tokio::select! { end = sending => end, end = receiving => end };
    tracing::info!("the link to the server ended: {end}");
    Ok(())
}
