//! The test kit: fixtures that stand for the world around LAP, each on a free port, each gone when dropped.
//!
//! For tests, benches and the demo only; nothing that ships depends on it. Fixtures panic when they cannot be set up.

pub mod ca;
pub mod canary;
pub mod echo;
pub mod gateway;
pub mod git;
pub mod github;
pub mod harness;
pub mod in_process;
pub mod mcp;
pub mod scenario;
pub mod server;
pub mod wait;
pub mod web;
