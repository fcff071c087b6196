//! What a command gets from outside: the environment, the terminal, the time. Tests give their own.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use lap_client::ApiKey;

/// Gives a variable's value by its name.
pub type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The environment variables and paths that matter, read by the binary.
#[derive(Clone)]
pub struct Environment {
    /// `LAP_SERVER`.
    pub server: Option<String>,
    /// `LAP_API_KEY`.
    pub api_key: Option<ApiKey>,
    /// `LAP_PROFILE`.
    pub profile: Option<String>,
    /// `LAP_CA_FILE`: PEM certificates trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Where profiles and history live: `LAP_HOME`, or `.lap` in the home folder.
    pub lap_home: Option<PathBuf>,
    /// Master key of a server on this machine, used where nothing else gives a key.
    pub local_key_file: Option<PathBuf>,
    /// Any variable's value, for `-e KEY`.
    pub variable: Lookup,
}

impl Environment {
    /// Nothing is set.
    pub fn empty() -> Self {
        Self {
            server: None,
            api_key: None,
            profile: None,
            ca_file: None,
            lap_home: None,
            local_key_file: None,
            variable: Arc::new(|_| None),
        }
    }
}

/// Standard input, output and error, and what is known of them.
pub struct Io {
    /// Data.
    pub out: Box<dyn Write + Send>,
    /// Talk.
    pub err: Box<dyn Write + Send>,
    /// What a script or a person gives.
    pub input: Box<dyn Read + Send>,
    /// Whether [`Io::input`] is a terminal.
    pub input_is_terminal: bool,
    /// Whether [`Io::out`] is a terminal.
    pub out_is_terminal: bool,
    /// Whether [`Io::err`] is a terminal.
    pub err_is_terminal: bool,
    /// Whether escape sequences for colour are welcome on terminals.
    pub color: bool,
}

impl Io {
    /// The process's own; `color` as the binary decided it from `NO_COLOR` and `TERM`.
    pub fn process(color: bool) -> Self {
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            input_is_terminal: io::stdin().is_terminal(),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            color,
        }
    }

    /// A chat needs a person at both ends.
    pub(crate) fn is_interactive(&self) -> bool {
        self.input_is_terminal && self.out_is_terminal
    }

    pub(crate) fn color_out(&self) -> bool {
        self.color && self.out_is_terminal
    }

    /// One line of talk. A closed standard error is no reason to stop.
    pub(crate) fn talk(&mut self, line: &str) {
        let _ = writeln!(self.err, "{line}");
        let _ = self.err.flush();
    }

    /// Writes data at once, so that streams are seen as they come.
    pub(crate) fn data(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// One JSON document, indented for people.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).expect("wire types serialise");
        self.data(&(text + "\n"))
    }
}

/// Everything a command gets beside its arguments.
pub struct Context {
    /// Variables and paths.
    pub environment: Environment,
    /// Where it reads and writes.
    pub io: Io,
    /// The time at which ages are told.
    pub now: Timestamp,
    /// The whole program's parser, for completions.
    pub program: fn() -> clap::Command,
}
