//! Files written into every sandbox: what may be written where.

/// A file of an agent, content decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFile {
    pub name: String,
    /// Absolute or `~/…`.
    pub sandbox_path: String,
    pub content: Vec<u8>,
    pub content_type: String,
}
