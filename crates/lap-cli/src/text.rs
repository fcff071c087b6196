//! Text for terminals: harmless, aligned, short.

use jiff::Timestamp;

/// Takes out what could move the cursor, change the title or reorder what is read: agents and the sites they visit write
/// this text, and a terminal would obey it. Line feeds and tabs stay.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || c == '\t' || !(c.is_control() || reorders(c))).collect()
}

fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first line, cut to `width` characters.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let text = clean(text);
    let line = text.trim().lines().next().unwrap_or_default().replace('\t', " ");
    let cut = line.chars().count() > width || text.trim().lines().count() > 1;
    if !cut {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// How long ago, as people say it.
pub(crate) fn ago(at: &str, now: Timestamp) -> String {
    let Ok(at) = at.parse::<Timestamp>() else { return at.to_owned() };
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..=59 => "just now".to_owned(),
        60..=3_599 => format!("{} min ago", seconds / 60),
        3_600..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A number with its thousands short: 999, 12.3k, 4.5M.
pub(crate) fn short_number(n: u64) -> String {
    match n {
        0..=999 => n.to_string(),
        1_000..=999_949 => format!("{:.1}k", n as f64 / 1e3),
        _ => format!("{:.1}M", n as f64 / 1e6),
    }
}

/// Columns with a heading, without lines around them, so that `awk` and people can read them.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(heading.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
