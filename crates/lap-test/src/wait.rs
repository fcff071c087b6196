//! Waiting for what the kernel announces instead of for time.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Waits until a folder is empty or gone, told by inotify, for at most `deadline`.
pub async fn until_empty(folder: &Path, deadline: Duration) -> Result<(), String> {
    let folder = folder.to_owned();
    let waited = tokio::task::spawn_blocking(move || wait(&folder, Instant::now() + deadline)).await;
    waited.expect("waiting does not panic")
}

fn wait(folder: &Path, until: Instant) -> Result<(), String> {
    let left = || -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|problem| problem.to_string())?;
    if inotify::add_watch(&watch, folder, WatchFlags::DELETE | WatchFlags::MOVED_FROM).is_err() {
        return if left().is_empty() { Ok(()) } else { Err(format!("could not watch {}", folder.display())) };
    }
    // What goes between this look and the next event is in the watch already.
    while !left().is_empty() {
        let time = until.saturating_duration_since(Instant::now());
        if time.is_zero() {
            return Err(format!("still in {}: {}", folder.display(), left().join(", ")));
        }
        let time = Timespec::try_from(time).map_err(|problem| problem.to_string())?;
        // An interrupted or ended wait comes round again.
        let _ = rustix::event::poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&time));
        let mut buffer = [0; 4096];
        while rustix::io::read(&watch, &mut buffer).is_ok_and(|length| length > 0) {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
