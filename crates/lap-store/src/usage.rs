//! What model calls used, and the limits on it.

use std::collections::{BTreeMap, BTreeSet};

use lap_domain::budget::Budget;
use lap_domain::ids::{AgentId, SessionId};
use lap_domain::time::Timestamp;
use lap_domain::usage::{ModelSpend, Spend};
use sqlx::SqliteConnection;

use crate::change::Change;
use crate::{Page, Store, StoreError, numbers};

/// What sums are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageBy {
    /// Agent.
    Agent,
    /// Session.
    Session,
    /// Model.
    Model,
    /// Day, in UTC.
    Day,
}

/// Which usage to sum, and how.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// One row for each combination of these; none: one row.
    pub by: BTreeSet<UsageBy>,
    /// Of this agent.
    pub agent_id: Option<AgentId>,
    /// Of this session.
    pub session_id: Option<SessionId>,
    /// Of this model.
    pub model: Option<String>,
    /// From this day on, `YYYY-MM-DD`.
    pub from: Option<String>,
    /// Up to this day.
    pub to: Option<String>,
    /// Rows of a page.
    pub limit: u32,
    /// Rows before it.
    pub offset: u64,
}

/// A sum; what it is not made by is absent.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageRow {
    pub agent_id: Option<AgentId>,
    /// The agent's name, also of a deleted one.
    pub agent_name: Option<String>,
    pub session_id: Option<SessionId>,
    pub model: Option<String>,
    pub day: Option<String>,
    pub spend: Spend,
}

/// What has been used of a session's and its agent's budgets by everybody but one sandbox.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpentElsewhere {
    /// By earlier sandboxes of the session.
    pub session: Spend,
    /// By all other sandboxes of the agent.
    pub agent: Spend,
}

