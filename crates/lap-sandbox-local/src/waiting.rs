//! Sidecars started ahead. Loading the program takes longer than making the namespaces of a sandbox, so one process has
//! done it already when the next sandbox is asked for, and waits to be told which.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A sidecar that has not been told what to launch. It ends when its socket does, so it cannot outlive the server.
#[derive(Debug)]
pub(crate) struct Waiting(Option<(Child, UnixStream)>);

impl Waiting {
    /// Starts one, with nothing in its hands but the socket.
    pub(crate) fn start(lap_binary: &Path) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(lap_binary)
            .arg("sidecar")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(Some((child, ours))))
    }

    /// Tells it what to launch, and hands it what it needs for that. It answers on the socket.
    pub(crate) fn launch(mut self, order: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<(Child, UnixStream)> {
        // The order is far smaller than any socket's buffer.
        if let Some((_, socket)) = &self.0 {
            crate::launch::send_descriptors(socket, order, with)?;
            socket.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(self.0.take().expect("given away only here"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.0.take() {
            // It may have ended by itself; either way no zombie stays.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
