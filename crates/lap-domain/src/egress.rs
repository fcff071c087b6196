//! Decides whether a sandbox may reach a host. Pure: names come resolved, nothing is looked up here.
//!
//! Deny wins. A list of allowed entries that is not empty closes everything else. Private, loopback and link-local
//! addresses open only through the operator; cloud metadata addresses never do.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::problem::Problem;

/// A host as a request means it: a normalised name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// Lower case, no trailing dot, letters, digits, `-` and `_`.
    Name(String),
    /// An address literal; IPv4 wrapped in IPv6 is unwrapped.
    Addr(IpAddr),
}

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("a host is missing")]
    Empty,
    /// Longer than a name can be.
    #[error("the host is longer than 253 characters")]
    TooLong,
    /// A label that no name may have.
    #[error("`{0}` is not a host name (letters, digits, hyphens and dots)")]
    BadName(String),
    /// `0177.0.0.1`, `2130706433`, `0x7f.1`: programs disagree on what these mean.
    #[error("`{0}` is not an address in the usual form (four decimal numbers without leading zeros)")]
    OddAddress(String),
    /// Not written in ASCII.
    #[error("`{0}` is not ASCII: write the name in its `xn--` form")]
    NotAscii(String),
}

impl Host {
    /// Reads a host as it stands in URLs, Host headers and TLS; IPv6 may be in brackets.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if !text.is_ascii() {
            return Err(HostError::NotAscii(text.to_owned()));
        }
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(inner) = unbracketed {
            return inner.parse::<Ipv6Addr>().map(Self::from_v6).map_err(|_| HostError::BadName(text.to_owned()));
        }
        if let Ok(addr) = text.parse::<Ipv6Addr>() {
            return Ok(Self::from_v6(addr));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Ok(addr) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Addr(IpAddr::V4(addr)));
        }
        check_name(&name, text)?;
        Ok(Self::Name(name))
    }

    /// The host of an address; IPv4 wrapped in IPv6 counts as IPv4.
    pub fn from_addr(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Addr(addr),
            IpAddr::V6(v6) => Self::from_v6(v6),
        }
    }

    /// The name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Addr(_) => None,
        }
    }

    fn from_v6(addr: Ipv6Addr) -> Self {
        Self::Addr(addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Addr(IpAddr::V4(addr)) => write!(f, "{addr}"),
            Self::Addr(IpAddr::V6(addr)) => write!(f, "[{addr}]"),
        }
    }
}

/// Reads an authority as it stands in URLs and Host headers: `host`, `host:port`, `[v6]`, `[v6]:port`. No user info, and an
/// IPv6 address only in brackets.
pub fn parse_authority(text: &str) -> Result<(Host, Option<u16>), HostError> {
    let bad = || HostError::BadName(text.to_owned());
    let host_end =
        if text.starts_with('[') { text.find(']').ok_or_else(bad)? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, rest) = text.split_at(host_end);
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(bad()),
        Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => return Err(bad()),
        Some(digits) => Some(digits.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad)?),
    };
    Ok((Host::parse(host)?, port))
}

