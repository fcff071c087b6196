use std::os::unix::fs::PermissionsExt;

use super::*;

/// An npm that unpacks a program saying `version`, takes its time, and counts its runs.
fn fake_npm(dir: &Path, version: &str, exit: i32) -> InstallConfig {
    let npm = dir.join("npm");
    let program = "node_modules/opencode-linux-x64/bin/opencode";
    let script = format!(
        "#!/bin/sh\numask 077\necho run >> '{}'\necho 'npm error network request failed' >&2\nsleep 0.2\n\
         mkdir -p $(dirname {program})\nprintf '#!/bin/sh\\necho {version}\\n' > {program}\nchmod 700 {program}\nexit {exit}\n",
        dir.join("runs").display()
    );
    std::fs::write(&npm, script).unwrap();
    std::fs::set_permissions(&npm, std::fs::Permissions::from_mode(0o755)).unwrap();
    InstallConfig { data_dir: dir.join("data"), npm }
}

fn opencode() -> &'static Harness {
    find("opencode").unwrap()
}

fn runs(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("runs")).unwrap().lines().count()
}

async fn failure(config: &InstallConfig) -> String {
    let error = opencode().install(config, |_| ()).await.unwrap_err();
    assert!(!opencode().installed(&config.data_dir));
    error.to_string()
}

#[test]
fn knows_every_harness() {
    let known: Vec<&str> = known().iter().map(|harness| harness.id.as_str()).collect();
    assert_eq!(known, ["opencode", "claude-agent-sdk", "claude-code", "codex", "shell"]);
    assert!(find("shell").unwrap().test_only && find("shell").unwrap().installed(Path::new("/nonexistent")));
    assert_eq!(find("codex").unwrap().how_to_install(), "install it with `lap harness install codex`");
}

#[test]
fn the_lock_files_pin_the_versions_and_name_no_host() {
    for harness in known() {
        let Some(packages) = harness.packages else { continue };
        let lock: serde_json::Value = serde_json::from_str(packages.lock).unwrap();
        let packed = lock["packages"].as_object().unwrap().iter().filter(|(name, _)| !name.is_empty());
        for (name, package) in packed {
            assert!(package["integrity"].as_str().unwrap().starts_with("sha512-"), "{name}");
            assert!(package["version"].as_str().unwrap().starts_with(&harness.place.1), "{name}");
            assert!(harness.install.as_ref().unwrap().program.starts_with(name), "{name}");
        }
        assert!(!packages.lock.contains("://") && !packages.manifest.contains("://"));
    }
}

#[test]
fn two_harnesses_share_one_program() {
    let (sdk, code) = (find("claude-agent-sdk").unwrap(), find("claude-code").unwrap());
    let dir = Path::new("/data");
    assert_eq!(sdk.folder(dir), code.folder(dir));
    assert_eq!(sdk.folder(dir).unwrap(), Path::new("/data/harnesses/claude-code").join(&code.version));
    let (sdk, code) = (sdk.launch(), code.launch());
    assert_eq!((sdk.command, sdk.env), (code.command, code.env));
    assert!(sdk.tui.is_none() && code.tui.is_some());
}

#[test]
fn launches_from_the_mount() {
    let launch = opencode().launch();
    assert_eq!(launch.command[..2], ["/opt/lap/harness/node_modules/opencode-linux-x64/bin/opencode", "serve"]);
    let links: Vec<_> =
        launch.files.iter().filter(|file| matches!(&file.content, HarnessFileContent::Link(_))).collect();
    assert!(
        matches!(&links[..], [file] if matches!(&file.content, HarnessFileContent::Link(to) if to == "/opt/lap/harness/node_modules"))
    );
}

#[tokio::test]
async fn installs_once_for_all_uids() {
    let dir = tempfile::tempdir().unwrap();
    let config = fake_npm(dir.path(), "1.18.33", 0);
    let leftover = config.data_dir.join("harnesses/opencode/.staging-old/node_modules");
    let half = config.data_dir.join("harnesses/opencode/1.18.33/node_modules");
    std::fs::create_dir_all(&leftover).unwrap();
    std::fs::create_dir_all(&half).unwrap();
    assert!(!opencode().installed(&config.data_dir));

    let (mut seen, mut seen_too) = (Vec::new(), Vec::new());
    let both = tokio::join!(
        opencode().install(&config, |progress| seen.push(progress)),
        opencode().install(&config, |progress| seen_too.push(progress))
    );
    let place = both.0.unwrap();
    assert_eq!(place, both.1.unwrap());
    assert_eq!(runs(dir.path()), 1);
    assert_eq!(seen.last(), Some(&Progress::Done { already_there: false }));
    assert_eq!(seen_too, [Progress::Waiting, Progress::Done { already_there: true }]);
    assert!(opencode().installed(&config.data_dir) && !leftover.exists());
    let mode = |path: &str| std::fs::metadata(place.join(path)).unwrap().permissions().mode() & 0o777;
    let modes = ["", "package.json", "node_modules", "node_modules/opencode-linux-x64/bin/opencode"].map(mode);
    assert_eq!(modes, [0o755, 0o644, 0o755, 0o755]);
}

#[tokio::test]
async fn failures_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = fake_npm(dir.path(), "1.18.33", 1);
    let said = failure(&config).await;
    assert_eq!(
        said,
        "npm could not fetch the packages of opencode (exit status: 1):\nnpm error network request failed"
    );
    let said = failure(&fake_npm(dir.path(), "1.18.34", 0)).await;
    assert!(said.ends_with("should say version 1.18.33 and says `1.18.34`"), "{said}");
    let missing = InstallConfig { npm: dir.path().join("none"), ..config.clone() };
    assert!(failure(&missing).await.contains("install Node.js with npm"));
    let left: Vec<_> = std::fs::read_dir(config.data_dir.join("harnesses/opencode")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock: {left:?}");
    let built_in = find("shell").unwrap().install(&config, |_| ()).await.unwrap_err().to_string();
    assert_eq!(built_in, "shell needs no installation");
}
