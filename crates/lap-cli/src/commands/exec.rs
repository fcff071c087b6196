//! `lap exec`: a command beside the harness, as if it ran here.

use std::io::{Read, Write};

use bytes::Bytes;
use lap_api::tty::{TtyClientFrame, TtyServerFrame};
use lap_client::{Client, Error, TtyEvent};
use tokio::sync::mpsc;

use crate::args::ExecArgs;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::resolve;
use crate::signals::{Came, Signals};
use crate::terminal::{Attach, Ended, What};

/// Pieces of standard input that wait for the connection. When full, it is not read.
const PIECES: usize = 8;

pub(super) async fn exec(args: ExecArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let ExecArgs { session, no_terminal, command } = args;
    let id = resolve::session_id(&session)?;
    let interactive = context.io.is_interactive() && !no_terminal;
    let command = match (command.is_empty(), interactive) {
        (false, _) => command,
        (true, true) => vec!["/bin/sh".to_owned(), "-c".to_owned(), "exec \"${SHELL:-/bin/sh}\" -l".to_owned()],
        (true, false) => {
            return Err(Failure::usage("there is no command to run").hint("lap exec SESSION -- COMMAND ARGUMENTS"));
        }
    };
    if !interactive {
        return with_pipes(client, &id, command, context).await;
    }
    let title = format!("lap {}", command.join(" "));
    let attach = Attach { client, session_id: &id, what: What::Command(command), view_only: false, title };
    match attach.run().await? {
        Ended::Program { status } => Ok(exit(status)),
        Ended::Detached => {
            context.io.talk("Detached; the command is ended in a minute.");
            Ok(Exit::Ok)
        }
    }
}

fn exit(status: i32) -> Exit {
    Exit::Command(u8::try_from(status).unwrap_or(1))
}

/// Input, output and errors as they are. A lost connection ends the command: what was lost of it could not be told.
async fn with_pipes(client: &Client, id: &str, command: Vec<String>, context: &mut Context) -> Result<Exit, Failure> {
    let mut signals = Signals::watch()?;
    let (mut writer, mut reader) = client.exec_with_pipes(id, command).await?;
    let mut input = read_input(std::mem::replace(&mut context.io.input, Box::new(std::io::empty())));
    let mut open = true;
    let mut status = None;
    loop {
        tokio::select! {
            event = reader.next() => match event {
                Ok(TtyEvent::Data(bytes)) => match bytes.split_first() {
                    Some((2, errors)) => {
                        context.io.err.write_all(errors)?;
                        context.io.err.flush()?;
                    }
                    Some((_, output)) => {
                        context.io.out.write_all(output)?;
                        context.io.out.flush()?;
                    }
                    None => {}
                },
                Ok(TtyEvent::Frame(TtyServerFrame::Exit { code, signal })) => {
                    status = Some(code.or(signal.map(|signal| 128 + signal)).unwrap_or_default());
                }
                Ok(TtyEvent::Frame(TtyServerFrame::Error { error, .. })) => {
                    return Err(Failure::new(Exit::Failure, error));
                }
                Ok(TtyEvent::Frame(_)) => {}
                Ok(TtyEvent::Closed { .. }) | Err(Error::Lost { .. }) if status.is_some() => {
                    return Ok(exit(status.unwrap_or_default()));
                }
                Ok(TtyEvent::Closed { reason, .. }) => {
                    return Err(Failure::new(Exit::Failure, format!("the command was cut off: {reason}")));
                }
                Err(problem) => return Err(problem.into()),
            },
            piece = input.recv(), if open => match piece {
                Some(piece) => writer.send(Bytes::from(piece)).await?,
                None => {
                    open = false;
                    writer.say(&TtyClientFrame::Eof).await?;
                }
            },
            came = signals.next() => {
                // The sandbox ends the command when its caller goes.
                writer.close().await;
                return Ok(match came {
                    Came::Interrupt => Exit::Interrupted,
                    Came::Terminate => Exit::Command(143),
                });
            }
        }
    }
}

/// Reads standard input on a thread of its own, which ends with the process: a read cannot be called off.
fn read_input(mut input: Box<dyn Read + Send>) -> mpsc::Receiver<Vec<u8>> {
    let (pieces, read) = mpsc::channel(PIECES);
    std::thread::spawn(move || {
        let mut bytes = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = input.read(&mut bytes) {
            if pieces.blocking_send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    read
}
