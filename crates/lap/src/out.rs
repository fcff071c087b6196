//! Data on standard output; a reader that has gone away, as in `lap doctor | head -1`, is no error.

use std::io::Write as _;

/// Writes one line, or several.
pub fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
