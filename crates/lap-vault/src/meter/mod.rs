//! Counts what model calls use, and stops them at the limit of a budget.
//!
//! The numbers are those of the gateway's replies, read as they flow by. Where a reply is cut off before it says them, or
//! never says them, they are estimated from the text that flowed: otherwise whoever hangs up early, or asks for a stream
//! without numbers, would use models for nothing. Requests go on unchanged but for one header that asks for the cost.

mod ask;
mod json;
mod reply;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};
use lap_domain::budget::{self, Allowance};
use lap_domain::usage::Spend;

use crate::body::{BoxError, Watch};
use crate::record::Exchange;
use crate::refusal::Refusal;

pub(crate) use ask::Background;
pub(crate) use reply::Protocol;

use ask::Ask;
use reply::Reply;

/// What the gateway says a call cost (LiteLLM), for replies that are not streams.
const COST: HeaderName = HeaderName::from_static("x-litellm-response-cost");
/// The model as it was asked for, by the gateway's word (LiteLLM).
const MODEL_GROUP: HeaderName = HeaderName::from_static("x-litellm-model-group");
/// Makes the gateway (LiteLLM) put the cost into the numbers of a stream. Others do not know it.
const COST_IN_STREAMS: HeaderName = HeaderName::from_static("x-litellm-include-cost-in-streaming-usage");
/// Models whose price is remembered.
const MOST_PRICES: usize = 64;
/// The model of a call that names none.
const UNKNOWN_MODEL: &str = "unknown";

/// What one call used.
#[derive(Debug, Clone, PartialEq)]
pub struct Metered {
    /// As the gateway names it.
    pub model: String,
    pub spend: Spend,
}

/// The counters of one vault.
#[derive(Default)]
pub(crate) struct Meter {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    allowances: Vec<Allowance>,
    /// Everything this vault has metered.
    here: Spend,
    /// Tokens and dollars of calls with a price, by model.
    prices: BTreeMap<String, (u64, f64)>,
    unpriced_in_a_row: u32,
    refused: u64,
    sentence: Option<String>,
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New limits, for the next call.
    pub fn set_allowances(&self, allowances: Vec<Allowance>) {
        self.lock().allowances = allowances;
    }

    /// How many calls were refused, and why the newest one was.
    pub fn refused(&self) -> (u64, Option<String>) {
        let inner = self.lock();
        (inner.refused, inner.sentence.clone())
    }

    /// Says no when a limit is reached.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let Some(sentence) = budget::refusal(&inner.allowances, &inner.here, inner.unpriced_in_a_row) else {
            return Ok(());
        };
        inner.refused += 1;
        inner.sentence = Some(sentence.clone());
        Err(Refusal::budget(sentence))
    }

    /// Takes a call into the sums; what it cost is worked out from others where nobody said it.
    fn settle(&self, metered: &mut Metered) {
        let mut inner = self.lock();
        let Metered { model, spend } = metered;
        match spend.cost_usd {
            Some(cost) => {
                inner.unpriced_in_a_row = 0;
                if inner.prices.len() < MOST_PRICES || inner.prices.contains_key(model) {
                    let (tokens, dollars) = inner.prices.entry(model.clone()).or_default();
                    *tokens = tokens.saturating_add(spend.tokens());
                    *dollars += cost;
                }
            }
            None => match inner.price(model) {
                Some(price) => {
                    spend.cost_usd = Some(price * spend.tokens() as f64);
                    spend.estimated_calls = 1;
                }
                None => {
                    spend.unpriced_calls = 1;
                    inner.unpriced_in_a_row = inner.unpriced_in_a_row.saturating_add(1);
                }
            },
        }
        inner.here.add(spend);
    }
}

impl Inner {
    /// Dollars per token: of this model, else of the dearest that is known.
    fn price(&self, model: &str) -> Option<f64> {
        let of = |(tokens, dollars): &(u64, f64)| (*tokens > 0).then(|| dollars / *tokens as f64);
        let known = self.prices.get(model).and_then(of);
        known.or_else(|| self.prices.values().filter_map(of).max_by(f64::total_cmp))
    }
}

/// A model call under way. Everybody who moves a part of it holds it; when the last one lets go it is settled, so that a
/// client that hangs up pays for what it got.
pub(crate) struct Call {
    meter: Arc<Meter>,
    exchange: Arc<Exchange>,
    state: Mutex<State>,
}

struct State {
    ask: Ask,
    reply: Reply,
    /// Whether the gateway did what was asked; none: it has not answered yet.
    accepted: Option<bool>,
    /// By the gateway's word, in the head of its answer.
    model: Option<String>,
    cost: Option<f64>,
}

impl Call {
    pub fn new(meter: &Arc<Meter>, exchange: &Arc<Exchange>, protocol: Protocol) -> Arc<Self> {
        let state = State { ask: Ask::new(), reply: Reply::new(protocol), accepted: None, model: None, cost: None };
        Arc::new(Self { meter: meter.clone(), exchange: exchange.clone(), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its body says on the way up.
    pub fn ask(self: &Arc<Self>) -> Box<dyn Watch> {
        Box::new(Asked(self.clone()))
    }

    /// What the answer's body says on the way down.
    pub fn reply(self: &Arc<Self>) -> Box<dyn Watch> {
        Box::new(Replied(self.clone()))
    }

    /// The gateway has answered.
    pub fn answered(&self, head: &response::Parts) {
        let header = |name| head.headers.get(name).map(HeaderValue::as_bytes);
        let mut state = self.lock();
        state.accepted = Some(head.status.is_success());
        state.model = header(MODEL_GROUP).and_then(reply::clean);
        // In the head of a stream nobody can know it yet: some say zero there.
        state.cost = header(COST).and_then(reply::dollars).filter(|cost| *cost > 0.0 || !is_stream(&head.headers));
    }

    /// The gateway has not had it, or has not done it.
    pub fn discard(&self) {
        self.lock().accepted = Some(false);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.accepted == Some(false) {
            return;
        }
        let mut spend = state.reply.spend(state.ask.text());
        if let (None, Some(cost)) = (spend.cost_usd, state.cost) {
            spend.cost_usd = Some(cost);
        }
        let model = state.model.as_deref().or(state.reply.model()).or(state.ask.model()).unwrap_or(UNKNOWN_MODEL);
        let mut metered = Metered { model: model.to_owned(), spend };
        self.meter.settle(&mut metered);
        self.exchange.set_metered(metered);
    }
}

struct Asked(Arc<Call>);

impl Watch for Asked {
    fn see(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        self.0.lock().ask.feed(bytes).map_err(Into::into)
    }
}

struct Replied(Arc<Call>);

impl Watch for Replied {
    fn see(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        self.0.lock().reply.feed(bytes);
        Ok(())
    }
}

/// Makes sure that the vault can read what goes up, and that the gateway says what it can.
pub(crate) fn prepare(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let coded = headers.get_all(CONTENT_ENCODING).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    let is_json = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or("?");
        text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().ends_with("json")
    };
    if coded || !headers.get_all(CONTENT_TYPE).iter().all(is_json) {
        let sentence = "Model calls are metered: their bodies must be JSON, by their Content-Type too, without a Content-Encoding.";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding", sentence));
    }
    headers.insert(COST_IN_STREAMS, HeaderValue::from_static("true"));
    Ok(())
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}