impl Store {
    /// A page of sums, newest day first, then the dearest and largest.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Page<UsageRow>, StoreError> {
        let UsageFilter { by, agent_id, session_id, model, from, to, limit, offset } = filter;
        let by = |what| by.contains(&what);
        let (by_agent, by_session, by_model, by_day) =
            (by(UsageBy::Agent), by(UsageBy::Session), by(UsageBy::Model), by(UsageBy::Day));
        let agent = agent_id.as_ref().map(AgentId::as_str);
        let session = session_id.as_ref().map(SessionId::as_str);
        let (limit, offset) = (i64::from(*limit), numbers::to_sql(*offset));
        let mut snapshot = self.readers().begin().await?;
        // One statement for every way to sum: what is not asked for is null, and so one group.
        let rows = sqlx::query!(
            r#"SELECT agent_id AS "agent_id: String", session_id AS "session_id: String", model AS "model: String",
                 day AS "day: String", calls AS "calls!: i64", estimated AS "estimated!: i64", unpriced AS "unpriced!: i64",
                 input AS "input!: i64", output AS "output!: i64", cached AS "cached!: i64", written AS "written!: i64",
                 cost AS "cost: f64",
                 (SELECT agents.name FROM agents WHERE agents.id = sums.agent_id) AS "agent_name: String"
               FROM (
                 SELECT CASE WHEN ?1 THEN agent_id END AS agent_id, CASE WHEN ?2 THEN session_id END AS session_id,
                   CASE WHEN ?3 THEN model END AS model, CASE WHEN ?4 THEN day END AS day, SUM(calls) AS calls,
                   SUM(estimated_calls) AS estimated, SUM(unpriced_calls) AS unpriced, SUM(input_tokens) AS input,
                   SUM(output_tokens) AS output, SUM(cached_tokens) AS cached, SUM(cache_write_tokens) AS written,
                   SUM(cost_usd) AS cost
                 FROM metered
                 WHERE (?5 IS NULL OR metered.agent_id = ?5) AND (?6 IS NULL OR metered.session_id = ?6)
                   AND (?7 IS NULL OR metered.model = ?7) AND (?8 IS NULL OR metered.day >= ?8)
                   AND (?9 IS NULL OR metered.day <= ?9)
                 GROUP BY 1, 2, 3, 4
               ) AS sums
               ORDER BY day DESC, cost DESC, input + output DESC, agent_id, session_id, model
               LIMIT ?10 OFFSET ?11"#,
            by_agent,
            by_session,
            by_model,
            by_day,
            agent,
            session,
            model,
            from,
            to,
            limit,
            offset
        )
        .fetch_all(&mut *snapshot)
        .await?;
        let total = sqlx::query_scalar!(
            r#"SELECT COUNT(*) AS "total!: i64" FROM (
                 SELECT 1 FROM metered
                 WHERE (?5 IS NULL OR metered.agent_id = ?5) AND (?6 IS NULL OR metered.session_id = ?6)
                   AND (?7 IS NULL OR metered.model = ?7) AND (?8 IS NULL OR metered.day >= ?8)
                   AND (?9 IS NULL OR metered.day <= ?9)
                 GROUP BY CASE WHEN ?1 THEN agent_id END, CASE WHEN ?2 THEN session_id END, CASE WHEN ?3 THEN model END,
                   CASE WHEN ?4 THEN day END
               ) AS sums"#,
            by_agent,
            by_session,
            by_model,
            by_day,
            agent,
            session,
            model,
            from,
            to
        )
        .fetch_one(&mut *snapshot)
        .await?;
        let rows = rows
            .into_iter()
            .map(|row| UsageRow {
                agent_id: row.agent_id.map(AgentId::new),
                agent_name: row.agent_name,
                session_id: row.session_id.map(SessionId::new),
                model: row.model,
                day: row.day,
                spend: spend(
                    [row.calls, row.estimated, row.unpriced, row.input, row.output, row.cached, row.written],
                    row.cost,
                ),
            })
            .collect();
        Ok(Page { rows, total: numbers::from_sql(total) })
    }

    /// What each of these sessions has used, by model.
    pub async fn usage_of_sessions(
        &self,
        sessions: &[&SessionId],
    ) -> Result<BTreeMap<String, Vec<ModelSpend>>, StoreError> {
        let ids = numbers::to_json(&sessions.iter().map(|id| id.as_str()).collect::<Vec<_>>());
        let rows = sqlx::query_as!(
            Owned,
            r#"SELECT session_id AS owner, model, SUM(calls) AS "calls!: i64", SUM(estimated_calls) AS "estimated!: i64",
                 SUM(unpriced_calls) AS "unpriced!: i64", SUM(input_tokens) AS "input!: i64",
                 SUM(output_tokens) AS "output!: i64", SUM(cached_tokens) AS "cached!: i64",
                 SUM(cache_write_tokens) AS "written!: i64", SUM(cost_usd) AS "cost: f64"
               FROM metered WHERE session_id IN (SELECT value FROM json_each(?1))
               GROUP BY session_id, model ORDER BY session_id, model"#,
            ids
        )
        .fetch_all(self.readers())
        .await?;
        Ok(by_owner(rows))
    }

    /// What each of these agents has used in all its sessions, by model.
    pub async fn usage_of_agents(&self, agents: &[&AgentId]) -> Result<BTreeMap<String, Vec<ModelSpend>>, StoreError> {
        let ids = numbers::to_json(&agents.iter().map(|id| id.as_str()).collect::<Vec<_>>());
        let rows = sqlx::query_as!(
            Owned,
            r#"SELECT agent_id AS owner, model, SUM(calls) AS "calls!: i64", SUM(estimated_calls) AS "estimated!: i64",
                 SUM(unpriced_calls) AS "unpriced!: i64", SUM(input_tokens) AS "input!: i64",
                 SUM(output_tokens) AS "output!: i64", SUM(cached_tokens) AS "cached!: i64",
                 SUM(cache_write_tokens) AS "written!: i64", SUM(cost_usd) AS "cost: f64"
               FROM metered WHERE agent_id IN (SELECT value FROM json_each(?1))
               GROUP BY agent_id, model ORDER BY agent_id, model"#,
            ids
        )
        .fetch_all(self.readers())
        .await?;
        Ok(by_owner(rows))
    }

    /// What counts against the budgets of a session and its agent beside what the sandbox `incarnation` has used.
    pub async fn spent_elsewhere(
        &self,
        agent: &AgentId,
        session: &SessionId,
        incarnation: u32,
    ) -> Result<SpentElsewhere, StoreError> {
        let (agent, session, incarnation) = (agent.as_str(), session.as_str(), i64::from(incarnation));
        let rows = sqlx::query!(
            r#"SELECT session_id = ?2 AS "own!: bool", SUM(calls) AS "calls!: i64", SUM(estimated_calls) AS "estimated!: i64",
                 SUM(unpriced_calls) AS "unpriced!: i64", SUM(input_tokens) AS "input!: i64",
                 SUM(output_tokens) AS "output!: i64", SUM(cached_tokens) AS "cached!: i64",
                 SUM(cache_write_tokens) AS "written!: i64", SUM(cost_usd) AS "cost: f64"
               FROM metered WHERE agent_id = ?1 AND NOT (session_id = ?2 AND incarnation = ?3)
               GROUP BY 1"#,
            agent,
            session,
            incarnation
        )
        .fetch_all(self.readers())
        .await?;
        let mut elsewhere = SpentElsewhere { session: Spend::default(), agent: Spend::default() };
        for row in rows {
            let numbers = [row.calls, row.estimated, row.unpriced, row.input, row.output, row.cached, row.written];
            let spend = spend(numbers, row.cost);
            elsewhere.agent.add(&spend);
            if row.own {
                elsewhere.session.add(&spend);
            }
        }
        Ok(elsewhere)
    }

    /// The limits of each of these owners that has some.
    pub async fn budgets(&self, owners: &[&str]) -> Result<BTreeMap<String, Budget>, StoreError> {
        budgets_of(&mut *self.readers().acquire().await?, owners).await
    }

    /// Changes the limits of a session that was not deleted; answers with the new ones.
    pub async fn set_session_budget(&self, id: &SessionId, budget: &Budget) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        Change::load(&mut tx, id).await?;
        write_budget(&mut tx, id.as_str(), budget).await?;
        tx.commit().await?;
        Ok(())
    }
}

