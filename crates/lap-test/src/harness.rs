//! One installation of the real opencode for all tests of a checkout.

use std::path::{Path, PathBuf};

use lap_harness::{InstallConfig, find};

/// A data folder with opencode installed, made by the first test that asks and shared by all: copy or link from it, do not
/// write into it. It stands in the target folder; needs npm and, the first time, its registry.
pub async fn opencode_data_dir() -> PathBuf {
    let data_dir = target_dir().join("lap-harness-cache");
    let harness = find("opencode").expect("every build knows opencode");
    harness.install(&InstallConfig::new(&data_dir), |_| ()).await.expect("opencode can be installed for the tests");
    data_dir
}

/// Puts the shared installation into another data folder, so that a server with that folder has opencode. Costs nothing: the
/// files are linked, not copied.
pub async fn give_opencode(data_dir: &Path) {
    let shared = opencode_data_dir().await;
    let harness = find("opencode").expect("every build knows opencode");
    let from = harness.folder(&shared).expect("opencode has a folder");
    let to = harness.folder(data_dir).expect("opencode has a folder");
    link_tree(&from, &to).expect("both folders can be written");
}

fn link_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else if std::fs::hard_link(entry.path(), &target).is_err() {
            // Another file system, or there already.
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// The target folder this program was built into: it runs as `<target>/<profile>/program`, a test one folder deeper.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let folder = program.parent().expect("a program is in a folder");
    let tests = ["deps", "examples"].iter().any(|name| folder.ends_with(name));
    let profile = if tests { folder.parent().unwrap_or(folder) } else { folder };
    profile.parent().unwrap_or(profile).to_owned()
}