fn check_name(name: &str, shown: &str) -> Result<(), HostError> {
    if name.len() > 253 {
        return Err(HostError::TooLong);
    }
    let bad = || HostError::BadName(shown.to_owned());
    for label in name.split('.') {
        let fine = !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-');
        if !fine {
            return Err(bad());
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric { Err(HostError::OddAddress(shown.to_owned())) } else { Ok(()) }
}

/// Which hosts an entry speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this name.
    Name(String),
    /// `*.suffix`: the suffix itself and everything below it.
    Suffix(String),
    /// One address or a range.
    Net(Net),
}

impl HostPattern {
    /// Reads `host`, `*.suffix`, an address or a range.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let error = |why: &str| EntryError { entry: text.to_owned(), why: why.to_owned() };
        if text.contains("://") {
            return Err(error("is a URL; write the host alone, such as `api.example.com`"));
        }
        if let Some((addr, bits)) = text.split_once('/') {
            let addr = addr.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(addr);
            let Ok(addr) = IpAddr::from_str(addr) else {
                return Err(error("has a path or is no range; write `host` or a range such as `10.0.0.0/8`"));
            };
            let bits = Some(bits)
                .filter(|b| !b.is_empty() && b.bytes().all(|c| c.is_ascii_digit()))
                .and_then(|b| b.parse().ok());
            return bits
                .and_then(|bits| Net::new(addr, bits))
                .map(HostPattern::Net)
                .ok_or_else(|| error("has a prefix length that does not fit the address"));
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return match Host::parse(suffix) {
                Ok(Host::Name(name)) => Ok(Self::Suffix(name)),
                Ok(Host::Addr(_)) => Err(error("puts `*.` before an address; write a range such as `10.0.0.0/8`")),
                Err(cause) => Err(error(&format!("is not valid: {cause}"))),
            };
        }
        if text.contains('*') {
            return Err(error("has a `*` that is not a leading `*.`; write `*.example.com`"));
        }
        match Host::parse(text) {
            Ok(Host::Name(name)) => Ok(Self::Name(name)),
            Ok(Host::Addr(addr)) => Ok(Self::Net(Net::single(addr))),
            Err(cause) => Err(error(&format!("is not valid: {cause}"))),
        }
    }

    /// Whether a host as the sandbox named it is meant. A name is never matched by an address or range: it would have to be
    /// resolved first, and a look-up already tells somebody something.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Name(pattern), Host::Name(name)) => pattern == name,
            (Self::Suffix(suffix), Host::Name(name)) => {
                name == suffix || name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Net(net), Host::Addr(addr)) => net.contains(*addr),
            _ => false,
        }
    }

    /// Whether some name is meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(name) | Self::Suffix(name), pattern) if pattern.matches(&Host::Name(name.clone())) => true,
            (pattern, Self::Name(name) | Self::Suffix(name)) => pattern.matches(&Host::Name(name.clone())),
            _ => false,
        }
    }

    fn contains_addr(&self, addr: IpAddr) -> bool {
        matches!(self, Self::Net(net) if net.contains(addr))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    addr: IpAddr,
    bits: u8,
}

impl Net {
    /// The range of all addresses that share the first `bits` bits with `addr`. None when there are not so many bits.
    pub fn new(addr: IpAddr, bits: u8) -> Option<Self> {
        let addr = canonical(addr);
        let max = if addr.is_ipv4() { 32 } else { 128 };
        (bits <= max).then_some(Self { addr, bits })
    }

    /// A range of one.
    pub fn single(addr: IpAddr) -> Self {
        let addr = canonical(addr);
        Self { addr, bits: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether the address lies in the range. IPv4 wrapped in IPv6 counts as IPv4.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, canonical(addr)) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same_prefix(u32::from(a).into(), u32::from(b).into(), 32 - u32::from(self.bits))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same_prefix(a.into(), b.into(), 128 - u32::from(self.bits)),
            _ => false,
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.bits == if self.addr.is_ipv4() { 32 } else { 128 };
        // IPv6 stands in brackets, so that a port can follow.
        match self.addr {
            IpAddr::V6(addr) => write!(f, "[{addr}]")?,
            addr => write!(f, "{addr}")?,
        }
        if single { Ok(()) } else { write!(f, "/{}", self.bits) }
    }
}

fn same_prefix(a: u128, b: u128, low_bits: u32) -> bool {
    low_bits >= 128 || (a ^ b) >> low_bits == 0
}

fn canonical(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(addr, IpAddr::V4),
        IpAddr::V4(_) => addr,
    }
}

/// One entry of `allow_out`, `deny_out` and the operator's lists: hosts, at one port or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which hosts.
    pub pattern: HostPattern,
    /// Which port; all when none.
    pub port: Option<u16>,
}

