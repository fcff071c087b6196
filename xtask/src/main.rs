//! The project's own commands: rules as tests, the test summary, the demo, the benchmarks.
//!
//! Knows nothing of the product but its files; the commands that run it take it as a user would.
#![allow(clippy::print_stdout, reason = "a command that people and CI read")]

#[cfg(feature = "kit")]
mod bench;
#[cfg(feature = "kit")]
mod demo;
mod tests_run;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: xtask <command>

  tidy   check the rules of this code base
  test   run all tests and end with one line that sums them up; further words go to `cargo test`
  demo   run the main job visibly, through the built program
  bench  print the benchmark table, each number beside its baseline";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match words.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &words[..]),
    };
    match command {
        "tidy" => tidy::run(root()),
        "test" => tests_run::run(root(), rest),
        #[cfg(feature = "kit")]
        "demo" => demo::run(),
        #[cfg(feature = "kit")]
        "bench" => bench::run(rest),
        "help" | "--help" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        unknown => {
            eprintln!("there is no command `{unknown}`\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The checkout this was built from.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the checkout")
}
