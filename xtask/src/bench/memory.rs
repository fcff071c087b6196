//! What a sandbox costs in memory: sidecar, init and guest together while nothing happens, and the sidecar after a long life.
//!
//! Proportional set size: a page that several processes have counts for each as its share.

use std::path::Path;
use std::time::{Duration, Instant};

use lap_api::agent::CreateAgent;
use lap_api::message::{Part, SendMessage};
use lap_api::session::CreateSession;
use lap_client::Client;
use lap_test::ca::TestCa;
use lap_test::echo::Echo;
use lap_test::server::LapServer;

use super::sandbox::until_ready;
use super::table::{Line, Table};
use super::{Fault, Place};

const ECHO_HOST: &str = "echo.test";

/// Of all three processes, in KiB.
const TARGET_IDLE: u64 = 8 << 10;

/// More than this, in KiB, is not where it was.
const TARGET_GROWTH: u64 = 1 << 10;

/// Requests before the first look (they fill caches and buffers), and between the looks.
const WARM_UP: usize = 2000;
const REQUESTS: usize = 10_000;

/// Connections that stand at once, each after one request.
const CONNECTIONS: usize = 2000;

/// A sidecar that has not rested after so long never will.
const REST: Duration = Duration::from_secs(70);

/// Sends so many requests over eight connections, or one over each of so many connections and keeps them until told.
const ASK: &str = r#"
import http.client, resource, sys, threading
host, port, requests, held = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'held'
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
good = []
def ask(connection):
    connection.request('GET', '/echo')
    answer = connection.getresponse()
    answer.read()
    good.append(answer.status == 200)
def row(count):
    connection = http.client.HTTPConnection(host, port)
    for _ in range(count):
        ask(connection)
if held:
    connections = [http.client.HTTPConnection(host, port) for _ in range(requests)]
    for connection in connections:
        ask(connection)
    print('good', sum(good), flush=True)
    import time, os
    with open('/tmp/pid', 'w') as file: file.write(str(os.getpid()))
    open('/tmp/held', 'w').close()
    while os.path.exists('/tmp/held'):
        time.sleep(0.05)
