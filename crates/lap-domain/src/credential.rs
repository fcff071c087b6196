//! Credentials: a secret, its stub, and the hosts and places in which the one may stand for the other.

use std::fmt;

use crate::catalogue;
use crate::egress::{Entry, EntryError, Host, HostPattern, split_port};
use crate::secret::Secret;

/// A named secret and where it may go.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The variable's name.
    pub name: String,
    /// What the sandbox sees.
    pub stub: String,
    /// The real value.
    pub secret: Secret,
    /// Where it may be swapped in.
    pub scope: Scope,
}

/// Where a credential may be swapped in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// At these hosts. An empty list: nowhere.
    Hosts(Vec<HostRule>),
    /// Only in the auth header of the gateway's model routes.
    Gateway,
    /// At any host that egress allows.
    Anywhere,
}

/// A place in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Position {
    /// A header made for credentials, Basic included; open at every host of the scope.
    Credential,
    /// Any other header.
    Header,
    /// The path.
    Path,
    /// The query.
    Query,
    /// The body.
    Body,
    /// Text frames of a WebSocket.
    Ws,
}

/// A set of positions beside [`Position::Credential`], which is always open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions(u8);

/// The words after `#` and what they open.
const POSITION_WORDS: [(&str, Position); 5] = [
    ("header", Position::Header),
    ("path", Position::Path),
    ("query", Position::Query),
    ("body", Position::Body),
    ("ws", Position::Ws),
];

impl Positions {
    /// Nothing but credential positions.
    pub const NONE: Self = Self(0);

    /// With this position open too.
    #[must_use]
    pub const fn with(self, position: Position) -> Self {
        Self(self.0 | 1 << position as u8)
    }

    /// Everything that either opens.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the position is open.
    pub const fn contains(self, position: Position) -> bool {
        matches!(position, Position::Credential) || self.0 & 1 << position as u8 != 0
    }
}

/// Hosts, at one port or all, and the positions open there: `host`, `*.suffix`, address or range, `:port`, `#body` ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// Which hosts.
    pub pattern: HostPattern,
    /// Which port. Without one, any port over TLS; plain http carries a credential only where the port is named.
    pub port: Option<u16>,
    /// Open beside the credential positions.
    pub positions: Positions,
}

impl HostRule {
    /// Reads an entry of `env_var_hosts`.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let error = |why: String| EntryError { entry: text.to_owned(), why };
        let mut parts = text.split('#');
        let (host, port) = split_port(parts.next().unwrap_or_default()).map_err(|cause| error(cause.why))?;
        let mut positions = Positions::NONE;
        for word in parts {
            let Some((_, position)) = POSITION_WORDS.iter().find(|(known, _)| *known == word) else {
                return Err(error(format!("opens `#{word}`, which is none of #body, #query, #path, #header, #ws")));
            };
            positions = positions.with(*position);
        }
        let pattern = HostPattern::parse(host).map_err(|cause| error(cause.why))?;
        Ok(Self { pattern, port, positions })
    }

    fn covers(&self, destination: &Destination<'_>) -> bool {
        let port_fits = match self.port {
            Some(port) => port == destination.port,
            None => destination.tls,
        };
        port_fits && self.pattern.matches(destination.host)
    }
}

impl From<&Entry> for HostRule {
    fn from(entry: &Entry) -> Self {
        Self { pattern: entry.pattern.clone(), port: entry.port, positions: Positions::NONE }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        for (word, position) in POSITION_WORDS {
            if self.positions.contains(position) {
                write!(f, "#{word}")?;
            }
        }
        Ok(())
    }
}

/// Where a request goes, for the question whether a credential may go along.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// As the sandbox named it, checked against SNI and Host.
    pub host: &'a Host,
    /// As the sandbox named it.
    pub port: u16,
    /// Whether the upstream connection is TLS with a verified certificate.
    pub tls: bool,
}

impl Scope {
    /// The positions in which a credential may be swapped at this destination; none when it may not go there at all. The
    /// gateway is not a destination: it has rules of its own.
    pub fn positions_at(&self, destination: &Destination<'_>) -> Option<Positions> {
        match self {
            Self::Gateway => None,
            Self::Anywhere => Some(Positions::NONE),
            Self::Hosts(rules) => {
                rules.iter().filter(|rule| rule.covers(destination)).map(|rule| rule.positions).reduce(Positions::union)
            }
        }
    }

    /// Whether a credential may be swapped at this destination in this position.
    pub fn allows(&self, destination: &Destination<'_>, position: Position) -> bool {
        self.positions_at(destination).is_some_and(|positions| positions.contains(position))
    }
}

/// Which rule gave a credential its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// `env_var_hosts`.
    Explicit,
    /// The built-in catalogue.
    Catalogue,
    /// The agent's `allow_out`.
    AllowOut,
    /// Nothing: it may be spent anywhere, and the agent carries a warning.
    Unbound,
}

/// Finds where the credential `key` may go: `bound` (its entry of `env_var_hosts`, if there is one), else the catalogue, else
/// `allow_out` if it is not empty, else anywhere.
pub fn resolve_scope(key: &str, bound: Option<&[HostRule]>, allow_out: &[Entry]) -> (Scope, Binding) {
    if let Some(rules) = bound {
        return (Scope::Hosts(rules.to_vec()), Binding::Explicit);
    }
    if let Some(rules) = catalogue::rules_for(key) {
        return (Scope::Hosts(rules), Binding::Catalogue);
    }
    if !allow_out.is_empty() {
        return (Scope::Hosts(allow_out.iter().map(HostRule::from).collect()), Binding::AllowOut);
    }
    (Scope::Anywhere, Binding::Unbound)
}

#[cfg(test)]
#[path = "credential/tests.rs"]
mod tests;
