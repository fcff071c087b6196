//! Tokens that the platform has made for one repository at a time: which repository an agent's URL names, when a token is
//! made anew, and how long to wait after that went wrong.

use std::fmt;

use crate::egress::Entry;
use crate::time::Timestamp;
use crate::url::HttpUrl;

/// The variable in which the token's stub stands, which is also the credential's name.
pub const TOKEN_KEY: &str = "GITHUB_TOKEN";

/// Variables that programs look for such a token in. One that is given by agent or session wins over the platform's.
pub const TOKEN_KEYS: [&str; 2] = [TOKEN_KEY, "GH_TOKEN"];

/// Length of a token, as far as its stub is to have the same.
pub const TOKEN_BYTES: usize = 40;

/// The longest wait between two tries.
const MAX_RETRY_MS: i64 = 60 * 1000;

/// A repository as its host names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// The account it belongs to.
    pub owner: String,
    /// Its own name.
    pub name: String,
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl Repository {
    /// Reads `owner/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        (is_name(owner) && is_name(name)).then(|| Self { owner: owner.to_owned(), name: name.to_owned() })
    }

    /// The repository that a URL names, if it lies on this host and is read over https.
    pub fn at(host: &Entry, url: &str) -> Option<Self> {
        let url = HttpUrl::parse(url).ok()?;
        if !url.tls || !host.matches(&url.host, url.port) {
            return None;
        }
        let path = url.rest.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::parse(path.strip_suffix(".git").unwrap_or(path))
    }
}

/// Names become part of a URL: they hold nothing that would mean something there.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 100 && text.bytes().all(plain) && !text.bytes().all(|byte| byte == b'.')
}

/// When a token is made anew: after three quarters of its life, which leaves the last one for tries that fail.
pub fn renew_at(made: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.since(made).max(0);
    made.plus_ms(life - life / 4)
}

/// How long to wait after so many tries in a row have failed.
pub fn retry_in_ms(failures: u32) -> i64 {
    1000_i64
        .checked_shl(failures.saturating_sub(1))
        .filter(|ms| (1..=MAX_RETRY_MS).contains(ms))
        .unwrap_or(MAX_RETRY_MS)
}

#[cfg(test)]
#[path = "repository_token/tests.rs"]
mod tests;
