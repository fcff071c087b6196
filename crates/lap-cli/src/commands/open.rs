//! `lap AGENT`: a session of it, live or fresh, and a conversation in it.

use lap_api::agent::Agent;
use lap_api::session::{CreateSession, Session};
use lap_client::Client;

use super::agents::{no_masks, spoken_name};
use super::attach::{self, face_of};
use super::read_all;
use super::send::{self, Form};
use crate::args::{FaceArgs, OpenArgs};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::signals::Signals;
use crate::text::ago;
use crate::{bring_up, chat, resolve, variables};

pub(super) async fn open(args: OpenArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let env_vars = variables::gather(&context.environment, &args.env_file, &args.env)?;
    no_masks(&env_vars)?;
    let agent = resolve::agent(client, &args.agent).await?;
    // Without a terminal the prompt is read first: an empty one should not cost a sandbox.
    let prompt = if context.io.is_interactive() {
        None
    } else if context.io.input_is_terminal {
        return Err(Failure::usage("standard output is no terminal to chat on")
            .hint(format!("Give the message on standard input: echo 'fix the test' | lap {}", args.agent)));
    } else {
        let text = read_all(&mut context.io)?;
        send::not_empty(&text)?;
        Some(text)
    };
    let fresh_only = args.new || !env_vars.is_empty() || args.branch.is_some();
    let live = match fresh_only {
        true => None,
        false => resolve::newest_live(client, &agent.id).await?,
    };
    if fresh_only && !args.new {
        context.io.talk("Starting a new session: variables and branch are given to new ones only.");
    }
    let session = match live {
        Some(session) => {
            let created = ago(&session.created_at, context.now);
            context.io.talk(&format!(
                "Going on with the live session {} of {} (created {created}); --new starts a fresh one.",
                session.id,
                spoken_name(&agent)
            ));
            if prompt.is_none() {
                return match face_of(&session, &args.face) {
                    Some(what) => attach::terminal(client, &session, what, false, context).await,
                    None => chat::reattach(client, session, context).await,
                };
            }
            session
        }
        None => {
            let new = CreateSession {
                title: args.title,
                env_vars,
                plain_env_vars: args.plain,
                branch: args.branch,
                ..CreateSession::default()
            };
            client.create_session(&agent.id, &new).await?
        }
    };
    match prompt {
        Some(prompt) => answer(client, &session, &prompt, context).await,
        None => converse(client, &agent, session, &args.face, context).await,
    }
}

async fn converse(
    client: &Client,
    agent: &Agent,
    session: Session,
    face: &FaceArgs,
    context: &mut Context,
) -> Result<Exit, Failure> {
    context.io.talk(&format!(
        "Session {} of {} ({}, {}).",
        session.id,
        spoken_name(agent),
        agent.harness_id,
        agent.model
    ));
    match face_of(&session, face) {
        Some(what) => attach::terminal(client, &session, what, false, context).await,
        None => chat::begin(client, session, context).await,
    }
}

async fn answer(client: &Client, session: &Session, prompt: &str, context: &mut Context) -> Result<Exit, Failure> {
    let io = &mut context.io;
    if session.status == "creating" {
        io.talk(&format!("Session {}", session.id));
        let mut signals = Signals::watch()?;
        let mut events = client.events(&session.id, 0);
        bring_up::wait(io, &session.id, &mut events, &mut signals).await?;
    }
    let exit = send::run(client, io, &session.id, prompt, Form::Text).await?;
    io.talk(&format!("The session goes on: `lap attach {}` returns, `lap stop {}` ends it.", session.id, session.id));
    Ok(exit)
}
