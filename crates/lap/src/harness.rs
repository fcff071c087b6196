//! `lap harness`: install and list the programs that are the agents.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lap_harness::{InstallConfig, Progress};

use crate::{config, out};

/// Flags of `lap harness`.
#[derive(Args)]
pub struct HarnessArgs {
    #[command(subcommand)]
    command: HarnessCommand,
    /// Data folder of the server that is to use them
    #[arg(long, env = "LAP_DATA_DIR", value_name = "FOLDER", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum HarnessCommand {
    /// Install a harness from npm, at the version this LAP was tested with
    Install {
        /// Such as opencode
        id: String,
    },
    /// List the harnesses this LAP knows
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// 0 when it worked, 1 when it did not, 2 for an unknown harness.
pub async fn run(args: HarnessArgs) -> ExitCode {
    let Some(data_dir) = args.data_dir.or_else(config::default_data_dir) else {
        eprintln!("lap harness: there is no home folder; name a data folder with --data-dir");
        return ExitCode::from(2);
    };
    match args.command {
        HarnessCommand::Install { id } => install(&id, data_dir).await,
        HarnessCommand::List { json } => list(&data_dir, json),
    }
}

async fn install(id: &str, data_dir: PathBuf) -> ExitCode {
    let Some(harness) = lap_harness::find(id).filter(|harness| !harness.test_only) else {
        eprintln!("lap harness: `{id}` is not known; known are {}", names().join(", "));
        return ExitCode::from(2);
    };
    let mut teller =
        Teller { what: format!("{} {}", harness.name, harness.version), live: std::io::stderr().is_terminal() };
    match harness.install(&InstallConfig::new(data_dir), |progress| teller.tell(progress)).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("lap harness: {}", lap_domain::chain::chain(&problem));
            ExitCode::FAILURE
        }
    }
}

/// Says how an installation goes: one line that is rewritten on a terminal, a line a step otherwise.
struct Teller {
    what: String,
    live: bool,
}

impl Teller {
    fn tell(&mut self, progress: Progress) {
        let what = &self.what;
        let (line, whole) = match progress {
            Progress::Waiting => (format!("{what}: another installation is running, waiting for it"), true),
            Progress::Fetching { bytes, of_about } => {
                let share = (bytes.min(of_about) * 100).checked_div(of_about).unwrap_or(0);
                (
                    format!(
                        "{what}: fetching from npm, {} of about {} MB ({share} %)",
                        bytes / 1_000_000,
                        of_about / 1_000_000
                    ),
                    bytes == 0,
                )
            }
            Progress::Verifying => (format!("{what}: checking the program"), true),
            Progress::Done { already_there: true } => (format!("{what}: is installed already"), true),
            Progress::Done { already_there: false } => (format!("{what}: installed"), true),
        };
        let mut err = std::io::stderr().lock();
        // A closed stderr must not stop the installation.
        let _ = match (self.live, progress) {
            (true, Progress::Done { .. }) => writeln!(err, "\r\x1b[K{line}"),
            (true, _) => write!(err, "\r\x1b[K{line}"),
            (false, _) if whole => writeln!(err, "{line}"),
            (false, _) => Ok(()),
        };
        let _ = err.flush();
    }
}

fn list(data_dir: &std::path::Path, json: bool) -> ExitCode {
    let known = lap_harness::known().iter().filter(|harness| !harness.test_only);
    if json {
        let rows: Vec<serde_json::Value> = known
            .map(|harness| {
                let installed = harness.installed(data_dir);
                serde_json::json!({
                    "id": harness.id, "name": harness.name, "version": harness.version, "installed": installed,
                    "supports_tui": harness.supports_tui,
                })
            })
            .collect();
        out::line(serde_json::to_string_pretty(&rows).expect("plain data"));
    } else {
        for harness in known {
            let state = if harness.installed(data_dir) { "installed".to_owned() } else { harness.how_to_install() };
            out::line(format!("{:18} {:10} {state}", harness.id, harness.version));
        }
    }
    ExitCode::SUCCESS
}

fn names() -> Vec<&'static str> {
    lap_harness::known().iter().filter(|harness| !harness.test_only).map(|harness| harness.id.as_str()).collect()
}
