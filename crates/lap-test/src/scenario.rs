//! Tests as scripts: a step a line, and a transcript that anyone can read in review.
//!
//! What a step does is the caller's; this only reads the text and writes down what came out:
//!
//! ```text
//! agent a1 harness=shell
//! create-session a1          # comments end at the line
//! say s1 "two words"
//! ```

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// One line of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// From 1.
    pub line: usize,
    /// The line as written, without its comment.
    pub text: String,
    /// The first word.
    pub verb: String,
    /// The words without `=`, in order. Quotes join words.
    pub words: Vec<String>,
    /// The words with `=`.
    pub options: BTreeMap<String, String>,
}

impl Step {
    /// The word at this place, from 0, behind the verb. Panics with the line if there is none.
    #[track_caller]
    pub fn word(&self, at: usize) -> &str {
        self.words
            .get(at)
            .map_or_else(|| panic!("line {}: `{}` lacks word {}", self.line, self.text, at + 1), String::as_str)
    }

    /// An option's value.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

/// A script.
#[derive(Debug, Clone)]
pub struct Scenario {
    steps: Vec<Step>,
}

impl Scenario {
    /// Reads a script. Empty lines and comments are no steps.
    pub fn parse(text: &str) -> Scenario {
        Scenario { steps: text.lines().enumerate().filter_map(|(at, line)| step(at + 1, line)).collect() }
    }

    /// Does the steps one after the other and returns the transcript: each line, and below it, indented, what it gave.
    pub async fn run<T: Display>(text: &str, mut act: impl AsyncFnMut(Step) -> T) -> String {
        let mut transcript = String::new();
        for step in Scenario::parse(text).steps {
            writeln!(transcript, "{}", step.text).expect("a string takes everything");
            let output = act(step).await.to_string();
            for line in output.lines() {
                writeln!(transcript, "    {line}").expect("a string takes everything");
            }
        }
        transcript
    }
}

fn step(line: usize, text: &str) -> Option<Step> {
    let mut pieces: Vec<String> = Vec::new();
    let mut quoted = false;
    let mut inside = false;
    let mut end = text.len();
    for (at, letter) in text.char_indices() {
        match letter {
            '#' if !quoted && !inside => {
                end = at;
                break;
            }
            '"' => {
                quoted = !quoted;
                if !inside {
                    pieces.push(String::new());
                }
                inside = true;
            }
            space if space.is_whitespace() && !quoted => inside = false,
            letter if inside => pieces.last_mut().expect("a piece was begun").push(letter),
            letter => {
                pieces.push(letter.to_string());
                inside = true;
            }
        }
    }
    let mut pieces = pieces.into_iter();
    let verb = pieces.next()?;
    let mut step =
        Step { line, text: text[..end].trim().to_owned(), verb, words: Vec::new(), options: BTreeMap::new() };
    for piece in pieces {
        match piece.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, value)) => drop(step.options.insert(name.to_owned(), value.to_owned())),
            None => step.words.push(piece),
        }
    }
    Some(step)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter))
}

#[cfg(test)]
mod tests;
