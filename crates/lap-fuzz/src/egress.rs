//! The decision where a sandbox may go. Input: lines of `allow …`, `deny …`, `implied …`, `private …`, and `to host[:port]
//! address`.

use std::net::IpAddr;

use lap_domain::egress::{
    AddressKind, Entry, Host, Policy, ReasonCode, Target, Verdict, address_kind, parse_authority,
};

/// More entries than this only take time.
const MOST: usize = 24;

/// Deny wins, more denying never opens, an agent's lists never open what is private, and metadata never opens at all.
pub(crate) fn egress(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mut policy, mut places) = (Policy::default(), Vec::new());
    for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')).take(MOST) {
        let list = match word {
            "allow" => &mut policy.allow,
            "deny" => &mut policy.deny,
            "implied" => &mut policy.implied,
            "private" => &mut policy.private_allow,
            "to" => {
                places.extend(place(rest));
                continue;
            }
            _ => continue,
        };
        list.extend(Entry::parse(rest));
    }
    for (host, port, addr) in places {
        check(&policy, &Target { host: &host, port, addr });
    }
}

fn place(text: &str) -> Option<(Host, u16, IpAddr)> {
    let (host, addr) = text.split_once(' ').unwrap_or((text, ""));
    let (host, port) = parse_authority(host).ok()?;
    // An address is dialled as it was named.
    let addr = match &host {
        Host::Addr(addr) => *addr,
        Host::Name(_) => addr.parse().ok()?,
    };
    Some((host, port.unwrap_or(443), addr))
}

fn check(policy: &Policy, target: &Target<'_>) {
    let verdict = policy.decide(target);
    let open = |policy: &Policy| policy.decide(target) == Verdict::Allowed;
    let (named, dialled) = (Host::clone(target.host), Host::from_addr(target.addr));
    let speaks = |entry: &Entry| entry.matches(&named, target.port) || entry.matches(&dialled, target.port);
    if policy.deny.iter().any(|entry| entry.matches(&named, target.port)) {
        assert!(
            matches!(&verdict, Verdict::Refused(refusal) if refusal.code == ReasonCode::Denied),
            "deny wins: {verdict:?}"
        );
    }
    assert!(!policy.deny.iter().any(speaks) || !open(policy), "deny wins: {verdict:?}");
    if let Verdict::Refused(refusal) = policy.decide_unresolved(target.host, target.port) {
        assert_eq!(verdict, Verdict::Refused(refusal), "a name that is refused stays refused once it is resolved");
    }
    let kind = address_kind(target.addr);
    if open(policy) {
        assert_ne!(kind, AddressKind::Metadata, "metadata never opens");
        assert!(
            kind == AddressKind::Public || policy.private_allow.iter().any(speaks),
            "only the operator opens what is private"
        );
        let listed = policy.allow.iter().chain(&policy.implied).any(|entry| entry.matches(&named, target.port));
        assert!(policy.allow.is_empty() || listed, "a list that is not empty closes everything else");
    }
    let without = |change: fn(&mut Policy)| {
        let mut other = policy.clone();
        change(&mut other);
        other
    };
    // Less denying, more allowing: nothing closes by it. (An empty list of what is allowed is another matter.)
    assert!(!open(policy) || open(&without(|policy| drop(policy.deny.pop()))), "denying less closed something");
    for shorter in [without(|p| drop(p.deny.pop())), without(|p| p.deny.clear())] {
        for entry in &policy.deny {
            let mut longer = shorter.clone();
            longer.deny.push(entry.clone());
            assert!(open(&shorter) || !open(&longer), "one more entry of deny opened something");
        }
    }
    assert!(open(policy) || !open(&without(|p| drop(p.private_allow.pop()))), "opening a range closed something");
    if policy.allow.len() > 1 {
        assert!(open(policy) || !open(&without(|p| drop(p.allow.pop()))), "allowing more closed something");
    }
    // Order means nothing.
    let reversed = without(|policy| {
        for list in [&mut policy.allow, &mut policy.deny, &mut policy.implied, &mut policy.private_allow] {
            list.reverse();
        }
    });
    assert_eq!(open(policy), open(&reversed));
    // The long way of writing an address is the same address.
    if let IpAddr::V4(v4) = target.addr {
        let mapped = Target { addr: IpAddr::V6(v4.to_ipv6_mapped()), ..*target };
        assert_eq!(policy.decide(&mapped), verdict);
    }
    if policy.names_port(target.host, target.port) {
        assert!(policy.allow.iter().any(|entry| entry.port == Some(target.port)));
    }
}
