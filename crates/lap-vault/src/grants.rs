//! What a sandbox may do at the moment, made ready for quick decisions. A [`Table`] never changes; new grants are a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use lap_domain::catalogue;
use lap_domain::credential::{Credential, Destination, Position, Scope};
use lap_domain::egress::{Entry, Host, Policy, parse_authority};
use lap_domain::secret::Secret;
use lap_domain::stub;

use crate::error::GrantsError;
use crate::forms;
use crate::needles::{Needle, Needles};
use crate::upstream::outbound::Outbound;
use crate::upstream::tls::UpstreamTls;

/// Credentials of one sandbox at most: each is a bit of a mask.
const MAX_CREDENTIALS: usize = 128;
/// Shorter secrets are not taken out of answers: they would be found in innocent text.
const MIN_SCRUBBED: usize = 8;

/// What the vault may do for its sandbox.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// At most 128; empty secrets have no stub and do not belong here.
    pub credentials: Vec<Credential>,
    /// Where requests may go.
    pub policy: Policy,
    /// The operator's answers for names.
    pub resolve: Vec<ResolveOverride>,
    /// The model gateway, when there is one.
    pub gateway: Option<Gateway>,
    /// PEM certificates trusted upstream beside the system's.
    pub extra_ca_pem: Option<String>,
    /// Hosts whose TLS passes unread.
    pub passthrough: Vec<Entry>,
    /// The operator's own proxy.
    pub outbound: Option<Outbound>,
}

/// The operator's answer for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveOverride {
    /// Lower case.
    pub name: String,
    /// The address to dial.
    pub addr: IpAddr,
    /// The port to dial; the request's own when none.
    pub port: Option<u16>,
}

impl ResolveOverride {
    /// Reads `name=address` or `name=address:port`; an IPv6 address with a port is in brackets.
    pub fn parse(text: &str) -> Result<Self, GrantsError> {
        let bad = || GrantsError::BadOverride(text.to_owned());
        let (name, to) = text.split_once('=').ok_or_else(bad)?;
        let Ok(Host::Name(name)) = Host::parse(name) else { return Err(bad()) };
        if let Ok(addr) = to.parse::<IpAddr>() {
            return Ok(Self { name, addr, port: None });
        }
        match parse_authority(to) {
            Ok((Host::Addr(addr), port)) => Ok(Self { name, addr, port }),
            _ => Err(bad()),
        }
    }
}

/// The model gateway; inside the sandbox it is `http://gateway.lap.internal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Whether it is https.
    pub tls: bool,
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Put before the path of every request; no slash at its end.
    pub prefix: String,
}

impl Gateway {
    /// Reads `http(s)://host[:port][/prefix]`.
    pub fn parse(base_url: &str) -> Result<Self, GrantsError> {
        let bad = || GrantsError::BadGateway(base_url.to_owned());
        let uri: http::Uri = base_url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let (host, port) = parse_authority(authority.as_str()).map_err(|_| bad())?;
        if uri.query().is_some() {
            return Err(bad());
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), prefix })
    }

    /// As it stands in a Host header.
    pub(crate) fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// A form of a secret and what replaces it.
type Pair = (Vec<u8>, Vec<u8>);

/// Grants made ready: searchers for stubs and secrets, overrides by name, TLS toward upstreams.
pub(crate) struct Table {
    credentials: Vec<Credential>,
    /// Stub → secret as it is.
    pub stubs: Arc<Needles>,
    /// Stub → secret as it stands in JSON.
    pub stubs_json: Arc<Needles>,
    /// Stub → secret percent-encoded.
    pub stubs_percent: Arc<Needles>,
    /// Every form of every secret → its stub.
    pub secrets: Arc<Needles>,
    /// The same in small letters, as they would stand in a header's name.
    pub secrets_in_names: Arc<Needles>,
    /// The same, each replaced by a text of its own length; made where answers to signed requests need it.
    pub secrets_in_place: Arc<Needles>,
    /// Credentials that sign requests and never travel.
    pub signing: u128,
    /// Credentials that travel beside signatures and are of no use without them.
    pub beside_signatures: u128,
    pub policy: Policy,
    overrides: HashMap<String, (IpAddr, Option<u16>)>,
    pub gateway: Option<Gateway>,
    passthrough: Vec<Entry>,
    pub tls: UpstreamTls,
}

/// The credentials open at one destination, by position; one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Open {
    pub credential: u128,
    pub header: u128,
    pub path: u128,
    pub query: u128,
    pub body: u128,
    pub ws: u128,
    /// Those that sign and stand nowhere.
    pub sign: u128,
}

