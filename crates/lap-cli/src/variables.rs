//! Variables for agents and sessions, without their values ever standing on a command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::context::Environment;
use crate::failure::{Exit, Failure};

/// Gathers `--env-file` and then `-e`; what comes later wins.
pub(crate) fn gather(
    environment: &Environment,
    files: &[PathBuf],
    keys: &[String],
) -> Result<BTreeMap<String, String>, Failure> {
    check_keys(keys)?;
    let mut variables = BTreeMap::new();
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
        variables.extend(env_file(&text).map_err(|problem| in_file(path, &problem))?);
    }
    let mut unset = Vec::new();
    for key in keys {
        match (environment.variable)(key) {
            Some(value) => drop(variables.insert(key.clone(), value)),
            None => unset.push(key.as_str()),
        }
    }
    if unset.is_empty() {
        return Ok(variables);
    }
    Err(Failure::new(Exit::Usage, format!("not set in your environment: {}", unset.join(", ")))
        .hint("`-e KEY` takes the value from your environment; export it first, or use --env-file."))
}

fn in_file(path: &Path, problem: &str) -> Failure {
    Failure::usage(format!("{}: {problem}", path.display()))
        .hint("Each line is KEY=VALUE, a comment after #, or empty; quotes around a value are taken off.")
}

/// Reads lines of `KEY=VALUE`. Problems name the line, never its value.
pub(crate) fn env_file(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { return Err(format!("line {number} has no `=`")) };
        let key = key.trim_end();
        if !is_key(key) {
            return Err(format!("line {number} does not begin with the name of a variable"));
        }
        let value = unquote(value.trim_start()).ok_or_else(|| format!("line {number} ends within quotes"))?;
        variables.push((key.to_owned(), value));
    }
    Ok(variables)
}

/// `'…'` as it is; `"…"` with `\n`, `\"` and the like; otherwise up to a ` #` comment.
fn unquote(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.find('\'').map(|end| rest[..end].to_owned());
    }
    let Some(rest) = value.strip_prefix('"') else {
        return Some(value.split_once(" #").map_or(value, |(value, _)| value).trim_end().to_owned());
    };
    let mut text = String::new();
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

fn is_key(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Refuses what is no name. Not left to the parser of the command line: that would repeat the value in its error.
fn check_keys(keys: &[String]) -> Result<(), Failure> {
    for text in keys {
        if let Some((key, _)) = text.split_once('=') {
            let key = if is_key(key) { key } else { "KEY" };
            return Err(Failure::usage(format!("`-e {key}=…` has a value: others can read a command line"))
                .hint(format!("Export {key} and give `-e {key}`, or use --env-file.")));
        }
        if !is_key(text) {
            return Err(Failure::usage("`-e` takes the name of a variable: letters, digits and _"));
        }
    }
    Ok(())
}

/// Parses `KEY=HOST,HOST`.
pub(crate) fn key_and_hosts(text: &str) -> Result<(String, Vec<String>), String> {
    let (key, hosts) = text.split_once('=').ok_or("write KEY=HOST,HOST")?;
    if !is_key(key) {
        return Err("write KEY=HOST,HOST with the name of a variable first".to_owned());
    }
    Ok((key.to_owned(), list(hosts)))
}

/// Parses `LOCAL:SANDBOX_PATH`.
pub(crate) fn file_pair(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((local, sandbox)) if !local.is_empty() && (sandbox.starts_with('/') || sandbox.starts_with("~/")) => {
            Ok((local.into(), sandbox.to_owned()))
        }
        _ => Err("write LOCAL:SANDBOX_PATH, the second absolute or beginning with ~/".to_owned()),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}
/// `--max-tokens N`, `--max-cost-usd none`.
pub(crate) fn limit<T: std::str::FromStr>(text: &str) -> Result<crate::args::Limit<T>, String> {
    if text == "none" {
        return Ok(crate::args::Limit(None));
    }
    text.parse()
        .map(|limit| crate::args::Limit(Some(limit)))
        .map_err(|_| "give a number, or `none` for no limit".to_owned())
}
