//! Who is asking. Knows the master key as a digest only, and compares in constant time.

use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use lap_domain::secret::Secret;
use subtle::ConstantTimeEq;

use crate::error::ApiError;

/// Who made a request that was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Whoever holds the master key.
    Operator,
}

impl Caller {
    /// How the access log names the caller.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
        }
    }

    /// The caller of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Operator].into_iter().find(|caller| caller.as_str() == name)
    }
}

/// What keys are checked against.
#[derive(Clone)]
pub(crate) struct Keys {
    master: Digest,
}

impl Keys {
    pub(crate) fn new(master_key: &Secret) -> Self {
        Self { master: digest(&SHA256, master_key.expose().as_bytes()) }
    }

    /// Digests have one length, so that the comparison takes the same time whatever was sent.
    pub(crate) fn caller(&self, key: &[u8]) -> Option<Caller> {
        let same = digest(&SHA256, key).as_ref().ct_eq(self.master.as_ref());
        bool::from(same).then_some(Caller::Operator)
    }
}

/// The layer in front of every route that needs a key. It runs before any body is read.
pub(crate) async fn require_key(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    let Some(caller) = bearer(request.headers()).and_then(|key| keys.caller(key)) else {
        return ApiError::unauthorized().into_response();
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    // For the access log, which stands outside of this layer.
    response.extensions_mut().insert(caller);
    response
}

/// The key of an `Authorization: Bearer` header; none when there are several such headers.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !key.is_empty()).then_some(key)
}
