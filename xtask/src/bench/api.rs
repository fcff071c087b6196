//! What the API can do: agents made, read and listed, over kept connections.
//!
//! The load comes from a client of a few lines that does nothing but send and count, so that the two cores serve.

use std::time::{Duration, Instant};

use lap_api::agent::CreateAgent;
use lap_test::server::LapServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::table::{Line, Table, Times, ms, ratio};
use super::{Fault, Place};

/// Connections that send at the same time.
const CONNECTIONS: [usize; 2] = [1, 16];

/// Agents in the database before anything is measured, so that a page is a full page.
const AGENTS: usize = 50;

pub async fn measure(place: &Place, table: &mut Table) -> Result<(), Fault> {
    place.with_server(&[], async |_| Ok(()), async |server| routes(place, server, table).await).await
}

async fn routes(place: &Place, server: &LapServer, table: &mut Table) -> Result<(), Fault> {
    let time = Duration::from_millis(if place.quick { 500 } else { 3000 });
    let client = server.client();
    let resting = resident(server)?;
    let agent = |name: String| CreateAgent {
        name: Some(name),
        model: Some("test-model".into()),
        prompt: Some("You mend small Python projects.".into()),
        repo_url: Some("https://github.com/acme/pricing.git".into()),
        env_vars: [("GITHUB_TOKEN".to_owned(), "ghp_0123456789abcdefghijklmnopqrstuv".into())].into(),
        ..CreateAgent::default()
    };
    let mut id = String::new();
    for number in 0..AGENTS {
        id = client.create_agent(&agent(format!("agent {number}"))).await?.id;
    }
    let request = |method: &str, path: &str, body: &str| {
        let (host, key) = (server.url().trim_start_matches("http://"), server.key());
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let body = serde_json::to_string(&agent("made under load".into()))?;
    let agents = "/api/v1/managed_agents/agents";
    let health = request("GET", "/healthz", "");
    let reading = [
        ("get an agent", request("GET", &format!("{agents}/{id}"), "")),
        ("list agents (a page of 50)", request("GET", agents, "")),
    ];
    // Making comes last: it makes the lists longer.
    let making = [("create an agent", request("POST", agents, &body))];
    table.part("4. API", "GET /healthz, which touches nothing");
    for routes in [&reading[..], &making[..]] {
        for connections in CONNECTIONS {
            let plain = load(server, &health, connections, time).await?;
            for (what, request) in routes {
                let loaded = load(server, request, connections, time).await?;
                show(table, &format!("{what}, {connections} at once"), &loaded, &plain, time);
            }
        }
    }
    table.line(Line {
        what: "memory of the server (RSS) after all this",
        measured: mib(resident(server)?),
        baseline: mib(resting),
        between: "(at rest)".into(),
        target: None,
    });
    // Deleting some ten thousand agents one by one would take longer than everything else; they go with the folder.
    Ok(())
}

fn show(table: &mut Table, what: &str, loaded: &Loaded, plain: &Loaded, time: Duration) {
    let (rate, plain_rate) = (loaded.rate(time), plain.rate(time));
    table.line(Line {
        what,
        measured: format!("{rate:.0}/s"),
        baseline: format!("{plain_rate:.0}/s"),
        between: ratio(rate, plain_rate),
        target: None,
    });
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        let (measured, baseline) = (loaded.0.percentile(percent), plain.0.percentile(percent));
        table.line(Line {
            what: &format!("  {name}"),
            measured: ms(measured),
            baseline: ms(baseline),
            between: ratio(measured.as_secs_f64(), baseline.as_secs_f64()),
            target: None,
        });
    }
}

/// Answers of one load.
struct Loaded(Times);

impl Loaded {
    fn rate(&self, time: Duration) -> f64 {
        self.0.count() as f64 / time.as_secs_f64()
    }
}

async fn load(server: &LapServer, request: &str, connections: usize, time: Duration) -> Result<Loaded, Fault> {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::open(&address).await?;
        let request = request.to_owned();
        tasks.push(async move {
            for _ in 0..10 {
                connection.ask(&request).await?;
            }
            let (begun, mut times) = (Instant::now(), Vec::new());
            while begun.elapsed() < time {
                let sent = Instant::now();
                connection.ask(&request).await?;
                times.push(sent.elapsed());
            }
            Ok::<_, std::io::Error>(times)
        });
    }
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(Loaded(Times::from(all)))
}

/// A kept HTTP/1.1 connection.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(256 << 10) })
    }

    /// Sends a request and reads its whole answer, which must be a good one.
    async fn ask(&mut self, request: &str) -> std::io::Result<()> {
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|length| self.buffer.len() < length) {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if whole.is_none() {
                whole = length(&self.buffer)?;
            }
        }
        Ok(())
    }
}

/// Length of a whole answer, once its head is there.
fn length(answer: &[u8]) -> std::io::Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 20") {
        return Err(std::io::Error::other(format!("the server answered {head}")));
    }
    let body = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match body {
        Some(body) => Ok(Some(end + 4 + body)),
        None => Err(std::io::Error::other("an answer came without its length")),
    }
}

/// Resident memory of the server, in KiB.
fn resident(server: &LapServer) -> Result<u64, Fault> {
    let pid = server.pid().ok_or("the server has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(line.ok_or("/proc tells no memory")?)
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
