//! `lap attach`: a session in the face it is best known by.

use lap_api::session::Session;
use lap_client::Client;

use crate::args::{AttachArgs, FaceArgs};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::signals::Signals;
use crate::terminal::{Attach, Ended, What};
use crate::{bring_up, chat, resolve};

pub(super) async fn attach(args: AttachArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let AttachArgs { session, face, view } = args;
    let session = client.session(&resolve::session_id(&session)?).await?;
    match face_of(&session, &face) {
        Some(what) => terminal(client, &session, what, view, context).await,
        None if view => {
            Err(Failure::usage("a chat has no mode in which one only looks").hint("`lap logs SESSION -f` follows it."))
        }
        None => chat::reattach(client, session, context).await,
    }
}

/// The terminal that is meant; none: the chat.
pub(super) fn face_of(session: &Session, face: &FaceArgs) -> Option<What> {
    match face {
        FaceArgs { shell: true, .. } => Some(What::Shell),
        FaceArgs { terminal: true, .. } => Some(What::Harness),
        FaceArgs { chat: true, .. } => None,
        FaceArgs { .. } => session.supports_tui.then_some(What::Harness),
    }
}

/// The session's terminal on this one, as soon as there is one, until somebody leaves or its program ends.
pub(super) async fn terminal(
    client: &Client,
    session: &Session,
    what: What,
    view_only: bool,
    context: &mut Context,
) -> Result<Exit, Failure> {
    if !context.io.is_interactive() {
        return Err(Failure::usage("a terminal can only be attached from a terminal").hint(format!(
            "`lap send {0} -` sends standard input, `lap exec {0} -- COMMAND` runs a command, `lap logs {0} -f` follows.",
            session.id
        )));
    }
    if session.status == "creating" {
        let mut signals = Signals::watch()?;
        let mut events = client.events(&session.id, 0);
        bring_up::wait(&mut context.io, &session.id, &mut events, &mut signals).await?;
    }
    let title = format!("lap {}", session.title.as_deref().unwrap_or(&session.id));
    let ended = Attach { client, session_id: &session.id, what, view_only, title }.run().await?;
    match ended {
        Ended::Detached => context.io.talk(&format!(
            "Detached. The session goes on: `lap attach {0}` returns, `lap stop {0}` ends it.",
            session.id
        )),
        Ended::Program { status: 0 } => context.io.talk("The program has ended; the session goes on."),
        Ended::Program { status } => {
            context.io.talk(&format!("The program has ended with status {status}; the session goes on."));
        }
    }
    Ok(Exit::Ok)
}
