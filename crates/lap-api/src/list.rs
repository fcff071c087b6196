//! The one shape of a list answer.

use serde::{Deserialize, Serialize};

/// A page of a list, newest first unless the route sorts otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// The rows of this page.
    pub data: Vec<T>,
    /// How many rows there are in all.
    pub total: u64,
    /// Page size asked for, 1..=200.
    pub limit: u32,
    /// Rows skipped before this page.
    pub offset: u64,
}

/// A page of a session's log, oldest first. The log grows at its end and has gaps, so it is paged by position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventPage<T> {
    /// The events of this page.
    pub data: Vec<T>,
    /// Page size asked for, 1..=200.
    pub limit: u32,
    /// What to give as `after` to get the next page; unchanged when this one is empty.
    pub next_after: u64,
}
