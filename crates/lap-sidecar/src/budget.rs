//! Limits of model calls on their way to the vault, and turns that failed because of them by their right name.

use lap_api::link::{Allowance, Budget, Report, Whose};
use lap_domain::budget;
use lap_domain::usage::Spend;
use lap_vault::Vault;

/// The code of a turn that failed because a budget is used up.
const BUDGET: &str = "budget";
/// What a harness says of a turn that its model failed.
const HARNESS_FAILED: &str = "harness_failed";

/// As the vault takes them.
pub fn allowances(budget: Budget) -> Vec<budget::Allowance> {
    let Budget { allowances } = budget;
    allowances.into_iter().map(allowance).collect()
}

fn allowance(allowance: Allowance) -> budget::Allowance {
    let Allowance { whose, max_tokens, max_cost_usd, elsewhere } = allowance;
    let whose = match whose {
        Whose::Session => budget::Whose::Session,
        Whose::Agent => budget::Whose::Agent,
    };
    budget::Allowance { whose, budget: budget::Budget { max_tokens, max_cost_usd }, elsewhere: spend(elsewhere) }
}

fn spend(spend: lap_api::usage::Spend) -> Spend {
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

/// What was metered, for the journal.
pub fn metered(metered: lap_vault::Metered) -> lap_api::link::Metered {
    let lap_vault::Metered { model, spend } = metered;
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
    let spend = lap_api::usage::Spend {
        calls,
        estimated_calls,
        unpriced_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        cache_write_tokens,
        cost_usd,
    };
    lap_api::link::Metered { model, spend }
}

/// Names the reason of turns that failed because the vault refused to call a model. Every harness puts it into other
/// words; the vault knows.
#[derive(Debug, Default)]
pub struct Blame {
    /// Refusals before the turn that runs.
    before: u64,
}

impl Blame {
    /// Looks at what the guest reports before it is kept.
    pub fn look(&mut self, report: &mut Report, vault: &Vault) {
        match report {
            Report::TurnStarted { .. } => self.before = vault.refused_for_budget().0,
            Report::TurnFailed { code, error, .. } if code == HARNESS_FAILED => {
                let (refused, sentence) = vault.refused_for_budget();
                if let (true, Some(sentence)) = (refused > self.before, sentence) {
                    BUDGET.clone_into(code);
                    *error = sentence;
                }
            }
            _ => {}
        }
    }
}
