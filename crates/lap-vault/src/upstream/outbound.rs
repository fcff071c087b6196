//! The operator's own proxy, where the machine has no other way out: every connection goes through it by CONNECT, except to
//! the hosts it is not for.
//!
//! The vault resolves names itself, judges the address, and asks the proxy for that very address: a proxy that resolved names
//! could be led into private networks. TLS is the vault's own, end to end. What the proxy says is not passed on.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lap_domain::egress::{Entry, Host, parse_authority};
use lap_domain::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::UpstreamError;
use crate::error::GrantsError;

/// The head of the proxy's answer.
const MAX_HEAD: usize = 16 << 10;

/// A proxy, and the hosts that are reached without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Outbound {
    host: String,
    port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<Secret>,
    direct: Direct,
}

#[derive(Clone, PartialEq, Eq)]
enum Direct {
    All,
    Some(Vec<Entry>),
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Outbound {
    /// Reads `http://[user:password@]host[:port]` and a list like `NO_PROXY`'s: names (which stand for everything below them
    /// too), addresses, ranges, each with an optional port, or `*`. Errors do not repeat the URL: it may hold a password.
    pub fn parse(url: &str, no_proxy: &str) -> Result<Self, GrantsError> {
        let bad = |why: &str| GrantsError::BadOutbound(why.to_owned());
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(bad("only proxies at `http://…` are supported")),
            None => url,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let (host, port) = parse_authority(authority)
            .map_err(|_| bad("write it like `http://user:password@proxy.example.com:3128`"))?;
        let authorization = user.map(|user| {
            let decoded = Secret::new(crate::forms::from_percent(user));
            let decoded = if decoded.expose().contains(&b':') {
                decoded
            } else {
                Secret::new([decoded.expose(), &b":"[..]].concat())
            };
            Secret::new(format!("Basic {}", STANDARD.encode(decoded.expose())))
        });
        let listed = no_proxy.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let mut entries = Vec::new();
        for entry in listed {
            if entry == "*" {
                return Ok(Self { host: bare(&host), port: port.unwrap_or(80), authorization, direct: Direct::All });
            }
            let name = entry.strip_prefix("*.").or_else(|| entry.strip_prefix('.')).unwrap_or(entry);
            // Names stand for what is below them; addresses and ranges are as they are.
            let parsed = Entry::parse(&format!("*.{name}")).or_else(|_| Entry::parse(name));
            entries
                .push(parsed.map_err(|cause| GrantsError::BadOutbound(format!("of the hosts without proxy {cause}")))?);
        }
        Ok(Self { host: bare(&host), port: port.unwrap_or(80), authorization, direct: Direct::Some(entries) })
    }

    /// Whether a connection goes through the proxy.
    pub(crate) fn is_for(&self, host: &Host, addr: SocketAddr) -> bool {
        let at = Host::from_addr(addr.ip());
        let direct = match &self.direct {
            Direct::All => true,
            Direct::Some(entries) => {
                entries.iter().any(|entry| entry.matches(host, addr.port()) || entry.matches(&at, addr.port()))
            }
        };
        !direct
    }

    /// A connection through the proxy to a judged address.
    pub(crate) async fn connect(&self, addr: SocketAddr) -> Result<TcpStream, UpstreamError> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| {
            tracing::warn!("the outbound proxy {}:{} could not be reached: {error}", self.host, self.port);
            UpstreamError::Outbound("could not be reached".to_owned())
        })?;
        let broke = |_| UpstreamError::Outbound("broke off".to_owned());
        let target = match addr.ip() {
            IpAddr::V4(ip) => format!("{ip}:{}", addr.port()),
            IpAddr::V6(ip) => format!("[{ip}]:{}", addr.port()),
        };
        let mut head = Secret::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(authorization) = &self.authorization {
            head = Secret::new(format!("{}Proxy-Authorization: {}\r\n", head.expose(), authorization.expose()));
        }
        head = Secret::new(format!("{}\r\n", head.expose()));
        stream.write_all(head.expose().as_bytes()).await.map_err(broke)?;
        match status(&mut stream).await.map_err(broke)? {
            Some(200..=299) => Ok(stream),
            Some(407) => {
                tracing::warn!("the outbound proxy {}:{} does not accept its credentials", self.host, self.port);
                Err(UpstreamError::Outbound("does not accept the operator's credentials".to_owned()))
            }
            Some(status) => Err(UpstreamError::Outbound(format!("refused the connection with {status}"))),
            None => Err(UpstreamError::Outbound("does not speak HTTP".to_owned())),
        }
    }
}

fn bare(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Addr(addr) => addr.to_string(),
    }
}

/// Reads the head of an answer to its end and not a byte further: what follows belongs to the tunnel.
async fn status(stream: &mut TcpStream) -> std::io::Result<Option<u16>> {
    let mut head = Vec::new();
    let mut seen = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let n = stream.peek(&mut seen).await?;
        if n == 0 || head.len() > MAX_HEAD {
            return Ok(None);
        }
        let before = head.len();
        head.extend_from_slice(&seen[..n]);
        let end = memchr::memmem::find(&head, b"\r\n\r\n").map_or(head.len(), |at| at + 4);
        head.truncate(end);
        let taken = head.len() - before;
        stream.read_exact(&mut seen[..taken]).await?;
    }
    let line = String::from_utf8_lossy(&head);
    let mut words = line.lines().next().unwrap_or_default().split(' ');
    let http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    Ok(words.next().and_then(|word| word.parse().ok()).filter(|_| http))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(no_proxy: &str, host: &str, addr: &str, through: bool) {
        let outbound = Outbound::parse("http://user:pa%40ss@proxy.example:3128/", no_proxy).expect("a proxy");
        let host = Host::parse(host).expect("a host");
        assert_eq!(outbound.is_for(&host, addr.parse().expect("an address")), through, "{no_proxy}: {host} {addr}");
    }

    #[test]
    fn some_hosts_are_reached_without_it() {
        check("", "api.example.com", "93.184.216.34:443", true);
        check("example.com", "api.example.com", "93.184.216.34:443", false);
        check(".example.com", "example.com", "93.184.216.34:443", false);
        check("*.example.com", "api.example.com", "93.184.216.34:443", false);
        check("ample.com", "api.example.com", "93.184.216.34:443", true);
        check("example.com:444", "example.com", "93.184.216.34:443", true);
        check("10.0.0.0/8, x.test", "git.corp", "10.1.2.3:443", false);
        check("10.1.2.3", "git.corp", "10.1.2.3:443", false);
        check("*", "api.example.com", "93.184.216.34:443", false);
        check("127.0.0.0/8,::1", "api.test", "127.0.0.1:443", false);
        check("127.0.0.0/8,::1", "api.test", "[::1]:443", false);
    }

    #[test]
    fn reads_its_address_and_never_shows_its_password() {
        let outbound = Outbound::parse("http://user:pa%40ss@proxy.example:3128", "").expect("a proxy");
        assert_eq!((outbound.host.as_str(), outbound.port), ("proxy.example", 3128));
        assert_eq!(outbound.authorization.as_ref().map(|a| a.expose().as_str()), Some("Basic dXNlcjpwYUBzcw=="));
        assert!(!format!("{outbound:?}").contains("dXNl") && !format!("{outbound:?}").contains("ss"));
        for url in
            ["https://user:secret@proxy", "socks5://user:secret@proxy:1080", "http://user:secret@pro xy", "http://"]
        {
            let error = Outbound::parse(url, "").expect_err("no proxy").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Outbound::parse("proxy:8080", "a b").is_err());
    }
}
