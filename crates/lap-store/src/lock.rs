//! One server per data folder. The lock is the kernel's, so a server that was killed leaves none behind; the file's text
//! only says who holds it.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Held as long as this value lives.
#[derive(Debug)]
pub struct DataLock {
    // Closing the file gives the lock back.
    _file: File,
}

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another server works on it.
    #[error("another lap server (process {holder}) already works on {}", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Its process id, as it wrote it down.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("could not lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

impl DataLock {
    /// Takes the folder, or says who has it.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("lap.lock");
        let failed = |cause| LockError::Io { path: path.clone(), cause };
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // A holder that has not yet written its number is still a holder.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "unknown".to_owned(),
                    number => number.to_owned(),
                };
                return Err(LockError::Held { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
