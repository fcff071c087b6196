//! The clients that no system package brings at a useful version, installed once per checkout into the target folder, and
//! handed to the sandbox as an archive: nothing of the machine but `/usr` can be seen in there.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::process::Command;

/// Exact versions: what is tested does not change overnight.
const PACKAGES: [&str; 5] = ["requests==2.34.2", "httpx==0.28.1", "boto3==1.44.8", "uv==0.13.9", "pip==26.3"];

/// The archive: `tools/python` for the interpreter of the system, and `tools/bin`.
pub async fn archive() -> Bytes {
    let folder = folder();
    let archive = folder.join(format!("{}.tar", PACKAGES.join("_")));
    if !archive.exists() {
        install(&folder, &archive).await;
    }
    Bytes::from(std::fs::read(&archive).expect("it was just made"))
}

async fn install(folder: &Path, archive: &Path) {
    let scratch = folder.join("new");
    let _ = std::fs::remove_dir_all(&scratch);
    let tools = scratch.join("tools");
    std::fs::create_dir_all(tools.join("bin")).expect("the target folder can be written");
    let (venv, python) = (scratch.join("venv"), tools.join("python"));
    // The interpreter the sandbox will have.
    run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv)).await;
    let pip = venv.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "--target"]).arg(&python).args(PACKAGES)).await;
    std::fs::rename(python.join("bin/uv"), tools.join("bin/uv")).expect("uv is a program");
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests and says where it is");
    std::fs::copy(cargo, tools.join("bin/cargo")).expect("cargo can be copied");
    let made = scratch.join("tools.tar");
    run(Command::new("tar").arg("cf").arg(&made).arg("-C").arg(&scratch).arg("tools")).await;
    std::fs::rename(&made, archive).expect("one folder");
    std::fs::remove_dir_all(&scratch).expect("ours");
}

async fn run(command: &mut Command) {
    let output = command.output().await.unwrap_or_else(|problem| panic!("{command:?}: {problem}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let target = program.ancestors().nth(3).expect("tests run in <target>/<profile>/deps");
    target.join("lap-client-tools")
}
