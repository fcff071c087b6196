//! A log that a hostile guest cannot fill the disk with.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// When a log has grown to this, its older half goes.
const LARGEST: u64 = 1024 * 1024;

/// Writes to a file and keeps it below [`LARGEST`]. Clones share the file.
#[derive(Debug, Clone)]
pub struct BoundedLog(Arc<Mutex<File>>);

impl BoundedLog {
    /// The file that a sidecar finds as descriptor 2.
    pub fn stderr() -> io::Result<Self> {
        Ok(Self::new(File::from(rustix::stdio::stderr().as_fd().try_clone_to_owned()?)))
    }

    /// Takes a file that is open for reading and appending; anything else (a terminal, a pipe) is just written to.
    pub fn new(file: File) -> Self {
        Self(Arc::new(Mutex::new(file)))
    }
}

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.len() > LARGEST {
            halve(&mut file, metadata.len())?;
        }
        file.write(&bytes[..bytes.len().min(LARGEST as usize / 4)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

fn halve(file: &mut File, length: u64) -> io::Result<()> {
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(length - LARGEST / 2))?;
    file.read_to_end(&mut rest)?;
    // From the next whole line on.
    let start = rest.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&rest[start..])
}

/// The last `lines` lines of a log.
pub(crate) fn tail(file: &std::path::Path, lines: usize) -> io::Result<String> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}
