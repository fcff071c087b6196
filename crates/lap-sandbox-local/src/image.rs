//! The image `host`: what a sandbox sees of this machine, built at every server start.
//!
//! A folder that becomes `/`, read-only: places to mount on, links, and an `/etc` made of the public parts of the machine's
//! own. Only files that everybody on the machine may read are taken, and only from the lists below.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::FlockOperation;

/// The home folder, relative to the root.
pub(crate) const HOME: &str = "home/agent";
/// This program inside, relative to the root.
pub(crate) const LAP_BINARY: &str = "opt/lap/bin/lap";
/// Where tools appear inside, relative to the root.
pub(crate) const TOOLS: &str = "opt/lap";
/// An empty folder of the image, for hiding others.
pub(crate) const EMPTY: &str = "mnt";
/// Device files a program may expect.
pub(crate) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Below `/usr`, yet the machine's own configuration or nobody's business.
pub(crate) const HIDDEN: &[&str] = &["usr/local/etc", "usr/src"];

/// What the first program inside starts with.
pub(crate) const ENVIRONMENT: [(&str, &str); 6] = [
    ("PATH", "/home/agent/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/home/agent"),
    ("USER", "agent"),
    ("LOGNAME", "agent"),
    ("SHELL", "/bin/bash"),
    ("LANG", "C.UTF-8"),
];

/// Folders of the machine's root that hold programs: with a merged `/usr` that one alone, since the others are links.
pub(crate) fn system_folders() -> Vec<String> {
    SYSTEM.iter().filter(|name| is_real_folder(&Path::new("/").join(name))).map(|name| (*name).to_owned()).collect()
}

const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

fn is_real_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Files and folders of /etc that programs look for and that say nothing private.
const PUBLIC: &[&str] = &[
    "adduser.conf",
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "bindresvport.blacklist",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "dpkg",
    "emacs",
    "ethertypes",
    "fonts",
    "gai.conf",
    "groff",
    "gprofng.rc",
    "gtk-2.0",
    "gtk-3.0",
    "host.conf",
    "inputrc",
    "issue",
    "issue.net",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "libaudit.conf",
    "localtime",
    "locale.alias",
    "locale.conf",
    "locale.gen",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "manpath.config",
    "maven",
    "mime.types",
    "mke2fs.conf",
    "mtab",
    "nanorc",
    "netconfig",
    "networks",
    "openal",
    "os-release",
    "perl",
    "profile",
    "protocols",
    "python2.7",
    "python3",
    "redhat-release",
    "rpc",
    "services",
    "sgml",
    "shells",
    "skel",
    "system-release",
    "terminfo",
    "timezone",
    "vim",
    "xattr.conf",
    "xdg",
    "xml",
    "ImageMagick-6",
    "ImageMagick-7",
    "OpenCL",
    "glvnd",
    "gnutls",
    "lynx",
    "php",
    "ruby",
    "texmf",
];

/// Like [`PUBLIC`], for names that carry a version.
const PUBLIC_PREFIXES: &[&str] = &["python3.", "java-", "R", "erlang", "ghc"];

/// Where the machine keeps the certificates it trusts.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where programs look for certificates; inside, all lead to the bundle that knows the sandbox's own authority as well.
const BUNDLE_LINKS: [&str; 4] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/ssl/cert.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
];

const BUNDLE: &str = "/run/lap/tls/ca-certificates.crt";

/// The same for Java, which reads a format of its own: where distributions let every installed JDK look.
const JAVA_STORE_LINK: &str = "etc/ssl/certs/java/cacerts";

const JAVA_STORE: &str = "/run/lap/tls/cacerts";

/// Larger than any configuration file worth having, smaller than a mistake.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Builds a new image below `images` and returns its folder. Older ones are left to [`prune`], since sandboxes may use them.
pub fn build(images: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().mode(0o700).recursive(true).create(images)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let folder = images.join(format!("{PREFIX}{now}"));
    remove(&folder)?;
    lay_out(&folder)?;
    write_etc(&folder.join("etc"))?;
    Ok(folder)
}

const PREFIX: &str = "host-";

/// Says that this process uses an image, for as long as the result lives.
pub(crate) fn hold(image: &Path) -> io::Result<fs::File> {
    let folder = fs::File::open(image)?;
    rustix::fs::flock(&folder, FlockOperation::LockShared)?;
    Ok(folder)
}

