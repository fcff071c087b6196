//! What model calls used, summed as asked.

use std::collections::BTreeSet;

use axum::Json as Answer;
use axum::extract::State;
use lap_api::list::List;
use lap_api::usage::{ModelUsage, Spend, Usage, UsageRow};
use lap_domain::ids::{AgentId, SessionId};
use lap_domain::usage::ModelSpend;
use lap_engine::{Page, UsageBy, UsageFilter};

use crate::App;
use crate::error::ApiResult;
use crate::extract::{FromQuery, Paging, Params, Query};

/// `GET /usage`
pub(crate) async fn list(State(app): State<App>, Query(query): Query<ReadUsage>) -> ApiResult<Answer<List<UsageRow>>> {
    let ReadUsage { filter } = query;
    let (limit, offset) = (filter.limit, filter.offset);
    let Page { rows, total } = app.engine.usage(&filter).await?;
    Ok(Answer(List { data: rows.into_iter().map(row).collect(), total, limit, offset }))
}

fn row(row: lap_engine::UsageRow) -> UsageRow {
    let lap_engine::UsageRow { agent_id, agent_name, session_id, model, day, spend } = row;
    UsageRow {
        agent_id: agent_id.map(|id| id.to_string()),
        agent_name,
        session_id: session_id.map(|id| id.to_string()),
        model,
        day,
        spend: self::spend(spend),
    }
}

/// A sum over models, and what each of them has to do with it.
pub(crate) fn usage(models: Vec<ModelSpend>) -> Usage {
    let total = spend(lap_domain::usage::total(&models));
    let model = |ModelSpend { model, spend: used }| ModelUsage { model, spend: spend(used) };
    Usage { total, models: models.into_iter().map(model).collect() }
}

fn spend(spend: lap_domain::usage::Spend) -> Spend {
    let lap_domain::usage::Spend {
        calls,
        estimated_calls,
        unpriced_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        cache_write_tokens,
        cost_usd,
    } = spend;
    Spend {
        calls,
        estimated_calls,
        unpriced_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        cache_write_tokens,
        cost_usd,
    }
}

/// Which usage, summed by what.
pub(crate) struct ReadUsage {
    filter: UsageFilter,
}

const BY: [(&str, UsageBy); 4] =
    [("agent", UsageBy::Agent), ("session", UsageBy::Session), ("model", UsageBy::Model), ("day", UsageBy::Day)];

impl FromQuery for ReadUsage {
    fn from_query(params: &mut Params) -> Self {
        let by = params.words("by", &BY).unwrap_or_else(|| vec![UsageBy::Agent, UsageBy::Model, UsageBy::Day]);
        let agent_id = params.text("agent_id").map(AgentId::new);
        let session_id = params.text("session_id").map(SessionId::new);
        let model = params.text("model");
        let (from, to) = (params.day("from"), params.day("to"));
        let Paging { limit, offset } = params.paging();
        let by: BTreeSet<UsageBy> = by.into_iter().collect();
        Self { filter: UsageFilter { by, agent_id, session_id, model, from, to, limit, offset } }
    }
}
