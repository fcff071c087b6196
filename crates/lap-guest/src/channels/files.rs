//! Files of the sandbox, read and written for people outside: below `/work` and the home folder, and by no symbolic link
//! out of them.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lap_api::channel::{End, FromChannel, ToChannel};
use lap_api::files::{FileEntry, FileKind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::outlet::{Inlet, Outlet};
use super::terminal::ToTerminal;
use super::{Port, ended, failed};
use crate::harness::Setting;
use crate::layout::Layout;

/// Entries of a folder that are listed; a larger one is listed in part.
const MOST_ENTRIES: usize = 10_000;

/// A place below one of the folders that may be looked into.
struct Place {
    base: PathBuf,
    rest: PathBuf,
}

impl Place {
    /// Takes an absolute path, `~/…`, or one relative to the working tree.
    fn parse(layout: &Layout, path: &str) -> Result<Self, End> {
        let refuse = |why: &str| Err(failed("bad_path", format!("`{path}` cannot be used: {why}")));
        let whole = match path.strip_prefix('~') {
            Some("") => layout.home(),
            Some(rest) if rest.starts_with('/') => layout.home().join(rest.trim_start_matches('/')),
            _ if path.starts_with('/') => layout.root.join(path.trim_start_matches('/')),
            _ => layout.repo().join(path),
        };
        if path.contains('\0') || whole.components().any(|part| matches!(part, Component::ParentDir)) {
            return refuse("it must not contain `..`");
        }
        for base in [layout.root.join("work"), layout.home()] {
            if let Ok(rest) = whole.strip_prefix(&base) {
                let rest = if rest.as_os_str().is_empty() { PathBuf::from(".") } else { rest.to_owned() };
                return Ok(Self { base, rest });
            }
        }
        refuse("it lies neither below /work nor in the home folder")
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let base = openat(CWD, &self.base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    }

    /// The folder a file goes into, made where it is missing.
    fn open_parent(&self) -> Result<(OwnedFd, OsString), Errno> {
        let name = self.rest.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let folder = OFlags::PATH | OFlags::DIRECTORY;
        let parent = self.rest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut path = PathBuf::from(".");
        let mut opened = self.open(&path, folder)?;
        for part in parent.components() {
            path.push(part);
            opened = match self.open(&path, folder) {
                Err(Errno::NOENT) => {
                    mkdirat(&opened, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                    self.open(&path, folder)?
                }
                other => other?,
            };
        }
        Ok((opened, name))
    }
}

fn explain(path: &str, problem: Errno) -> End {
    let (code, why) = match problem {
        Errno::NOENT => ("not_found", "there is no such file".to_owned()),
        Errno::ISDIR => ("bad_path", "it is a folder".to_owned()),
        Errno::NOTDIR => ("bad_path", "a part of it is no folder".to_owned()),
        Errno::XDEV | Errno::LOOP => ("bad_path", "a symbolic link leads out of /work and the home folder".to_owned()),
        Errno::ACCESS | Errno::PERM => ("bad_path", "the agent's user may not".to_owned()),
        Errno::NOSPC | Errno::DQUOT => ("disk_full", "the sandbox's disk is full".to_owned()),
        other => ("failed", other.to_string()),
    };
    failed(code, format!("`{path}`: {why}"))
}

fn errno(problem: &std::io::Error) -> Errno {
    Errno::from_io_error(problem).unwrap_or(Errno::IO)
}

/// Sends a file's content.
pub(super) async fn read(
    channel: u64,
    path: String,
    setting: Arc<Setting>,
    mut orders: mpsc::Receiver<ToTerminal>,
    port: Port,
) {
    let end = match open_file(&setting.layout, &path) {
        Err(end) => end,
        Ok((file, length)) => {
            port.say(FromChannel::Opened { channel, position: length, input: 0 }).await;
            match send_all(channel, tokio::fs::File::from_std(file), &mut orders, &port).await {
                Ok(()) => ended(),
                Err(Some(problem)) => explain(&path, errno(&problem)),
                Err(None) => return,
            }
        }
    };
    port.say(FromChannel::Ended { channel, end }).await;
}

fn open_file(layout: &Layout, path: &str) -> Result<(std::fs::File, u64), End> {
    let place = Place::parse(layout, path)?;
    // Opening a pipe would wait for a writer, and opening a device does things: look first.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let seen = place.open(&place.rest, OFlags::PATH).and_then(rustix::fs::fstat).map_err(|e| explain(path, e))?;
    match FileType::from_raw_mode(seen.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(explain(path, Errno::ISDIR)),
        _ => return Err(failed("bad_path", format!("`{path}`: it is no ordinary file"))),
    }
    let file = std::fs::File::from(place.open(&place.rest, flags).map_err(|e| explain(path, e))?);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok((file, metadata.len())),
        Ok(_) => Err(failed("bad_path", format!("`{path}`: it is no ordinary file"))),
        Err(problem) => Err(explain(path, errno(&problem))),
    }
}

/// `Err(None)`: nobody wants the rest.
async fn send_all(
    channel: u64,
    mut from: impl tokio::io::AsyncRead + Unpin,
    orders: &mut mpsc::Receiver<ToTerminal>,
    port: &Port,
) -> Result<(), Option<std::io::Error>> {
    let mut outlet = Outlet::new(channel);
    loop {
        while outlet.room() > 0 {
            let mut chunk = vec![0; outlet.room()];
            match from.read(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    chunk.truncate(length);
                    port.send(outlet.frame(0, Bytes::from(chunk))).await;
                }
                Err(problem) => return Err(Some(problem)),
            }
        }
        match orders.recv().await {
            Some(ToTerminal::Message(ToChannel::Ack { position, .. })) => outlet.acknowledge(position),
            Some(ToTerminal::Message(ToChannel::Eof { .. })) => {}
            _ => return Err(None),
        }
    }
}

/// Takes a file's content; the file appears, or is replaced, when all of it is there.
pub(super) async fn write(
    channel: u64,
    path: String,
    setting: Arc<Setting>,
    mut orders: mpsc::Receiver<ToTerminal>,
    port: Port,
) {
    let end = match Place::parse(&setting.layout, &path) {
        Err(end) => end,
        Ok(place) => {
            port.say(FromChannel::Opened { channel, position: 0, input: 0 }).await;
            match receive_all(channel, &place, &mut orders, &port).await {
                Ok(()) => ended(),
                Err(Some(problem)) => explain(&path, problem),
                Err(None) => return,
            }
        }
    };
    port.say(FromChannel::Ended { channel, end }).await;
}

async fn receive_all(
    channel: u64,
    place: &Place,
    orders: &mut mpsc::Receiver<ToTerminal>,
    port: &Port,
) -> Result<(), Option<Errno>> {
    let (folder, name) = place.open_parent()?;
    let temporary = [b".".as_slice(), name.as_bytes(), format!(".lap-{channel:x}").as_bytes()].concat();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&folder, temporary.as_slice(), flags, Mode::from_raw_mode(0o644))?;
    let written = fill(channel, std::fs::File::from(file), orders, port).await;
    let done = match written {
        Ok(()) => renameat(folder.as_fd(), temporary.as_slice(), folder.as_fd(), &name).map_err(Some),
        Err(problem) => Err(problem),
    };
    if done.is_err() {
        // What is left of it would be found by nobody.
        let _ = unlinkat(&folder, temporary.as_slice(), AtFlags::empty());
    }
    done
}

