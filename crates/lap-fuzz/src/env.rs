//! Variables of agents and sessions. Input: lines of `agent KEY=value`, `session KEY=value`, `plain KEY`, `hosts KEY=entry`.

use std::collections::BTreeMap;

use lap_domain::env_vars::{self, Level, MASK, MAX_JSON_BYTES, MAX_KEYS, Vars};
use lap_domain::secret::Secret;
use lap_domain::stub;

#[derive(Default)]
struct Given {
    values: BTreeMap<String, Secret>,
    plain: Vec<String>,
    hosts: BTreeMap<String, Vec<String>>,
}

impl Given {
    fn vars(&self) -> Vars<'_> {
        Vars { env_vars: &self.values, plain_env_vars: &self.plain, env_var_hosts: &self.hosts }
    }
}

/// What is accepted fits an environment and the limits; the session wins; no mask reaches a sandbox; stubs keep their shape.
pub(crate) fn env(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mut agent, mut session) = (Given::default(), Given::default());
    for line in text.split('\n') {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        match word {
            "agent" => drop(agent.values.insert(key.to_owned(), Secret::new(value.to_owned()))),
            "session" => drop(session.values.insert(key.to_owned(), Secret::new(value.to_owned()))),
            "plain" => agent.plain.push(rest.to_owned()),
            "hosts" => agent.hosts.entry(key.to_owned()).or_default().push(value.to_owned()),
            _ => {}
        }
    }
    let accepted = [&agent, &session].map(check);
    let merged = env_vars::merge(&agent.vars(), &session.vars());
    for (key, variable) in &merged {
        let (own, level) = match session.values.get(key) {
            Some(value) => (value, Level::Session),
            None => (&agent.values[key], Level::Agent),
        };
        assert_eq!((variable.value.expose(), variable.level), (own.expose(), level), "the session wins");
        let plain = level == Level::Agent && agent.plain.contains(key);
        assert_eq!(variable.plain, plain || own.expose().is_empty(), "each level speaks for its own keys");
        if !variable.plain && accepted.iter().all(|accepted| *accepted) {
            stub_of(key, own.expose().len());
        }
    }
    assert_eq!(
        merged.len(),
        agent.values.keys().chain(session.values.keys()).collect::<std::collections::BTreeSet<_>>().len()
    );
    let mut problems = Vec::new();
    let stored = BTreeMap::from([("KEPT".to_owned(), Secret::new("kept".to_owned()))]);
    for (key, value) in env_vars::resolve_masks(agent.values.clone(), &stored, &mut problems) {
        assert!(value.expose() != MASK || problems.iter().any(|problem| problem.field.ends_with(&key)), "{key}");
    }
}

/// Whether a level was accepted.
fn check(given: &Given) -> bool {
    if !env_vars::validate(&given.vars()).is_empty() {
        return false;
    }
    let plain: BTreeMap<&str, &str> =
        given.values.iter().map(|(key, value)| (key.as_str(), value.expose().as_str())).collect();
    let length = serde_json::to_vec(&plain).expect("text is JSON").len();
    assert!(plain.len() <= MAX_KEYS && length <= MAX_JSON_BYTES, "{length} bytes of JSON were accepted");
    for (key, value) in plain {
        let mut bytes = key.bytes();
        let first = bytes.next().expect("a key is not empty");
        assert!(first == b'_' || first.is_ascii_alphabetic(), "{key}");
        assert!(bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()), "{key}");
        assert!(!value.contains('\0'));
        assert!(
            !key.starts_with("LAP_") && !key.starts_with("LD_") && !["PATH", "HOME", "GIT_TOKEN"].contains(&key),
            "{key}"
        );
    }
    true
}

fn stub_of(key: &str, secret_len: usize) {
    let random = vec![0xa5; stub::random_needed(secret_len)];
    let text = stub::mint(key, secret_len, &random);
    let fine = text.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit() || byte.is_ascii_lowercase());
    assert!(fine && text.starts_with(stub::PREFIX) && text.len() <= 600, "{text}");
    let digits = text.bytes().rev().take_while(u8::is_ascii_hexdigit).count();
    assert!(digits >= stub::MIN_DIGITS, "{text} can be guessed");
}
