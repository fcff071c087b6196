//! Pid 1 of a sandbox: starts the guest, buries what dies, and ends with the guest.
//!
//! It is a fresh program, so that it carries no memory of the sidecar, and its end is the end of every process inside.

use std::process::Command;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, WaitOptions};

use crate::image;

/// The whole life of `lap init`.
pub fn init_main() -> ! {
    // Other processes of the same user must not look into this one.
    let guarded = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let status = match guarded {
        Ok(()) => run(),
        Err(error) => fail(&format!("could not guard itself: {error}")),
    };
    std::process::exit(status)
}

fn run() -> i32 {
    let mut guest = Command::new(format!("/{}", image::LAP_BINARY));
    let guest = match guest.arg("guest").spawn() {
        Ok(guest) => guest,
        Err(error) => return fail(&format!("could not start the guest: {error}")),
    };
    let guest = guest.id();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(guest) => {
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
