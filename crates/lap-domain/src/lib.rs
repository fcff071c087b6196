//! The rules of LAP: agents, sessions and their states, environment variables, credentials and where they may go, the
//! egress decision, prompt assembly, budgets.
//!
//! Pure and synchronous: no serde, no tokio, no SQL, no HTTP, no clock, no randomness but what is passed in.

pub mod agent;
pub mod budget;
pub mod catalogue;
pub mod chain;
pub mod credential;
pub mod egress;
pub mod env_vars;
pub mod files;
pub mod ids;
pub mod problem;
pub mod prompt;
pub mod repository_token;
pub mod secret;
pub mod session;
pub mod stub;
pub mod time;
pub mod turn;
pub mod url;
pub mod usage;
