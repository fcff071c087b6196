//! The one binary: parses flags and environment, wires the parts, picks the role. Holds no rules.
//!
//! Roles inside and beside a sandbox come first: they must run before anything else has been set up.

mod admin;
mod client;
mod config;
mod doctor;
mod harness;
mod keys;
mod out;
mod serve;

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _, Subcommand as _};
use lap_cli::{CliCommand, ClientOptions};

const LONG_ABOUT: &str = "\
LAP opens coding agents in isolated sandboxes. Real credentials stay outside: a vault on the sandbox's only way out \
swaps stubs for them on the wire.

  lap serve                     run the server (SQLite and local sandboxes, nothing to configure)
  lap harness install opencode  install the program that is the agent
  lap agent create …            store a blueprint: model, prompt, repository, variables
  lap <agent>                   open a sandbox of it and talk to it";

/// The whole parser: the client's commands, and the server's beside them. Put together by hand, because the client takes
/// any unknown word as an agent's name and would swallow the others.
fn program() -> clap::Command {
    let own = |name: &'static str, augment: fn(clap::Command) -> clap::Command, about: &'static str| {
        // Said last: augmenting takes the documentation of the struct for the command's.
        augment(clap::Command::new(name)).about(about).long_about(None::<&str>)
    };
    CliCommand::augment_subcommands(ClientOptions::augment_args(clap::Command::new("lap")))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Self-hosted platform for coding agents: sandboxes that never hold a real credential")
        .long_about(LONG_ABOUT)
        .after_help(lap_cli::AFTER_HELP)
        .max_term_width(100)
        .subcommand(own("serve", config::ServeArgs::augment_args, "Run the server"))
        .subcommand(own("doctor", doctor::DoctorArgs::augment_args, "Check whether this machine can isolate sandboxes"))
        .subcommand(own(
            "harness",
            harness::HarnessArgs::augment_args,
            "Install and list the programs that are the agents",
        ))
        .subcommand(own("admin", admin::AdminArgs::augment_args, "Look after the server's data folder"))
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("sidecar") => return lap_sidecar::main(),
        Some("init") => {
            lap_sandbox_local::init_main();
            return lap_guest::main();
        }
        Some("git-credential") => return lap_guest::git_credential_main(),
        _ => {}
    }
    let mut matches = program().get_matches();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing has chosen a provider before");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(problem) => {
            eprintln!("lap: could not start: {problem}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let options = ClientOptions::from_arg_matches(&matches).unwrap_or_else(|problem| problem.exit());
        match matches.subcommand_name() {
            Some("serve") => serve::run(parsed(&mut matches)).await,
            Some("doctor") => doctor::run(parsed(&mut matches)).await,
            Some("admin") => admin::run(parsed(&mut matches)).await,
            Some("harness") => harness::run(parsed(&mut matches)).await,
            Some(_) => {
                let command = CliCommand::from_arg_matches(&matches).unwrap_or_else(|problem| problem.exit());
                client::run(Some(command.into()), options).await
            }
            None => client::run(None, options).await,
        }
    })
}

/// The arguments of the subcommand that was given; exits with clap's own words when they do not fit.
fn parsed<T: clap::FromArgMatches>(matches: &mut clap::ArgMatches) -> T {
    let (_, mut own) = matches.remove_subcommand().expect("the caller has seen its name");
    T::from_arg_matches_mut(&mut own).unwrap_or_else(|problem| problem.exit())
}
