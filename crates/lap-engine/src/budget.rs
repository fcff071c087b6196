//! What model calls used, and the limits on it: from sandboxes to sums, from sums to the sandboxes that share a budget.
//!
//! A sidecar keeps its limits by itself, with what it has metered and what it was last told of others. Whenever another
//! sandbox of the agent has used something, or a limit changes, it is told anew.

use lap_api::link::{Allowance, Budget as WireBudget, Metered, ServerToSidecar, Whose};
use lap_domain::budget::{Budget, BudgetEdit};
use lap_domain::ids::SessionId;
use lap_domain::problem::Problem;
use lap_domain::session::Session;
use lap_domain::usage::{ModelSpend, Spend};
use lap_store::{UsageFilter, UsageRow, Write};
use tokio::sync::mpsc;

use crate::{Engine, EngineError, Page, SessionView, now};

/// Longest name of a model that is kept.
const MODEL_BYTES: usize = 255;

/// What a metered call means for the store.
pub(crate) fn metered(metered: Metered) -> Write {
    let Metered { mut model, spend } = metered;
    if model.len() > MODEL_BYTES {
        let end = (0..=MODEL_BYTES).rev().find(|end| model.is_char_boundary(*end)).unwrap_or_default();
        model.truncate(end);
    }
    let lap_api::usage::Spend {
        calls,
        estimated_calls,
        unpriced_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        cache_write_tokens,
        cost_usd,
    } = spend;
    let spend = Spend {
        calls,
        estimated_calls,
        unpriced_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        cache_write_tokens,
        cost_usd,
    };
    Write::Metered(ModelSpend { model, spend })
}

fn on_wire(spend: Spend) -> lap_api::usage::Spend {
    let Spend {
        calls,
        estimated_calls,
        unpriced_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        cache_write_tokens,
        cost_usd,
    } = spend;
    lap_api::usage::Spend {
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

impl Engine {
    /// A page of what was used, summed as asked.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Page<UsageRow>, EngineError> {
        let lap_store::Page { rows, total } = self.inner.store.usage(filter).await?;
        Ok(Page { rows, total })
    }

    /// Changes a session's title and limits, those that are given. Limits hold for the next model call.
    pub async fn edit_session(
        &self,
        id: &SessionId,
        title: Option<Option<String>>,
        edit: BudgetEdit,
    ) -> Result<SessionView, EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        crate::whole(async move {
            let mut problems = Vec::new();
            if let Some(Some(title)) = &title {
                lap_domain::session::check_title(title, &mut problems);
            }
            let before = engine.inner.store.budgets(&[id.as_str()]).await?.remove(id.as_str()).unwrap_or_default();
            let after = before.edited(edit);
            after.check(&mut problems);
            if title.is_none() && edit == BudgetEdit::default() {
                problems.push(Problem::new("", "give title, max_tokens or max_cost_usd"));
            }
            if !problems.is_empty() {
                return Err(EngineError::Invalid(problems));
            }
            if let Some(title) = title {
                engine.inner.store.set_title(&id, title).await?;
            }
            let session = engine.inner.store.session(&id).await?;
            if after != before {
                engine.inner.store.set_session_budget(&id, &after).await?;
                engine.send_budget(&session).await?;
            }
            engine.session_view(session).await
        })
        .await
    }

    /// The limits of a session's current sandbox.
    pub(crate) async fn budget_of(&self, session: &Session) -> Result<WireBudget, EngineError> {
        let store = &self.inner.store;
        let owners = [(Whose::Session, session.id.as_str()), (Whose::Agent, session.agent_id.as_str())];
        let mut budgets = store.budgets(&owners.map(|(_, owner)| owner)).await?;
        if budgets.is_empty() {
            return Ok(WireBudget::default());
        }
        let spent = store.spent_elsewhere(&session.agent_id, &session.id, session.incarnation).await?;
        let allowance = |(whose, owner): (Whose, &str)| {
            let Budget { max_tokens, max_cost_usd } = budgets.remove(owner)?;
            let elsewhere = on_wire(match whose {
                Whose::Session => spent.session,
                Whose::Agent => spent.agent,
            });
            Some(Allowance { whose, max_tokens, max_cost_usd, elsewhere })
        };
        Ok(WireBudget { allowances: owners.into_iter().filter_map(allowance).collect() })
    }

    /// Tells a sandbox that is up its limits. Without a link there is nothing to do: the next greeting says them.
    pub(crate) async fn send_budget(&self, session: &Session) -> Result<(), EngineError> {
        let _order = self.inner.live.order(&session.id, now()).lock_owned().await;
        match self.inner.live.link(&session.id) {
            Some(link) => self.budget_down(session, &link).await,
            None => Ok(()),
        }
    }

    /// The caller holds the session's order, so that older limits never follow newer ones.
    pub(crate) async fn budget_down(
        &self,
        session: &Session,
        to: &mpsc::Sender<ServerToSidecar>,
    ) -> Result<(), EngineError> {
        let budget = self.budget_of(session).await?;
        let _ = to.send(ServerToSidecar::Budget(budget)).await;
        Ok(())
    }

    /// A sandbox has used something: the others of its agent hear of it, if they share a budget.
    pub(crate) async fn spent(&self, by: &Session) {
        let told = async {
            if self.inner.store.budgets(&[by.agent_id.as_str()]).await?.is_empty() {
                return Ok(());
            }
            let live = self.inner.store.live_sessions().await?;
            for other in live.iter().filter(|other| other.agent_id == by.agent_id && other.id != by.id) {
                self.send_budget(other).await?;
            }
            Ok::<_, EngineError>(())
        };
        if let Err(problem) = told.await {
            tracing::error!(agent.id = %by.agent_id, problem = &problem as &dyn std::error::Error, "could not tell an agent's sandboxes what is left of their budget");
        }
    }
}
