use std::panic::Location;

use super::*;

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

#[track_caller]
fn check_path(text: &str, expect: usize) {
    let mut findings = Vec::new();
    check_paths(&file("docs/a.md", text), &mut findings);
    assert_eq!(findings.len(), expect, "{text}: {findings:?}");
}

#[track_caller]
fn check_tree(files: &[(&str, &str)], expect: &[&str]) {
    let root = std::env::temp_dir().join(format!("tidy-{}-{}", std::process::id(), Location::caller().line()));
    let files: Vec<File> = files.iter().map(|(path, text)| file(path, text)).collect();
    for file in &files {
        let path = root.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.text).unwrap();
    }
    let tree = Tree { root: root.clone(), files, metadata: serde_json::Value::Null, packages: String::new() };
    let mut findings = Vec::new();
    check_links(&tree, &mut findings);
    check_lists(&tree, &mut findings);
    check_words(&tree, &mut findings);
    std::fs::remove_dir_all(root).unwrap();
    assert_eq!(findings.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
}

#[test]
fn paths_of_this_machine_are_found() {
    check_path("the clone is in /work/repo and `/work/repo/src`, its volume is /work/.", 0);
    check_path("under {base}/work/x or data/work/x", 0);
    check_path("see /work/elsewhere/spec.md", 1);
    check_path(concat!("see ..", "/shared/spec.md"), 1);
}

const WORDS: &str = "| use | meaning | not |\n|---|---|---|\n| agent | configuration | `bot`, template |\n";

#[test]
fn links_must_lead_somewhere_and_words_be_ours() {
    check_tree(
        &[
            (GLOSSARY, WORDS),
            ("README.md", "# Hello, all `there`\n[a](docs/a.md) [b](#hello-all-there) [c](https://example.com/x#y)\n"),
            (
                "docs/a.md",
                "[up](../README.md#hello-all-there) [lost](../README.md#bye)\n[gone](b.md)\n```\n[x](y)\n```\n",
            ),
            ("src/a.rs", "// A bot.\nlet bot = 1;\n// A `bot`, a template, robots.\n"),
        ],
        &[
            "docs/a.md:1: the link to `../README.md#bye` names a heading that is not there",
            "docs/a.md:2: the link to `b.md` leads nowhere",
            "src/a.rs:1: `bot`: here the word is `agent`",
        ],
    );
}

#[test]
fn what_code_defines_is_listed() {
    check_tree(
        &[
            (GLOSSARY, WORDS),
            ("crates/lap/src/config.rs", "#[arg(long, env = \"LAP_A\")]\n#[arg(env = \"LAP_B\", hide = true)]\n"),
            ("docs/operate.md", "| `LAP_A` | – |\n"),
        ],
        &["docs/operate.md: does not list `LAP_B` of crates/lap/src/config.rs"],
    );
}
