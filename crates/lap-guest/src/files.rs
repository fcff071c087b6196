//! Writes the files a session brings along. A path can name nothing outside of what the sandbox's user may own, and no
//! symbolic link on the way is followed.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::Failure;
use crate::layout::Layout;

/// What a file of a session holds.
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    Link(&'a str),
}

/// Folders of the platform and of the kernel, never written on anybody's behalf.
const REFUSED: [&str; 6] = ["/proc", "/sys", "/dev", "/opt/lap", "/run/lap", "/etc"];

/// Where a file goes, already known to be harmless as a text.
pub(crate) struct Target {
    /// The folder that is not ours to make: the sandbox's root or the home folder.
    base: PathBuf,
    folders: Vec<String>,
    name: String,
    /// As it was asked for.
    asked: String,
}

impl Target {
    /// Takes `~/…` or an absolute path.
    pub(crate) fn parse(layout: &Layout, path: &str) -> Result<Self, Failure> {
        let refuse = |why: &str| Failure::new("sandbox_file", format!("the file `{path}` cannot be written: {why}"));
        if REFUSED.iter().any(|folder| Path::new(path).starts_with(folder)) {
            return Err(refuse("this folder belongs to the platform"));
        }
        let (base, rest) = match (path.strip_prefix("~/"), path.strip_prefix('/')) {
            (Some(rest), _) => (layout.home(), rest),
            (None, Some(rest)) => (layout.root.clone(), rest),
            (None, None) => return Err(refuse("its path must be absolute or begin with `~/`")),
        };
        if path.contains('\0') || Path::new(rest).components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(refuse("its path must not contain `..`"));
        }
        let mut folders: Vec<String> =
            rest.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
        let name = folders.pop().ok_or_else(|| refuse("its path names no file"))?;
        if rest.ends_with('/') {
            return Err(refuse("its path names a folder"));
        }
        Ok(Self { base, folders, name, asked: path.to_owned() })
    }

    /// Whether it lies in the working tree, which must be empty until the clone.
    pub(crate) fn in_repo(&self, layout: &Layout) -> bool {
        let folder = self.folders.iter().fold(self.base.clone(), |path, part| path.join(part));
        folder.starts_with(layout.repo())
    }

    /// Writes it; what was there under this name is replaced, not followed.
    pub(crate) fn write(&self, content: &Content<'_>) -> Result<(), Failure> {
        self.attempt(content).map_err(|error| {
            let why = match error {
                Errno::LOOP | Errno::NOTDIR => "a symbolic link or a file is in its way".to_owned(),
                Errno::ROFS | Errno::ACCESS | Errno::PERM => {
                    "this folder is read-only in a sandbox; `/work`, the home folder and `/tmp` can be written"
                        .to_owned()
                }
                Errno::NOSPC | Errno::DQUOT => "the sandbox's disk is full".to_owned(),
                other => other.to_string(),
            };
            Failure::new("sandbox_file", format!("the file `{}` cannot be written: {why}", self.asked))
        })
    }

    fn attempt(&self, content: &Content<'_>) -> Result<(), Errno> {
        let folder = self.open_folder()?;
        // A name of our own first and then a rename: whoever reads it sees the old file or the new one.
        let temporary = format!(".{}.lap-new", self.name);
        match unlinkat(&folder, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        match content {
            Content::Bytes(bytes) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&folder, &temporary, flags, Mode::from_raw_mode(0o644))?;
                std::fs::File::from(file)
                    .write_all(bytes)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            }
            Content::Link(to) => symlinkat(*to, &folder, &temporary)?,
        }
        renameat(&folder, &temporary, &folder, &self.name)
    }

    /// Opens the folder step by step, making what is missing; a symbolic link on the way is an error.
    fn open_folder(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = openat(CWD, &self.base, flags, Mode::empty())?;
        for part in &self.folders {
            let next = openat(folder.as_fd(), part.as_str(), flags | OFlags::NOFOLLOW, Mode::empty());
            folder = match next {
                Err(Errno::NOENT) => {
                    mkdirat(folder.as_fd(), part.as_str(), Mode::from_raw_mode(0o755))?;
                    openat(folder.as_fd(), part.as_str(), flags | OFlags::NOFOLLOW, Mode::empty())?
                }
                other => other?,
            };
        }
        Ok(folder)
    }
}

#[cfg(test)]
mod tests;
