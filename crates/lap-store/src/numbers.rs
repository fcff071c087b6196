//! Numbers and JSON columns between Rust and SQL. SQL's only integer is `i64`; what does not fit is clamped, since it can
//! only come from a sandbox that lies.

use crate::StoreError;

/// Into a column.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Out of a column.
pub(crate) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Out of a column that holds a small number.
pub(crate) fn small(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// A list or map as the text of a JSON column.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists and maps of strings are always JSON")
}

/// The reverse of [`to_json`].
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|cause| StoreError::Corrupt(format!("{column}: {cause}")))
}
