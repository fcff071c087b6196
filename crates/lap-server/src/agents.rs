//! Agents: create, read, list, change, delete.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use axum::{Json as Answer, http::StatusCode};
use lap_api::agent::{Agent, CreateAgent, PatchAgent};
use lap_api::list::List;
use lap_domain::ids::AgentId;
use lap_engine::{AgentQuery, AgentSort, Order, Page};

use crate::App;
use crate::convert::{self, Files};
use crate::error::ApiResult;
use crate::extract::{FromQuery, IdempotencyKey, Json, Paging, Params, Path, Query};
use crate::once::{Made, created, once};

/// `POST /managed_agents/agents`
pub(crate) async fn create(
    State(app): State<App>,
    key: IdempotencyKey,
    Json(body): Json<CreateAgent>,
) -> ApiResult<Response> {
    convert::no_skills(&body.skill_ids)?;
    convert::no_image(body.image.as_deref())?;
    let request = key.0.is_some().then(|| CreateAgent { env_vars: BTreeMap::new(), ..body.clone() });
    let engine = app.engine.clone();
    let make = async move { Ok(engine.create_agent(convert::new_agent(body)).await?) };
    let made = once(&app, "agents", key, &request, make, |made| made.agent.id.to_string()).await?;
    let agent = match made {
        Made::Now(agent) => agent,
        Made::Before(id) => app.engine.agent(&AgentId::new(id)).await?,
    };
    let agent = convert::agent(agent, Files::Whole);
    Ok(created("agents", &agent.id, &agent))
}

/// `GET /managed_agents/agents`
pub(crate) async fn list(State(app): State<App>, Query(query): Query<ListAgents>) -> ApiResult<Answer<List<Agent>>> {
    let ListAgents { query } = query;
    let (limit, offset) = (query.limit, query.offset);
    let Page { rows, total } = app.engine.agents(query).await?;
    let data = rows.into_iter().map(|agent| convert::agent(agent, Files::Listed)).collect();
    Ok(Answer(List { data, total, limit, offset }))
}

/// `GET /managed_agents/agents/{id}`
pub(crate) async fn get(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Answer<Agent>> {
    let agent = app.engine.agent(&AgentId::new(id)).await?;
    Ok(Answer(convert::agent(agent, Files::Whole)))
}

/// `PATCH /managed_agents/agents/{id}`
pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(body): Json<PatchAgent>,
) -> ApiResult<Answer<Agent>> {
    convert::no_skills(body.skill_ids.as_deref().unwrap_or_default())?;
    convert::no_image(body.image.as_ref().and_then(Option::as_deref))?;
    let agent = app.engine.update_agent(&AgentId::new(id), convert::agent_edit(body)).await?;
    Ok(Answer(convert::agent(agent, Files::Whole)))
}

/// `DELETE /managed_agents/agents/{id}`
pub(crate) async fn delete(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.delete_agent(&AgentId::new(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which agents to list.
pub(crate) struct ListAgents {
    query: AgentQuery,
}

const SORTS: [(&str, AgentSort); 4] = [
    ("created_at", AgentSort::CreatedAt),
    ("name", AgentSort::Name),
    ("harness_id", AgentSort::HarnessId),
    ("sessions", AgentSort::Sessions),
];

impl FromQuery for ListAgents {
    fn from_query(params: &mut Params) -> Self {
        let search = params.text("search");
        let sort = params.word("sort", &SORTS).unwrap_or(AgentSort::CreatedAt);
        let order = params.word("order", &[("asc", Order::Asc), ("desc", Order::Desc)]);
        // Times and counts are read from the largest, words from A.
        let order = order.unwrap_or(match sort {
            AgentSort::CreatedAt | AgentSort::Sessions => Order::Desc,
            AgentSort::Name | AgentSort::HarnessId => Order::Asc,
        });
        let Paging { limit, offset } = params.paging();
        Self { query: AgentQuery { search, sort, order, limit, offset } }
    }
}
