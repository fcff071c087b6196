//! What of the machine must stay untouched: services on its loopback, sockets, files, settings.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};

pub struct Host {
    /// Part of the name of everything here.
    pub mark: String,
    pub tcp_port: u16,
    pub udp_port: u16,
    /// A service that the operator opened by name and port, and that speaks no HTTP.
    pub raw_port: u16,
    folder: tempfile::TempDir,
    shared_memory: PathBuf,
    visitors: Arc<AtomicUsize>,
    before: Settings,
    clock: (Instant, SystemTime),
}

/// What a breach could change.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    files: Vec<(&'static str, Option<String>)>,
    program: u64,
}

impl Host {
    pub async fn new() -> Host {
        let mark = format!("lap-attack-{}", std::process::id());
        let folder = tempfile::Builder::new().prefix(&mark).tempdir_in("/tmp").expect("a folder in /tmp");
        std::fs::write(folder.path().join("file"), format!("{mark}-content")).expect("mine");
        std::fs::create_dir(folder.path().join("victim")).expect("mine");
        std::fs::write(folder.path().join("victim/keep"), "keep").expect("mine");
        let shared_memory = Path::new("/dev/shm").join(&mark);
        std::fs::write(&shared_memory, format!("{mark}-content")).expect("/dev/shm is everybody's");
        let visitors = Arc::new(AtomicUsize::new(0));
        let (tcp_port, raw_port) = (service(&visitors).await, service(&visitors).await);
        let udp = UdpSocket::bind(("0.0.0.0", 0)).await.expect("a free port");
        let udp_port = udp.local_addr().expect("bound").port();
        let seen = visitors.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2000];
            while udp.recv_from(&mut buffer).await.is_ok() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        let abstract_name = SocketAddr::from_abstract_name(&mark).expect("short");
        watch(UnixListener::bind_addr(&abstract_name).expect("a name of its own"), &visitors);
        watch(UnixListener::bind(folder.path().join("socket")).expect("mine"), &visitors);
        Host {
            mark,
            tcp_port,
            udp_port,
            raw_port,
            folder,
            shared_memory,
            visitors,
            before: Settings::read(),
            clock: (Instant::now(), SystemTime::now()),
        }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A folder that links in the sandbox point to.
    pub fn victim(&self) -> PathBuf {
        self.folder.path().join("victim")
    }

    pub fn untouched(&self) -> Result<(), String> {
        match self.visitors.load(Ordering::SeqCst) {
            0 => Ok(()),
            count => Err(format!("{count} visits")),
        }
    }

    pub fn unchanged(&self) -> Result<(), String> {
        let now = Settings::read();
        if now != self.before {
            return Err(format!("{:?} became {now:?}", self.before));
        }
        let (steady, wall) = (self.clock.0.elapsed(), self.clock.1.elapsed().unwrap_or_default());
        // Time services may bend the clock a little.
        if steady.abs_diff(wall) > Duration::from_secs(30) {
            return Err(format!("the clock went {wall:?} in {steady:?}"));
        }
        Ok(())
    }

    /// What of the files here is gone.
    pub fn lost(&self) -> Vec<PathBuf> {
        let own = [self.file(), self.victim().join("keep"), self.shared_memory.clone()];
        own.into_iter().filter(|path| !path.exists()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.shared_memory);
    }
}

impl Settings {
    fn read() -> Settings {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let files = [
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/domainname",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/kernel/sysrq",
            "/proc/swaps",
        ];
        let mut hasher = DefaultHasher::new();
        std::fs::read(crate::world::binary()).unwrap_or_default().hash(&mut hasher);
        let files = files.map(|file| (file, std::fs::read_to_string(file).ok())).to_vec();
        Settings { files, program: hasher.finish() }
    }
}

/// A service that greets whoever comes; nobody should.
async fn service(visitors: &Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let seen = visitors.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"RAW-SERVICE\r\n").await;
        }
    });
    port
}

fn watch(listener: UnixListener, visitors: &Arc<AtomicUsize>) {
    listener.set_nonblocking(true).expect("a socket can be");
    let listener = tokio::net::UnixListener::from_std(listener).expect("inside the runtime");
    let seen = visitors.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
}
