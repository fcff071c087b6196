//! The disk space of one sandbox: `/work` and the home folder, limited in bytes and files.
//!
//! Root's way is a file system of its own in a sparse file, mounted in the sidecar's private mount namespace: when sidecar
//! and sandbox are gone, the kernel unmounts it and frees the loop device, whoever was killed and how. An ordinary user has
//! plain folders, and the limit is only measured.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use lap_sandbox::Limits;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::identity::{self, Identity};
use crate::spec::{Attempt, LaunchError, VolumePlan};
use crate::sys;

/// The file system image in a sandbox's folder.
pub(crate) const IMAGE: &str = "volume.img";

/// Losing the race for a free loop device this often means something else is wrong.
const LOOP_ATTEMPTS: usize = 200;

/// A mounted volume.
#[derive(Debug)]
pub struct Volume {
    root: OwnedFd,
    path: PathBuf,
    limits: Limits,
    kind: VolumePlan,
}

/// How full a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub bytes_limit: u64,
    pub inodes: u64,
    pub inodes_limit: u64,
}

/// A file system keeps a little for itself and for metadata: writes fail when about this much is left.
const LAST_BYTES: u64 = 512 << 10;

/// The same for files and folders.
const LAST_INODES: u64 = 8;

impl Usage {
    /// Nothing more fits, or soon nothing will: the moment to tell people.
    pub fn is_full(&self) -> bool {
        self.bytes + LAST_BYTES >= self.bytes_limit || self.has_no_inodes()
    }

    /// No file or folder more can be made, or soon none.
    pub fn has_no_inodes(&self) -> bool {
        self.inodes + LAST_INODES >= self.inodes_limit
    }
}

impl Volume {
    /// Makes `work` and `home` available below `path`, owned by the sandbox's user.
    pub(crate) fn attach(
        plan: VolumePlan,
        mounted: Option<OwnedFd>,
        sandbox_dir: &Path,
        limits: Limits,
        identity: &Identity,
    ) -> Result<Self, LaunchError> {
        let path = Self::path(sandbox_dir);
        DirBuilder::new().mode(0o700).recursive(true).create(&path).attempt("make the volume's folder")?;
        let tree = match (plan, mounted) {
            (VolumePlan::Folders, _) => None,
            (VolumePlan::Mounted, Some(tree)) => Some(tree),
            (VolumePlan::Image | VolumePlan::Mounted, _) => {
                Some(mount(&sandbox_dir.join(IMAGE)).attempt("mount the volume")?)
            }
        };
        if let Some(tree) = tree {
            let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &path, how).attempt("put the volume in place")?;
        }
        let root = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
            .attempt("open the volume")?;
        let (uid, gid) = identity.sandbox();
        for name in ["work", "home"] {
            match rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).attempt("make a folder of the volume"),
            }
            if let Identity::Separate { .. } = identity {
                rustix::fs::chownat(
                    &root,
                    name,
                    Some(identity::uid(uid)),
                    Some(identity::gid(gid)),
                    rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                )
                .attempt("give the volume to the sandbox")?;
            }
        }
        Ok(Self { root, path, limits, kind: plan })
    }

    /// Where the volume of a sandbox is mounted, in the sidecar's mount namespace.
    pub(crate) fn path(sandbox_dir: &Path) -> PathBuf {
        sandbox_dir.join("volume")
    }

    /// How full it is. Cheap for an image; walks the folders otherwise.
    pub fn usage(&self) -> io::Result<Usage> {
        let (bytes, inodes) = match self.kind {
            VolumePlan::Image | VolumePlan::Mounted => {
                // What is left decides; what the file system keeps for itself counts as used, for it cannot be written to.
                let seen = rustix::fs::fstatvfs(&self.root)?;
                let left = seen.f_bavail * seen.f_frsize;
                (self.limits.disk_bytes.saturating_sub(left), self.limits.inodes.saturating_sub(seen.f_ffree))
            }
            VolumePlan::Folders => measure(&self.path),
        };
        Ok(Usage { bytes, bytes_limit: self.limits.disk_bytes, inodes, inodes_limit: self.limits.inodes })
    }
}

/// Bytes on disk and number of entries below `folder`. What vanishes or cannot be read meanwhile does not count.
pub fn measure(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut entries) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let Ok(list) = std::fs::read_dir(&next) else { continue };
        for entry in list.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            entries += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (bytes, entries)
}

