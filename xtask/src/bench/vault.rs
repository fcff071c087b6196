//! What a request through the vault costs. The vault's own benchmark measures it beside the direct way in one process;
//! its lines become lines of this table.

use std::process::Stdio;

use super::table::{Line, Table};
use super::{Fault, Place};

/// Added by the vault to a request on a warm connection, in microseconds, at most.
const TARGET_ADDED_US: f64 = 300.0;

pub async fn measure(place: &Place, table: &mut Table) -> Result<(), Fault> {
    let program = place.binary.with_file_name("examples").join("bench");
    if !program.exists() {
        return Err(format!("{} is missing; `make bench` builds it", program.display()).into());
    }
    let mut command = tokio::process::Command::new(&program);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(format!("the vault's benchmark failed ({})", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    table.part("3. request through the vault", "the same request to the same server, directly");
    for line in text.lines() {
        if let Some(row) = Row::read(line) {
            row.show(table);
        }
    }
    Ok(())
}

/// A line of the vault's benchmark: `name (unit)  direct  vault  ratio`, or `name (unit)  added`.
struct Row<'a> {
    name: &'a str,
    unit: &'a str,
    numbers: Vec<f64>,
}

impl<'a> Row<'a> {
    fn read(line: &'a str) -> Option<Row<'a>> {
        let (name, rest) = line.split_once(" (")?;
        let (unit, rest) = rest.split_once(')')?;
        let numbers = rest.split_whitespace().map(|word| word.trim_end_matches('x').parse().ok());
        Some(Row { name, unit, numbers: numbers.collect::<Option<_>>()? })
    }

    fn show(&self, table: &mut Table) {
        let shown = |number: f64| format!("{number:.0} {}", self.unit);
        match self.numbers[..] {
            [direct, vault, ratio] => table.line(Line {
                what: self.name,
                measured: shown(vault),
                baseline: shown(direct),
                between: format!("{ratio:.2} x"),
                target: None,
            }),
            [added] => table.line(Line {
                what: self.name,
                between: format!("{added:+.0} {}", self.unit),
                target: Some((format!("at most {TARGET_ADDED_US:.0} µs"), added <= TARGET_ADDED_US)),
                ..Line::default()
            }),
            _ => {}
        }
    }
}
