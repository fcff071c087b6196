//! The commands people type: `lap login`, `lap agents`, `lap <agent>` and their kin.
//!
//! Talks to a server through `lap-client` and to a person through an [`Io`]. Reads no environment variable (the caller
//! gives an [`Environment`]), starts no server and knows no engine. Data goes to standard output, talk to standard error;
//! every error ends with what to do next, and the exit code tells scripts what kind it was (see [`Exit`]).
//!
//! The `lap` binary flattens [`ClientOptions`] and [`ClientCommand`] into its own parser, catches `lap AGENT` as [`CliCommand`]
//! does, and hands them to [`run`].

mod args;
mod bring_up;
mod chat;
mod commands;
mod context;
mod failure;
mod profile;
mod resolve;
mod signals;
mod terminal;
mod text;
mod transcript;
mod variables;

pub use args::{AFTER_HELP, Cli, CliCommand, ClientCommand, ClientOptions};
pub use context::{Context, Environment, Io, Lookup};
pub use failure::Exit;
pub use transcript::Transcript;

/// Runs one command to its end. `None` means that no command was given: with `--resume` that attaches to a session,
/// without it is a usage error.
pub async fn run(command: Option<ClientCommand>, options: ClientOptions, context: Context) -> std::process::ExitCode {
    execute(command, options, context).await.into()
}

/// The same with an exit that can be looked at.
pub async fn execute(command: Option<ClientCommand>, options: ClientOptions, mut context: Context) -> Exit {
    match commands::dispatch(command, &options, &mut context).await {
        Ok(exit) => exit,
        Err(failure) => failure.tell(&mut context.io),
    }
}
