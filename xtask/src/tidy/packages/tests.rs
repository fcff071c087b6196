use super::*;

#[track_caller]
fn check_license(expression: &str, expect: bool) {
    let allowed = |license: &str| ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].contains(&license);
    assert_eq!(license_allowed(expression, &allowed), expect, "{expression}");
}

#[test]
fn licenses_are_understood() {
    check_license("MIT", true);
    check_license("GPL-3.0-only", false);
    check_license("MIT OR GPL-3.0-only", true);
    check_license("GPL-3.0-only/MIT", true);
    check_license("MIT AND GPL-3.0-only", false);
    check_license("(MIT OR GPL-2.0-only) AND Apache-2.0", true);
    check_license("Apache-2.0 WITH LLVM-exception", true);
    check_license("GPL-2.0-only WITH Classpath-exception-2.0", false);
    check_license("", false);
    check_license("MIT MIT", false);
}

#[test]
fn banned_foreign_and_unlicensed_packages_are_found() {
    let policy = policy(&File {
        path: "deny.toml".to_owned(),
        text: "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{ crate = \"ring\", reason = \"why\" }]\n[sources]\nallow-registry = [\"https://good\"]"
            .to_owned(),
    })
    .unwrap();
    let package = |name: &str, license: &str, source: &str| serde_json::json!({ "id": name, "name": name, "version": "1.0.0", "license": license, "source": source });
    let metadata = serde_json::json!({
        "packages": [
            { "id": "ours", "name": "ours", "version": "0.1.0", "license": "MIT", "source": null },
            package("ring", "MIT", "registry+https://good"),
            package("copyleft", "GPL-3.0-only", "registry+https://good"),
            package("stray", "MIT", "git+https://elsewhere"),
            package("not-built", "Proprietary", "git+https://elsewhere"),
        ],
    });
    let built = "ours v0.1.0 (/a/path)\nring v1.0.0\ncopyleft v1.0.0 (proc-macro)\nstray v1.0.0\nstray v1.0.0 (*)\n";
    let mut findings = Vec::new();
    check_crates(&metadata, built, &policy, &mut findings);
    let whats: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "ring is banned: why",
            "copyleft 1.0.0 has the licence `GPL-3.0-only`, which deny.toml does not allow",
            "stray 1.0.0 comes from git+https://elsewhere"
        ]
    );
}

#[test]
fn npm_packages_come_from_npm() {
    let text =
        "\"resolved\": \"https://registry.npmjs.org/a/-/a-1.tgz\",\n\"resolved\": \"https://mirror.example/a.tgz\",";
    let mut findings = Vec::new();
    check_npm_lock(&File { path: "harnesses/x/package-lock.json".to_owned(), text: text.to_owned() }, &mut findings);
    assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
}