impl Table {
    pub fn new(grants: Grants, tls: UpstreamTls) -> Result<Self, GrantsError> {
        let Grants { credentials, policy, resolve, gateway, extra_ca_pem: _, passthrough, outbound: _ } = grants;
        if credentials.len() > MAX_CREDENTIALS {
            return Err(GrantsError::TooManyCredentials(credentials.len()));
        }
        for credential in &credentials {
            if credential.secret.expose().is_empty() {
                return Err(GrantsError::EmptySecret(credential.name.clone()));
            }
            let digits = credential.stub.strip_prefix(stub::PREFIX).map_or(0, str::len);
            let plain = credential.stub.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if digits < stub::MIN_DIGITS || !plain {
                return Err(GrantsError::BadStub(credential.name.clone()));
            }
        }
        let stubs = |form: fn(&[u8]) -> Vec<u8>| {
            let needle = |(owner, c): (usize, &Credential)| Needle {
                text: Secret::new(c.stub.as_bytes().to_vec()),
                with: Secret::new(form(c.secret.expose().as_bytes())),
                owner: bit(owner),
            };
            Arc::new(Needles::new(credentials.iter().enumerate().map(needle).collect()))
        };
        let (stubs_raw, stubs_json, stubs_percent) = (stubs(|s| s.to_vec()), stubs(forms::json), stubs(forms::percent));
        let those = |of: fn(&str) -> bool| {
            credentials.iter().enumerate().filter(|(_, c)| of(&c.name)).fold(0, |mask, (i, _)| mask | 1 << i)
        };
        let (signing, beside_signatures) = (those(catalogue::signs_aws), those(catalogue::stands_by_aws_signature));
        let secrets = |change: fn(Pair) -> Pair| {
            let scrubbed = credentials.iter().enumerate().filter(|(_, c)| c.secret.expose().len() >= MIN_SCRUBBED);
            let needles = scrubbed.flat_map(|(owner, c)| {
                forms::to_scrub(c.secret.expose().as_bytes(), c.stub.as_bytes()).into_iter().map(move |(text, with)| {
                    let (text, with) = change((text, with));
                    Needle { text: Secret::new(text), with: Secret::new(with), owner: bit(owner) }
                })
            });
            Arc::new(Needles::new(needles.collect()))
        };
        let in_place = |(text, with): Pair| -> Pair {
            let with = with.into_iter().cycle().take(text.len()).collect();
            (text, with)
        };
        let secrets_in_place = if signing == 0 { Arc::new(Needles::new(Vec::new())) } else { secrets(in_place) };
        Ok(Self {
            stubs: stubs_raw,
            stubs_json,
            stubs_percent,
            secrets: secrets(|pair| pair),
            secrets_in_names: secrets(|(text, with)| (text.to_ascii_lowercase(), with)),
            secrets_in_place,
            signing,
            beside_signatures,
            policy,
            overrides: resolve.into_iter().map(|o| (o.name, (o.addr, o.port))).collect(),
            gateway,
            passthrough,
            tls,
            credentials,
        })
    }

    /// Whether TLS to this place passes unread.
    pub fn passes(&self, host: &Host, port: u16) -> bool {
        self.passthrough.iter().any(|entry| entry.matches(host, port))
    }

    /// Whether there is any such place.
    pub fn passes_some(&self) -> bool {
        !self.passthrough.is_empty()
    }

    /// What may be swapped where at a destination.
    pub fn open_at(&self, destination: &Destination<'_>) -> Open {
        let mut open = Open::default();
        for (i, credential) in self.credentials.iter().enumerate() {
            let Some(positions) = credential.scope.positions_at(destination) else { continue };
            if self.signing >> i & 1 == 1 {
                open.sign |= 1 << i;
                continue;
            }
            let mark = |mask: &mut u128, position| {
                if positions.contains(position) {
                    *mask |= 1 << i;
                }
            };
            mark(&mut open.credential, Position::Credential);
            mark(&mut open.header, Position::Header);
            mark(&mut open.path, Position::Path);
            mark(&mut open.query, Position::Query);
            mark(&mut open.body, Position::Body);
            mark(&mut open.ws, Position::Ws);
        }
        open
    }

    /// Whether both open the same credentials, with the same values, at a destination.
    pub fn same_at(&self, other: &Self, destination: &Destination<'_>) -> bool {
        let open = |table: &Self| -> Vec<_> {
            let at = |c: &Credential| {
                let positions = c.scope.positions_at(destination)?;
                Some((c.name.clone(), c.stub.clone(), c.secret.clone(), positions))
            };
            table.credentials.iter().filter_map(at).collect()
        };
        open(self) == open(other)
    }

    /// Index and stub of those of the mask.
    pub fn stubs_of(&self, mask: u128) -> impl Iterator<Item = (usize, &str)> {
        self.credentials.iter().enumerate().filter(move |(i, _)| mask >> i & 1 == 1).map(|(i, c)| (i, c.stub.as_str()))
    }

    pub fn secret_of(&self, index: usize) -> &Secret {
        &self.credentials[index].secret
    }

    /// The credentials of the gateway.
    pub fn open_at_gateway(&self) -> u128 {
        let gateway = |(i, c): (usize, &Credential)| if c.scope == Scope::Gateway { 1 << i } else { 0 };
        self.credentials.iter().enumerate().map(gateway).fold(0, |a, b| a | b)
    }

    pub fn names_of(&self, mask: u128) -> Vec<String> {
        let mut names: Vec<String> = self
            .credentials
            .iter()
            .enumerate()
            .filter(|(i, _)| mask >> i & 1 == 1)
            .map(|(_, c)| c.name.clone())
            .collect();
        names.dedup();
        names
    }

    pub fn override_of(&self, name: &str) -> Option<(IpAddr, Option<u16>)> {
        self.overrides.get(name).copied()
    }
}

fn bit(index: usize) -> u8 {
    u8::try_from(index).expect("there are at most 128 credentials")
}
