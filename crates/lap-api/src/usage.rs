//! What model calls used, as the vaults metered it. The number of record: what a harness says of itself is in its events.

use serde::{Deserialize, Serialize};

/// Tokens and cost, summed over calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spend {
    /// Model calls that the gateway answered, or that were given up while it worked on them.
    pub calls: u64,
    /// Of the calls, those of which tokens or cost are estimated: cut off, or answered without numbers.
    pub estimated_calls: u64,
    /// Of the calls, those whose cost is not known; `cost_usd` is without them.
    pub unpriced_calls: u64,
    /// Everything the models read, from a cache or not.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Of the input, what came from the provider's cache.
    pub cached_tokens: u64,
    /// Of the input, what was written to the provider's cache.
    pub cache_write_tokens: u64,
    /// In US dollars; null when no call's cost is known.
    pub cost_usd: Option<f64>,
}

/// A sum and its parts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(flatten)]
    pub total: Spend,
    /// By model, as the gateway names it.
    pub models: Vec<ModelUsage>,
}

/// What the calls of one model used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelUsage {
    pub model: String,
    #[serde(flatten)]
    pub spend: Spend,
}

/// A row of `GET /usage`. What the sums are not made by is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The agent's name, with `agent_id`; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `YYYY-MM-DD`, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    #[serde(flatten)]
    pub spend: Spend,
}
