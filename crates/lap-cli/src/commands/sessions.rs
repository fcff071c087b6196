//! `lap sessions`, `lap stop`, `lap delete`.

use std::collections::HashMap;

use lap_client::Client;

use super::confirm;
use crate::args::{DeleteArgs, SessionArgs, SessionsArgs};
use crate::context::{Context, Io};
use crate::failure::{Exit, Failure};
use crate::resolve;
use crate::text::{ago, one_line, table};

pub(super) async fn list(args: SessionsArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let SessionsArgs { agent, status, json } = args;
    let agent = match agent {
        Some(wanted) => Some(resolve::agent(client, &wanted).await?),
        None => None,
    };
    let agent_id = agent.as_ref().map(|agent| agent.id.as_str());
    let sessions = resolve::all_sessions(client, agent_id, status.as_deref()).await?;
    let io = &mut context.io;
    if json {
        io.json(&sessions)?;
        return Ok(Exit::Ok);
    }
    if sessions.is_empty() {
        io.talk(match (agent_id, &status) {
            (None, None) => "There are no sessions yet. `lap AGENT` opens one.",
            _ => "No session fits. `lap sessions` lists all.",
        });
        return Ok(Exit::Ok);
    }
    let agents = match agent {
        Some(agent) => vec![agent],
        None => resolve::all_agents(client, None).await?,
    };
    let names: HashMap<&str, &str> =
        agents.iter().filter_map(|agent| Some((agent.id.as_str(), agent.name.as_deref()?))).collect();
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            let status = match (session.status.as_str(), &session.phase, &session.end_reason) {
                ("creating", Some(phase), _) => format!("creating ({phase})"),
                ("dead", _, Some(reason)) => format!("dead ({reason})"),
                (status, _, _) => status.to_owned(),
            };
            let title = session.title.as_ref().or(session.title_preview.as_ref());
            vec![
                session.id.clone(),
                names.get(session.agent_id.as_str()).map_or_else(|| session.agent_id.clone(), |n| one_line(n, 30)),
                status,
                ago(&session.created_at, context.now),
                ago(&session.last_seen_at, context.now),
                title.map_or("-".to_owned(), |title| one_line(title, 50)),
            ]
        })
        .collect();
    io.data(&table(&["ID", "AGENT", "STATUS", "CREATED", "LAST SEEN", "TITLE"], &rows))?;
    Ok(Exit::Ok)
}

pub(super) async fn stop(args: &SessionArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let id = resolve::session_id(&args.session)?;
    let session = client.stop_session(&id).await?;
    let reason = session.end_reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    io.talk(&format!("The session is {}{reason}. `lap logs {id}` still shows what happened in it.", session.status));
    Ok(Exit::Ok)
}

pub(super) async fn delete(args: DeleteArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let id = resolve::session_id(&args.session)?;
    if !args.yes {
        confirm(io, &format!("Delete session {id}, its working tree and its events?"))?;
    }
    client.delete_session(&id).await?;
    io.talk(&format!("Deleted session {id}."));
    Ok(Exit::Ok)
}
