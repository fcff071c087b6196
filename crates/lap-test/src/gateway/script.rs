//! What the "model" does about a prompt, step by step.

use serde_json::{Value, json};

use super::{Ask, markers, tokens};

/// One thing the model does.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Says this.
    Say(String),
    /// Thinks this, visibly where the protocol has a place for it.
    Think(String),
    /// Runs a command with the harness's shell tool, whatever its name.
    Shell(String),
    /// Reads a file with the harness's own tool, or with the shell.
    Read(String),
    /// Replaces a piece of a file with the harness's own tool, or with the shell.
    Edit { path: String, old: String, new: String },
    /// Calls a tool by name.
    Tool { name: String, input: Value },
    /// Waits so many milliseconds in the middle of the answer.
    Slow(u64),
    /// Stands until the test calls `Gateway::release`.
    Hold(String),
    /// Fails the call with this status; with `times`, only so often.
    Error { status: u16, times: Option<u32> },
    /// Says all earlier prompts.
    Recall,
    /// Says whether the system prompt contains this.
    System(String),
    /// Says which tools were offered.
    Tools,
    /// Says which images came with the prompt.
    Images,
}

impl Step {
    /// [`Step::Say`].
    pub fn say(text: impl Into<String>) -> Step {
        Step::Say(text.into())
    }

    /// [`Step::Shell`].
    pub fn shell(command: impl Into<String>) -> Step {
        Step::Shell(command.into())
    }

    /// [`Step::Read`].
    pub fn read(path: impl Into<String>) -> Step {
        Step::Read(path.into())
    }

    /// [`Step::Edit`].
    pub fn edit(path: impl Into<String>, old: impl Into<String>, new: impl Into<String>) -> Step {
        Step::Edit { path: path.into(), old: old.into(), new: new.into() }
    }

    /// [`Step::Tool`].
    pub fn tool(name: impl Into<String>, input: Value) -> Step {
        Step::Tool { name: name.into(), input }
    }

    fn calls_a_tool(&self) -> bool {
        matches!(self, Step::Shell(_) | Step::Read(_) | Step::Edit { .. } | Step::Tool { .. })
    }
}

type Predicate = Box<dyn Fn(&Ask) -> bool + Send + Sync>;

/// Steps for the prompts that a predicate picks.
pub struct Script {
    when: Predicate,
    steps: Vec<Step>,
}

impl Script {
    /// A script for these prompts.
    pub fn when(fits: impl Fn(&Ask) -> bool + Send + Sync + 'static, steps: Vec<Step>) -> Script {
        Script { when: Box::new(fits), steps }
    }

    /// A script for prompts that contain this text, in any case.
    pub fn on(text: &str, steps: Vec<Step>) -> Script {
        let text = text.to_lowercase();
        Script::when(move |ask| ask.prompt.to_lowercase().contains(&text), steps)
    }
}

/// One answer: what is said and done, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reply {
    pub error: Option<(u16, Option<u32>)>,
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Think(String),
    Slow(u64),
    Hold(String),
    Call { name: String, input: Value },
}

impl Reply {
    fn saying(text: impl Into<String>) -> Reply {
        Reply { error: None, pieces: vec![Piece::Text(text.into())] }
    }

    pub fn calls(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Call { .. }))
    }

    pub fn tokens(&self) -> u64 {
        let of = |piece: &Piece| match piece {
            Piece::Text(text) | Piece::Think(text) => tokens(text),
            Piece::Call { input, .. } => tokens(&input.to_string()),
            Piece::Slow(_) | Piece::Hold(_) => 0,
        };
        self.pieces.iter().map(of).sum::<u64>().max(1)
    }
}

/// The answer to this call: the prompt's own markers, else the first script that knows it, else an echo.
pub(super) fn answer(scripts: &[std::sync::Arc<Script>], ask: &Ask) -> Reply {
    if ask.tools.is_empty() {
        // Side calls (titles, summaries) want a few words; the steps belong to the conversation.
        return Reply::saying("A scripted conversation");
    }
    let marked = markers::parse(&ask.prompt);
    let steps = match (marked.is_empty(), scripts.iter().find(|script| (script.when)(ask))) {
        (false, _) => marked,
        (true, Some(script)) => script.steps.clone(),
        (true, None) => return Reply::saying(format!("You said: {}", ask.prompt)),
    };
    reply(&steps, ask)
}

