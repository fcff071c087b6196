//! What requests are read with: every refusal is an [`ApiError`] with a sentence, never a framework's plain text.

mod json;
mod query;
#[cfg(test)]
mod tests;

pub(crate) use json::{Json, JsonOrDefault};
pub(crate) use query::{FromQuery, LARGEST, Paging, Params, Query};

use axum::extract::FromRequestParts;
use http::request::Parts;
use lap_api::error::ErrorCode;

use crate::error::ApiError;

/// The variable parts of a path. What cannot be read as text names nothing, so it is 404.
pub(crate) struct Path<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Path(value) =
            axum::extract::Path::from_request_parts(parts, state).await.map_err(|_| ApiError::no_such_route())?;
        Ok(Self(value))
    }
}

/// The `Idempotency-Key` header, if there is one.
pub(crate) struct IdempotencyKey(pub Option<String>);

/// Long enough for two UUIDs with words between them; short enough to be an index.
const LONGEST_IDEMPOTENCY_KEY: usize = 200;

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        match value.to_str() {
            Ok(key) if (1..=LONGEST_IDEMPOTENCY_KEY).contains(&key.len()) && values.next().is_none() => {
                Ok(Self(Some(key.to_owned())))
            }
            _ => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!(
                    "Idempotency-Key must be given once, as 1 to {LONGEST_IDEMPOTENCY_KEY} printable ASCII characters."
                ),
            )),
        }
    }
}