else:
    threads = [threading.Thread(target=row, args=(requests // 8,)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print('good', sum(good))
"#;

pub async fn measure(place: &Place, table: &mut Table) -> Result<(), Fault> {
    let echo = Echo::start(&TestCa::new("LAP bench CA"), &[]).await;
    let env = [
        ("LAP_TEST_HARNESSES", "true".to_owned()),
        ("LAP_VAULT_RESOLVE", format!("{ECHO_HOST}=127.0.0.1")),
        ("LAP_VAULT_PRIVATE_ALLOW", format!("{ECHO_HOST}:{}", echo.http_port())),
    ];
    let requests = if place.quick { REQUESTS / 10 } else { REQUESTS };
    let work = async |server: &LapServer| looks(server, echo.http_port(), requests, table).await;
    place.with_server(&env, async |_| Ok(()), work).await
}

async fn looks(server: &LapServer, port: u16, requests: usize, table: &mut Table) -> Result<(), Fault> {
    let client = server.client();
    let shell = CreateAgent {
        harness_id: Some("shell".into()),
        model: Some("test-model".into()),
        name: Some("bench".into()),
        ..CreateAgent::default()
    };
    let agent = client.create_agent(&shell).await?.id;
    let session = client.create_session(&agent, &CreateSession::default()).await?.id;
    until_ready(&client, &session, |_| {}).await?;
    let [sidecar, init] = processes(&server.data_dir().join("sandboxes"))?;
    let guest = child_of(init)?;

    table.part("5. memory of a sandbox", "a sleeping /bin/sleep");
    let mut sleep = tokio::process::Command::new("/bin/sleep").arg("60").kill_on_drop(true).spawn()?;
    // Until it sleeps it is still this program.
    while std::fs::read(format!("/proc/{}/cmdline", sleep.id().unwrap_or_default()))?.first() != Some(&b'/') {
        tokio::task::yield_now().await;
    }
    let bare = memory(sleep.id().unwrap_or_default(), "Pss:")?;
    sleep.kill().await?;
    let mut all = 0;
    let mut parts = Vec::new();
    for (what, process) in [("of it: sidecar", sidecar), ("of it: init", init), ("of it: guest", guest)] {
        let pss = memory(process, "Pss:")?;
        all += pss;
        parts.push((what, pss));
    }
    table.line(Line {
        what: "idle, once it is ready (PSS)",
        measured: mib(all),
        baseline: mib(bare),
        target: Some((format!("at most {}", mib(TARGET_IDLE)), all <= TARGET_IDLE)),
        ..Line::default()
    });
    for (what, pss) in parts {
        table.line(Line { what, measured: mib(pss), ..Line::default() });
    }

    let resident = || memory(sidecar, "Rss:");
    ask(&client, &session, port, WARM_UP, "once").await?;
    let before = resident()?;
    ask(&client, &session, port, requests, "once").await?;
    let after = resident()?;
    let grown = after.saturating_sub(before);
    table.line(Line {
        what: &format!("sidecar after {requests} more requests (RSS)"),
        measured: mib(after),
        baseline: mib(before),
        between: format!("{:+.2} MiB", (after as f64 - before as f64) / 1024.0),
        target: Some((format!("grows by at most {}", mib(TARGET_GROWTH)), grown <= TARGET_GROWTH)),
    });

    ask(&client, &session, port, CONNECTIONS, "held").await?;
    let held = resident()?;
    table.line(Line {
        what: &format!("sidecar with {CONNECTIONS} connections (RSS)"),
        measured: mib(held),
        baseline: mib(after),
        between: format!("{:.1} KiB each", held.saturating_sub(after) as f64 / CONNECTIONS as f64),
        ..Line::default()
    });
    say(&client, &session, "rm /tmp/held; while [ -e /proc/$(cat /tmp/pid) ]; do sleep 0.05; done").await?;
    let closed = Instant::now();
    let mut afterwards = resident()?;
    while afterwards > after + TARGET_GROWTH && closed.elapsed() < REST {
        tokio::time::sleep(Duration::from_secs(1)).await;
        afterwards = resident()?;
    }
    table.line(Line {
        what: &format!("sidecar {} s after they closed (RSS)", closed.elapsed().as_secs()),
        measured: mib(afterwards),
        baseline: mib(after),
        between: format!("{:+.2} MiB", (afterwards as f64 - after as f64) / 1024.0),
        target: Some((format!("grows by at most {}", mib(TARGET_GROWTH)), afterwards <= after + TARGET_GROWTH)),
    });
    Ok(())
}

/// Sends requests from inside; they must all be answered.
async fn ask(client: &Client, session: &str, port: u16, requests: usize, how: &str) -> Result<(), Fault> {
    let command = if how == "held" {
        format!(
            "cat > /tmp/ask.py <<'PY'\n{ASK}\nPY\nrm -f /tmp/held; (python3 /tmp/ask.py {ECHO_HOST} {port} {requests} held > /tmp/out 2>&1 &); \
             for i in $(seq 600); do [ -e /tmp/held ] && break; sleep 0.1; done; cat /tmp/out"
        )
    } else {
        format!("python3 - {ECHO_HOST} {port} {requests} once <<'PY'\n{ASK}\nPY")
    };
    let said = say(client, session, &command).await?;
    if said.contains(&format!("good {requests}")) {
        Ok(())
    } else {
        Err(format!("not all were answered: {said}").into())
    }
}

async fn say(client: &Client, session: &str, command: &str) -> Result<String, Fault> {
    let message = SendMessage { text: Some(command.to_owned()), ..SendMessage::default() };
    let answer = client.message(session, &message, None).await?;
    let texts = answer.parts.iter().filter_map(|part| match part {
        Part::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    Ok(texts.collect::<Vec<_>>().join("\n"))
}

/// Sidecar and init of the only sandbox that there is.
fn processes(sandboxes: &Path) -> Result<[u32; 2], Fault> {
    for folder in std::fs::read_dir(sandboxes)? {
        let Ok(text) = std::fs::read_to_string(folder?.path().join("processes")) else { continue };
        let number = |role: &str| {
            let line = text.lines().find(|line| line.starts_with(role))?;
            line.split(' ').nth(1)?.parse().ok()
        };
        if let (Some(sidecar), Some(init)) = (number("sidecar"), number("init")) {
            return Ok([sidecar, init]);
        }
    }
    Err("no sandbox runs".into())
}

fn child_of(parent: u32) -> Result<u32, Fault> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(children.split_whitespace().next().ok_or("init has no child")?.parse()?)
}

/// A line of a process's summary of its memory, in KiB.
fn memory(process: u32, field: &str) -> Result<u64, Fault> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or("the summary has an unknown form")?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
