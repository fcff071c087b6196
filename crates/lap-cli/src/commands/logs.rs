//! `lap logs` and `lap egress`: what happened, for eyes and for programs.

use lap_api::event::{DeltaKind, Event, EventKind};
use lap_api::message::Part;
use lap_api::session::{PatchEgress, SessionEgress};
use lap_client::{Client, Feed, LogEntry};

use crate::args::{EgressArgs, LogsArgs};
use crate::context::Io;
use crate::failure::{Exit, Failure};
use crate::resolve;
use crate::signals::Signals;
use crate::text::{clean, one_line, table};
use crate::transcript::{footer, title};

/// Longest line of a readable log.
const WIDTH: usize = 160;

pub(super) async fn logs(args: LogsArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let id = resolve::session_id(&args.session)?;
    if args.sandbox {
        return sandbox(&args, &id, client, io).await;
    }
    let past = client.all_events(&id).await?;
    let form = |entry: &LogEntry| if args.json { Some(entry.raw.clone()) } else { readable(entry) };
    let lines: Vec<String> = past.iter().filter_map(form).collect();
    let skipped = args.tail.map_or(0, |n| lines.len().saturating_sub(n as usize));
    for line in &lines[skipped..] {
        io.data(&format!("{line}\n"))?;
    }
    if !args.follow || past.iter().rev().find_map(over) == Some(true) {
        return Ok(Exit::Ok);
    }
    let mut signals = Signals::watch()?;
    let mut events = client.events(&id, past.last().map_or(0, |entry| entry.id));
    loop {
        let feed = tokio::select! {
            feed = events.next() => feed,
            _ = signals.next() => return Err(Failure::interrupted()),
        };
        match feed {
            Some(Ok(Feed::Entry(entry))) => {
                if let Some(line) = form(&entry) {
                    io.data(&format!("{line}\n"))?;
                }
                if over(&entry) == Some(true) {
                    return Ok(Exit::Ok);
                }
            }
            Some(Ok(Feed::Lost { cause, .. })) => io.talk(&format!("Reconnecting ({}) …", clean(&cause))),
            Some(Ok(Feed::Back)) => io.talk("Connected again."),
            Some(Err(e)) => return Err(e.into()),
            None => return Ok(Exit::Ok),
        }
    }
}

