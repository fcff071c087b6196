//! What is built in from outside: licences, banned crates and sources, as `deny.toml` says; and the lock files' sources.
//!
//! Reads the same file as cargo-deny, which a fresh machine does not have and which takes minutes to build.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::borders::list;
use super::{File, Finding, Tree};

/// What `deny.toml` says, as far as it is enforced here.
#[derive(Debug, Default)]
struct Policy {
    licenses: BTreeSet<String>,
    /// Crate and why not.
    banned: BTreeMap<String, String>,
    registries: Vec<String>,
}

/// Checks the packages that are built in and the lock files of npm.
pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    match tree.files.iter().find(|file| file.path == "deny.toml").map(policy) {
        Some(Ok(policy)) => check_crates(&tree.metadata, &tree.packages, &policy, findings),
        Some(Err(problem)) => findings.push(Finding::new("deny.toml", 0, problem)),
        None => findings.push(Finding::new("deny.toml", 0, "is missing")),
    }
    for file in tree.files.iter().filter(|file| file.path.ends_with("package-lock.json")) {
        check_npm_lock(file, findings);
    }
    for file in tree.files.iter().filter(|file| file.path.ends_with("Cargo.toml") && file.path != "Cargo.toml") {
        if !file.text.contains("[lints]\nworkspace = true") {
            findings.push(Finding::new(&file.path, 0, "take the workspace's lints: `[lints]` `workspace = true`"));
        }
    }
}

fn policy(file: &File) -> Result<Policy, String> {
    let table: toml::Table = file.text.parse().map_err(|cause| format!("could not be read: {cause}"))?;
    let words = |section: &str, key: &str| -> Vec<String> {
        let found = table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
        found.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
    };
    let banned = table.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
    let banned = banned.into_iter().flatten().filter_map(|ban| {
        let text = |key: &str| ban.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        Some((text("crate")?, text("reason").unwrap_or_default()))
    });
    Ok(Policy {
        licenses: words("licenses", "allow").into_iter().collect(),
        banned: banned.collect(),
        registries: words("sources", "allow-registry"),
    })
}

fn check_crates(metadata: &Value, built: &str, policy: &Policy, findings: &mut Vec<Finding>) {
    let built: BTreeSet<(&str, &str)> = built.lines().filter_map(name_and_version).collect();
    for package in list(&metadata["packages"]) {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        if !built.contains(&(name, version)) {
            continue;
        }
        if let Some(reason) = policy.banned.get(name) {
            findings.push(Finding::new("Cargo.lock", 0, format!("{name} is banned: {reason}")));
        }
        if !license_allowed(text("license"), &|license| policy.licenses.contains(license)) {
            let what =
                format!("{name} {version} has the licence `{}`, which deny.toml does not allow", text("license"));
            findings.push(Finding::new("Cargo.lock", 0, what));
        }
        let source = text("source").trim_start_matches("registry+");
        if !source.is_empty() && !policy.registries.iter().any(|registry| registry == source) {
            findings.push(Finding::new("Cargo.lock", 0, format!("{name} {version} comes from {source}")));
        }
    }
}

/// From a line of `cargo tree`, such as `serde v1.0.1 (proc-macro)`.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

/// Whether an SPDX expression can be met: `A OR B` by either, `A AND B` by both, the old `A/B` like `OR`.
fn license_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    either(&mut words, allowed) && words.is_empty()
}

fn either(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut good = both(words, allowed);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut good = one(words, allowed);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let good = either(words, allowed);
            let [")", rest @ ..] = words else { return false };
            *words = rest;
            good
        }
        [license, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed(&format!("{license} WITH {exception}"))
        }
        [license, rest @ ..] => {
            *words = rest;
            allowed(license)
        }
        [] => false,
    }
}

/// What `npm ci` installs comes from npm's own registry, whoever made the lock file.
fn check_npm_lock(file: &File, findings: &mut Vec<Finding>) {
    for (at, line) in file.text.lines().enumerate() {
        let Some((_, rest)) = line.split_once("\"resolved\": \"") else { continue };
        if !rest.starts_with("https://registry.npmjs.org/") {
            findings.push(Finding::new(&file.path, at + 1, "this package does not come from npm's own registry"));
        }
    }
}

#[cfg(test)]
mod tests;
