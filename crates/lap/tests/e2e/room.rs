//! A sandbox that opens far too many connections: those it has go on, the rest are refused, and afterwards all is as before.

use std::path::Path;

use lap_api::session::{CreateSession, Session};

use crate::world::{ECHO_HOST, Needs, World, say, shell_agent};

/// Connections of one sandbox at once; what the vault allows.
const MOST: usize = 8192;

/// Opens connections to the echo server, idle ones or ones that have had an answer and stay, and one request more; all in one
/// program, so that they stand together. Says how many were answered how.
const OPEN: &str = r#"
import collections, resource, selectors, socket, sys
host, port, wanted, ask = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'ask'
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
address = socket.getaddrinfo(host, port, socket.AF_INET)[0][4]
request = ('GET /echo HTTP/1.1\r\nHost: %s:%d\r\n\r\n' % (host, port)).encode()

def head(connection):
    got = b''
    while b'\r\n\r\n' not in got:
        more = connection.recv(4096)
        if not more:
            return 'closed'
        got += more
    lines = got.split(b'\r\n\r\n')[0].decode().lower().split('\r\n')
    blocked = [line.split(': ')[1] for line in lines if line.startswith('x-lap-blocked')]
    length = [int(line.split(': ')[1]) for line in lines if line.startswith('content-length')]
    body = len(got.split(b'\r\n\r\n', 1)[1])
    while length and body < length[0]:
        body += len(connection.recv(65536))
    return ' '.join([lines[0].split()[1]] + blocked)

def one():
    connection = socket.create_connection(address)
    connection.settimeout(60)
    connection.sendall(request)
    return head(connection), connection

open_ones, answers = [], collections.Counter()
for _ in range(wanted):
    connection = socket.create_connection(address)
    connection.settimeout(60)
    open_ones.append(connection)
    if ask:
        connection.sendall(request)
        answers[head(connection)] += 1
print('open', len(open_ones), dict(answers))
print('and one more:', one()[0])
first = open_ones[0]
first.sendall(request)
print('the first:', head(first))
for connection in open_ones:
    connection.close()
for _ in range(600):
    answer = one()[0]
    if answer == '200':
        break
print('afterwards:', answer)
"#;

async fn open(world: &World, session: &Session, wanted: usize, ask: bool) -> String {
    let ask = if ask { "ask" } else { "idle" };
    let command = format!("python3 - {ECHO_HOST} {} {wanted} {ask} <<'PY'\n{OPEN}\nPY", world.echo.http_port());
    world.ask(session, &command).await
}

async fn overloaded(world: &World, session: &Session) -> usize {
    let lines = world.client.interceptions(&session.id, Some(200), None).await.expect("the record").data;
    lines.iter().filter(|line| line.verdict == "overloaded" && line.status == Some(503)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_thousand_connections_and_more() {
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;

    let said = open(&world, &session, 8000, true).await;
    assert!(said.contains("open 8000 {'200': 8000}"), "{said}");
    assert!(said.contains("and one more: 200") && said.contains("the first: 200"), "{said}");
    assert_eq!(overloaded(&world, &session).await, 0);

    let said = open(&world, &session, MOST, false).await;
    assert!(said.contains("and one more: 503 overloaded"), "{said}");
    assert!(said.contains("the first: 200") && said.contains("afterwards: 200"), "{said}");
    assert_ne!(overloaded(&world, &session).await, 0, "what was refused is recorded");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_are_shared_out_and_never_used_up() {
    // A machine that allows a thousand: half of them are the reserve.
    let world = World::with_descriptors(Needs::Shell, 1000).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let said = open(&world, &session, 600, false).await;
    assert!(said.contains("and one more: 503 overloaded"), "{said}");
    // It has a place; whether there is one for its way on depends on who came first.
    assert!(said.contains("the first: 503 overloaded") || said.contains("the first: 200"), "{said}");
    assert!(said.contains("afterwards: 200"), "{said}");
    assert_ne!(overloaded(&world, &session).await, 0);
    world.end().await;
}

/// The most memory a sidecar may ever have had after that: its journal, and what is on its way in and out of it.
const MOST_MEMORY_KIB: u64 = 128 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_floods_its_link_fills_nothing() {
    let mut world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let flood = "echo begun; yes 'a line of a program that talks too much' | head -c 30000000";
    let mut turn = world.client.message_stream(&session.id, &say(flood)).await.expect("sent");
    while let Some(entry) = turn.next().await {
        if entry.expect("goes on").raw.contains("begun") {
            break;
        }
    }
    drop(turn);
    // In the middle of it there is nobody to take it for a moment.
    world.kill_and_restart().await;
    let curl = format!("curl -sS -o /dev/null -w '%{{http_code}}' http://{ECHO_HOST}:{}/echo", world.echo.http_port());
    let said = world.ask(&session, &curl).await;
    assert_eq!(said.trim(), "200");
    let peak = peak_of_sidecar(world.data_dir());
    assert!(peak < MOST_MEMORY_KIB, "the sidecar had {peak} KiB");
    world.end().await;
}

/// The most memory the only sidecar here ever had, in KiB.
fn peak_of_sidecar(data_dir: &Path) -> u64 {
    let sandboxes = std::fs::read_dir(data_dir.join("sandboxes")).expect("a sandbox").flatten();
    let processes = sandboxes.filter_map(|folder| std::fs::read_to_string(folder.path().join("processes")).ok());
    let sidecar =
        |text: String| text.lines().find_map(|line| line.strip_prefix("sidecar ")?.split(' ').next()?.parse().ok());
    let peak = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
    };
    processes.filter_map(sidecar).filter_map(peak).max().expect("its peak")
}
