//! Terminals through the whole path: server, sidecar, guest, a real sandbox.

use bytes::Bytes;
use lap_api::session::{CreateSession, Session};
use lap_api::tty::{TtyClientFrame, TtyServerFrame, WindowSize};
use lap_client::{Client, Error, TtyEvent, TtyOptions, TtyReader, TtyWriter};

use crate::world::{Needs, PATIENCE, World, shell_agent};

/// One viewer, and what it has seen.
pub struct Viewer {
    pub writer: TtyWriter,
    reader: TtyReader,
    pub text: String,
    /// Where the output stands.
    pub position: u64,
    picture: u64,
    pub input: u64,
    pub repaints: usize,
}

impl Viewer {
    pub async fn attach(client: &Client, session: &Session, options: TtyOptions) -> Viewer {
        Self::try_attach(client, session, options).await.unwrap_or_else(|problem| panic!("{problem}"))
    }

    pub async fn try_attach(client: &Client, session: &Session, options: TtyOptions) -> Result<Viewer, Error> {
        let (writer, mut reader) = client.tty(&session.id, &options).await?;
        let TtyEvent::Frame(TtyServerFrame::Attached { position, input }) = reader.next().await? else {
            panic!("something comes before `attached`")
        };
        Ok(Viewer { writer, reader, text: String::new(), position, picture: 0, input, repaints: 0 })
    }

    pub async fn types(&mut self, text: &str) {
        self.writer.send(Bytes::copy_from_slice(text.as_bytes())).await.expect("sent");
    }

    /// The next thing that is not output.
    async fn next(&mut self) -> Option<TtyEvent> {
        let event = tokio::time::timeout(PATIENCE, self.reader.next()).await.expect("soon").expect("connected");
        match &event {
            TtyEvent::Data(bytes) => {
                self.text += &String::from_utf8_lossy(bytes);
                let painted = self.picture.min(bytes.len() as u64);
                self.picture -= painted;
                self.position += bytes.len() as u64 - painted;
                return None;
            }
            TtyEvent::Frame(TtyServerFrame::Repaint { position, bytes }) => {
                (self.position, self.picture) = (*position, *bytes);
                self.repaints += 1;
            }
            _ => {}
        }
        Some(event)
    }

    /// Waits until the text shows.
    pub async fn shows(&mut self, text: &str) {
        while !self.text.contains(text) {
            if let Some(TtyEvent::Closed { code, reason }) = self.next().await {
                panic!("closed ({code} {reason}) before `{text}` in {:?}", self.text);
            }
        }
    }

    /// Waits for a frame.
    pub async fn hears(&mut self, wanted: impl Fn(&TtyServerFrame) -> bool) -> TtyServerFrame {
        loop {
            match self.next().await {
                Some(TtyEvent::Frame(frame)) if wanted(&frame) => return frame,
                Some(TtyEvent::Closed { code, reason }) => panic!("closed ({code} {reason}) in {:?}", self.text),
                _ => {}
            }
        }
    }

    /// The code with which it closes.
    pub async fn closes(&mut self) -> u16 {
        loop {
            if let Some(TtyEvent::Closed { code, .. }) = self.next().await {
                return code;
            }
        }
    }
}

