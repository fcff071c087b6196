//! `make bench`: what LAP costs, each number beside a baseline measured in the same run, and against its target.
//!
//! Everything goes through the built program as a user would use it. A busy machine spoils every number here, so each part
//! first looks how busy this one is with other things and says so.

mod api;
mod harness;
mod memory;
mod sandbox;
mod table;
mod terminal;
mod vault;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lap_test::server::LapServer;

use self::table::Table;

type Fault = Box<dyn std::error::Error>;

const USAGE: &str = "usage: xtask bench [--only sandbox|harness|vault|api|memory|terminal] [--quick]

  --only <part>  measure this part alone; may be given more than once
  --quick        fewer samples, for a look rather than for numbers to quote";

/// With more of the machine than this in other hands, what is measured is the other work.
const QUIET: f64 = 0.10;

/// How often to look, a second each time, before measuring on a machine that does not become quiet.
const PATIENCE: usize = 15;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Sandbox,
    Harness,
    Vault,
    Api,
    Memory,
    Terminal,
}

const PARTS: [(&str, Part); 6] = [
    ("sandbox", Part::Sandbox),
    ("harness", Part::Harness),
    ("vault", Part::Vault),
    ("api", Part::Api),
    ("memory", Part::Memory),
    ("terminal", Part::Terminal),
];

struct Options {
    parts: Vec<Part>,
    quick: bool,
}

/// Where a part finds what it measures, and where it may write.
struct Place {
    /// The built `lap`.
    binary: PathBuf,
    /// In the target folder; gone afterwards.
    folder: PathBuf,
    quick: bool,
}

/// Prints the table; 0 when everything could be measured, whatever came out.
pub fn run(words: &[String]) -> ExitCode {
    let options = match options(words) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("bench: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map_err(Fault::from).and_then(|runtime| runtime.block_on(bench(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\nbench: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn options(words: &[String]) -> Result<Options, String> {
    let (mut parts, mut quick) = (Vec::new(), false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--only" => {
                let name = words.next().ok_or("--only wants the name of a part")?;
                let part = PARTS.iter().find(|(known, _)| known == name);
                parts.push(part.ok_or_else(|| format!("there is no part `{name}`"))?.1);
            }
            other => return Err(format!("`{other}` means nothing here")),
        }
    }
    if parts.is_empty() {
        parts = PARTS.map(|(_, part)| part).to_vec();
    }
    Ok(Options { parts, quick })
}

async fn bench(options: &Options) -> Result<(), Fault> {
    let binary = std::env::current_exe()?.with_file_name("lap");
    if !binary.exists() {
        return Err(format!("{} is missing; `make bench` builds it", binary.display()).into());
    }
    let folder = binary.parent().and_then(Path::parent).ok_or("the program stands in no target folder")?.join("bench");
    remove(&folder)?;
    let place = Place { binary, folder, quick: options.quick };
    println!("{}", machine());
    let mut table = Table::new();
    let mut result = Ok(());
    for part in &options.parts {
        table.note(&quietness().await?);
        result = match part {
            Part::Sandbox => sandbox::measure(&place, &mut table).await,
            Part::Harness => harness::measure(&place, &mut table).await,
            Part::Vault => vault::measure(&place, &mut table).await,
            Part::Api => api::measure(&place, &mut table).await,
            Part::Memory => memory::measure(&place, &mut table).await,
            Part::Terminal => terminal::measure(&place, &mut table).await,
        };
        if result.is_err() {
            break;
        }
    }
    remove(&place.folder)?;
    if result.is_ok() {
        table.sum_up();
    }
    result
}

impl Place {
    /// Runs `work` against a fresh server and leaves nothing of it, however the work ends.
    async fn with_server<T>(
        &self,
        env: &[(&str, String)],
        prepare: impl AsyncFnOnce(&Path) -> Result<(), Fault>,
        work: impl AsyncFnOnce(&LapServer) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        prepare(&self.folder).await?;
        let server = LapServer::start(&self.binary, &self.folder, env).await?;
        let result = work(&server).await;
        let deleted = server.delete_everything().await;
        let log = if result.is_err() { server.log() } else { String::new() };
        server.stop().await?;
        remove(&self.folder)?;
        deleted?;
        result.map_err(|problem| if log.is_empty() { problem } else { format!("{problem}\n{log}").into() })
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(problem) if problem.kind() != std::io::ErrorKind::NotFound => Err(problem),
        _ => Ok(()),
    }
}

/// What this runs on, in one line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or(0, |kib| kib >> 20);
    format!("machine: {cores} cores, {memory} GiB, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// How busy the machine is while this program only looks. Waits a while for it to become quiet.
async fn quietness() -> Result<String, Fault> {
    let mut busy = 1.0;
    for _ in 0..PATIENCE {
        let before = processor_time()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = processor_time()?;
        busy = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
        if busy <= QUIET {
            break;
        }
    }
    let words = if busy > QUIET { "NOT QUIET: these numbers are not to be quoted" } else { "quiet" };
    Ok(format!("other work on this machine: {:.0} % of its processors ({words})", busy * 100.0))
}

/// Busy and all processor time since the start of the machine, in ticks.
fn processor_time() -> Result<(u64, u64), Fault> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let [_, _, _, idle, waiting, ..] = ticks[..] else { return Err("/proc/stat has an unknown form".into()) };
    let all = ticks.iter().sum::<u64>();
    Ok((all - idle - waiting, all))
}
