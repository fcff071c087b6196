//! The rules of this code base as tests: each finding names the file, the line, and what to do instead.
//!
//! Rules that the compiler and clippy can check live in `Cargo.toml` and `clippy.toml`; here is what they cannot see.

mod borders;
mod docs;
mod packages;
mod rust;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the checkout.
    path: String,
    /// From 1; 0 means the file as a whole.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// A text file of the checkout.
struct File {
    /// Relative to the checkout.
    path: String,
    text: String,
}

/// What the rules look at.
struct Tree {
    root: PathBuf,
    files: Vec<File>,
    /// What `cargo metadata` says.
    metadata: Value,
    /// What `cargo tree` says is built: one package a line, `name v1.2.3 …`. The metadata names more than that.
    packages: String,
}

/// Checks every rule; fails when one is broken.
pub fn run(root: &Path) -> ExitCode {
    let tree = match read(root) {
        Ok(tree) => tree,
        Err(problem) => {
            eprintln!("tidy: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let mut findings = Vec::new();
    borders::check(&tree.metadata, &mut findings);
    packages::check(&tree, &mut findings);
    for file in &tree.files {
        rust::check(file, &mut findings);
        docs::check_paths(file, &mut findings);
    }
    docs::check_links(&tree, &mut findings);
    docs::check_lists(&tree, &mut findings);
    docs::check_words(&tree, &mut findings);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    for (path, lines) in rust::long_files(&tree.files) {
        eprintln!("tidy: warning: {path} has {lines} lines; is it still about one thing?");
    }
    eprintln!("tidy: {} files, {} findings", tree.files.len(), findings.len());
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(root: &Path) -> Result<Tree, String> {
    let listed = output(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        // What cannot be read is deleted but not committed, or not text.
        if let Ok(Ok(text)) = std::fs::read(root.join(path)).map(String::from_utf8) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    let metadata = output(root, "cargo", &["metadata", "--format-version", "1", "--locked"])?;
    let metadata =
        serde_json::from_str(&metadata).map_err(|cause| format!("could not read cargo metadata: {cause}"))?;
    let tree = ["tree", "--workspace", "--locked", "--target", "all", "--prefix", "none", "--format", "{p}"];
    let packages = output(root, "cargo", &tree)?;
    Ok(Tree { root: root.to_owned(), files, metadata, packages })
}

fn output(root: &Path, program: &str, words: &[&str]) -> Result<String, String> {
    let done = Command::new(program)
        .current_dir(root)
        .args(words)
        .output()
        .map_err(|cause| format!("could not run {program}: {cause}"))?;
    if !done.status.success() {
        return Err(format!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim()));
    }
    String::from_utf8(done.stdout).map_err(|_| format!("{program} did not write text"))
}

#[cfg(test)]
mod tests;
