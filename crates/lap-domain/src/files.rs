//! Files written into every sandbox: what may be written where.

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
