//! Installs a harness with npm, so that afterwards there is a whole one or none.
//!
//! Everything happens in a folder beside the final place. Only what was unpacked from the archives that the lock file names
//! by hash, and says the right version, is moved there. Package scripts never run.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::{Harness, Packages, Program};

/// A slow link takes minutes for 60 MB; npm itself gives up on dead ones earlier.
const NPM_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Harnesses that are large programs take seconds to say their version on a busy machine.
const VERSION_DEADLINE: Duration = Duration::from_secs(60);

/// Often enough for a person who watches.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(300);

/// Written last. Holds the version.
const MARKER: &str = ".lap-installed";

/// Prefix of folders in which an installation is made.
const STAGING: &str = ".staging-";

/// Lines of npm's output that an error repeats.
const TAIL_LINES: usize = 12;

/// Where to install and with what.
#[derive(Debug, Clone)]
pub struct InstallConfig {
    /// The server's data folder.
    pub data_dir: PathBuf,
    /// The npm program.
    pub npm: PathBuf,
}

impl InstallConfig {
    /// With the npm found on `PATH`.
    pub fn new(data_dir: impl Into<PathBuf>) -> InstallConfig {
        InstallConfig { data_dir: data_dir.into(), npm: PathBuf::from("npm") }
    }
}

/// What an installation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another process installs the same harness.
    Waiting,
    /// Packages are fetched and unpacked.
    Fetching { bytes: u64, of_about: u64 },
    /// The program is asked for its version.
    Verifying,
    /// It can be used.
    Done { already_there: bool },
}

/// Why a harness could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is no program of its own.
    #[error("{harness} needs no installation")]
    BuiltIn { harness: String },
    /// The program exists for another kind of machine.
    #[error("{harness} {version} runs on {runs_on}, and this machine is {machine}")]
    Machine { harness: String, version: String, runs_on: String, machine: &'static str },
    /// No npm.
    #[error("npm is needed to install {harness} and `{npm}` was not found; install Node.js with npm and try again")]
    NpmMissing { harness: String, npm: String },
    /// npm failed: no network, no such archive, or another hash than pinned.
    #[error("npm could not fetch the packages of {harness} ({status}):\n{tail}")]
    Npm { harness: String, status: String, tail: String },
    /// npm or the program took too long.
    #[error("{what} did not end within {} s", deadline.as_secs())]
    Late { what: String, deadline: Duration },
    /// What was unpacked is not what was asked for.
    #[error("{program} should say version {wanted} and says `{said}`")]
    WrongVersion { program: String, wanted: String, said: String },
    /// The disk.
    #[error("could not {attempt} {path}")]
    Disk {
        attempt: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Whether `folder` holds a completed installation of this version.
pub(crate) fn is_whole(folder: &Path, version: &str) -> bool {
    fs::read_to_string(folder.join(MARKER)).is_ok_and(|marked| marked == version)
}

impl Harness {
    /// Installs it below the data folder, or finds it there. Progress comes in order; `Done` is last.
    pub async fn install(
        &self,
        config: &InstallConfig,
        mut progress: impl FnMut(Progress),
    ) -> Result<PathBuf, InstallError> {
        let place = self.folder(&config.data_dir);
        let (Some(place), Some(program), Some(packages)) = (place, &self.install, self.packages) else {
            return Err(InstallError::BuiltIn { harness: self.id.clone() });
        };
        if program.arch != std::env::consts::ARCH {
            let (harness, version, runs_on) = (self.id.clone(), self.version.clone(), program.arch.clone());
            return Err(InstallError::Machine { harness, version, runs_on, machine: std::env::consts::ARCH });
        }
        let versions = place.parent().expect("the place ends in id and version").to_owned();
        fs::create_dir_all(&versions).map_err(disk("create", &versions))?;
        let _lock = lock(&versions, &mut progress).await?;
        let already_there = is_whole(&place, &self.place.1);
        if !already_there {
            remove_leftovers(&versions)?;
            let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&versions);
            let staging = staging.map_err(disk("create a folder in", &versions))?;
            self.fetch(config, program, packages, staging.path(), &mut progress).await?;
            progress(Progress::Verifying);
            self.verify(&staging.path().join(&program.program)).await?;
            open_to_all(staging.path())?;
            let marker = staging.path().join(MARKER);
            fs::write(&marker, &self.place.1).map_err(disk("write", &marker))?;
            fs::rename(staging.path(), &place).map_err(disk("move the installation to", &place))?;
            // Moved: there is nothing left to remove.
            let _ = staging.keep();
        }
        progress(Progress::Done { already_there });
        Ok(place)
    }

    async fn fetch(
        &self,
        config: &InstallConfig,
        program: &Program,
        packages: Packages,
        staging: &Path,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), InstallError> {
        for (name, text) in [("package.json", packages.manifest), ("package-lock.json", packages.lock)] {
            let path = staging.join(name);
            fs::write(&path, text).map_err(disk("write", &path))?;
        }
        let mut npm = Command::new(&config.npm);
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--loglevel=error"])
            .current_dir(staging);
        // The user's npm configuration (registry, proxy, authorities) is wanted; the platform's secrets are nobody's business.
        for secret in ["LITELLM_API_KEY", "LAP_MASTER_KEY", "LAP_ENCRYPTION_KEY", "LAP_GIT_TOKEN", "DATABASE_URL"] {
            npm.env_remove(secret);
        }
        let running = output(&mut npm, NPM_DEADLINE, "npm");
        let mut running = std::pin::pin!(running);
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        let finished = loop {
            tokio::select! {
                finished = &mut running => break finished,
                _ = tick.tick() => progress(Progress::Fetching { bytes: size_of(staging), of_about: program.bytes }),
            }
        };
        let (harness, npm) = (self.id.clone(), config.npm.display().to_string());
        let finished = match finished {
            Err(Failed::Start(cause)) if cause.kind() == io::ErrorKind::NotFound => {
                return Err(InstallError::NpmMissing { harness, npm });
            }
            Err(Failed::Start(cause)) => {
                return Err(InstallError::Disk { attempt: "start", path: config.npm.clone(), cause });
            }
            Err(Failed::Late(late)) => return Err(late),
            Ok(finished) => finished,
        };
        if !finished.status.success() {
            return Err(InstallError::Npm { harness, status: finished.status.to_string(), tail: tail(&finished) });
        }
        Ok(())
    }

    /// Asks the program itself, in an environment of nothing.
    async fn verify(&self, program: &Path) -> Result<(), InstallError> {
        let home = tempfile::tempdir().map_err(disk("create a folder in", &std::env::temp_dir()))?;
        let mut command = Command::new(program);
        command.arg("--version").env_clear().env("PATH", "/usr/bin:/bin").current_dir(home.path());
        command.env("HOME", home.path()).env("TMPDIR", home.path());
        let said = match output(&mut command, VERSION_DEADLINE, "the harness's --version").await {
            Ok(said) => said,
            Err(Failed::Start(cause)) => {
                return Err(InstallError::Disk { attempt: "start", path: program.to_owned(), cause });
            }
            Err(Failed::Late(late)) => return Err(late),
        };
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let wanted = &self.place.1;
        if text.split_whitespace().any(|word| word == wanted) {
            return Ok(());
        }
        let said = if text.is_empty() { tail(&said) } else { text };
        Err(InstallError::WrongVersion { program: program.display().to_string(), wanted: wanted.clone(), said })
    }
}

enum Failed {
    Start(io::Error),
    Late(InstallError),
}

async fn output(command: &mut Command, deadline: Duration, what: &str) -> Result<Output, Failed> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(Failed::Start)?;
    match tokio::time::timeout(deadline, child.wait_with_output()).await {
        Ok(finished) => finished.map_err(Failed::Start),
        Err(_) => Err(Failed::Late(InstallError::Late { what: what.to_owned(), deadline })),
    }
}