/// A tool call ends an answer, so the steps fall into answers behind each call; results so far tell which one is next.
fn reply(steps: &[Step], ask: &Ask) -> Reply {
    let mut answers = steps.split_inclusive(Step::calls_a_tool);
    let Some(steps) = answers.nth(ask.results.len()) else {
        let last = ask.results.last().map(|output| output.trim_end()).unwrap_or_default();
        return Reply::saying(format!("DONE: {last}"));
    };
    let mut reply = Reply::default();
    for step in steps {
        match step {
            Step::Error { status, times } => reply.error = Some((*status, *times)),
            step => reply.pieces.push(piece(step, ask)),
        }
    }
    reply
}

fn piece(step: &Step, ask: &Ask) -> Piece {
    match step {
        Step::Say(text) => Piece::Text(text.clone()),
        Step::Think(text) => Piece::Think(text.clone()),
        Step::Slow(milliseconds) => Piece::Slow(*milliseconds),
        Step::Hold(name) => Piece::Hold(name.clone()),
        Step::Tool { name, input } => Piece::Call { name: name.clone(), input: input.clone() },
        Step::Shell(command) => shell(command, ask),
        Step::Read(path) => match offered(ask, &["read", "Read"]) {
            Some("read") => Piece::Call { name: "read".into(), input: json!({ "filePath": path }) },
            Some(name) => Piece::Call { name: name.into(), input: json!({ "file_path": path }) },
            None => shell(&format!("cat -- '{path}'"), ask),
        },
        Step::Edit { path, old, new } => edit(path, old, new, ask),
        Step::Recall => Piece::Text(format!("RECALL: {}", ask.earlier.join(" | "))),
        Step::System(text) => {
            Piece::Text(format!("SYS {text}: {}", if ask.system.contains(text) { "yes" } else { "no" }))
        }
        Step::Tools => Piece::Text(format!("TOOLS: {}", ask.tools.join(" "))),
        Step::Images => Piece::Text(format!("IMAGES: {} {}", ask.images.len(), ask.images.join(" "))),
        Step::Error { .. } => unreachable!("errors are taken out before"),
    }
}

fn shell(command: &str, ask: &Ask) -> Piece {
    let name =
        offered(ask, &["bash", "Bash", "exec_command", "shell_command", "shell", "local_shell"]).unwrap_or("bash");
    let input = match name {
        "exec_command" => json!({ "cmd": command }),
        "shell" | "local_shell" => json!({ "command": ["bash", "-lc", command] }),
        "shell_command" => json!({ "command": command }),
        _ => json!({ "command": command, "description": "Runs a scripted command" }),
    };
    Piece::Call { name: name.into(), input }
}

fn edit(path: &str, old: &str, new: &str, ask: &Ask) -> Piece {
    match offered(ask, &["edit", "Edit", "apply_patch"]) {
        Some("apply_patch") => Piece::Call { name: "apply_patch".into(), input: json!(patch(path, old, new)) },
        Some("edit") => {
            Piece::Call { name: "edit".into(), input: json!({ "filePath": path, "oldString": old, "newString": new }) }
        }
        Some(name) => {
            Piece::Call { name: name.into(), input: json!({ "file_path": path, "old_string": old, "new_string": new }) }
        }
        None => {
            let program =
                "import sys; p, o, n = sys.argv[1:]; t = open(p).read(); open(p, 'w').write(t.replace(o, n, 1))";
            let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
            shell(&format!("python3 -c {} {} {} {}", quote(program), quote(path), quote(old), quote(new)), ask)
        }
    }
}

/// The change in the form that Codex's tool takes.
fn patch(path: &str, old: &str, new: &str) -> String {
    let lines = |mark: char, text: &str| text.lines().map(|line| format!("{mark}{line}\n")).collect::<String>();
    let (old, new) = (lines('-', old), lines('+', new));
    format!("*** Begin Patch\n*** Update File: {path}\n@@\n{old}{new}*** End Patch\n")
}

/// The first of these tools that the harness offers.
fn offered<'n>(ask: &Ask, names: &[&'n str]) -> Option<&'n str> {
    names.iter().copied().find(|name| ask.tools.iter().any(|tool| tool == name))
}
