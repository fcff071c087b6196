//! What a terminal costs that stands in a sandbox: a key until it comes back, a flood of output, coming back to it, and
//! viewers who only look. Everything through the built `lap` in a pseudo-terminal, beside the same program on a local one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lap_api::agent::CreateAgent;
use lap_api::exec::{ExecCommand, ExecRequest};
use lap_api::session::CreateSession;
use lap_client::{TtyEvent, TtyOptions};
use lap_test::server::LapServer;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::sandbox::until_ready;
use super::table::{Line, Table, Times, added, ms};
use super::{Fault, Place};

/// Gives every byte back as it comes.
const ECHO: &str = "stty raw -echo; printf ready; exec cat";

const FLOOD_BYTES: usize = 200_000_000;

/// Ends a flood; stands in no line of it.
const END: &[u8] = b"=END=";

const VIEWERS: usize = 500;

/// How long viewers are left alone while the server's processor time is looked at.
const IDLE: Duration = Duration::from_secs(10);

const TARGET_P50: Duration = Duration::from_millis(1);
const TARGET_P99: Duration = Duration::from_millis(5);
const TARGET_SHARE: f64 = 0.60;
const TARGET_PAINT: Duration = Duration::from_millis(50);

pub async fn measure(place: &Place, table: &mut Table) -> Result<(), Fault> {
    let env = [("LAP_TEST_HARNESSES", "true".to_owned())];
    place.with_server(&env, async |_| Ok(()), async |server| all(place, server, table).await).await
}

async fn all(place: &Place, server: &LapServer, table: &mut Table) -> Result<(), Fault> {
    let client = server.client();
    let shell =
        CreateAgent { harness_id: Some("shell".into()), model: Some("test-model".into()), ..CreateAgent::default() };
    let agent = client.create_agent(&shell).await?.id;
    let session = client.create_session(&agent, &CreateSession::default()).await?.id;
    until_ready(&client, &session, |_| ()).await?;
    let lap = |arguments: &[&str]| {
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(&place.binary).args(arguments);
        command.env_clear().env("LAP_SERVER", server.url()).env("LAP_API_KEY", server.key()).env("TERM", "xterm");
        command
    };
    let local = |script: &str| {
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", script]);
        command
    };

    let samples = if place.quick { 300 } else { 3000 };
    table.part(
        &format!("6. terminal: a key until its echo is back, n = {samples}"),
        "the same program on a local pseudo-terminal",
    );
    let here = echoes(local(ECHO), samples)?;
    let there = echoes(lap(&["exec", &session, "--", "sh", "-c", ECHO]), samples)?;
    for (what, percent, target) in [("p50", 50, TARGET_P50), ("p99", 99, TARGET_P99)] {
        let (measured, baseline) = (there.percentile(percent), here.percentile(percent));
        table.line(Line {
            what,
            measured: ms(measured),
            baseline: ms(baseline),
            between: added(measured, baseline),
            target: Some((format!("adds at most {} ms", target.as_millis()), measured <= baseline + target)),
        });
    }

    let bytes = if place.quick { FLOOD_BYTES / 10 } else { FLOOD_BYTES };
    let make = |file: &str| {
        format!("yes 'a line of output as programs print it, of some 70 characters or so' | head -c {bytes} > {file}")
    };
    // Not as it stands in the command: `lap` makes a title of that.
    let cat = |file: &str| format!("cat {file}; printf '=E''ND='");
    let here_file = place.folder.join("flood");
    let here_name = here_file.display().to_string();
    Command::new("sh").args(["-c", &make(&here_name)]).status()?;
    let exec = ExecRequest { cmd: ExecCommand::Line(make("flood")), timeout_s: Some(120) };
    client.exec(&session, &exec).await?;
    let (here, _) = flood(local(&cat(&here_name)))?;
    let (there, arrived) = flood(lap(&["exec", &session, "--", "sh", "-c", &cat("flood")]))?;
    std::fs::remove_file(here_file)?;
    table.part(&format!("   cat of {} MB", bytes / 1_000_000), "the same on a local pseudo-terminal");
    let speed = |time: Duration| format!("{:.0} MB/s", bytes as f64 / 1e6 / time.as_secs_f64());
    let share = here.as_secs_f64() / there.as_secs_f64();
    table.line(Line {
        what: "until its end is on the screen",
        measured: speed(there),
        baseline: speed(here),
        between: format!("{:.0} %", share * 100.0),
        target: Some((format!("at least {:.0} %", TARGET_SHARE * 100.0), share >= TARGET_SHARE)),
    });
    let passed = format!("{:.0} %", arrived as f64 / bytes as f64 * 100.0);
    table.line(Line { what: "of it passed on, the rest as pictures", measured: passed, ..Line::default() });

    let rounds = if place.quick { 10 } else { 50 };
    let mut paints = Times::default();
    let mut first = Terminal::open(lap(&["attach", "--shell", &session]))?;
    first.write(b"seq 2000; printf '\\033[?2004h'; echo pain''ted\r")?;
    first.until(b"painted\r\n")?;
    for _ in 0..rounds {
        let begun = Instant::now();
        let mut again = Terminal::open(lap(&["attach", "--shell", &session]))?;
        again.until(b"painted")?;
        paints.add(begun.elapsed());
    }
    drop(first);
    table.part(&format!("   coming back, n = {rounds}"), "none");
    table.line(Line {
        what: "start of `lap attach` to the picture, p50",
        measured: ms(paints.median()),
        target: Some((format!("at most {} ms", TARGET_PAINT.as_millis()), paints.median() <= TARGET_PAINT)),
        ..Line::default()
    });
    table.line(Line { what: "the same, p99", measured: ms(paints.percentile(99)), ..Line::default() });

    idle_viewers(server, &session, table).await
}

