//! JSON bodies, read strictly: everything that is wrong with one is said at once, and no value is repeated in an error,
//! for it may be a secret.

use std::fmt;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use lap_api::error::ErrorCode;
use lap_domain::problem::Problem;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::error::{ApiError, shortened};

/// The largest body any route reads.
const BODY_LIMIT: usize = 25 * 1024 * 1024;

/// A body of the largest size must arrive within this on a slow line; a client that stalls must not hold memory longer.
const BODY_DEADLINE: Duration = Duration::from_secs(120);

/// Enough to be told everything a person would correct in one go; more is a program sending something else entirely.
const MOST_PROBLEMS: usize = 32;

/// A JSON body.
pub(crate) struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        require_json(request.headers())?;
        parse(&read(request).await?).map(Self)
    }
}

/// A JSON body whose every field is optional, so that the body may be left out too.
pub(crate) struct JsonOrDefault<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let content_type = require_json(request.headers());
        let body = read(request).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        content_type?;
        parse(&body).map(Self)
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = match essence {
        "" => "Send the body with the header Content-Type: application/json.".to_owned(),
        other => format!("Send the body with Content-Type: application/json, not {}.", shortened(other)),
    };
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
}

async fn read(request: Request) -> Result<Vec<u8>, ApiError> {
    let waits_for_leave = request.headers().contains_key(header::EXPECT);
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if waits_for_leave && length.is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    tokio::time::timeout(BODY_DEADLINE, collect(request)).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorCode::RequestTimeout,
            format!("The body did not arrive within {} seconds.", BODY_DEADLINE.as_secs()),
        ))
    })
}

async fn collect(request: Request) -> Result<Vec<u8>, ApiError> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "The body broke off before its announced end."))?;
        let Ok(data) = frame.into_data() else { continue };
        if discarded == 0 && bytes.len() + data.len() <= BODY_LIMIT {
            bytes.extend_from_slice(&data);
            continue;
        }
        // Reading on for a while lets the client finish sending and then see the answer, instead of a reset connection.
        bytes = Vec::new();
        discarded += data.len();
        if discarded > BODY_LIMIT {
            break;
        }
    }
    if discarded > 0 { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("The body is larger than {} MiB ({BODY_LIMIT} bytes), the most this server takes.", BODY_LIMIT >> 20),
    )
}

/// Reads a whole body as `T`. Unknown fields and wrong types are collected: each is noted, taken out, and reading begins
/// anew, until nothing is wrong any more or what is left makes no sense without what was taken out.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut value = strict_value(body)?;
    if !value.is_object() {
        // serde would take a list for a struct's fields in order.
        let message = format!("The body must be an object, not {}.", kind_of(&value));
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let mut problems: Vec<Problem> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(parsed) if problems.is_empty() => return Ok(parsed),
            Ok(_) => return Err(ApiError::invalid(problems)),
            Err(error) => error,
        };
        let path: Vec<Segment> = error.path().iter().cloned().collect();
        let fault = Fault::of(&error.inner().to_string());
        let problem = fault.problem(&path);
        let known = problems.iter().any(|p| p.field == problem.field);
        if !known {
            problems.push(problem);
        }
        if known || problems.len() == MOST_PROBLEMS || !fault.take_out(&mut value, &path) {
            return Err(ApiError::invalid(problems));
        }
    }
}

/// What serde says, without the values it repeats.
enum Fault {
    Unknown { field: String },
    Missing { field: String },
    Wrong { message: String },
}

impl Fault {
    fn of(text: &str) -> Self {
        if let Some(field) = quoted_after(text, "unknown field `") {
            return Self::Unknown { field };
        }
        if let Some(field) = quoted_after(text, "missing field `") {
            return Self::Missing { field };
        }
        let (found, expected) = text.rsplit_once(", expected ").unwrap_or((text, ""));
        let found = found.split(['`', '"']).next().unwrap_or_default().trim();
        let message = match (found.strip_prefix("invalid type: "), expected) {
            (_, "") => "is not as it should be".to_owned(),
            (Some(kind), expected) => format!("must be {}, not {}", in_json(expected), in_json(kind)),
            (None, expected) => format!("must be {}", in_json(expected)),
        };
        Self::Wrong { message }
    }

    fn problem(&self, path: &[Segment]) -> Problem {
        match self {
            Self::Unknown { field } => {
                Problem::new(shortened(&joined(parent_of(path, field), Some(field))), "is not a field of this request")
            }
            Self::Missing { field } => Problem::new(joined(path, Some(field)), "is required"),
            Self::Wrong { message } if path.is_empty() => Problem::new("", format!("The body {message}.")),
            Self::Wrong { message } => Problem::new(shortened(&joined(path, None)), message.clone()),
        }
    }

    /// Removes what is wrong. List elements stay, so that positions in later problems are right: there the whole field
    /// goes. False when there is nothing to remove.
    fn take_out(&self, value: &mut Value, path: &[Segment]) -> bool {
        match self {
            Self::Unknown { field } => at(value, parent_of(path, field))
                .and_then(Value::as_object_mut)
                .is_some_and(|object| object.remove(field).is_some()),
            Self::Missing { .. } | Self::Wrong { .. } => match path.first() {
                Some(Segment::Map { key }) => value.as_object_mut().is_some_and(|object| object.remove(key).is_some()),
                _ => false,
            },
        }
    }
}

fn quoted_after(text: &str, prefix: &str) -> Option<String> {
    let rest = text.strip_prefix(prefix)?;
    let end = rest.rfind("`, ").or_else(|| rest.rfind('`'))?;
    // With alternatives the name ends at the first of them: "`, expected `a` or `b`", "`, there are no fields".
    let end = rest.find("`, expected ").or_else(|| rest.find("`, there are no fields")).unwrap_or(end);
    Some(rest[..end].to_owned())
}

/// Where the object with the unknown field is: serde reports the field itself for plain structs and the object for tagged
/// enums.
fn parent_of<'a>(path: &'a [Segment], field: &str) -> &'a [Segment] {
    match path.split_last() {
        Some((Segment::Map { key }, parent)) if key == field => parent,
        _ => path,
    }
}

fn at<'a>(value: &'a mut Value, path: &[Segment]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Map { key } => value.get_mut(key),
        Segment::Seq { index } => value.get_mut(index),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

fn joined(path: &[Segment], last: Option<&String>) -> String {
    let mut text = String::new();
    let name = |key: &str, text: &mut String| {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(key);
    };
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => name(key, &mut text),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if let Some(last) = last {
        name(last, &mut text);
    }
    text
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// serde's words for kinds of values in the words of JSON.
fn in_json(kind: &str) -> &str {
    match kind.trim() {
        "map" | "a map" => "an object",
        "sequence" | "a sequence" => "a list",
        "string" => "a string",
        "integer" | "floating point" => "a number",
        "boolean" => "a boolean",
        "null" | "unit value" => "null",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        kind if kind.starts_with("struct ") || kind.contains("tagged enum") => "an object",
        kind => kind,
    }
}

/// The body as a value, refusing keys that stand twice: of two values one would be dropped without a word.
fn strict_value(body: &[u8]) -> Result<Value, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "The body is empty; send a JSON object."));
    }
    match serde_json::from_slice::<Strict>(body) {
        Ok(Strict(value)) => Ok(value),
        Err(error) if error.is_data() => {
            Err(ApiError::new(ErrorCode::InvalidRequest, format!("The body has {error}.")))
        }
        Err(error) => Err(ApiError::new(ErrorCode::InvalidRequest, format!("The body is not valid JSON: {error}."))),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{}` twice", shortened(&key))));
            }
            let Strict(value) = map.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}