/// Why an entry is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{entry}` {why}")]
pub struct EntryError {
    /// The text.
    pub entry: String,
    /// The end of the sentence that begins with it.
    pub why: String,
}

impl Entry {
    /// Reads `host`, `*.suffix`, an address or a range, each with an optional `:port`.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let (host, port) = split_port(text)?;
        Ok(Self {
            pattern: HostPattern::parse(host).map_err(|cause| EntryError { entry: text.to_owned(), ..cause })?,
            port,
        })
    }

    /// Whether the entry speaks of this host at this port.
    pub fn matches(&self, host: &Host, port: u16) -> bool {
        self.port.is_none_or(|p| p == port) && self.pattern.matches(host)
    }

    fn contains_addr(&self, addr: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|p| p == port) && self.pattern.contains_addr(addr)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.pattern),
            None => self.pattern.fmt(f),
        }
    }
}

/// Splits an optional `:port` off; a bare IPv6 address has none.
pub(crate) fn split_port(text: &str) -> Result<(&str, Option<u16>), EntryError> {
    let error = |why: &str| EntryError { entry: text.to_owned(), why: why.to_owned() };
    if text.is_empty() {
        return Err(error("is empty; write a host such as `api.example.com`"));
    }
    if text.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
        return Err(error("has spaces or control characters in it"));
    }
    if text.contains("://") {
        return Err(error("is a URL; write the host alone, such as `api.example.com`"));
    }
    let after_bracket = text.rfind(']').map_or(0, |i| i + 1);
    let colons = text[after_bracket..].matches(':').count();
    if colons == 0 || (after_bracket == 0 && colons > 1) {
        return Ok((text, None));
    }
    let colon = text.rfind(':').expect("a colon was counted");
    let digits = &text[colon + 1..];
    let port = Some(digits)
        .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|d| d.parse::<u16>().ok())
        .filter(|p| *p != 0);
    match port {
        Some(port) => Ok((&text[..colon], Some(port))),
        None => Err(error("has no valid port after the colon (1 to 65535)")),
    }
}

/// Everything that decides where a sandbox may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// When not empty, everything else is closed.
    pub allow: Vec<Entry>,
    /// Wins over everything.
    pub deny: Vec<Entry>,
    /// Open although `allow` does not name them: MCP servers, the repository's host during the clone.
    pub implied: Vec<Entry>,
    /// The operator's openings of private ranges. They do not open anything else.
    pub private_allow: Vec<Entry>,
}

/// Where a request wants to go.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// As the sandbox named it.
    pub host: &'a Host,
    /// As the sandbox named it.
    pub port: u16,
    /// The address that would be dialled.
    pub addr: IpAddr,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may not.
    Refused(Refusal),
}

/// Why it may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable word for programs.
    pub code: ReasonCode,
    /// The entry that decided, where one did.
    pub by: Option<String>,
}

/// The reasons as words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonCode {
    /// An entry of `deny_out`.
    Denied,
    /// `allow_out` is not empty and does not name it.
    NotAllowed,
    /// A private, loopback, link-local or otherwise not public address.
    PrivateAddress,
    /// A cloud's metadata service.
    Metadata,
}

impl ReasonCode {
    /// As it stands in `x-lap-blocked`, events and the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
            Self::PrivateAddress => "private_address",
            Self::Metadata => "metadata",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, &self.by) {
            (ReasonCode::Denied, Some(by)) => write!(f, "the egress deny list of this agent closes it (entry `{by}`)"),
            (ReasonCode::Denied, None) => f.write_str("the egress deny list of this agent closes it"),
            (ReasonCode::NotAllowed, _) => f.write_str("the egress allow list of this agent does not name it"),
            (ReasonCode::PrivateAddress, _) => {
                f.write_str("it is a private, loopback or link-local address, which only the operator can open (LAP_VAULT_PRIVATE_ALLOW)")
            }
            (ReasonCode::Metadata, _) => f.write_str("it is a cloud metadata service, which never opens"),
        }
    }
}

