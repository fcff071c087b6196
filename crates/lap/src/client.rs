//! The client commands: what they get from this process's environment and terminal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use lap_cli::{ClientCommand, ClientOptions, Context, Environment, Io};
use lap_client::ApiKey;

use crate::{config, keys};

/// Runs a client command.
pub async fn run(command: Option<ClientCommand>, options: ClientOptions) -> ExitCode {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let color = set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb");
    let data_dir = set("LAP_DATA_DIR").map(PathBuf::from).or_else(config::default_data_dir);
    let environment = Environment {
        server: set("LAP_SERVER"),
        api_key: set("LAP_API_KEY").map(|key| ApiKey::new(&key)),
        profile: set("LAP_PROFILE"),
        ca_file: set("LAP_CA_FILE").map(PathBuf::from),
        lap_home: set("LAP_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".lap"))),
        local_key_file: data_dir.map(|folder| keys::master_key_file(&folder)),
        variable: Arc::new(|name| std::env::var(name).ok()),
    };
    let context = Context { environment, io: Io::process(color), now: jiff::Timestamp::now(), program: crate::program };
    lap_cli::run(command, options, context).await
}
