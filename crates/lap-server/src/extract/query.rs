//! Query parameters, read strictly: unknown names, repeated names and values out of range are all reported together.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use axum::extract::FromRequestParts;
use http::request::Parts;
use lap_domain::problem::Problem;

use crate::error::{ApiError, shortened};

/// Databases count with signed numbers.
pub(crate) const LARGEST: u64 = i64::MAX as u64;

/// The query of a route.
pub(crate) struct Query<T>(pub T);

/// How a route's parameters are taken from a query. What `from_query` does not ask for is an unknown parameter.
pub(crate) trait FromQuery: Sized {
    fn from_query(params: &mut Params) -> Self;
}

impl<S: Send + Sync, T: FromQuery> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Params::read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Parameters that nobody has asked for yet, and what was wrong with the others.
pub(crate) struct Params {
    left: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Params {
    pub(super) fn read<T: FromQuery>(query: &str) -> Result<T, ApiError> {
        let mut params = Self { left: BTreeMap::new(), problems: Vec::new() };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if params.left.insert(name.to_string(), value.into_owned()).is_some() {
                params.problems.push(Problem::new(shortened(&name), "stands twice in the query"));
            }
        }
        let parsed = T::from_query(&mut params);
        let Self { left, mut problems } = params;
        problems.extend(left.keys().map(|name| Problem::new(shortened(name), "is not a parameter of this route")));
        if problems.is_empty() { Ok(parsed) } else { Err(ApiError::invalid(problems)) }
    }

    /// A text; empty is the same as absent, as forms send it.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.left.remove(name).filter(|value| !value.is_empty())
    }

    /// A whole number within `range`.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.left.remove(name)?;
        match value.parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let message = match *range.end() {
                    LARGEST => format!("must be a whole number from {}", range.start()),
                    end => format!("must be a whole number from {} to {end}", range.start()),
                };
                self.problems.push(Problem::new(name, message));
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.text(name)?;
        let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problems.push(Problem::new(name, format!("must be {}", known.join(" or "))));
        }
        found
    }

    /// Some of a few words, with commas between them.
    pub(crate) fn words<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<Vec<T>> {
        let value = self.text(name)?;
        let meaning = |word: &str| words.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning);
        let found: Option<Vec<T>> = value.split(',').map(|word| meaning(word.trim())).collect();
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problems.push(Problem::new(name, format!("must be of {}, with commas between", known.join(", "))));
        }
        found
    }

    /// A day of the calendar.
    pub(crate) fn day(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?;
        match value.parse::<jiff::civil::Date>() {
            Ok(day) if value.len() == "2026-01-31".len() => Some(day.to_string()),
            _ => {
                self.problems.push(Problem::new(name, "must be a day such as 2026-01-31"));
                None
            }
        }
    }

    /// `limit` and `offset` of a list.
    pub(crate) fn paging(&mut self) -> Paging {
        let limit = self.number("limit", 1..=200).and_then(|limit| u32::try_from(limit).ok());
        let offset = self.number("offset", 0..=LARGEST);
        Paging { limit: limit.unwrap_or(50), offset: offset.unwrap_or(0) }
    }
}

/// Which rows of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paging {
    pub(crate) limit: u32,
    pub(crate) offset: u64,
}

impl FromQuery for Paging {
    fn from_query(params: &mut Params) -> Self {
        params.paging()
    }
}
