//! Runs `cargo test`, passes its output on as it comes, and ends with one line that sums up all test programs.
//!
//! Cargo prints one summary per program. The line here is the only one a machine has to read, and it is honest about
//! programs that died: what they had announced and not finished counts as failed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Output still in the pipe after cargo's end is there at once; whoever keeps the pipe open longer was left behind.
const DRAIN: Duration = Duration::from_secs(2);

/// Lines that may wait for this terminal; the tests wait when it is slower.
const LINES: usize = 1024;

enum Heard {
    Line(Vec<u8>),
    Ended(std::io::Result<std::process::ExitStatus>),
}

/// Runs all tests of the workspace; `words` go to `cargo test`.
pub fn run(root: &Path, words: &[String]) -> ExitCode {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(words);
    let mut tally = Tally::default();
    let ended = match listen(cargo.stdin(Stdio::null()).stdout(Stdio::piped()), &mut tally, &mut std::io::stdout()) {
        Ok(good) => good,
        Err(cause) => {
            eprintln!("could not run cargo test: {cause}");
            false
        }
    };
    let total = tally.total();
    let good = ended && total.failed == 0 && total.passed > 0;
    if !ended && total.failed == 0 {
        eprintln!("cargo test did not end well; the line below counts only what was seen");
    } else if total.passed + total.failed == 0 {
        eprintln!("no test ran");
    }
    println!("\n{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Passes the output on and counts; true when cargo was content and nothing was left behind.
fn listen(cargo: &mut Command, tally: &mut Tally, shown: &mut impl Write) -> std::io::Result<bool> {
    let mut child = cargo.spawn()?;
    let output = child.stdout.take().ok_or_else(|| std::io::Error::other("its output is not connected"))?;
    let (say, heard) = mpsc::sync_channel(LINES);
    let say_end = say.clone();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
            if say.send(Heard::Line(std::mem::take(&mut line))).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || say_end.send(Heard::Ended(child.wait())));
    let mut status = None;
    loop {
        let next = match status {
            None => heard.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(_) => heard.recv_timeout(DRAIN),
        };
        match next {
            Ok(Heard::Line(line)) => {
                shown.write_all(&line)?;
                tally.line(&String::from_utf8_lossy(&line));
            }
            Ok(Heard::Ended(end)) => status = Some(end?.success()),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(status.unwrap_or(false)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                eprintln!("a process that a test started is still there and holds the output open");
                return Ok(false);
            }
        }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Counts as the output comes in.
#[derive(Debug, Default)]
struct Tally {
    finished: Count,
    /// Tests the program now running has announced, and how many of them were seen to pass or be skipped.
    open: Option<(u64, Count)>,
}

impl Tally {
    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("running ") {
            let announced = rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test"));
            if let Some(announced) = announced.and_then(|number| number.parse().ok()) {
                self.close();
                self.open = Some((announced, Count::default()));
            }
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.finished.passed += number_before(rest, " passed");
            self.finished.failed += number_before(rest, " failed");
            self.finished.skipped += number_before(rest, " ignored");
            self.open = None;
        } else if let Some((_, seen)) = &mut self.open
            && line.starts_with("test ")
        {
            seen.passed += u64::from(line.ends_with("... ok"));
            seen.skipped += u64::from(line.contains("... ignored"));
        }
    }

    /// A program that ended without its summary died: its unfinished tests failed.
    fn close(&mut self) {
        if let Some((announced, seen)) = self.open.take() {
            self.finished.passed += seen.passed;
            self.finished.skipped += seen.skipped;
            self.finished.failed += announced.saturating_sub(seen.passed + seen.skipped);
        }
    }

    fn total(mut self) -> Count {
        self.close();
        self.finished
    }
}

/// The number that stands right before `what`, as in `3 passed; 0 failed`.
fn number_before(text: &str, what: &str) -> u64 {
    let Some((before, _)) = text.split_once(what) else { return 0 };
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