/// Removes images that no server holds and no sandbox uses.
pub(crate) fn prune(images: &Path, used: impl Fn(&Path) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(images)?.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && !used(&entry.path()) {
            let folder = fs::File::open(entry.path())?;
            if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lay_out(root: &Path) -> io::Result<()> {
    for folder in [
        "",
        "dev",
        "dev/pts",
        "dev/shm",
        "etc",
        "home",
        HOME,
        "media",
        "mnt",
        "opt",
        TOOLS,
        "opt/lap/bin",
        "proc",
        "root",
        "run",
        "srv",
        "sys",
        "tmp",
        "var",
        "var/cache",
        "var/lib",
        "var/log",
        "work",
    ] {
        make_folder(&root.join(folder))?;
    }
    for device in DEVICES {
        fs::write(root.join("dev").join(device), "")?;
    }
    fs::write(root.join(LAP_BINARY), "")?;
    for (target, link) in [
        ("/proc/self/fd", "dev/fd"),
        ("/proc/self/fd/0", "dev/stdin"),
        ("/proc/self/fd/1", "dev/stdout"),
        ("/proc/self/fd/2", "dev/stderr"),
        ("pts/ptmx", "dev/ptmx"),
        ("/run", "var/run"),
        ("/run/lock", "var/lock"),
        ("/tmp", "var/tmp"),
    ] {
        symlink(target, root.join(link))?;
    }
    for name in SYSTEM {
        let real = Path::new("/").join(name);
        match fs::symlink_metadata(&real) {
            Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(&real)?, root.join(name))?,
            Ok(metadata) if metadata.is_dir() => make_folder(&root.join(name))?,
            _ => {}
        }
    }
    Ok(())
}

/// Makes the places on which one sandbox's tools are mounted.
pub(crate) fn ensure_tool(image: &Path, name: &str) -> io::Result<()> {
    let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if !plain || name == "bin" {
        return Err(io::Error::other(format!("`{name}` is not a name for a tool")));
    }
    make_folder(&image.join(TOOLS).join(name))
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        // Said explicitly, since the server's umask may be stricter than what the sandbox's user needs.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
    }
}

fn write_etc(etc: &Path) -> io::Result<()> {
    let machine = Path::new("/etc");
    for entry in fs::read_dir(machine)?.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if PUBLIC.contains(&name.as_str())
            || PUBLIC_PREFIXES.iter().any(|prefix| name.starts_with(prefix) && *prefix != "R")
            || name == "R"
        {
            copy_public(&entry.path(), &etc.join(&name))?;
        }
    }
    let write = |name: &str, text: &str| {
        let path = etc.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
    };
    write(
        "passwd",
        "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    )?;
    write("group", "root:x:0:\ntty:x:5:\nagent:x:1000:\nnogroup:x:65534:\n")?;
    write(
        "nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n",
    )?;
    write("resolv.conf", "nameserver 198.18.0.2\noptions timeout:2 attempts:2\n")?;
    write("hosts", "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n")?;
    write("hostname", "sandbox\n")?;
    // Package managers and D-Bus libraries want one; the machine's own would identify it.
    write("machine-id", "1a9000000000400080000000000001a9\n")?;
    symlink("/run/lap/gitconfig", etc.join("gitconfig"))?;
    write_trust(etc)
}

/// The certificates: the machine's bundle under a name of its own, and the usual names pointing to the sandbox's bundle.
fn write_trust(etc: &Path) -> io::Result<()> {
    for folder in ["ssl", "ssl/certs", "ssl/certs/java", "ssl/private", "pki", "pki/tls", "pki/tls/certs"] {
        make_folder(&etc.join(folder))?;
    }
    let bundle = etc.join("ssl/lap-system.pem");
    match SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.is_file()) {
        Some(system) => copy_file(&fs::canonicalize(system)?, &bundle)?,
        // Without any trusted authority, only what the operator adds is trusted; the sidecar says so where it matters.
        None => fs::write(&bundle, "")?,
    }
    let from = Path::new("/etc/ssl/openssl.cnf");
    if from.exists() {
        copy_public(from, &etc.join("ssl/openssl.cnf"))?;
    }
    let root = etc.parent().expect("etc lies in the image");
    symlink(JAVA_STORE, root.join(JAVA_STORE_LINK))?;
    BUNDLE_LINKS.iter().try_for_each(|link| symlink(BUNDLE, root.join(link)))
}

/// Copies what everybody may read; links stay links when they lead to something the sandbox has as well.
fn copy_public(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    if metadata.is_symlink() {
        let target = fs::read_link(from)?;
        if leads_inside(from, &target) { symlink(target, to) } else { Ok(()) }
    } else if metadata.is_dir() {
        if metadata.mode() & 0o005 != 0o005 {
            return Ok(());
        }
        make_folder(to)?;
        for entry in fs::read_dir(from)?.flatten() {
            copy_public(&entry.path(), &to.join(entry.file_name()))?;
        }
        Ok(())
    } else if metadata.is_file() && metadata.mode() & 0o004 != 0 && metadata.len() <= LARGEST_FILE {
        copy_file(from, to)
    } else {
        Ok(())
    }
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(from)?;
    let mode = if source.metadata()?.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
    let mut copy = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_permissions(fs::Permissions::from_mode(mode))
}

/// Whether a link's target is below a folder that the sandbox shares with the machine, or in /etc or /proc.
fn leads_inside(link: &Path, target: &Path) -> bool {
    let mut path = if target.is_absolute() { PathBuf::new() } else { link.parent().unwrap_or(link).to_owned() };
    for part in target.components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            Component::RootDir => path.push("/"),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    SYSTEM.iter().chain(&["etc", "proc"]).any(|folder| path.starts_with(Path::new("/").join(folder)))
}
