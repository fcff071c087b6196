//! Files written into every sandbox: what may be written where.

use std::collections::BTreeSet;

use crate::problem::Problem;

/// A file of an agent, content decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFile {
    pub name: String,
    /// Absolute or `~/…`.
    pub sandbox_path: String,
    /// Empty in lists, where nobody wants to carry megabytes.
    pub content: Vec<u8>,
    pub content_type: String,
    /// Length of the content, also where the content is left out.
    pub size: u64,
}

/// A file as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewFile {
    pub name: String,
    pub sandbox_path: String,
    /// Decoded; none when it was missing or not base64.
    pub content: Option<Vec<u8>>,
    /// Length of the base64 text.
    pub encoded_len: usize,
    pub content_type: String,
    /// What the caller says the decoded length is.
    pub size: u64,
}

/// How many files an agent may have.
pub const MAX_FILES: usize = 20;

/// How much base64 all of them may be.
pub const MAX_ENCODED_BYTES: usize = 10 * 1024 * 1024;

/// What `~` means.
pub const HOME: &str = "/home/agent";

/// Longest path the kernel takes, less what a temporary name beside it needs.
const MAX_PATH_BYTES: usize = 4000;

/// Folders that are not files' business, wherever they are mounted.
const CLOSED: &[&str] = &["/proc", "/sys", "/dev", "/run/lap", "/var/run/lap", "/opt/lap"];

/// Takes the files, or reports everything that is wrong with them under `sandbox_files[…]`.
pub fn check(files: Vec<NewFile>, problems: &mut Vec<Problem>) -> Vec<SandboxFile> {
    if files.len() > MAX_FILES {
        let message = format!("has {} files; at most {MAX_FILES} are allowed", files.len());
        problems.push(Problem::new("sandbox_files", message));
    }
    let encoded: usize = files.iter().map(|file| file.encoded_len).sum();
    if encoded > MAX_ENCODED_BYTES {
        let message = format!("holds {encoded} bytes of base64; at most {MAX_ENCODED_BYTES} are allowed");
        problems.push(Problem::new("sandbox_files", message));
    }
    let mut taken = BTreeSet::new();
    let mut checked = Vec::with_capacity(files.len());
    for (i, file) in files.into_iter().enumerate() {
        let NewFile { name, sandbox_path, content, encoded_len: _, content_type, size } = file;
        let mut problem = |field: &str, message: String| {
            problems.push(Problem::new(format!("sandbox_files[{i}].{field}"), message));
        };
        if !(1..=255).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            problem("name", "must have 1 to 255 characters and no control characters".to_owned());
        }
        match resolve_path(&sandbox_path) {
            Err(why) => problem("sandbox_path", format!("`{sandbox_path}` {why}")),
            Ok(path) => {
                if !taken.insert(path) {
                    problem("sandbox_path", format!("`{sandbox_path}` is written by an earlier file already"));
                }
            }
        }
        if !is_content_type(&content_type) {
            problem("content_type", format!("`{content_type}` is not a MIME type"));
        }
        match content {
            None => problem("content", "must be base64".to_owned()),
            Some(content) if content.len() as u64 != size => {
                problem("size", format!("is {size}, but the decoded content has {} bytes", content.len()));
            }
            Some(content) => checked.push(SandboxFile { name, sandbox_path, content, content_type, size }),
        }
    }
    checked
}

/// The absolute path a `sandbox_path` means, without empty and `.` components. The error is the end of a sentence that
/// begins with the path. What symbolic links make of it can only be judged where it is written.
pub fn resolve_path(path: &str) -> Result<String, String> {
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("is longer than {MAX_PATH_BYTES} bytes"));
    }
    if path.chars().any(char::is_control) {
        return Err("has control characters in it".to_owned());
    }
    let absolute = match path.strip_prefix("~/") {
        Some(below_home) => format!("{HOME}/{below_home}"),
        None if path.starts_with('/') => path.to_owned(),
        None => return Err("must be absolute or begin with `~/`".to_owned()),
    };
    let components: Vec<&str> = absolute.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if components.contains(&"..") {
        return Err("must not contain `..`".to_owned());
    }
    if components.iter().any(|part| part.len() > 255) {
        return Err("has a name of more than 255 bytes in it".to_owned());
    }
    let resolved = format!("/{}", components.join("/"));
    let below =
        |folder: &str| resolved == folder || resolved.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if let Some(folder) = CLOSED.iter().find(|folder| below(folder)) {
        return Err(format!("is inside {folder}, which belongs to the system"));
    }
    if path.ends_with('/') || path.ends_with("/.") || resolved == "/" || resolved == HOME {
        return Err("names a folder, not a file".to_owned());
    }
    Ok(resolved)
}

fn is_content_type(text: &str) -> bool {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let (kind, rest) = text.split_once('/').unwrap_or_default();
    printable && text.len() <= 255 && !kind.trim().is_empty() && !rest.trim().is_empty()
}

#[cfg(test)]
mod tests;
