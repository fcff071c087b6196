//! What model calls used, as the vault counted it: sums of tokens and money.

/// Tokens and cost of some calls.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spend {
    pub calls: u64,
    /// Calls of which something is estimated: the reply was cut off, or said nothing about tokens or price.
    pub estimated_calls: u64,
    /// Calls whose cost nobody told; `cost_usd` is without them.
    pub unpriced_calls: u64,
    /// Everything the model read, from its cache or not.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Of the input, what came from the provider's cache.
    pub cached_tokens: u64,
    /// Of the input, what was written to the provider's cache.
    pub cache_write_tokens: u64,
    /// US dollars; none when no call's cost is known.
    pub cost_usd: Option<f64>,
}

impl Spend {
    /// What counts against a budget of tokens: everything read and written.
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// Adds another's numbers; a cost that is no number is none.
    pub fn add(&mut self, other: &Spend) {
        let Spend {
            calls,
            estimated_calls,
            unpriced_calls,
            input_tokens,
            output_tokens,
            cached_tokens,
            cache_write_tokens,
            cost_usd,
        } = *other;
        let sum = |to: &mut u64, n: u64| *to = to.saturating_add(n);
        sum(&mut self.calls, calls);
        sum(&mut self.estimated_calls, estimated_calls);
        sum(&mut self.unpriced_calls, unpriced_calls);
        sum(&mut self.input_tokens, input_tokens);
        sum(&mut self.output_tokens, output_tokens);
        sum(&mut self.cached_tokens, cached_tokens);
        sum(&mut self.cache_write_tokens, cache_write_tokens);
        if let Some(cost) = cost_usd.filter(|cost| cost.is_finite() && *cost >= 0.0) {
            self.cost_usd = Some(self.cost_usd.unwrap_or(0.0) + cost);
        }
    }
}

/// What the calls of one model used.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpend {
    /// As the gateway names it.
    pub model: String,
    pub spend: Spend,
}

/// The sum over all models.
pub fn total(models: &[ModelSpend]) -> Spend {
    let mut total = Spend::default();
    for model in models {
        total.add(&model.spend);
    }
    total
}