impl Policy {
    /// Reads all lists and reports every bad entry, each under the name of its list and its position.
    pub fn parse(
        allow: &[String],
        deny: &[String],
        implied: &[String],
        private_allow: &[String],
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let policy = Self {
            allow: parse_entries("allow_out", allow, &mut problems),
            deny: parse_entries("deny_out", deny, &mut problems),
            implied: parse_entries("implied", implied, &mut problems),
            private_allow: parse_entries("private_allow", private_allow, &mut problems),
        };
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
    }

    /// What can be said before anything is looked up: a name that is refused here is never asked of any resolver.
    pub fn decide_unresolved(&self, host: &Host, port: u16) -> Verdict {
        if let Some(entry) = self.deny.iter().find(|entry| entry.matches(host, port)) {
            return refused(ReasonCode::Denied, Some(entry));
        }
        let named = |list: &[Entry]| list.iter().any(|entry| entry.matches(host, port));
        if !self.allow.is_empty() && !named(&self.allow) && !named(&self.implied) {
            return refused(ReasonCode::NotAllowed, None);
        }
        Verdict::Allowed
    }

    /// The whole decision, for the very address that will be dialled.
    pub fn decide(&self, target: &Target<'_>) -> Verdict {
        let addr = canonical(target.addr);
        if let Verdict::Refused(refusal) = self.decide_unresolved(target.host, target.port) {
            return Verdict::Refused(refusal);
        }
        if let Some(entry) = self.deny.iter().find(|entry| entry.contains_addr(addr, target.port)) {
            return refused(ReasonCode::Denied, Some(entry));
        }
        match address_kind(addr) {
            AddressKind::Public => Verdict::Allowed,
            AddressKind::Metadata => refused(ReasonCode::Metadata, None),
            AddressKind::Private => {
                if self.opens_private(target.host, target.port, addr) {
                    Verdict::Allowed
                } else {
                    refused(ReasonCode::PrivateAddress, None)
                }
            }
        }
    }

    /// Whether the operator opened this private address, by name or by range.
    pub fn opens_private(&self, host: &Host, port: u16, addr: IpAddr) -> bool {
        self.private_allow.iter().any(|entry| entry.matches(host, port) || entry.contains_addr(canonical(addr), port))
    }

    /// Whether `host:port` stands in the lists with that very port: only then may bytes that are neither HTTP nor TLS flow.
    pub fn names_port(&self, host: &Host, port: u16) -> bool {
        self.allow.iter().any(|entry| entry.port.is_some() && entry.matches(host, port))
    }
}

fn refused(code: ReasonCode, by: Option<&Entry>) -> Verdict {
    Verdict::Refused(Refusal { code, by: by.map(ToString::to_string) })
}

/// How many entries a list may have.
pub const MAX_ENTRIES: usize = 500;

/// The lists that one sandbox lives by. They begin as its agent's and can be changed while it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionLists {
    /// When not empty, everything else is closed.
    pub allow_out: Vec<String>,
    /// Wins over `allow_out`.
    pub deny_out: Vec<String>,
    /// Counts the changes. Zero: they are still the agent's.
    pub revision: u64,
    /// The newest revision that the sandbox's vault has said it has.
    pub in_force: u64,
}

impl SessionLists {
    /// Whether the vault judges by these lists, and not by older ones.
    pub fn are_in_force(&self) -> bool {
        self.in_force >= self.revision
    }

    /// The lists after a change. A list that is not given stays. Every change counts, also one that changes nothing: whoever
    /// asks wants to know that the vault has these lists.
    pub fn changed(&self, edit: ListsEdit) -> Result<Self, Vec<Problem>> {
        let ListsEdit { allow_out, deny_out } = edit;
        let mut problems = Vec::new();
        if allow_out.is_none() && deny_out.is_none() {
            problems.push(Problem::new("", "give `allow_out`, `deny_out` or both"));
        }
        check_list("allow_out", allow_out.as_deref().unwrap_or_default(), &mut problems);
        check_list("deny_out", deny_out.as_deref().unwrap_or_default(), &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            allow_out: allow_out.unwrap_or_else(|| self.allow_out.clone()),
            deny_out: deny_out.unwrap_or_else(|| self.deny_out.clone()),
            revision: self.revision + 1,
            in_force: self.in_force,
        })
    }
}