async fn idle_viewers(server: &LapServer, session: &str, table: &mut Table) -> Result<(), Fault> {
    let client = server.client();
    let pid = server.pid().ok_or("the server runs")?;
    let before = resident_kib(pid)?;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let options = TtyOptions { shell: true, view_only: true, ..TtyOptions::default() };
        let (writer, mut reader) = client.tty(session, &options).await?;
        // The picture is there before the next one comes.
        while !matches!(reader.next().await?, TtyEvent::Data(_)) {}
        viewers.push((writer, reader));
    }
    let after = resident_kib(pid)?;
    let ticks = processor_ticks(pid)?;
    tokio::time::sleep(IDLE).await;
    let ticks = processor_ticks(pid)? - ticks;
    table.part(&format!("   {VIEWERS} viewers who only look"), "the server before they came");
    table.line(Line {
        what: "memory of the server (RSS)",
        measured: format!("{:.1} MiB", after as f64 / 1024.0),
        baseline: format!("{:.1} MiB", before as f64 / 1024.0),
        between: format!("{:.1} KiB each", (after.saturating_sub(before)) as f64 / VIEWERS as f64),
        target: None,
    });
    // A tick is a hundredth of a second.
    let share = ticks as f64 / IDLE.as_secs_f64();
    table.line(Line { what: "its processor time", measured: format!("{share:.2} %"), ..Line::default() });
    Ok(())
}

fn resident_kib(pid: u32) -> Result<u64, Fault> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn processor_ticks(pid: u32) -> Result<u64, Fault> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("an unknown form")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).ok_or("an unknown form");
    Ok(field(11)? + field(12)?)
}

/// One key after the other, each when the one before is back.
fn echoes(command: Command, samples: usize) -> Result<Times, Fault> {
    /// The first ones fill caches.
    const WARM_UP: usize = 50;
    let mut terminal = Terminal::open(command)?;
    terminal.until(b"ready")?;
    let mut times = Vec::new();
    for number in 0..WARM_UP + samples {
        let begun = Instant::now();
        terminal.write(b"x")?;
        terminal.until(b"x")?;
        if number >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    Ok(Times::from(times))
}

/// How long it took, and how much came.
fn flood(command: Command) -> Result<(Duration, usize), Fault> {
    let begun = Instant::now();
    let mut terminal = Terminal::open(command)?;
    let arrived = terminal.until(END)?;
    Ok((begun.elapsed(), arrived))
}

/// A program on a pseudo-terminal of this machine. Dropping it ends the program.
struct Terminal {
    master: File,
    child: Child,
}

impl Terminal {
    fn open(mut command: Command) -> Result<Self, Fault> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let terminal: OwnedFd = rustix::fs::open(Path::new(&name), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 })?;
        let side = || terminal.try_clone().map(Stdio::from);
        let child = command.stdin(side()?).stdout(side()?).stderr(side()?).spawn()?;
        Ok(Self { master: File::from(master), child })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.master.write_all(bytes)
    }

    /// Reads until this has come; how much came in all.
    fn until(&mut self, wanted: &[u8]) -> Result<usize, Fault> {
        let (mut bytes, mut tail, mut all) = (vec![0; 64 * 1024], Vec::new(), 0);
        loop {
            let length = self.master.read(&mut bytes)?;
            all += length;
            tail.extend_from_slice(&bytes[..length]);
            if tail.windows(wanted.len()).any(|window| window == wanted) {
                return Ok(all);
            }
            if length == 0 {
                return Err("the program ended early".into());
            }
            let keep = tail.len().min(wanted.len() - 1);
            tail.drain(..tail.len() - keep);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
