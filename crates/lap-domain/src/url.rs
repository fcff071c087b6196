//! The URLs an agent may carry: http(s) ones, without user info, host checked as the vault checks hosts.

use crate::egress::{Host, parse_authority};

/// Longer ones are a mistake.
pub const MAX_BYTES: usize = 2048;

/// An accepted URL, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// True for https.
    pub tls: bool,
    /// Whom it names.
    pub host: Host,
    /// The port it names or means.
    pub port: u16,
    /// Everything after the authority, as it was written; may be empty.
    pub rest: String,
}

impl HttpUrl {
    /// Reads a URL. The error is the end of a sentence that begins with the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("is longer than {MAX_BYTES} bytes"));
        }
        if text.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control() || byte == b'\\') {
            return Err("has spaces, control characters or backslashes in it".to_owned());
        }
        let (scheme, after) = text.split_once("://").ok_or("is not a URL such as `https://example.com/path`")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            other => return Err(format!("has the scheme `{other}`; only https and http are possible")),
        };
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        let (authority, rest) = after.split_at(end);
        if authority.contains('@') {
            return Err("carries user info; put the credential into env_vars instead, so that the vault can guard it"
                .to_owned());
        }
        let (host, port) = parse_authority(authority).map_err(|error| format!("has no usable host: {error}"))?;
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, rest: rest.to_owned() })
    }

    /// As an egress entry, `host:port`.
    pub fn entry(&self) -> String {
        match &self.host {
            Host::Name(name) => format!("{name}:{}", self.port),
            Host::Addr(std::net::IpAddr::V6(addr)) => format!("[{addr}]:{}", self.port),
            Host::Addr(addr) => format!("{addr}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests;
