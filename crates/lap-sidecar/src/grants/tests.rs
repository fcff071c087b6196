use super::*;

fn grant(name: &str, secret: &str, clone_only: bool) -> CredentialGrant {
    let stub = format!("stub_{name}_0123456789abcdef");
    CredentialGrant { name: name.into(), stub, secret: secret.into(), scope: CredentialScope::Anywhere, clone_only }
}

fn grants(credentials: Vec<CredentialGrant>) -> Grants {
    Grants {
        credentials,
        allow_out: Vec::new(),
        deny_out: Vec::new(),
        egress_revision: 0,
        implied: Vec::new(),
        implied_for_clone: vec!["git.example.com:443".into()],
        private_allow: Vec::new(),
        resolve: Vec::new(),
        gateway: None,
        extra_ca_pem: None,
        passthrough: Vec::new(),
        outbound: None,
    }
}

#[track_caller]
fn check(holder: &Holder, expect: &[(&str, &str)]) {
    let vault = holder.for_vault().expect("the grants are fine");
    let mut seen: Vec<(&str, &str)> =
        vault.credentials.iter().map(|c| (c.name.as_str(), c.secret.expose().as_str())).collect();
    seen.sort_unstable();
    assert_eq!(seen, expect);
}

#[test]
fn new_credentials_replace_the_agents_credentials_and_keep_the_sessions() {
    let mut holder = Holder::new(grants(vec![grant("A", "a1", false), grant("S", "s1", false)]), vec!["S".into()]);
    holder.replace(vec![grant("A", "a2", false), grant("B", "b", false), grant("S", "forged", false)], &[]);
    check(&holder, &[("A", "a2"), ("B", "b"), ("S", "s1")]);
}

#[test]
fn what_the_server_has_not_got_at_hand_stays() {
    let mut holder = Holder::new(grants(vec![grant("A", "a1", false), grant("T", "t1", false)]), Vec::new());
    holder.replace(vec![grant("A", "a2", false)], &["T".into()]);
    check(&holder, &[("A", "a2"), ("T", "t1")]);
    holder.replace(vec![grant("A", "a2", false), grant("T", "t2", false)], &[]);
    check(&holder, &[("A", "a2"), ("T", "t2")]);
    holder.replace(vec![grant("A", "a2", false)], &[]);
    check(&holder, &[("A", "a2")]);
}

#[test]
fn the_end_of_the_clone_is_for_good() {
    let mut holder = Holder::new(grants(vec![grant("GIT_TOKEN", "g", true), grant("A", "a", false)]), Vec::new());
    check(&holder, &[("A", "a"), ("GIT_TOKEN", "g")]);
    holder.end_clone();
    check(&holder, &[("A", "a")]);
    holder.replace(vec![grant("GIT_TOKEN", "g", true)], &[]);
    check(&holder, &[]);
}

/// The lists of the vault's policy, as `allow | deny`.
#[track_caller]
fn check_lists(holder: &Holder, expect: &str) {
    let policy = holder.for_vault().expect("the grants are fine").policy;
    let shown = |list: &[lap_domain::egress::Entry]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(format!("{} | {}", shown(&policy.allow), shown(&policy.deny)), expect);
}

#[test]
fn newer_lists_replace_older_ones_and_bad_ones_change_nothing() {
    let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
    let mut holder = Holder::new(grants(Vec::new()), Vec::new());
    holder.replace_lists(2, list(&["a.com"]), list(&["b.com"])).expect("fine");
    check_lists(&holder, "a.com | b.com");
    holder.replace_lists(1, list(&[]), list(&[])).expect("older, so nothing happens");
    check_lists(&holder, "a.com | b.com");
    assert!(holder.replace_lists(3, list(&["a..com"]), list(&[])).is_err());
    check_lists(&holder, "a.com | b.com");
    assert_eq!(holder.egress_revision(), 2);
    holder.end_clone();
    holder.replace(Vec::new(), &[]);
    check_lists(&holder, "a.com | b.com");
}
