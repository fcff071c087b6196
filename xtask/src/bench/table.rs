//! The table: lines of a number, its baseline, what lies between them, and what was promised.

use std::time::Duration;

/// Prints line by line, so that a long run shows where it is; remembers which promises were kept.
pub struct Table {
    promises: Vec<(String, bool)>,
    part: String,
}

/// One line.
#[derive(Default)]
pub struct Line<'a> {
    pub what: &'a str,
    pub measured: String,
    pub baseline: String,
    /// How measured and baseline differ.
    pub between: String,
    /// What was promised, and whether it was kept.
    pub target: Option<(String, bool)>,
}

impl Table {
    pub fn new() -> Table {
        Table { promises: Vec::new(), part: String::new() }
    }

    /// Begins a part.
    pub fn part(&mut self, title: &str, baseline: &str) {
        title.clone_into(&mut self.part);
        println!("\n{title}");
        println!("    {:40} {:>14} {:>14} {:>14}   target", "", "measured", "baseline", "difference");
        println!("    (baseline: {baseline})");
    }

    /// A remark about what follows.
    pub fn note(&mut self, text: &str) {
        println!("\n-- {text}");
    }

    pub fn line(&mut self, line: Line<'_>) {
        let Line { what, measured, baseline, between, target } = line;
        let target = target.map(|(promise, kept)| {
            self.promises.push((format!("{}: {what}", self.part), kept));
            format!("   {promise}: {}", if kept { "met" } else { "MISSED" })
        });
        let text = format!("    {what:40} {measured:>14} {baseline:>14} {between:>14}{}", target.unwrap_or_default());
        println!("{}", text.trim_end());
    }

    /// How many promises were kept, and which were not.
    pub fn sum_up(&self) {
        let kept = self.promises.iter().filter(|(_, kept)| *kept).count();
        println!("\n{kept} of {} targets met", self.promises.len());
        for (what, _) in self.promises.iter().filter(|(_, kept)| !kept) {
            println!("  missed: {what}");
        }
    }
}

/// Durations, to be asked for their order.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
        self.0.sort_unstable();
    }

    pub fn from(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times(times)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest that at least so many of a hundred do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    pub fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

pub fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// The difference of two durations.
pub fn added(measured: Duration, baseline: Duration) -> String {
    format!("{:+.2} ms", (measured.as_secs_f64() - baseline.as_secs_f64()) * 1e3)
}

pub fn ratio(measured: f64, baseline: f64) -> String {
    format!("{:.2} x", measured / baseline)
}
