//! Commands beside the harness on the wire.

use serde::{Deserialize, Serialize};

/// Body of `…/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// A line for the shell, or a program and its arguments.
    pub cmd: ExecCommand,
    /// After so many seconds the command is ended; absent: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExecCommand {
    Line(String),
    Program(Vec<String>),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// 128 and the signal's number when a signal ended it, as shells say it.
    pub exit_code: i32,
    /// Standard output and standard error in the order in which they came.
    pub output: String,
    /// There was more than is shown.
    pub truncated: bool,
}
