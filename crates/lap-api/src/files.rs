//! Files of a sandbox on the wire.

use serde::{Deserialize, Serialize};

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub kind: FileKind,
    /// In bytes.
    pub size: u64,
    pub modified_at: String,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Folder,
    /// A symbolic link, whatever it leads to.
    Link,
    Other,
}
