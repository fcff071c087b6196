//! The real opencode, installed once and given to a server's data folder, answers through the scripted gateway.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use lap_test::ca::TestCa;
use lap_test::gateway::Gateway;
use lap_test::harness::give;

#[tokio::test]
async fn the_installed_program_works_and_uses_its_tools() {
    let data = tempfile::tempdir().expect("a data folder");
    give(data.path(), "opencode").await;
    let harness = lap_harness::find("opencode").expect("every build knows opencode");
    assert!(harness.installed(data.path()));
    let program = harness.folder(data.path()).expect("a folder").join("node_modules/opencode-linux-x64/bin/opencode");
    assert_eq!(std::fs::metadata(&program).expect("the program").permissions().mode() & 0o777, 0o755);

    let ca = TestCa::new("test");
    let gateway = Gateway::start(&ca).await;
    let home = tempfile::tempdir().expect("a home");
    let config = serde_json::json!({
        "autoupdate": false, "share": "disabled", "snapshot": false, "enabled_providers": ["lap"], "model": "lap/test-model",
        "provider": { "lap": { "npm": "@ai-sdk/anthropic", "models": { "test-model": {} },
            "options": { "baseURL": format!("{}/v1", gateway.http_url()), "apiKey": gateway.key() } } },
    });
    let output = tokio::process::Command::new(&program)
        .args(["run", "--title", "test", "[[bash:echo fr''om the shell]]"])
        .current_dir(home.path())
        .env_clear()
        .envs([
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
        ])
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        // Whatever does not go to the gateway ends here.
        .envs([("HTTPS_PROXY", "http://127.0.0.1:9"), ("NO_PROXY", "127.0.0.1")])
        .env("OPENCODE_CONFIG_CONTENT", config.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("opencode starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("DONE: from the shell"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(gateway.calls().len(), 2);
}
