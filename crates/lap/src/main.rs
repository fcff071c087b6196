//! The one binary: parses flags and environment, wires the parts, picks the role. Holds no rules.
//!
//! Roles inside and beside a sandbox come first: they must run before anything else has been set up.

mod client;
mod config;
mod doctor;
mod harness;
mod keys;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Self-hosted platform for coding agents: sandboxes that never hold a real credential.
#[derive(Parser)]
#[command(name = "lap", version, about, long_about = LONG_ABOUT, after_help = lap_cli::AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    options: lap_cli::ClientOptions,
    #[command(subcommand)]
    command: Option<Command>,
}

const LONG_ABOUT: &str = "\
LAP opens coding agents in isolated sandboxes. Real credentials stay outside: a vault on the sandbox's only way out \
swaps stubs for them on the wire.

  lap serve                     run the server (SQLite and local sandboxes, nothing to configure)
  lap harness install opencode  install the program that is the agent
  lap agent create …            store a blueprint: model, prompt, repository, variables
  lap <agent>                   open a sandbox of it and talk to it";

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<config::ServeArgs>),
    /// Check what this machine has for isolating sandboxes, and what is missing
    Doctor(doctor::DoctorArgs),
    /// Install and list the programs that are the agents
    Harness(harness::HarnessArgs),
    #[command(flatten)]
    Client(lap_cli::ClientCommand),
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("sidecar") => return lap_sidecar::main(),
        Some("init") => lap_sandbox_local::init_main(),
        Some("guest") => return lap_guest::main(),
        Some("git-credential") => return lap_guest::git_credential_main(),
        _ => {}
    }
    let cli = Cli::parse();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing has chosen a provider before");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(problem) => {
            eprintln!("lap: could not start: {problem}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match cli.command {
            Some(Command::Serve(args)) => serve::run(*args).await,
            Some(Command::Doctor(args)) => doctor::run(args).await,
            Some(Command::Harness(args)) => harness::run(args).await,
            Some(Command::Client(command)) => client::run(Some(command), cli.options).await,
            None => client::run(None, cli.options).await,
        }
    })
}

/// The whole parser, for completions.
fn program() -> clap::Command {
    Cli::command()
}
