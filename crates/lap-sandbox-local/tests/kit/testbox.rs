//! Stands in for `lap` in this crate's tests: the same roles, with a guest that runs the shell commands it is sent.
//!
//! The sidecar greets the test over the server's socket with a line, then joins the test's and the guest's streams. Each
//! line the guest gets is a command in JSON; each line it answers is `[status, output]`. `!log TIMES TEXT` writes to its log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use lap_sandbox_local::{BoundedLog, LimitWatch, Started, init_main, start_sidecar};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("sidecar") => sidecar(start_sidecar()?),
        Some("init") => {
            init_main();
            guest()
        }
        role => Err(format!("unknown role {role:?}").into()),
    }
}

fn sidecar(started: Started) -> Result<(), Box<dyn std::error::Error>> {
    let Started { id, boot_token, link, launched, .. } = started;
    let mut log = BoundedLog::stderr()?;
    let mut server = UnixStream::connect(&link)?;
    let checks: Vec<String> = launched
        .confinement
        .iter()
        .map(|check| format!("{}: {:?}: {}", check.name, check.outcome, check.detail))
        .collect();
    let greeting = (id.as_str(), &boot_token.0, checks, std::process::id(), hostile_attempts());
    writeln!(server, "{}", serde_json::to_string(&greeting)?)?;
    launched.guest.set_nonblocking(false)?;
    for listener in launched.tcp {
        thread::spawn(move || answer_connections(&listener));
    }
    let dns = launched.dns;
    thread::spawn(move || answer_names(&dns));
    let limits = launched.limits;
    let mut events = log.clone();
    thread::spawn(move || {
        if let Err(error) = report_limits(limits, &mut events) {
            // A test that waits for a limit finds this instead.
            let _ = writeln!(events, "could not watch the limits: {error}");
        }
    });
    rustix::io::ioctl_fionbio(&launched.output, false)?;
    let mut output = std::fs::File::from(launched.output);
    thread::spawn(move || std::io::copy(&mut output, &mut log));
    let (mut from_guest, mut to_server) = (launched.guest.try_clone()?, server.try_clone()?);
    let (mut from_server, mut to_guest) = (server, launched.guest);
    // The test hanging up is not the end; the sandbox's end is.
    thread::spawn(move || std::io::copy(&mut from_server, &mut to_guest));
    thread::spawn(move || std::io::copy(&mut from_guest, &mut to_server));
    let mut wait = [rustix::event::PollFd::new(&launched.init, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut wait, None)?;
    Ok(())
}

/// What a sidecar that was taken over would try; the names of what succeeded.
fn hostile_attempts() -> Vec<String> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let family = |number: u16| socket(AddressFamily::from_raw(number), SocketType::DGRAM, None).is_ok();
    let write = |path: &str| std::fs::File::options().append(true).open(path).is_ok();
    let root = rustix::process::Uid::ROOT;
    let mut succeeded: Vec<String> = [
        ("start a program", Command::new("/bin/true").spawn().is_ok()),
        ("offer a port", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("offer a socket file", std::os::unix::net::UnixListener::bind("listener.sock").is_ok()),
        ("make program memory", rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).is_ok()),
        ("become root", rustix::thread::set_thread_res_uid(root, root, root).is_ok()),
        ("a packet socket", family(17)),
        ("a vsock", family(40)),
        ("a cipher socket", family(38)),
        ("a bluetooth socket", family(31)),
        ("write to a device", write("/dev/null")),
        ("write to the kernel", write("/proc/self/comm")),
        ("make a file", std::fs::File::create("/tmp/of-a-sidecar").is_ok()),
        ("make a folder", std::fs::create_dir("/dev/shm/of-a-sidecar").is_ok()),
        ("change its own program", std::env::current_exe().is_ok_and(|path| write(&path.to_string_lossy()))),
    ]
    .into_iter()
    .filter(|(_, did)| *did)
    .map(|(name, _)| name.to_owned())
    .collect();
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        for file in ["mem", "environ", "auxv"] {
            if std::fs::File::open(process.path().join(file)).is_ok_and(|mut file| file.read(&mut [0]).is_ok()) {
                succeeded.push(format!("read {file} of process {name}"));
            }
        }
        if std::fs::read_dir(process.path().join("fd")).is_ok() {
            succeeded.push(format!("see the descriptors of process {name}"));
        }
    }
    succeeded
}

fn answer_connections(listener: &TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(false)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 17\r\n\r\nfrom the sidecar\n")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    }
}

/// Answers every question for an address with 198.18.0.7.
fn answer_names(socket: &UdpSocket) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    let mut packet = [0; 1500];
    loop {
        let (count, from) = socket.recv_from(&mut packet)?;
        let Some(question) = packet[..count].get(12..) else { continue };
        let Some(end) = question.iter().position(|byte| *byte == 0) else { continue };
        let end = 12 + end + 5;
        let Some(asked) = packet.get(..end.min(count)) else { continue };
        let is_address = asked.get(end - 4..end - 2) == Some(&[0, 1]);
        let mut reply = asked.to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
        if is_address {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 7]);
        }
        socket.send_to(&reply, from)?;
    }
}

fn report_limits(mut limits: LimitWatch, log: &mut BoundedLog) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        loop {
            let hit = limits.next().await?;
            writeln!(log, "limit: {hit:?}")?;
        }
    })
}

fn guest() -> Result<(), Box<dyn std::error::Error>> {
    let mut link = UnixStream::from(rustix::stdio::stdin().as_fd().try_clone_to_owned()?);
    writeln!(link, "\"hello\"")?;
    for line in BufReader::new(link.try_clone()?).lines() {
        let command: String = serde_json::from_str(&line?)?;
        if let Some((times, text)) = command.strip_prefix("!log ").and_then(|rest| rest.split_once(' ')) {
            for _ in 0..times.parse()? {
                writeln!(std::io::stderr(), "{text}")?;
            }
            writeln!(link, "{}", serde_json::to_string(&(0, ""))?)?;
            continue;
        }
        let (mut reader, writer) = std::io::pipe()?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", &command])
            .stdin(std::process::Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn();
        let mut output = String::new();
        let status = match &mut child {
            Ok(child) => {
                let status = child.wait()?;
                status.code().unwrap_or(255)
            }
            Err(error) => {
                output = error.to_string();
                254
            }
        };
        drop(child);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        output.push_str(&String::from_utf8_lossy(&bytes));
        writeln!(link, "{}", serde_json::to_string(&(status, output))?)?;
    }
    Ok(())
}
