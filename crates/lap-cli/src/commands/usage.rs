//! `lap usage`: what model calls used, as the vaults metered it.

use lap_api::usage::{Spend, UsageRow};
use lap_client::{Client, UsageQuery};

use crate::args::UsageArgs;
use crate::context::Io;
use crate::failure::{Exit, Failure};
use crate::resolve;
use crate::text::{one_line, short_number, table};

pub(super) async fn usage(args: UsageArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let UsageArgs { by, agent, session, model, from, to, json } = args;
    let agent_id = match agent {
        Some(wanted) => Some(resolve::agent(client, &wanted).await?.id),
        None => None,
    };
    let session_id = session.as_deref().map(resolve::session_id).transpose()?;
    let mut query = UsageQuery { by, agent_id, session_id, model, from, to, limit: Some(200), offset: None };
    let mut all: Vec<UsageRow> = Vec::new();
    loop {
        query.offset = Some(all.len() as u64);
        let page = client.usage(&query).await?;
        let last = page.data.is_empty();
        all.extend(page.data);
        if last || all.len() as u64 >= page.total {
            break;
        }
    }
    if json {
        io.json(&all)?;
        return Ok(Exit::Ok);
    }
    if all.is_empty() {
        io.talk("No model has been called.");
        return Ok(Exit::Ok);
    }
    io.data(&readable(&all))?;
    if all.iter().any(|row| row.spend.estimated_calls > 0 || row.spend.unpriced_calls > 0) {
        io.talk("~ in part estimated: calls that were cut off or answered without numbers. + and calls whose cost is not known.");
    }
    Ok(Exit::Ok)
}

/// Columns for what the sums are made by, and the numbers.
fn readable(rows: &[UsageRow]) -> String {
    type Key = fn(&UsageRow) -> Option<String>;
    let keys: [(&str, Key); 4] = [
        ("DAY", |row| row.day.clone()),
        ("AGENT", |row| row.agent_name.as_ref().or(row.agent_id.as_ref()).map(|name| one_line(name, 40))),
        ("SESSION", |row| row.session_id.clone()),
        ("MODEL", |row| row.model.as_ref().map(|model| one_line(model, 60))),
    ];
    let used: Vec<&(&str, Key)> = keys.iter().filter(|(_, key)| rows.iter().any(|row| key(row).is_some())).collect();
    let mut heading: Vec<&str> = used.iter().map(|(name, _)| *name).collect();
    heading.extend(["CALLS", "IN", "CACHED", "OUT", "COST"]);
    let line = |row: &UsageRow| {
        let mut cells: Vec<String> = used.iter().map(|(_, key)| key(row).unwrap_or_else(|| "-".to_owned())).collect();
        let spend = &row.spend;
        let about = if spend.estimated_calls > 0 { "~" } else { "" };
        cells.push(spend.calls.to_string());
        cells.push(format!("{about}{}", short_number(spend.input_tokens)));
        cells.push(short_number(spend.cached_tokens));
        cells.push(format!("{about}{}", short_number(spend.output_tokens)));
        cells.push(cost(spend));
        cells
    };
    table(&heading, &rows.iter().map(line).collect::<Vec<_>>())
}

fn cost(spend: &Spend) -> String {
    let more = if spend.unpriced_calls > 0 { "+" } else { "" };
    spend.cost_usd.map_or_else(|| "-".to_owned(), |cost| format!("${cost:.4}{more}"))
}

/// A sum in one line; nothing where nothing was used.
pub(super) fn words(spend: &Spend) -> String {
    if spend.calls == 0 {
        return String::new();
    }
    let (input, output) = (short_number(spend.input_tokens), short_number(spend.output_tokens));
    let cost = spend.cost_usd.map(|_| format!(", {}", cost(spend))).unwrap_or_default();
    format!("{input} tokens in, {output} out{cost}")
}
