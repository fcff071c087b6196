//! Pid 1 of a sandbox: starts the guest, buries what dies, and ends with the guest.
//!
//! It is a fresh program, so that it carries no memory of the sidecar, and its end is the end of every process inside. The
//! guest is a copy of it: starting the program a second time would take longer than making the namespaces.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, WaitOptions};

use crate::sys;

/// The whole life of `lap init`. Returns in the new process that is to be the guest, and there alone.
pub fn init_main() {
    // Other processes of the same user must not look into this one, nor into the guest.
    let status = match rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        Err(error) => fail(&format!("could not guard itself: {error}")),
        Ok(()) => match sys::fork() {
            Ok(None) => return,
            Ok(Some(guest)) => outlive(guest),
            Err(error) => fail(&format!("could not start the guest: {error}")),
        },
    };
    std::process::exit(status)
}

/// Buries what dies until it is the guest.
fn outlive(guest: i32) -> i32 {
    // It only waits from now on. Should it not be possible, nothing but memory is lost.
    let _ = sys::give_back_program();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == guest => {
                // As a shell reports it.
                return status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(1);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return fail(&format!("could not wait: {error}")),
        }
    }
}

fn fail(what: &str) -> i32 {
    use std::io::Write;
    // The log is all there is; when it is gone too, the exit status still tells.
    let _ = writeln!(std::io::stderr(), "lap init: {what}");
    1
}