/// A change of a sandbox's lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListsEdit {
    pub allow_out: Option<Vec<String>>,
    pub deny_out: Option<Vec<String>>,
}

/// Adds a problem for every entry that is none, and one when there are too many.
pub fn check_list(field: &str, list: &[String], problems: &mut Vec<Problem>) {
    if list.len() > MAX_ENTRIES {
        problems.push(Problem::new(field, format!("has {} entries; at most {MAX_ENTRIES} are allowed", list.len())));
    }
    parse_entries(field, list, problems);
}

/// Reads a list of entries, adding a problem under `field` for each that is none.
pub fn parse_entries(field: &str, texts: &[String], problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match Entry::parse(text) {
            Ok(entry) => entries.push(entry),
            Err(error) => problems.push(Problem::new(format!("{field}[{i}]"), error.to_string())),
        }
    }
    entries
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// Reachable on the internet.
    Public,
    /// Anything that is not: private, loopback, link-local, shared, documentation, multicast, reserved.
    Private,
    /// A cloud's metadata service.
    Metadata,
}

/// Sorts an address. Addresses that carry an IPv4 address inside (mapped, compatible, NAT64, 6to4, Teredo) are sorted by
/// the inner one, and never counted as more open than it.
pub fn address_kind(addr: IpAddr) -> AddressKind {
    match canonical(addr) {
        IpAddr::V4(v4) => v4_kind(v4),
        IpAddr::V6(v6) => v6_kind(v6),
    }
}

fn v4_kind(addr: Ipv4Addr) -> AddressKind {
    const METADATA: [[u8; 4]; 5] =
        [[169, 254, 169, 254], [169, 254, 170, 2], [169, 254, 169, 253], [100, 100, 100, 200], [168, 63, 129, 16]];
    let octets = addr.octets();
    if METADATA.contains(&octets) || octets == [192, 0, 0, 192] {
        return AddressKind::Metadata;
    }
    let [a, b, c, _] = octets;
    let private = a == 0
        || a == 10
        || a == 127
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113)
        || a >= 224;
    if private { AddressKind::Private } else { AddressKind::Public }
}

fn v6_kind(addr: Ipv6Addr) -> AddressKind {
    let s = addr.segments();
    if addr == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        || addr == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)
    {
        return AddressKind::Metadata;
    }
    let low_v4 = || v4_of(s[6], s[7]);
    let inner = if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || s[..6] == [0, 0, 0, 0, 0xffff, 0] {
        Some(low_v4())
    } else if s[0] == 0x2002 {
        Some(v4_of(s[1], s[2]))
    } else if s[..6] == [0; 6] && s[6] != 0 {
        Some(low_v4())
    } else {
        None
    };
    if let Some(inner) = inner {
        // 6to4 and the compatible form are long gone: even a public inner address is no reason to open them.
        return match v4_kind(inner) {
            AddressKind::Public if s[0] == 0x64 => AddressKind::Public,
            AddressKind::Public => AddressKind::Private,
            kind => kind,
        };
    }
    // Only 2000::/3 is handed out for the public internet; the exceptions inside it are protocol and documentation ranges.
    let public = s[0] & 0xe000 == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x200)
        && !(s[0] == 0x2001 && s[1] == 0xdb8)
        && !(s[0] == 0x3fff && s[1] < 0x1000);
    if public { AddressKind::Public } else { AddressKind::Private }
}

fn v4_of(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
#[path = "egress/tests.rs"]
mod tests;