async fn sandbox(args: &LogsArgs, id: &str, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let text = client.sandbox_logs(id, args.tail).await?;
    let text = if io.out_is_terminal { clean(&text) } else { text };
    io.data(&text)?;
    if !text.is_empty() && !text.ends_with('\n') {
        io.data("\n")?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn egress(args: EgressArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let id = resolve::session_id(&args.session)?;
    if !args.allow_out.is_empty() || !args.deny_out.is_empty() {
        return change_egress(args, &id, client, io).await;
    }
    let mut all = Vec::new();
    loop {
        let page = client.interceptions(&id, Some(200), Some(all.len() as u64)).await?;
        let last = page.data.is_empty();
        all.extend(page.data);
        if last || all.len() as u64 >= page.total {
            break;
        }
    }
    all.sort_by_key(|line| line.id);
    if args.json {
        io.json(&all)?;
        return Ok(Exit::Ok);
    }
    if all.is_empty() {
        io.talk("Nothing has left the sandbox, and nothing was refused.");
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|line| {
            vec![
                clock(&line.at).to_owned(),
                line.verdict.clone(),
                line.status.map_or("-".to_owned(), |status| status.to_string()),
                line.method.clone(),
                one_line(&format!("{}{}", line.host, line.path), 100),
                format!("{} ms", line.duration_ms),
                line.credentials.join(", "),
            ]
        })
        .collect();
    io.data(&table(&["TIME", "VERDICT", "STATUS", "METHOD", "WHERE", "TOOK", "CREDENTIALS"], &rows))?;
    Ok(Exit::Ok)
}

async fn change_egress(args: EgressArgs, id: &str, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let list = |given: Vec<String>| -> Option<Vec<String>> {
        (!given.is_empty()).then(|| given.into_iter().filter(|entry| !entry.is_empty()).collect())
    };
    let lists = PatchEgress { allow_out: list(args.allow_out), deny_out: list(args.deny_out) };
    let session = client.change_egress(id, &lists).await?;
    if args.json {
        io.json(&session)?;
        return Ok(Exit::Ok);
    }
    let shown = |list: &[String], empty: &str| if list.is_empty() { empty.to_owned() } else { list.join(", ") };
    let SessionEgress { allow_out, deny_out, in_force: _ } = &session.egress;
    io.talk(&format!(
        "The sandbox lives by these lists now. Allowed: {}. Denied: {}.",
        shown(allow_out, "everything that is not denied"),
        shown(deny_out, "nothing")
    ));
    Ok(Exit::Ok)
}

/// Whether an entry says that the session is over (or is not).
fn over(entry: &LogEntry) -> Option<bool> {
    match &entry.event.as_ref()?.kind {
        EventKind::SessionState { status, .. } => Some(status == "dead" || status == "failed"),
        _ => None,
    }
}

/// An entry as one line; pieces of answers have none, their final message does.
fn readable(entry: &LogEntry) -> Option<String> {
    let Some(event) = &entry.event else {
        return Some(format!("{:<5}           {} (newer than this lap)", entry.id, entry.name));
    };
    let words = one_line(&words(event)?, WIDTH);
    Some(format!("{:<5} {}  {words}", event.id, clock(&event.at)))
}

/// Hours, minutes and seconds of an RFC 3339 time, in UTC as everything on the wire.
fn clock(at: &str) -> &str {
    at.get(11..19).unwrap_or(at)
}

fn words(event: &Event) -> Option<String> {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(match &event.kind {
        EventKind::SessionState { status, failure_reason, end_reason } => {
            let reason = failure_reason.as_ref().or(end_reason.as_ref());
            format!("session {status}{}", reason.map(|reason| format!(": {}", flat(reason))).unwrap_or_default())
        }
        EventKind::SessionPhase { phase, detail } => {
            format!("phase {phase}{}", detail.as_ref().map(|d| format!(": {}", flat(d))).unwrap_or_default())
        }
        EventKind::TurnQueued { message, .. } => format!("user: {}", flat(&said(&message.parts))),
        EventKind::TurnStarted { .. } => "turn started".to_owned(),
        EventKind::MessageDelta { kind: DeltaKind::Text | DeltaKind::Reasoning, .. } => return None,
        EventKind::Tool { call, .. } => {
            let title = title(call);
            let of = if title.is_empty() { String::new() } else { format!(": {title}") };
            format!("tool {} {}{of}", call.tool, call.status)
        }
        EventKind::PermissionRequested { title, request_id, .. } => {
            format!("permission asked ({request_id}): {}", flat(title))
        }
        EventKind::PermissionAnswered { decision, request_id } => format!("permission {decision} ({request_id})"),
        EventKind::MessageCompleted { message, .. } => {
            let text = flat(&said(&message.parts));
            if text.is_empty() {
                return None;
            }
            format!("agent: {text}")
        }
        EventKind::TurnCompleted { usage, .. } => format!("turn completed {}", footer(usage, None)),
        EventKind::TurnFailed { code, error, .. } => format!("turn failed ({code}): {}", flat(error)),
        EventKind::EgressRefused { host, code, detail } => {
            format!("egress refused ({code}): {host}: {}", flat(detail))
        }
        EventKind::CredentialRenewed { name, expires_at } => format!("{name} renewed, until {expires_at}"),
        EventKind::CredentialFailed { name, reason } => format!("no fresh {name}: {}", flat(reason)),
        EventKind::EgressChanged { allow_out, deny_out, .. } => {
            format!("egress changed: allow {}; deny {}", flat(&allow_out.join(" ")), flat(&deny_out.join(" ")))
        }
        EventKind::SandboxLimit { limit, detail } => format!("limit {limit}: {}", flat(detail)),
        EventKind::Error { code, error } => format!("error ({code}): {}", flat(error)),
    })
}

fn said(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text { text, .. } => Some(text.clone()),
        Part::File { name, .. } => Some(format!("[{name}]")),
        Part::Reasoning { .. } | Part::Tool(_) => None,
    });
    texts.collect::<Vec<_>>().join(" ")
}