/// Mounts an image where nobody sees it: the mount lives as long as the descriptor, or what is made of it.
fn mount(image: &Path) -> io::Result<OwnedFd> {
    let device = attach_loop(image)?;
    let context = rustix::mount::fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", device.name.as_str())?;
    // Zeroing inode tables in the background would write to every volume for nothing.
    rustix::mount::fsconfig_set_flag(&context, "noinit_itable")?;
    rustix::mount::fsconfig_set_string(&context, "errors", "remount-ro")?;
    // A volume has no journal and is not meant to survive a crash of the node: then syncing its files, and unmounting it at
    // the end, need not wait for the node's disk either.
    rustix::mount::fsconfig_set_flag(&context, "nobarrier")?;
    rustix::mount::fsconfig_create(&context)?;
    let flags =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOATIME;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// An attached loop device; let go of without a mount, it frees itself.
struct LoopDevice {
    name: String,
    _open: File,
}

fn attach_loop(image: &Path) -> io::Result<LoopDevice> {
    let read_write = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let backing = read_write(image)?;
    let control = read_write(Path::new("/dev/loop-control"))?;
    for _ in 0..LOOP_ATTEMPTS {
        let name = format!("/dev/loop{}", sys::loop_free(&control)?);
        let open = read_write(Path::new(&name))?;
        match sys::loop_configure(&open, &backing) {
            Ok(()) => return Ok(LoopDevice { name, _open: open }),
            // Another sandbox took it between the question and now.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no loop device stays free"))
}

/// A volume that is ready before anybody asked, since attaching and mounting take longer than all the rest of a start.
#[derive(Debug)]
pub(crate) struct Spare {
    image: PathBuf,
    tree: OwnedFd,
    limits: Limits,
}

impl Spare {
    /// Whether a sandbox with these limits can have it.
    pub(crate) fn fits(&self, limits: &Limits) -> bool {
        (self.limits.disk_bytes, self.limits.inodes) == (limits.disk_bytes, limits.inodes)
    }

    /// Moves the image to `to` and returns the mount.
    pub(crate) fn give(self, to: &Path) -> io::Result<OwnedFd> {
        std::fs::rename(&self.image, to)?;
        self.tree.try_clone()
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // Given away, or worthless: either way nothing of that name is needed.
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Makes volumes' images quickly: `mkfs` runs once per size, a sandbox gets a sparse copy.
#[derive(Debug)]
pub struct Templates {
    folder: PathBuf,
}

impl Templates {
    /// Keeps templates in `folder`.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
        for entry in std::fs::read_dir(&folder)?.flatten() {
            // Drafts and spares of a server that was killed.
            let maker =
                entry.file_name().to_str().and_then(|name| name.strip_prefix('.')?.split('-').nth(1)?.parse().ok());
            if maker.is_some_and(|pid: u32| !Path::new(&format!("/proc/{pid}")).exists()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder })
    }

    /// Makes a volume ahead.
    pub(crate) fn spare(&self, limits: &Limits) -> io::Result<Spare> {
        let image = self.draft("spare");
        self.copy(limits, &image)?;
        match mount(&image) {
            Ok(tree) => Ok(Spare { image, tree, limits: *limits }),
            Err(error) => {
                let _ = std::fs::remove_file(&image);
                Err(error)
            }
        }
    }

    /// A new hidden name.
    fn draft(&self, kind: &str) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!(".{kind}-{}-{number}", std::process::id()))
    }

    /// Writes an empty volume of these limits to `to`.
    pub fn copy(&self, limits: &Limits, to: &Path) -> io::Result<()> {
        let template = self.folder.join(format!("{}-{}.ext4", limits.disk_bytes, limits.inodes));
        let from = match File::open(&template) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(limits, &template)?;
                File::open(&template)?
            }
            Err(error) => return Err(error),
        };
        let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        copy_sparsely(&from, &to)
    }

    fn make(&self, limits: &Limits, template: &Path) -> io::Result<()> {
        // Under a name of its own, so that two makers at once do no harm: the last rename wins and both are right.
        let draft = self.draft("draft");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.set_len(limits.disk_bytes)?;
        drop(file);
        let output = mkfs(limits, &draft);
        let result = match output {
            Ok(output) if output.status.success() => std::fs::rename(&draft, template),
            Ok(output) => {
                Err(io::Error::other(format!("mkfs.ext4 failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
            }
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("could not run mkfs.ext4 (package e2fsprogs): {error}")))
            }
        };
        if result.is_err() {
            // The draft is worthless; the error already says why.
            let _ = std::fs::remove_file(&draft);
        }
        result
    }
}

fn mkfs(limits: &Limits, file: &Path) -> io::Result<std::process::Output> {
    Command::new("mkfs.ext4")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-q", "-F", "-m", "0", "-b", "4096", "-N"])
        .arg(limits.inodes.to_string())
        // No journal: after a crash of the node the volume is thrown away or checked; lazily initialised and packed: the
        // template stays at some 100 KiB and is copied in no time.
        .args(["-O", "^has_journal,^resize_inode,sparse_super2"])
        .args(["-E", "lazy_itable_init=1,packed_meta_blocks=1,nodiscard,num_backup_sb=0"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
}

/// Copies the written parts of a file and leaves its holes.
fn copy_sparsely(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let (mut input, mut output) = (start, start);
        while input < end {
            let wanted = usize::try_from(end - input).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), wanted)? == 0 {
                break;
            }
        }
        at = end;
    }
    Ok(())
}
