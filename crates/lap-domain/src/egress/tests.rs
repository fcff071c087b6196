use proptest::prelude::*;

use super::*;

/// `allow`, `deny`, `implied` and `private` lines against `host[:port] [-> address]`.
#[track_caller]
fn check(lists: &str, target: &str, expected: &str) {
    let list = |word: &str| -> Vec<String> {
        let lines = lists.lines().filter_map(|line| line.trim().strip_prefix(word));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let policy =
        Policy::parse(&list("allow "), &list("deny "), &list("implied "), &list("private ")).expect("valid lists");
    let (name, addr) = target.split_once(" -> ").unwrap_or((target, ""));
    let (host, port) = parse_authority(name).expect("a host");
    let addr = match (&host, addr) {
        (Host::Addr(addr), "") => *addr,
        (Host::Name(_), "") => IpAddr::from([93, 184, 216, 34]),
        (_, addr) => addr.parse().expect("an address"),
    };
    let verdict = match policy.decide(&Target { host: &host, port: port.unwrap_or(443), addr }) {
        Verdict::Allowed => "allowed".to_owned(),
        Verdict::Refused(Refusal { code, by: Some(by) }) => format!("{} by {by}", code.as_str()),
        Verdict::Refused(Refusal { code, by: None }) => code.as_str().to_owned(),
    };
    assert_eq!(verdict, expected, "{target}");
}

#[test]
fn without_lists_the_internet_is_open() {
    check("", "example.com", "allowed");
    check("", "8.8.8.8", "allowed");
    check("", "[2606:4700::1]", "allowed");
}

#[test]
fn deny_wins() {
    let lists = "allow *.example.com\ndeny a.example.com 8.0.0.0/8 *.example.com:22";
    check(lists, "a.example.com", "denied by a.example.com");
    check(lists, "A.EXAMPLE.com.", "denied by a.example.com");
    check(lists, "b.example.com", "allowed");
    check(lists, "example.com", "allowed");
    check(lists, "b.example.com:22", "denied by *.example.com:22");
    check(lists, "b.example.com -> 8.8.8.8", "denied by 8.0.0.0/8");
    check("implied mcp.com\ndeny mcp.com", "mcp.com", "denied by mcp.com");
}

#[test]
fn an_allow_list_closes_everything_else() {
    check("allow example.com:443", "example.com", "allowed");
    check("allow example.com:443", "example.com:80", "not_allowed");
    check("allow example.com", "sub.example.com", "not_allowed");
    check("allow example.com", "notexample.com", "not_allowed");
    check("allow example.com\nimplied mcp.com", "mcp.com", "allowed");
    check("allow 8.8.8.0/24", "8.8.8.8", "allowed");
    check("allow 8.8.8.0/24", "dns.google -> 8.8.8.8", "not_allowed");
    check("allow [2606:4700::]/32", "[2606:4700::1]:8443", "allowed");
}

#[test]
fn private_ranges_open_through_the_operator_only() {
    for addr in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd12::1]",
        "[ff02::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::]",
        "[::7f00:1]",
        "[::ffff:0:7f00:1]",
        "[2001::1]",
        "[2001:db8::1]",
        "[64:ff9b:1::1]",
        "[5f00::1]",
    ] {
        check("", addr, "private_address");
        let name = format!("rebind.example.com -> {}", addr.trim_matches(['[', ']']));
        check("allow rebind.example.com", &name, "private_address");
    }
    check("", "172.32.0.1", "allowed");
    check("", "[64:ff9b::808:808]", "allowed");
    check("private git.corp:8443", "git.corp:8443 -> 10.1.1.1", "allowed");
    check("private git.corp:8443", "git.corp -> 10.1.1.1", "private_address");
    check("private 10.1.0.0/16", "git.corp -> 10.1.1.1", "allowed");
    check("private 10.1.0.0/16\nallow x.com", "git.corp -> 10.1.1.1", "not_allowed");
    check("private 10.1.0.0/16\ndeny 10.1.1.0/24", "git.corp -> 10.1.1.1", "denied by 10.1.1.0/24");
    check("private 127.0.0.0/8", "[::ffff:127.0.0.1]", "allowed");
}

#[test]
fn metadata_services_never_open() {
    for addr in [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "100.100.100.200",
        "168.63.129.16",
        "[fd00:ec2::254]",
    ] {
        check("private 0.0.0.0/0 ::/0", addr, "metadata");
        check("private x.com", &format!("x.com -> {}", addr.trim_matches(['[', ']'])), "metadata");
    }
}

#[track_caller]
fn check_host(text: &str, expected: Result<&str, &str>) {
    let got = Host::parse(text).map(|h| h.to_string()).map_err(|e| e.to_string());
    assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
}

