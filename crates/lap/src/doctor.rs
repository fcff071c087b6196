//! `lap doctor`: every check of this machine, tried for real, with what to do about what is missing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lap_sandbox::Outcome;

use crate::{config, out, serve};

/// Flags of `lap doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    /// Data folder of the server to check for
    #[arg(long, env = "LAP_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// 0 when sandboxes can run here, 1 when something they need is missing.
pub async fn run(args: DoctorArgs) -> ExitCode {
    let Some(data_dir) = args.data_dir.or_else(config::default_data_dir) else {
        eprintln!("lap doctor: there is no home folder; name a data folder with --data-dir");
        return ExitCode::from(2);
    };
    let local = match serve::local_config(&data_dir) {
        Ok(local) => local,
        Err(problem) => {
            eprintln!("lap doctor: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let checks = lap_sandbox_local::checks(&local).await;
    let missing = checks.iter().any(|check| check.outcome == Outcome::Missing);
    if args.json {
        out::line(serde_json::to_string_pretty(&checks).expect("checks are plain data"));
    } else {
        let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &checks {
            let word = match check.outcome {
                Outcome::Ok => "ok      ",
                Outcome::Degraded => "limited ",
                Outcome::Missing => "missing ",
            };
            out::line(format!("{word} {:width$}  {}", check.name, check.detail));
        }
        out::line("");
        out::line(if missing { "Sandboxes cannot run on this machine." } else { "Sandboxes can run on this machine." });
    }
    if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