impl Change<'_> {
    /// Adds what a call used to the sums of the sandbox `incarnation`.
    pub(crate) async fn metered(
        &mut self,
        at: Timestamp,
        incarnation: u32,
        ModelSpend { model, spend }: &ModelSpend,
    ) -> Result<(), StoreError> {
        let (session, agent, incarnation) = (self.id.as_str(), self.session.agent_id.as_str(), i64::from(incarnation));
        let Spend {
            calls,
            estimated_calls,
            unpriced_calls,
            input_tokens,
            output_tokens,
            cached_tokens,
            cache_write_tokens,
            cost_usd,
        } = *spend;
        let small = |n: u64| numbers::to_sql(n.min(MOST));
        let (calls, estimated, unpriced) = (small(calls), small(estimated_calls), small(unpriced_calls));
        let (input, output) = (small(input_tokens), small(output_tokens));
        let (cached, written) = (small(cached_tokens), small(cache_write_tokens));
        let cost = cost_usd.filter(|cost| cost.is_finite() && *cost >= 0.0);
        sqlx::query!(
            "INSERT INTO metered (session_id, incarnation, model, day, agent_id, calls, estimated_calls, unpriced_calls,
                input_tokens, output_tokens, cached_tokens, cache_write_tokens, cost_usd)
             VALUES (?1, ?2, ?3, strftime('%Y-%m-%d', ?4 / 1000, 'unixepoch'), ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (session_id, incarnation, model, day) DO UPDATE SET
                calls = calls + excluded.calls, estimated_calls = estimated_calls + excluded.estimated_calls,
                unpriced_calls = unpriced_calls + excluded.unpriced_calls,
                input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
                cached_tokens = cached_tokens + excluded.cached_tokens,
                cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
                cost_usd = COALESCE(cost_usd + excluded.cost_usd, cost_usd, excluded.cost_usd)",
            session,
            incarnation,
            model,
            at.0,
            agent,
            calls,
            estimated,
            unpriced,
            input,
            output,
            cached,
            written,
            cost
        )
        .execute(&mut *self.db)
        .await?;
        Ok(())
    }
}

/// More than one call can use; sums of it fit into a column for ever.
const MOST: u64 = 1_000_000_000_000;

struct Owned {
    owner: String,
    model: String,
    calls: i64,
    estimated: i64,
    unpriced: i64,
    input: i64,
    output: i64,
    cached: i64,
    written: i64,
    cost: Option<f64>,
}

fn by_owner(rows: Vec<Owned>) -> BTreeMap<String, Vec<ModelSpend>> {
    let mut all: BTreeMap<String, Vec<ModelSpend>> = BTreeMap::new();
    for Owned { owner, model, calls, estimated, unpriced, input, output, cached, written, cost } in rows {
        let spend = spend([calls, estimated, unpriced, input, output, cached, written], cost);
        all.entry(owner).or_default().push(ModelSpend { model, spend });
    }
    all
}

fn spend(numbers: [i64; 7], cost_usd: Option<f64>) -> Spend {
    let [calls, estimated_calls, unpriced_calls, input_tokens, output_tokens, cached_tokens, cache_write_tokens] =
        numbers.map(numbers::from_sql);
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

pub(crate) async fn budgets_of(
    db: &mut SqliteConnection,
    owners: &[&str],
) -> Result<BTreeMap<String, Budget>, StoreError> {
    let ids = numbers::to_json(&owners);
    let rows = sqlx::query!(
        "SELECT owner_id, max_tokens, max_cost_usd FROM budgets WHERE owner_id IN (SELECT value FROM json_each(?1))",
        ids
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let max_tokens = row.max_tokens.map(numbers::from_sql);
            (row.owner_id, Budget { max_tokens, max_cost_usd: row.max_cost_usd })
        })
        .collect())
}

/// Replaces the limits of an agent or a session.
pub(crate) async fn write_budget(db: &mut SqliteConnection, owner: &str, budget: &Budget) -> Result<(), StoreError> {
    let Budget { max_tokens, max_cost_usd } = *budget;
    if !budget.is_set() {
        sqlx::query!("DELETE FROM budgets WHERE owner_id = ?1", owner).execute(db).await?;
        return Ok(());
    }
    let max_tokens = max_tokens.map(numbers::to_sql);
    sqlx::query!(
        "INSERT INTO budgets (owner_id, max_tokens, max_cost_usd) VALUES (?1, ?2, ?3)
         ON CONFLICT (owner_id) DO UPDATE SET max_tokens = excluded.max_tokens, max_cost_usd = excluded.max_cost_usd",
        owner,
        max_tokens,
        max_cost_usd
    )
    .execute(db)
    .await?;
    Ok(())
}