#[test]
fn hosts_are_normalised_or_refused() {
    check_host("Example.COM.", Ok("example.com"));
    check_host("xn--exmple-cua.com", Ok("xn--exmple-cua.com"));
    check_host("_dmarc.example.com", Ok("_dmarc.example.com"));
    check_host("[::FFFF:1.2.3.4]", Ok("1.2.3.4"));
    check_host("::1", Ok("[::1]"));
    let odd = |text: &str| {
        format!("`{text}` is not an address in the usual form (four decimal numbers without leading zeros)")
    };
    for text in ["0177.0.0.1", "2130706433", "0x7f.0.0.1", "0x7f000001", "127.1", "1.2.3.4.5", "256.1.1.1", "1.2.3.0x4"]
    {
        check_host(text, Err(&odd(text)));
    }
    for text in
        ["a..b", ".a", "-a.com", "a-.com", "a b", "a/b", "a@b", "a:b", "[1.2.3.4]", "a%2e", "a\0b", &"a".repeat(64)]
    {
        check_host(text, Err(&format!("`{text}` is not a host name (letters, digits, hyphens and dots)")));
    }
    check_host("exämple.com", Err("`exämple.com` is not ASCII: write the name in its `xn--` form"));
    check_host("", Err("a host is missing"));
}

#[track_caller]
fn check_entry(text: &str, expected: Result<&str, &str>) {
    let got = Entry::parse(text).map(|e| e.to_string()).map_err(|e| e.to_string());
    assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
}

#[test]
fn entries_read_back_as_they_are() {
    for text in [
        "example.com",
        "*.example.com",
        "example.com:443",
        "10.0.0.0/8",
        "10.0.0.0/8:5432",
        "1.2.3.4:80",
        "[::1]",
        "[2001:db8::1]:443",
    ] {
        check_entry(text, Ok(text));
    }
    check_entry("2001:db8::/32", Ok("[2001:db8::]/32"));
    check_entry("[2001:db8::]/32:443", Ok("[2001:db8::]/32:443"));
    check_entry("*.Example.com:8080", Ok("*.example.com:8080"));
}

#[test]
fn bad_entries_get_a_sentence() {
    check_entry("http://x.com/", Err("`http://x.com/` is a URL; write the host alone, such as `api.example.com`"));
    check_entry(
        "x.com/path",
        Err("`x.com/path` has a path or is no range; write `host` or a range such as `10.0.0.0/8`"),
    );
    check_entry("10.0.0.0/33", Err("`10.0.0.0/33` has a prefix length that does not fit the address"));
    check_entry("a.*.com", Err("`a.*.com` has a `*` that is not a leading `*.`; write `*.example.com`"));
    check_entry("*", Err("`*` has a `*` that is not a leading `*.`; write `*.example.com`"));
    check_entry("*.1.2.3.4", Err("`*.1.2.3.4` puts `*.` before an address; write a range such as `10.0.0.0/8`"));
    check_entry("x.com:", Err("`x.com:` has no valid port after the colon (1 to 65535)"));
    check_entry("x.com:0", Err("`x.com:0` has no valid port after the colon (1 to 65535)"));
    let problems =
        Policy::parse(&["ok.com".into(), "no way".into()], &[":".into()], &[], &[]).expect_err("two are bad");
    assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), ["allow_out[1]", "deny_out[0]"]);
}

fn any_addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<u32>().prop_map(|n| IpAddr::V4(n.into())), any::<u128>().prop_map(|n| IpAddr::V6(n.into()))]
}

proptest! {
    #[test]
    fn nothing_panics_and_displays_read_back(text in "\\PC{0,40}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
        if let Ok(entry) = Entry::parse(&text) {
            prop_assert_eq!(Entry::parse(&entry.to_string()), Ok(entry));
        }
        let _ = parse_authority(&text);
    }

    #[test]
    fn host_like_texts_too(text in "[a0\\[\\]:./*x-]{0,24}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
        if let Ok(entry) = Entry::parse(&text) {
            prop_assert_eq!(Entry::parse(&entry.to_string()), Ok(entry));
        }
        let _ = parse_authority(&text);
    }

    #[test]
    fn wrapped_addresses_are_judged_like_the_inner_one(n in any::<u32>()) {
        let inner = Ipv4Addr::from(n);
        let kind = address_kind(IpAddr::V4(inner));
        prop_assert_eq!(address_kind(IpAddr::V6(inner.to_ipv6_mapped())), kind);
        let nat64 = Ipv6Addr::from((0x64_ff9b_u128 << 96) | u128::from(n));
        prop_assert_eq!(address_kind(IpAddr::V6(nat64)), kind);
    }

    #[test]
    fn agent_lists_only_narrow(addr in any_addr(), allow in "[ab]\\.com|\\*\\.com", deny in "[ab]\\.com", name in "[abc]\\.com") {
        let host = Host::parse(&name).expect("a name");
        let target = Target { host: &host, port: 443, addr };
        let open = Policy::default().decide(&target) == Verdict::Allowed;
        let listed = Policy::parse(&[allow], std::slice::from_ref(&deny), &[], &[]).expect("valid").decide(&target) == Verdict::Allowed;
        prop_assert!(open || !listed);
        prop_assert!(!(listed && name == deny));
    }

    #[test]
    fn ranges_hold_exactly_what_shares_their_prefix(a in any::<u128>(), b in any::<u128>(), bits in 0_u8..=128) {
        let net = Net::new(IpAddr::V6(a.into()), bits);
        prop_assume!(net.is_some() && Ipv6Addr::from(a).to_ipv4_mapped().is_none() && Ipv6Addr::from(b).to_ipv4_mapped().is_none());
        let same = bits == 0 || a >> (128 - u32::from(bits)) == b >> (128 - u32::from(bits));
        prop_assert_eq!(net.expect("checked").contains(IpAddr::V6(b.into())), same);
    }
}
