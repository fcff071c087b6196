//! Rules about Rust files: what may stand where, found by looking at the code without comments and literals.

use super::source::{code_only, line_of, test_part, words};
use super::{File, Finding};

/// A file longer than this is mentioned, not refused.
const LONG_FILE_LINES: usize = 800;

/// Something that may stand in some files only.
struct Rule {
    /// Found as a word of its own, or as it stands when it does not begin with a letter.
    patterns: &'static [&'static str],
    /// Why, and what to do instead.
    instead: &'static str,
    /// Files, or folders ending in `/`, that may, each with a reason beside it.
    except: &'static [&'static str],
    /// Whether tests may.
    in_tests: bool,
}

const RULES: &[Rule] = &[
    Rule {
        patterns: &["unsafe", "unsafe_code"],
        instead: "unsafe code lives in crates/lap-sandbox-local/src/sys.rs, with a SAFETY comment on each block",
        except: &["crates/lap-sandbox-local/src/sys.rs"],
        in_tests: false,
    },
    Rule {
        patterns: &["todo!", "unimplemented!"],
        instead: "what is not there yet is left out, not stubbed",
        except: &[],
        in_tests: false,
    },
    Rule {
        patterns: &["#[ignore"],
        instead: "a test that cannot run is mended or deleted",
        except: &[],
        in_tests: false,
    },
    Rule {
        patterns: &[".unwrap()"],
        instead: "pass the error on, or expect(\"why it cannot happen\")",
        except: &[],
        in_tests: true,
    },
    Rule {
        patterns: &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        instead: "libraries log with tracing; what people read goes through lap-cli's output module",
        except: &[
            // Where the words of the command line leave the program.
            "crates/lap-cli/src/output.rs",
            "crates/lap-cli/src/output/",
            // The key on the first start, configuration problems: before there is a log.
            "crates/lap/",
            // A sidecar that could not start says so on stderr, its log file, before it has a log.
            "crates/lap-sidecar/src/lib.rs",
            // Commands for people and CI.
            "xtask/",
        ],
        in_tests: true,
    },
    Rule {
        patterns: &["env::var", "env::vars", "env::var_os", "env::vars_os"],
        instead: "only crates/lap reads the environment; take a configuration struct instead",
        except: &[
            "crates/lap/",
            // The git credential helper: git runs it in the agent's shell, and that shell's variables are its input.
            "crates/lap-guest/src/lib.rs",
            // The test kit starts the server as a person would, with the PATH and HOME of whoever runs the tests.
            "crates/lap-test/src/server.rs",
            // The project's own commands stand beside the product, not in it.
            "xtask/",
        ],
        in_tests: true,
    },
];

/// Checks one file; anything but Rust passes.
pub fn check(file: &File, findings: &mut Vec<Finding>) {
    if !file.path.ends_with(".rs") {
        return;
    }
    let tests_only = is_test_file(&file.path);
    if !tests_only && !file.text.trim_start().starts_with("//!") {
        findings.push(Finding::new(
            &file.path,
            1,
            "begin with `//!`: why this file exists and what it refuses to know",
        ));
    }
    let code = code_only(&file.text);
    let product_end = if tests_only { 0 } else { test_part(&code) };
    for rule in RULES {
        if rule.except.iter().any(|except| is_or_is_below(&file.path, except)) {
            continue;
        }
        let seen = if rule.in_tests { &code[..product_end] } else { &code[..] };
        for pattern in rule.patterns {
            for at in places(seen, pattern) {
                findings.push(Finding::new(&file.path, line_of(&code, at), format!("`{pattern}`: {}", rule.instead)));
            }
        }
    }
}

/// Files longer than is good, with their lines.
pub fn long_files(files: &[File]) -> impl Iterator<Item = (&str, usize)> {
    files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .map(|file| (file.path.as_str(), file.text.lines().count()))
        .filter(|&(_, lines)| lines > LONG_FILE_LINES)
}

/// Tests stand in `tests.rs` beside their module or in a `tests` folder; benches and examples are like them: run by developers.
pub fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.split('/').any(|folder| ["tests", "benches", "examples"].contains(&folder))
}

fn is_or_is_below(path: &str, place: &str) -> bool {
    if place.ends_with('/') { path.starts_with(place) } else { path == place }
}

fn places(code: &str, pattern: &'static str) -> Vec<usize> {
    if pattern.starts_with(|c: char| c.is_alphabetic()) {
        words(code, pattern).collect()
    } else {
        code.match_indices(pattern).map(|(at, _)| at).collect()
    }
}
