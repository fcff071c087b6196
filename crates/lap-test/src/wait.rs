//! Waiting for what the kernel announces instead of for time.

use std::path::Path;
use std::time::Duration;

/// Waits until a folder is empty or gone, told by inotify, for at most `deadline`.
pub async fn until_empty(folder: &Path, deadline: Duration) -> Result<(), String> {
    let left = || -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let watch = rustix::fs::inotify::init(
        rustix::fs::inotify::CreateFlags::CLOEXEC | rustix::fs::inotify::CreateFlags::NONBLOCK,
    );
    let watch = watch.map_err(|problem| problem.to_string())?;
    let flags = rustix::fs::inotify::WatchFlags::DELETE | rustix::fs::inotify::WatchFlags::MOVED_FROM;
    if rustix::fs::inotify::add_watch(&watch, folder, flags).is_err() {
        return if left().is_empty() { Ok(()) } else { Err(format!("could not watch {}", folder.display())) };
    }
    let watch = tokio::io::unix::AsyncFd::new(watch).map_err(|problem| problem.to_string())?;
    let emptied = async {
        while !left().is_empty() {
            let Ok(mut ready) = watch.readable().await else { return };
            let mut buffer = [0; 4096];
            while rustix::io::read(watch.get_ref(), &mut buffer).is_ok_and(|length| length > 0) {}
            ready.clear_ready();
        }
    };
    tokio::time::timeout(deadline, emptied)
        .await
        .map_err(|_| format!("still in {}: {}", folder.display(), left().join(", ")))
}