fn wide() -> TtyOptions {
    TtyOptions { size: Some(WindowSize { cols: 100, rows: 30 }), ..TtyOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_typed_into_resized_left_and_found_again() {
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let mut viewer = Viewer::attach(&world.client, &session, wide()).await;
    viewer.types("stty size; pwd; tty; kept=yes\n").await;
    viewer.shows("30 100").await;
    viewer.shows("/work/repo").await;
    viewer.shows("/dev/pts/").await;
    viewer.writer.say(&TtyClientFrame::Resize { cols: 90, rows: 20 }).await.expect("said");
    viewer.types("stty size\n").await;
    viewer.shows("20 90").await;
    viewer.writer.say(&TtyClientFrame::Ping).await.expect("said");
    viewer.hears(|frame| *frame == TtyServerFrame::Pong).await;
    // What runs in the foreground is interrupted by a key, and the shell goes on.
    viewer.types("sh -c 'echo go\"\"ing; exec sleep 1000'\n").await;
    viewer.shows("going").await;
    viewer.types("\x03").await;
    viewer.types("echo int''errupted\n").await;
    viewer.shows("interrupted").await;
    let there = viewer.position;
    viewer.writer.close().await;
    // Found again: the rest and nothing else.
    let mut again = Viewer::attach(&world.client, &session, TtyOptions { from: Some(there), ..wide() }).await;
    assert_eq!(again.position, there);
    again.types("echo [$kept]\n").await;
    again.shows("[yes]").await;
    assert_eq!(again.repaints, 0);
    // Somebody else looks: sees the screen, and types in vain.
    let mut looker =
        Viewer::attach(&world.client, &session, TtyOptions { view_only: true, ..TtyOptions::default() }).await;
    looker.shows("[yes]").await;
    assert_eq!(looker.repaints, 1);
    looker.types("echo sne''aked\n").await;
    again.types("stty size; echo to''gether\n").await;
    looker.shows("together").await;
    again.shows("together").await;
    assert!(again.text.contains("30 100") && !again.text.contains("sneaked"), "{}", again.text);
    // The end is announced to everybody.
    again.types("exit 3\n").await;
    let exit = TtyServerFrame::Exit { code: Some(3), signal: None };
    again.hears(|frame| *frame == exit).await;
    assert_eq!(again.closes().await, 1000);
    looker.hears(|frame| *frame == exit).await;
    // Who comes back to it is told; who comes afresh gets a fresh one.
    let came_back = world.client.tty(&session.id, &TtyOptions { from: Some(there), ..wide() }).await.expect("told");
    let mut reader = came_back.1;
    assert_eq!(reader.next().await.expect("told"), TtyEvent::Frame(exit));
    let mut fresh = Viewer::attach(&world.client, &session, wide()).await;
    fresh.types("echo [$kept]\n").await;
    fresh.shows("[]").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_lives_through_the_death_of_the_server() {
    let mut world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let me = || TtyOptions { client: Some("me".to_owned()), ..wide() };
    let mut viewer = Viewer::attach(&world.client, &session, me()).await;
    let line = "stty -echo; while read -r x; do echo \"got $x.\"; done\n";
    viewer.types(line).await;
    viewer.hears(|frame| *frame == TtyServerFrame::Ack { input: line.len() as u64 }).await;
    viewer.types("one\n").await;
    viewer.shows("got one.").await;
    let (there, sent) = (viewer.position, line.len() as u64 + 4);
    world.kill_and_restart().await;
    let back = TtyOptions { from: Some(there), ..me() };
    let mut again = Viewer::attach(&world.client, &session, back).await;
    assert_eq!((again.position, again.input), (there, sent), "nothing lost and nothing twice, both ways");
    again.types("two\n").await;
    again.shows("got two.").await;
    assert_eq!(again.repaints, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_come_in_and_what_is_refused() {
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let address = session.tty_url.clone().expect("a live session has a terminal");
    let token = session.tty_token.clone().expect("and what opens it");
    assert!(address.starts_with("ws://127.0.0.1:") && address.ends_with(&format!("/sessions/{}/tty", session.id)));
    let listed = world.client.sessions(&Default::default()).await.expect("listed");
    assert!(listed.data.iter().all(|session| session.tty_token.is_none() && session.tty_url.is_none()));
    let other = world.ready(&agent, CreateSession::default()).await;
    let check = async |url: String, header: Option<(&'static str, String)>| -> u16 {
        upgrade(&url, header).await.unwrap_or(101)
    };
    assert_eq!(check(format!("{address}?token={token}"), None).await, 101);
    assert_eq!(check(address.clone(), None).await, 401);
    assert_eq!(check(format!("{address}?token={token}x"), None).await, 401);
    let elsewhere = other.tty_url.clone().expect("live");
    assert_eq!(check(format!("{elsewhere}?token={token}"), None).await, 401, "one session's token opens no other");
    assert_eq!(check(address.clone(), Some(("authorization", "Bearer wrong".into()))).await, 401);
    let evil = Some(("origin", "https://evil.example".to_owned()));
    assert_eq!(check(format!("{address}?token={token}"), evil).await, 403);
    let host = address.trim_start_matches("ws://").split('/').next().expect("a host");
    let own = Some(("origin", format!("http://{host}")));
    assert_eq!(check(format!("{address}?token={token}"), own).await, 101);
    assert_eq!(check(format!("{address}?token={token}&form=1"), None).await, 400);
    assert!(!world.server.log().contains(&token), "the token is in no log");
    // An unknown frame is ignored, an oversized one closes with a code.
    let mut viewer = Viewer::attach(&world.client, &session, wide()).await;
    viewer.writer.say(&TtyClientFrame::Unknown).await.expect("said");
    viewer.types("echo st''ill\n").await;
    viewer.shows("still").await;
    let _ = viewer.writer.send(Bytes::from(vec![b'x'; 1024 * 1024 + 1])).await;
    assert_eq!(viewer.closes().await, 1009);
    // A session that is over says why, before any upgrade.
    world.client.stop_session(&session.id).await.expect("stopped");
    let refused = Viewer::try_attach(&world.client, &session, wide()).await.err().expect("it is dead");
    let refused = refused.api().expect("said by the server").clone();
    assert_eq!((refused.status, refused.code.as_str()), (409, "session_not_ready"));
    assert!(refused.message.contains("stopped"), "{}", refused.message);
    let stopped = world.client.session(&session.id).await.expect("there");
    assert_eq!((stopped.tty_url, stopped.tty_token), (None, None));
    world.end().await;
}

/// The status with which an upgrade is refused; none when it is not.
async fn upgrade(url: &str, header: Option<(&'static str, String)>) -> Option<u16> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut request = url.into_client_request().expect("an address");
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let host = request.uri().authority().expect("a host").as_str().to_owned();
    let stream = tokio::net::TcpStream::connect(host).await.expect("the server listens");
    match tokio_tungstenite::client_async(request, stream).await {
        Ok(_) => None,
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Some(answer.status().as_u16()),
        Err(problem) => panic!("{problem}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_files_of_a_sandbox() {
    use futures_util::stream;
    use lap_api::exec::{ExecCommand, ExecRequest};
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let run = async |line: &str| {
        let request = ExecRequest { cmd: ExecCommand::Line(line.to_owned()), timeout_s: Some(2) };
        world.client.exec(&session.id, &request).await
    };
    let done = run("pwd; echo wrong >&2; exit 5").await.expect("it ran");
    assert_eq!((done.exit_code, done.output.as_str(), done.truncated), (5, "/work/repo\nwrong\n", false));
    let much = run("head -c 3000000 /dev/zero").await.expect("it ran");
    assert_eq!((much.output.len(), much.truncated), (1024 * 1024, true));
    assert_eq!(status(run("sleep 100").await), 408);
    assert_eq!(status(run("").await.map(|_| ())), 400);
    // A file goes in whole and comes out as it was; a path leads nowhere else.
    let pieces: Vec<Bytes> = (0..40).map(|n| Bytes::from(vec![n; 50_000])).collect();
    let content = stream::iter(pieces.clone().into_iter().map(Ok));
    world.client.write_file(&session.id, "/work/in/data", content).await.expect("written");
    let mut read = Vec::new();
    let mut file = world.client.read_file(&session.id, "/work/in/data").await.expect("there");
    while let Some(piece) = file.next().await.expect("whole") {
        read.extend_from_slice(&piece);
    }
    assert!(read == pieces.concat(), "every byte");
    let listed = world.client.list_files(&session.id, "/work/in").await.expect("listed");
    assert_eq!((listed[0].name.as_str(), listed[0].size, listed.len()), ("data", 2_000_000, 1));
    for (path, expected) in [("/etc/passwd", 400), ("/work/none", 404), ("/work/in", 400)] {
        assert_eq!(status(world.client.read_file(&session.id, path).await), expected, "{path}");
    }
    run("ln -s /etc/passwd /work/in/link").await.expect("it ran");
    assert_eq!(status(world.client.read_file(&session.id, "/work/in/link").await), 400);
    world.end().await;
}

fn status<T>(answer: Result<T, Error>) -> u16 {
    answer.err().expect("it is refused").api().expect("by the server").status
}
