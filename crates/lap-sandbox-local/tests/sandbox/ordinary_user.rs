//! The same tests once more without root's rights.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Debian's and everybody's `nobody`: an account that exists and owns nothing.
const NOBODY: u32 = 65_534;

#[test]
fn everything_holds_for_an_ordinary_user_too() {
    if !rustix::process::geteuid().is_root() {
        // This is that run.
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env("HOME", "/nonexistent")
        .output()
        .expect("the program starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
