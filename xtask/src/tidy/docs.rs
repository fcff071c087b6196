//! Rules about words: links lead somewhere, names of this machine stay out, and one thing has one name.

use std::collections::BTreeSet;

use super::{File, Finding, Tree};

/// What may stand directly below `/work` in a text: `/work` is a place inside a sandbox, and this is what is there. Tests
/// make files of their own there.
const INSIDE_WORK: &[&str] = &["repo"];

/// Where the words are defined; its last column names, in backticks, what is not said instead.
const GLOSSARY: &str = "docs/glossary.md";

/// Finds paths of the machine on which this was written.
pub fn check_paths(file: &File, findings: &mut Vec<Finding>) {
    if file.path.ends_with(".lock") || file.path.ends_with("package-lock.json") {
        return;
    }
    let tests = super::rust::is_test_file(&file.path);
    for (at, line) in file.text.lines().enumerate() {
        for (position, found) in line.match_indices("/work/") {
            let longer = line[..position].ends_with(|c: char| c.is_alphanumeric() || "._-/}>)$".contains(c));
            let name: String = line[position + found.len()..].chars().take_while(|&c| is_file_name(c)).collect();
            let name = name.trim_end_matches('.');
            if !longer && !tests && !name.is_empty() && !INSIDE_WORK.contains(&name) {
                let what = format!(
                    "`/work/{name}` looks like a path of some machine (if it is one of a sandbox: INSIDE_WORK)"
                );
                findings.push(Finding::new(&file.path, at + 1, what));
            }
        }
        if line.contains(concat!("..", "/shared")) {
            findings.push(Finding::new(&file.path, at + 1, "this folder is not part of the project"));
        }
    }
}

/// Finds links in Markdown that lead nowhere; addresses on the web are left alone.
pub fn check_links(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in links(&file.text) {
            if let Some(what) = broken(tree, file, target) {
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
}

/// A document that lists what some code defines.
struct Listing {
    document: &'static str,
    code: &'static str,
    /// What stands before and after a name in the code.
    around: (&'static str, &'static str),
    /// Names that stay out of the document.
    hidden: &'static [&'static str],
}

const LISTS: [Listing; 3] = [
    Listing {
        document: "docs/operate.md",
        code: "crates/lap/src/config.rs",
        around: ("env = \"", "\""),
        // For the test kit; an operator has no use for it.
        hidden: &["LAP_TEST_HARNESSES"],
    },
    Listing { document: "docs/api.md", code: "crates/lap-api/src/error.rs", around: (" = \"", "\" => "), hidden: &[] },
    Listing {
        document: "docs/api.md",
        code: "crates/lap-api/src/event.rs",
        around: ("#[serde(rename = \"", "\")]"),
        hidden: &[],
    },
];

/// Finds names that code defines for users and the document about them does not list.
pub fn check_lists(tree: &Tree, findings: &mut Vec<Finding>) {
    let text = |path: &str| tree.files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    for Listing { document, code, around: (before, after), hidden } in LISTS {
        let names = text(code).lines().filter_map(|line| line.split_once(before)?.1.split_once(after));
        for (name, _) in names.filter(|(name, _)| !hidden.contains(name)) {
            if !text(document).contains(&format!("`{name}`")) {
                findings.push(Finding::new(document, 0, format!("does not list `{name}` of {code}")));
            }
        }
    }
}

/// Finds words that the glossary replaces, in prose and in comments.
pub fn check_words(tree: &Tree, findings: &mut Vec<Finding>) {
    let Some(glossary) = tree.files.iter().find(|file| file.path == GLOSSARY) else {
        findings.push(Finding::new(GLOSSARY, 0, "is missing"));
        return;
    };
    let replaced = replaced_words(&glossary.text);
    for file in tree.files.iter().filter(|file| file.path != GLOSSARY) {
        for (at, line) in file.text.lines().enumerate() {
            let prose = match file.path.rsplit('.').next() {
                Some("md") => line,
                Some("rs") if line.trim_start().starts_with("//") => line,
                _ => continue,
            };
            let prose = without_code(prose).to_lowercase();
            for (word, instead) in &replaced {
                if super::source::words(&prose, word).next().is_some() {
                    findings.push(Finding::new(&file.path, at + 1, format!("`{word}`: here the word is `{instead}`")));
                }
            }
        }
    }
}

fn is_file_name(c: char) -> bool {
    c.is_alphanumeric() || "._-".contains(c)
}

/// The targets of `[text](target)`, each with its line; code blocks are skipped.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, line) in prose_lines(text) {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            found.push((at, target));
            rest = after;
        }
    }
    found
}

/// The lines outside code blocks, numbered from 1.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        (!in_code && !fence).then_some((at + 1, line))
    })
}

fn broken(tree: &Tree, from: &File, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let folder = from.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = if path.is_empty() { from.path.clone() } else { joined(folder, path) };
    if !tree.root.join(&path).exists() {
        return Some(format!("the link to `{target}` leads nowhere"));
    }
    let there = tree.files.iter().find(|file| file.path == path)?;
    let lost = !heading.is_empty() && path.ends_with(".md") && !anchors(&there.text).contains(heading);
    lost.then(|| format!("the link to `{target}` names a heading that is not there"))
}

/// `path` seen from `folder`, with `..` resolved.
fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors that headings get: lower case, blanks to `-`, other marks dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose_lines(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let kept = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
    };
    headings.map(|(_, line)| anchor(line)).collect()
}

/// From the glossary's table: each word in backticks of the last column, with the word that replaces it.
fn replaced_words(glossary: &str) -> Vec<(String, String)> {
    let rows = glossary.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [word, _, not] = cells[..] else { return None };
        Some((word, not))
    });
    let mut replaced = Vec::new();
    for (word, not) in rows {
        for wrong in not.split('`').skip(1).step_by(2) {
            replaced.push((wrong.to_lowercase(), word.replace('`', "")));
        }
    }
    replaced
}

/// A line without its code spans: names of other programs' flags and fields are not ours to choose.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
