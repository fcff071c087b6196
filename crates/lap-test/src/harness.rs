//! One installation of each real harness for all tests of a checkout.

use std::path::{Path, PathBuf};

use lap_harness::{Harness, InstallConfig, find};

/// A data folder with the harness installed, made by the first test that asks and shared by all: copy or link from it, do
/// not write into it. It stands in the target folder; needs npm and, the first time, its registry.
pub async fn data_dir_with(id: &str) -> PathBuf {
    let data_dir = target_dir().join("lap-harness-cache");
    let installed = known(id).install(&InstallConfig::new(&data_dir), |_| ()).await;
    installed.unwrap_or_else(|problem| panic!("{id} can be installed for the tests: {problem}"));
    data_dir
}

/// Puts the shared installation into another data folder, so that a server with that folder has the harness. Costs nothing:
/// the files are linked, not copied.
pub async fn give(data_dir: &Path, id: &str) {
    let shared = data_dir_with(id).await;
    let folder = |below: &Path| known(id).folder(below).expect("it has an installation");
    link_tree(&folder(&shared), &folder(data_dir)).expect("both folders can be written");
}

fn known(id: &str) -> &'static Harness {
    find(id).unwrap_or_else(|| panic!("this build does not know {id}"))
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