/// The last lines a program wrote, without npm's remarks about where it logs.
fn tail(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.trim().is_empty() && !line.contains("complete log")).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// One installation at a time, whichever process makes it; the lock goes with the file that holds it.
async fn lock(versions: &Path, progress: &mut impl FnMut(Progress)) -> Result<File, InstallError> {
    let path = versions.join(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(fs::TryLockError::WouldBlock) => progress(Progress::Waiting),
        Err(fs::TryLockError::Error(cause)) => return Err(disk("lock", &path)(cause)),
    }
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    locked.expect("locking does not panic").map_err(disk("lock", &path))
}

/// Removes what interrupted installations left. Whole ones of other versions stay: sandboxes may run from them.
fn remove_leftovers(versions: &Path) -> Result<(), InstallError> {
    for entry in fs::read_dir(versions).map_err(disk("read", versions))? {
        let entry = entry.map_err(disk("read", versions))?;
        let path = entry.path();
        let version = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !is_whole(&path, &version) {
            fs::remove_dir_all(&path).map_err(disk("remove", &path))?;
        }
    }
    Ok(())
}

/// Sandboxes run under uids of their own, whatever the umask of whoever installs.
fn open_to_all(path: &Path) -> Result<(), InstallError> {
    let kind = fs::symlink_metadata(path).map_err(disk("read", path))?;
    if kind.is_symlink() {
        return Ok(());
    }
    let executable = kind.is_dir() || kind.permissions().mode() & 0o111 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(disk("open to all", path))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path).map_err(disk("read", path))? {
            open_to_all(&entry.map_err(disk("read", path))?.path())?;
        }
    }
    Ok(())
}

/// How much was unpacked so far; what changes meanwhile does not count.
fn size_of(path: &Path) -> u64 {
    let Ok(kind) = fs::symlink_metadata(path) else { return 0 };
    if !kind.is_dir() {
        return kind.len();
    }
    fs::read_dir(path).map_or(0, |entries| entries.flatten().map(|entry| size_of(&entry.path())).sum())
}

fn disk(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |cause| InstallError::Disk { attempt, path, cause }
}
