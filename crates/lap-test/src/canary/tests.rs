use super::*;

#[track_caller]
fn check(hidden: impl Fn(&Canary) -> String, disguise: &str) {
    let canary = Canary::new("ghp_");
    let text = format!("before {} after", hidden(&canary));
    let found = canary.in_bytes("here", text.as_bytes());
    assert!(found.iter().any(|sighting| sighting.disguise == disguise), "{text}: {found:?}");
    assert!(Canary::new("ghp_").in_bytes("here", text.as_bytes()).is_empty());
}

#[test]
fn sees_through_disguises() {
    check(|canary| canary.secret().to_owned(), "plain");
    for user in ["x", "xy", "xyz", "x-access-token"] {
        check(|canary| canary.basic(user), "base64");
    }
    check(Canary::base64url, "base64");
    check(|canary| canary.secret().bytes().map(|byte| format!("{byte:02X}")).collect(), "hex");
    check(|canary| canary.secret().replace('_', "%5f"), "percent");
}

#[test]
fn quotes_matter_where_a_secret_has_some() {
    let canary = Canary::of("pass\"word\\with$marks&0123456789");
    let json = serde_json::json!({ "key": canary.secret() }).to_string();
    assert_eq!(canary.in_bytes("json", json.as_bytes())[0].disguise, "json");
}

#[test]
fn searches_folders_names_and_links() {
    let canary = Canary::new("sk-");
    let folder = tempfile::tempdir().unwrap();
    canary.assert_not_in_path(folder.path());
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    std::fs::write(folder.path().join("deep/log"), canary.secret()).unwrap();
    std::fs::write(folder.path().join(canary.secret()), "").unwrap();
    std::os::unix::fs::symlink(canary.secret(), folder.path().join("link")).unwrap();
    assert_eq!(canary.in_path(folder.path()).len(), 3);
}
