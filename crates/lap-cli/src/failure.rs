//! How a command ends badly: a sentence, its details, what to do next, and a code for scripts.

use std::io;

use lap_client::Error;

use crate::context::Io;
use crate::text::clean;

/// What the process exits with. The numbers are part of the interface; `lap --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It worked.
    Ok,
    /// It did not, for a reason that has no number of its own.
    Failure,
    /// The command line is wrong, or a name fits several things.
    Usage,
    /// No such agent, session or profile.
    NotFound,
    /// No key, a wrong key, or a key without the right.
    Unauthorized,
    /// The session failed or ended, or the turn failed.
    Session,
    /// Interrupted by Ctrl-C or a signal.
    Interrupted,
    /// As the command ended that was run in a sandbox.
    Command(u8),
}

impl Exit {
    /// The number itself.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Unauthorized => 4,
            Exit::Session => 5,
            Exit::Interrupted => 130,
            Exit::Command(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// A command's bad end.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// What to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file of the user's that cannot be read or written.
    pub fn file(attempt: &str, path: &std::path::Path, cause: &io::Error) -> Self {
        let exit = if cause.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Self::new(exit, format!("could not {attempt} {}: {cause}", path.display()))
    }

    /// Ctrl-C or a signal; whoever typed it needs no sentence.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "")
    }

    pub fn tell(self, io: &mut Io) -> Exit {
        let Self { exit, message, details, hint } = self;
        if !message.is_empty() {
            io.talk(&format!("error: {}", clean(&message)));
        }
        for detail in details {
            io.talk(&format!("  {}", clean(&detail)));
        }
        if let Some(hint) = hint {
            io.talk(&clean(&hint));
        }
        exit
    }
}

/// Standard output or error does not take what is written. A reader that went away (`| head`) is no failure.
impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::new(Exit::Failure, format!("could not write the output: {cause}")),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match &error {
            Error::Unreachable { .. } => Self::new(Exit::Failure, message).hint(
                "Is it running? `lap serve` starts a server here; `--server URL` or `lap login --server URL` names another.",
            ),
            Error::Lost { .. } | Error::Timeout { .. } => {
                Self::new(Exit::Failure, message).hint("Try again; `lap sessions` shows what the server has.")
            }
            Error::Unintelligible { .. } => Self::new(Exit::Failure, message)
                .hint("Is this the address of a LAP server, and of the same version? `lap config` shows it."),
            Error::Api(refusal) => {
                let mut failure = match (refusal.status, refusal.code.as_str()) {
                    (401, _) => Self::new(Exit::Unauthorized, message)
                        .hint("`lap login` stores a key; LAP_API_KEY gives one for a single command."),
                    (403, _) => Self::new(Exit::Unauthorized, message)
                        .hint("Your key may not do this; ask whoever runs the server for another role."),
                    (404, "not_found") => {
                        Self::new(Exit::NotFound, message).hint("`lap agents` and `lap sessions` list what there is.")
                    }
                    (404, _) => Self::new(Exit::NotFound, message)
                        .hint("Is this the address of a LAP server? `lap config` shows it."),
                    (409, "session_not_ready") => Self::new(Exit::Session, message)
                        .hint("`lap sessions` shows states; `lap open AGENT --new` starts afresh."),
                    (502, "harness_failed") => Self::new(Exit::Session, message)
                        .hint("`lap logs SESSION --sandbox` shows what the harness wrote."),
                    (400, _) => Self::new(Exit::Usage, message),
                    (410, _) => Self::new(Exit::Failure, message),
                    (500, _) => Self::new(Exit::Failure, message).hint("The server's log says more."),
                    _ => Self::new(Exit::Failure, message),
                };
                // A single problem often is the sentence itself.
                let told = |message: &str| refusal.problems.len() == 1 && refusal.message.contains(message);
                for problem in refusal.problems.iter().filter(|problem| !told(&problem.message)) {
                    failure = failure.detail(match problem.field.as_str() {
                        "" => problem.message.clone(),
                        field => format!("{field}: {}", problem.message),
                    });
                }
                failure
            }
        }
    }
}
