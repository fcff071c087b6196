//! Hosts, authorities, URLs and the entries that speak of them, against the standard library and a browser's reading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lap_domain::credential::HostRule;
use lap_domain::egress::{Entry, Host, parse_authority};
use lap_domain::url::HttpUrl;

/// A host is read in one way only: writing it down and reading it again changes nothing, an address is one for everybody, and
/// what others read as an address is never a name here.
pub(crate) fn hosts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    host(&text);
    authority(&text);
    url(&text);
}

fn host(text: &str) {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let Ok(host) = Host::parse(text) else {
        assert!(text.parse::<IpAddr>().is_err(), "an address of the usual form was refused: {text}");
        return;
    };
    assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()), "{text}");
    assert_eq!(Host::parse(&text.to_ascii_uppercase()), Ok(host.clone()), "{text}");
    let inner = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match &host {
        Host::Addr(IpAddr::V4(addr)) => {
            let mapped = |text: &str| text.parse::<Ipv6Addr>().ok().and_then(|v6| v6.to_ipv4_mapped());
            let plain = bare.parse::<Ipv4Addr>().ok().or_else(|| mapped(text)).or_else(|| inner.and_then(mapped));
            assert_eq!(plain, Some(*addr), "{text}");
        }
        Host::Addr(IpAddr::V6(addr)) => {
            assert_eq!(inner.unwrap_or(text).parse::<Ipv6Addr>(), Ok(*addr), "{text}");
            assert_eq!(addr.to_ipv4_mapped(), None, "{text}");
        }
        Host::Name(name) => {
            assert!(bare.parse::<IpAddr>().is_err(), "{text}");
            assert_eq!(*name, bare.to_ascii_lowercase());
            assert_eq!(Host::parse(&format!("{name}.")), Ok(host.clone()), "{text}");
        }
    }
    // Browsers, curl and most languages read octal, hexadecimal and short forms: none of them may pass for a name.
    match (url::Host::parse(text), &host) {
        (Ok(url::Host::Ipv4(other)), _) => assert_eq!(host, Host::Addr(IpAddr::V4(other)), "{text}"),
        (Ok(url::Host::Ipv6(other)), _) => assert_eq!(host, Host::from_addr(IpAddr::V6(other)), "{text}"),
        (Ok(url::Host::Domain(other)), Host::Name(name)) => {
            assert_eq!(other.strip_suffix('.').unwrap_or(&other), name, "{text}");
        }
        (Ok(url::Host::Domain(other)), Host::Addr(addr)) => {
            assert!(text.parse::<Ipv6Addr>().is_ok(), "{text} is {addr} here and {other} elsewhere");
        }
        (Err(_), _) => {}
    }
}

fn authority(text: &str) {
    let Ok((host, port)) = parse_authority(text) else { return };
    let written = port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    assert_eq!(parse_authority(&written), Ok((host.clone(), port)), "{text}");
    if let Ok(url) = url::Url::parse(&format!("http://{text}/")) {
        assert_eq!(url.host_str().map(Host::parse), Some(Ok(host)), "{text}");
        assert_eq!(url.port_or_known_default(), Some(port.unwrap_or(80)), "{text}");
        assert_eq!((url.username(), url.password(), url.path()), ("", None, "/"), "{text}");
    }
}

fn url(text: &str) {
    let Ok(ours) = HttpUrl::parse(text) else { return };
    let entry = Entry::parse(&ours.entry()).expect("a URL makes an entry");
    assert!(entry.matches(&ours.host, ours.port), "{text}");
    if let Ok(url) = url::Url::parse(text) {
        assert_eq!(url.scheme(), if ours.tls { "https" } else { "http" }, "{text}");
        assert_eq!(url.host_str().map(Host::parse), Some(Ok(ours.host)), "{text}");
        assert_eq!(url.port_or_known_default(), Some(ours.port), "{text}");
        assert_eq!((url.username(), url.password()), ("", None), "{text}");
    }
}

/// An entry written down means the same entry; a rule reads the places of an entry as an entry does; the first line is an
/// entry, the second a host.
pub(crate) fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (text, host) = text.split_once('\n').unwrap_or((&text, "example.com:443"));
    let rule = HostRule::parse(text);
    if let Ok(rule) = &rule {
        assert_eq!(HostRule::parse(&rule.to_string()).as_ref(), Ok(rule), "{text}");
    }
    let Ok(entry) = Entry::parse(text) else {
        assert!(rule.is_err() || text.contains('#'), "{text}");
        return;
    };
    assert_eq!(Entry::parse(&entry.to_string()).as_ref(), Ok(&entry), "{text}");
    assert_eq!(rule.as_ref(), Ok(&HostRule::from(&entry)), "{text}");
    let Ok((host, port)) = parse_authority(host) else { return };
    let port = port.unwrap_or(443);
    if entry.matches(&host, port) {
        assert!(entry.port.is_none_or(|only| only == port), "{text}");
        if let (Host::Name(name), Some(suffix)) = (&host, text.split(':').next().and_then(|t| t.strip_prefix("*."))) {
            let suffix = suffix.trim_end_matches('.').to_ascii_lowercase();
            assert!(*name == suffix || name.ends_with(&format!(".{suffix}")), "{text} speaks of {name}");
        }
    }
}