async fn fill(
    channel: u64,
    file: std::fs::File,
    orders: &mut mpsc::Receiver<ToTerminal>,
    port: &Port,
) -> Result<(), Option<Errno>> {
    let mut file = tokio::fs::File::from_std(file);
    let mut inlet = Inlet::new(channel);
    loop {
        match orders.recv().await {
            Some(ToTerminal::Data(data)) if inlet.take(data.position, data.bytes.len()) => {
                file.write_all(&data.bytes).await.map_err(|problem| Some(errno(&problem)))?;
                inlet.pass_on(data.bytes.len() as u64);
                if inlet.due().1 {
                    port.send(inlet.acknowledge()).await;
                }
            }
            Some(ToTerminal::Message(ToChannel::Eof { .. })) => {
                return file.flush().await.map_err(|problem| Some(errno(&problem)));
            }
            _ => return Err(None),
        }
    }
}

/// Sends a folder's entries.
pub(super) async fn list(
    channel: u64,
    path: String,
    setting: Arc<Setting>,
    mut orders: mpsc::Receiver<ToTerminal>,
    port: Port,
) {
    let end = match entries(&setting.layout, &path) {
        Err(end) => end,
        Ok(entries) => {
            port.say(FromChannel::Opened { channel, position: 0, input: 0 }).await;
            let document = serde_json::to_vec(&entries).expect("wire types serialise");
            match send_all(channel, document.as_slice(), &mut orders, &port).await {
                Err(None) => return,
                _ => ended(),
            }
        }
    };
    port.say(FromChannel::Ended { channel, end }).await;
}

fn entries(layout: &Layout, path: &str) -> Result<Vec<FileEntry>, End> {
    let place = Place::parse(layout, path)?;
    let failed = |problem| explain(path, problem);
    let folder = place.open(&place.rest, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        // It may be gone by now.
        let Ok(seen) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = match FileType::from_raw_mode(seen.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Folder,
            FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        };
        found.push(FileEntry {
            name: name.to_string_lossy().into_owned(),
            kind,
            size: u64::try_from(seen.st_size).unwrap_or_default(),
            modified_at: crate::harness::time(seen.st_mtime * 1000),
        });
        if found.len() == MOST_ENTRIES {
            break;
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
