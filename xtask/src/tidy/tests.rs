use super::*;

#[track_caller]
fn check_rust(path: &str, text: &str, expect: &[&str]) {
    let mut findings = Vec::new();
    rust::check(&File { path: path.to_owned(), text: text.to_owned() }, &mut findings);
    findings.sort();
    let found: Vec<String> = findings
        .iter()
        .map(|Finding { line, what, .. }| format!("{line} {}", what.split(':').next().unwrap_or_default()))
        .collect();
    assert_eq!(found, expect, "{path}");
}

#[test]
fn code_is_told_from_talk_about_code() {
    let quiet = "//! Why.\n// x.unwrap()\n/* todo!() /* unsafe */ dbg!() */\nconst A: &str = \"todo!() \\\" unsafe\";\n\
                 const B: &str = r#\"a \" .unwrap()\"#;\nconst C: [char; 2] = ['\"', '\\''];\nfn f<'a>(x: &'a str) {}\n";
    check_rust("crates/a/src/lib.rs", quiet, &[]);
    check_rust("crates/a/src/lib.rs", &format!("{quiet}fn g() {{ x.unwrap() }}\n"), &["8 `.unwrap()`"]);
}

#[test]
fn each_rule_finds_its_breach() {
    let broken = "//! Why.\nfn f() {\n    unsafe { g() };\n    todo!();\n    x.unwrap();\n    println!();\n    std::env::var(\"A\");\n}\n#[ignore]\nfn h() {}\n";
    let all = ["3 `unsafe`", "4 `todo!`", "5 `.unwrap()`", "6 `println!`", "7 `env", "9 `#[ignore`"];
    check_rust("crates/lap-engine/src/a.rs", broken, &all);
    check_rust("crates/lap-sandbox-local/src/sys.rs", broken, &all[1..]);
    check_rust("crates/lap/src/main.rs", broken, &[all[0], all[1], all[2], all[5]]);
    check_rust("crates/lap-engine/src/a/tests.rs", broken, &[all[0], all[1], all[5]]);
}

#[test]
fn look_alikes_are_left_alone() {
    let fine = "//! Why.\nfn f() { x.unwrap_or(1); unsafe_ish(); my_println!(); env::vars_of_ours(); }\n";
    check_rust("crates/a/src/lib.rs", fine, &[]);
}

#[test]
fn tests_inside_a_file_may_unwrap() {
    check_rust(
        "crates/a/src/lib.rs",
        "//! Why.\n#[cfg(test)]\nmod tests;\nfn f() { x.unwrap() }\n",
        &["4 `.unwrap()`"],
    );
    check_rust("crates/a/src/lib.rs", "//! Why.\n#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap() }\n}\n", &[]);
}

#[test]
fn a_file_begins_with_its_reason() {
    check_rust("crates/a/src/lib.rs", "use a::b;\n", &["1 begin with `//!`"]);
    check_rust("crates/a/src/lib/tests.rs", "use super::*;\n", &[]);
}

#[track_caller]
fn check_border(name: &str, dependency: &str, kind: Option<&str>, expect: &[&str]) {
    let metadata = serde_json::json!({
        "workspace_members": [name, "lap-store"],
        "packages": [
            { "id": name, "name": name, "dependencies": [{ "name": dependency, "kind": kind }] },
            { "id": "lap-store", "name": "lap-store", "dependencies": [] },
        ],
    });
    let mut findings = Vec::new();
    borders::check(&metadata, &mut findings);
    let found: Vec<&str> = findings.iter().map(|finding| finding.what.split(" (").next().unwrap_or_default()).collect();
    assert_eq!(found, expect);
}

#[test]
fn borders_hold() {
    check_border("lap-domain", "thiserror", None, &[]);
    check_border("lap-domain", "serde", None, &["lap-domain must not know serde"]);
    check_border("lap-domain", "proptest", Some("dev"), &[]);
    check_border("lap-server", "lap-store", None, &["lap-server must not know lap-store"]);
    check_border("lap-server", "sqlx", None, &["lap-server must not know sqlx"]);
    check_border("lap-engine", "lap-store", None, &[]);
}

#[test]
fn a_new_crate_must_say_what_it_knows() {
    let metadata = serde_json::json!({
        "workspace_members": ["lap-new"],
        "packages": [{ "id": "lap-new", "name": "lap-new", "dependencies": [] }],
    });
    let mut findings = Vec::new();
    borders::check(&metadata, &mut findings);
    assert_eq!(findings.len(), 1);
}
