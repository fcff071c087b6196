//! How much model calls may use: the limits of a session and of its agent, and whether they are reached. Pure: whoever
//! counts passes the sums in.

use crate::problem::Problem;
use crate::usage::Spend;

/// Limits; none set is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Budget {
    /// Input and output tokens together, cached ones included.
    pub max_tokens: Option<u64>,
    /// US dollars.
    pub max_cost_usd: Option<f64>,
}

/// A change of limits: what is absent stays, the inner `None` takes a limit away.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BudgetEdit {
    pub max_tokens: Option<Option<u64>>,
    pub max_cost_usd: Option<Option<f64>>,
}

/// The largest limit of tokens: a number that every reader of JSON takes as it is.
pub const LARGEST_TOKENS: u64 = 1_000_000_000_000_000;

/// The largest limit of dollars.
pub const LARGEST_COST_USD: f64 = 1_000_000_000.0;

/// After so many calls in a row whose cost nobody told, a budget in dollars cannot be kept any more.
pub const UNPRICED_IN_A_ROW: u32 = 10;

impl Budget {
    /// Whether there is any limit.
    pub fn is_set(&self) -> bool {
        self.max_tokens.is_some() || self.max_cost_usd.is_some()
    }

    /// The budget after the edit.
    pub fn edited(self, edit: BudgetEdit) -> Self {
        Self {
            max_tokens: edit.max_tokens.unwrap_or(self.max_tokens),
            max_cost_usd: edit.max_cost_usd.unwrap_or(self.max_cost_usd),
        }
    }

    /// Checks the limits themselves.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        if self.max_tokens.is_some_and(|max| !(1..=LARGEST_TOKENS).contains(&max)) {
            let message = format!("must be a whole number from 1 to {LARGEST_TOKENS}, or null for no limit");
            problems.push(Problem::new("max_tokens", message));
        }
        if self.max_cost_usd.is_some_and(|max| !(max > 0.0 && max <= LARGEST_COST_USD)) {
            let message =
                format!("must be a number of US dollars above 0, up to {LARGEST_COST_USD}, or null for no limit");
            problems.push(Problem::new("max_cost_usd", message));
        }
    }
}

/// Whose limits they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The session's own.
    Session,
    /// The agent's, for all its sessions together.
    Agent,
}

/// Limits and what counts against them already, without the sandbox that is asking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    pub whose: Whose,
    pub budget: Budget,
    pub elsewhere: Spend,
}

/// Why no model may be called, as a sentence; none while there is room. `here` is what the asking sandbox has used itself,
/// `unpriced` its newest calls in a row whose cost is not known.
pub fn refusal(allowances: &[Allowance], here: &Spend, unpriced: u32) -> Option<String> {
    allowances.iter().find_map(|Allowance { whose, budget, elsewhere }| {
        let mut spent = *elsewhere;
        spent.add(here);
        let (who, whole) = match whose {
            Whose::Session => ("this session", ""),
            Whose::Agent => ("this agent", " in all its sessions"),
        };
        let Budget { max_tokens, max_cost_usd } = *budget;
        if let Some(max) = max_tokens.filter(|max| spent.tokens() >= *max) {
            let (max, spent) = (grouped(max), grouped(spent.tokens()));
            return Some(format!(
                "The budget is used up: {who} may use {max} tokens{whole} and has used {spent}. Raise its max_tokens to go on."
            ));
        }
        let max = max_cost_usd?;
        let cost = spent.cost_usd.unwrap_or(0.0);
        if cost >= max {
            return Some(format!(
                "The budget is used up: {who} may spend ${max}{whole} and has spent ${cost:.4}. Raise its max_cost_usd to go on."
            ));
        }
        (unpriced >= UNPRICED_IN_A_ROW).then(|| {
            format!(
                "The budget cannot be kept: {who} may spend ${max}{whole}, and the gateway did not say what the last \
                 {unpriced} calls cost. Set max_tokens instead of max_cost_usd."
            )
        })
    })
}

/// `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
