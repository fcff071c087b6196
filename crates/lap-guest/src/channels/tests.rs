//! Terminals, commands and files as the server sees them: orders in, frames out. The programs are real ones, on this machine.

use std::time::Duration;

use bytes::Bytes;
use lap_api::channel::{End, FromChannel, Program, Purpose, Size, ToChannel, WINDOW_BYTES};
use lap_api::link::{FromGuest, GuestBoot, HarnessLaunch};

use super::*;
use crate::layout::Layout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const SIZE: Size = Size { cols: 80, rows: 24 };

struct Server {
    channels: Channels,
    frames: mpsc::Receiver<Frame<FromGuest>>,
    folder: tempfile::TempDir,
    next: u64,
}

/// What came over one channel.
#[derive(Default)]
struct Seen {
    text: Vec<u8>,
    opened: Option<(u64, u64)>,
    repaints: Vec<(u64, u64)>,
    acknowledged: u64,
    end: Option<End>,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::below(folder.path());
        for folder in [layout.repo(), layout.home(), layout.tmp()] {
            std::fs::create_dir_all(folder).expect("mine");
        }
        let boot = boot();
        let mut env = crate::environment::environment(&layout, &boot);
        env.insert("PS1".to_owned(), "> ".to_owned());
        env.insert("ENV".to_owned(), String::new());
        let (port, frames) = mpsc::channel(64);
        let mut channels = Channels::new(Port::new(port));
        channels.set_up(Arc::new(Setting { layout, env, boot }), mpsc::channel(1).0);
        Self { channels, frames, folder, next: 1 }
    }

    fn open(&mut self, purpose: Purpose) -> u64 {
        let channel = self.next;
        self.next += 1;
        self.channels.take(ToChannel::Open { channel, purpose });
        channel
    }

    fn view(&mut self, program: Program, from: Option<u64>, client: &str, view_only: bool) -> u64 {
        let client = Some(client.to_owned());
        self.open(Purpose::Terminal { program, from, redraw: false, client, view_only, size: Some(SIZE) })
    }

    fn command(&mut self, script: &str) -> u64 {
        let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        self.view(Program::Command { name: script.to_owned(), command }, None, "me", false)
    }

    fn types(&mut self, channel: u64, position: u64, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.channels.data(Data { channel, stream: 0, position, bytes });
    }

    /// Listens to one channel until it is `enough`, acknowledging everything.
    async fn hear(&mut self, channel: u64, enough: impl Fn(&Seen) -> bool) -> Seen {
        self.hear_on(channel, Seen::default(), true, enough).await
    }

    async fn hear_on(
        &mut self,
        channel: u64,
        mut seen: Seen,
        acknowledge: bool,
        enough: impl Fn(&Seen) -> bool,
    ) -> Seen {
        while !enough(&seen) {
            let frame = tokio::time::timeout(PATIENCE, self.frames.recv()).await;
            let last = &seen.text[seen.text.len().saturating_sub(500)..];
            let frame = frame.unwrap_or_else(|_| panic!("in vain after {:?}", String::from_utf8_lossy(last)));
            match frame.expect("the guest lives") {
                Frame::Data(data) if data.channel == channel => {
                    seen.text.extend_from_slice(&data.bytes);
                    let position = data.position + data.bytes.len() as u64;
                    if acknowledge {
                        self.channels.take(ToChannel::Ack { channel, position });
                    }
                }
                Frame::Message(FromGuest::Channel(message)) => match message {
                    FromChannel::Opened { channel: of, position, input } if of == channel => {
                        seen.opened = Some((position, input));
                    }
                    FromChannel::Repaint { channel: of, position, bytes } if of == channel => {
                        seen.repaints.push((position, bytes));
                    }
                    FromChannel::Ack { channel: of, position } if of == channel => seen.acknowledged = position,
                    FromChannel::Ended { channel: of, end } if of == channel => seen.end = Some(end),
                    _ => {}
                },
                _ => {}
            }
        }
        seen
    }

    async fn ends(&mut self, channel: u64) -> (String, End) {
        let seen = self.hear(channel, |seen| seen.end.is_some()).await;
        (String::from_utf8_lossy(&seen.text).into_owned(), seen.end.expect("just seen"))
    }
}

fn has(text: &'static str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.text.windows(text.len()).any(|window| window == text.as_bytes())
}

fn boot() -> GuestBoot {
    GuestBoot {
        session_id: "s".to_owned(),
        env: Default::default(),
        git_author: String::new(),
        repo: None,
        files: Vec::new(),
        skills: Vec::new(),
        requirements: None,
        prompt: None,
        model: String::new(),
        permission_mode: String::new(),
        mcp_servers: Vec::new(),
        harness: HarnessLaunch {
            id: "test".to_owned(),
            version: String::new(),
            adapter: String::new(),
            command: Vec::new(),
            env: Default::default(),
            skills_dir: String::new(),
            files: Vec::new(),
            tui: None,
        },
        gateway_url: String::new(),
        gateway_key: String::new(),
        resume: None,
    }
}

#[tokio::test]
async fn a_program_gets_a_terminal_of_its_own() {
    let mut server = Server::new();
    let channel =
        server.command("stty size; tty; [ -t 0 ] && [ -t 1 ] && echo both; ps -o sid= -o tpgid= -p $$; exit 7");
    let (text, end) = server.ends(channel).await;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!((lines[0], lines[2]), ("24 80", "both"), "{text}");
    assert!(lines[1].starts_with("/dev/pts/"), "{text}");
    let ids: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(ids[0], ids[1], "it leads its session and has the terminal: {text}");
    assert_eq!(end, End::Exited { code: 7 });
}

#[tokio::test]
async fn signals_and_missing_programs_are_told() {
    let mut server = Server::new();
    let channel = server.command("kill -TERM $$");
    assert_eq!(server.ends(channel).await.1, End::Signalled { signal: 15 });
    let command = vec!["/nowhere/at/all".to_owned()];
    let channel = server.view(Program::Command { name: "x".to_owned(), command }, None, "me", false);
    let (_, end) = server.ends(channel).await;
    assert!(matches!(end, End::Failed { ref code, .. } if code == "not_started"), "{end:?}");
    let channel = server.view(Program::Harness, None, "me", false);
    let (_, end) = server.ends(channel).await;
    assert!(matches!(end, End::Failed { ref code, .. } if code == "not_ready"), "{end:?}");
}

#[tokio::test]
async fn bytes_stay_bytes_and_input_arrives_in_order() {
    let mut server = Server::new();
    let channel = server.command("stty raw -echo; printf ready; head -c 300000 | cksum; exit");
    server.hear(channel, has("ready")).await;
    let all: Vec<u8> = (0..300_000u32).map(|n| (n * 7 + n / 256) as u8).collect();
    let (mut sent, mut seen) = (0, Seen::default());
    // No more under way than a window.
    while sent < all.len() {
        let open = (seen.acknowledged + WINDOW_BYTES) as usize - sent;
        if open == 0 {
            let before = seen.acknowledged;
            seen = server.hear_on(channel, seen, true, |seen| seen.acknowledged > before).await;
            continue;
        }
        let piece = &all[sent..(sent + open.min(8192)).min(all.len())];
        let bytes = Bytes::copy_from_slice(piece);
        server.channels.data(Data { channel, stream: 0, position: sent as u64, bytes });
        sent += piece.len();
        tokio::task::yield_now().await;
    }
    let seen = server.hear_on(channel, seen, true, |seen| seen.end.is_some()).await;
    let expected = std::process::Command::new("sh")
        .args(["-c", "cksum < \"$1\"", "sh"])
        .arg({
            let file = server.folder.path().join("all");
            std::fs::write(&file, &all).expect("mine");
            file
        })
        .output()
        .expect("cksum is there");
    let sum = String::from_utf8_lossy(&expected.stdout).trim().to_owned();
    assert!(String::from_utf8_lossy(&seen.text).contains(&sum), "{:?}", String::from_utf8_lossy(&seen.text));
}

#[tokio::test]
async fn the_program_lives_on_and_is_found_again() {
    let mut server = Server::new();
    let channel = server.view(Program::Shell, None, "me", false);
    server.types(channel, 0, "stty -echo; x=kept; echo re''ady\n");
    let seen = server.hear(channel, has("ready")).await;
    let (position, _) = seen.opened.expect("opened");
    let there = position + seen.text.len() as u64;
    server.channels.take(ToChannel::CloseAll);
    // The client comes back, having seen everything: it gets what was printed meanwhile and nothing else.
    let channel = server.view(Program::Shell, Some(there), "me", false);
    let seen = server.hear(channel, |seen| seen.opened.is_some()).await;
    let taken = "stty -echo; x=kept; echo re''ady\n".len() as u64;
    assert_eq!(seen.opened, Some((there, taken)));
    // It repeats what it is not sure of; only the new part is sent, as the answer told it to.
    server.types(channel, 0, "echo [$x]\n");
    let seen = server.hear(channel, has("[kept]")).await;
    assert_eq!(seen.repaints, []);
    // Somebody else sees the screen as it stands.
    let other = server.view(Program::Shell, None, "other", false);
    let seen = server.hear(other, has("[kept]")).await;
    assert_eq!(seen.repaints.len(), 1);
}

#[tokio::test]
async fn an_older_connection_of_the_same_client_is_over() {
    let mut server = Server::new();
    let old = server.view(Program::Shell, None, "me", false);
    server.types(old, 0, "echo on''e\n");
    server.hear(old, has("one")).await;
    let new = server.view(Program::Shell, None, "me", false);
    let seen = server.hear(new, |seen| seen.opened.is_some()).await;
    assert_eq!(seen.opened.expect("opened").1, 11);
    server.types(old, 11, "echo fro''m-old\n");
    server.types(new, 0, "echo fro''m-new\n");
    let seen = server.hear(new, has("from-new")).await;
    assert!(!has("from-old")(&seen));
}

#[tokio::test]
async fn a_slow_viewer_stalls_nobody_and_gets_a_picture() {
    let mut server = Server::new();
    let slow = server.command("i=0; while [ $i -lt 60000 ]; do echo \"line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; i=$((i+1)); done; echo finished; read x");
    let seen = server.hear_on(slow, Seen::default(), false, |seen| seen.text.len() >= 10_000).await;
    assert!(seen.text.len() as u64 <= WINDOW_BYTES);
    // The program finishes although nobody takes its output: another viewer sees that.
    let name = match &server.channels.terminals[0].program {
        program @ Program::Command { .. } => program.clone(),
        other => panic!("{other:?}"),
    };
    let other = server.view(name, None, "other", true);
    server.hear(other, has("finished")).await;
    // The slow one takes what it has and is told the rest as a picture.
    server.channels.take(ToChannel::Ack { channel: slow, position: WINDOW_BYTES });
    let seen = server.hear(slow, has("finished")).await;
    assert_eq!(seen.repaints.len(), 1);
    assert!(seen.text.len() < 100_000, "a picture, not everything that was missed");
}

#[tokio::test]
async fn a_viewer_that_only_looks_changes_nothing() {
    let mut server = Server::new();
    let channel = server.view(Program::Shell, None, "me", false);
    server.types(channel, 0, "stty -echo; echo re''ady\n");
    server.hear(channel, has("ready")).await;
    let looker = server.view(Program::Shell, None, "looker", true);
    server.hear(looker, |seen| !seen.repaints.is_empty()).await;
    server.types(looker, 0, "echo sne''aked\n");
    server.channels.take(ToChannel::Resize { channel: looker, size: Size { cols: 10, rows: 10 } });
    server.channels.take(ToChannel::Resize { channel, size: Size { cols: 100, rows: 30 } });
    server.types(channel, 33, "stty size\n");
    server.types(channel, 25, "stty size; echo do''ne\n");
    let seen = server.hear(channel, |seen| has("done")(seen) || seen.end.is_some()).await;
    let text = String::from_utf8_lossy(&seen.text).into_owned();
    // The first of the two came out of order and ended the channel: what follows it was never typed.
    assert!(seen.end.is_some(), "{text}");
    let channel = server.view(Program::Shell, None, "again", false);
    server.types(channel, 0, "stty size; echo do''ne\n");
    let seen = server.hear(channel, has("done")).await;
    let text = String::from_utf8_lossy(&seen.text).into_owned();
    assert!(text.contains("24 80") && !text.contains("sneaked"), "{text}");
}

#[tokio::test]
async fn resizes_reach_the_program() {
    let mut server = Server::new();
    let channel = server.command("trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done");
    server.hear(channel, has("ready")).await;
    server.channels.take(ToChannel::Resize { channel, size: Size { cols: 123, rows: 45 } });
    assert!(server.ends(channel).await.0.contains("45 123"));
}

#[tokio::test]
async fn commands_keep_their_outputs_apart() {
    let mut server = Server::new();
    let command = ["sh", "-c", "cat; echo wrong >&2; exit 3"].map(str::to_owned).to_vec();
    let channel = server.open(Purpose::Exec { command });
    server.types(channel, 0, "through");
    server.channels.take(ToChannel::Eof { channel });
    let (mut out, mut err, mut end) = (Vec::new(), Vec::new(), None);
    while end.is_none() {
        match tokio::time::timeout(PATIENCE, server.frames.recv()).await.expect("soon").expect("lives") {
            Frame::Data(Data { stream: 1, bytes, .. }) => out.extend_from_slice(&bytes),
            Frame::Data(Data { bytes, .. }) => err.extend_from_slice(&bytes),
            Frame::Message(FromGuest::Channel(FromChannel::Ended { end: how, .. })) => end = Some(how),
            Frame::Message(_) => {}
        }
    }
    assert_eq!((out.as_slice(), err.as_slice()), (b"through".as_slice(), b"wrong\n".as_slice()));
    assert_eq!(end, Some(End::Exited { code: 3 }));
}

#[tokio::test]
async fn a_command_waits_for_a_slow_reader_and_nothing_is_lost() {
    let mut server = Server::new();
    let command = ["sh", "-c", "head -c 1000000 /dev/zero; exit 0"].map(str::to_owned).to_vec();
    let channel = server.open(Purpose::Exec { command });
    let seen =
        server.hear_on(channel, Seen::default(), false, |seen| seen.text.len() as u64 >= WINDOW_BYTES - 65_536).await;
    server.channels.take(ToChannel::Ack { channel, position: seen.text.len() as u64 });
    let seen = server.hear_on(channel, seen, true, |seen| seen.end.is_some()).await;
    assert_eq!(seen.text.len(), 1_000_000);
}

#[tokio::test]
async fn files_are_written_read_and_listed() {
    let mut server = Server::new();
    let channel = server.open(Purpose::WriteFile { path: "/work/new/folder/file.txt".to_owned() });
    server.types(channel, 0, "con");
    server.types(channel, 3, "tent");
    server.channels.take(ToChannel::Eof { channel });
    assert_eq!(server.ends(channel).await.1, End::Exited { code: 0 });
    let channel = server.open(Purpose::ReadFile { path: "/work/new/folder/file.txt".to_owned() });
    assert_eq!(server.ends(channel).await, ("content".to_owned(), End::Exited { code: 0 }));
    let channel = server.open(Purpose::ListFiles { path: "/work/new/folder".to_owned() });
    let (listed, _) = server.ends(channel).await;
    assert!(listed.contains(r#""name":"file.txt","kind":"file","size":7"#), "{listed}");
}

#[tokio::test]
async fn no_path_leads_out() {
    let mut server = Server::new();
    let work = server.folder.path().join("work");
    std::fs::write(server.folder.path().join("secret"), "outside").expect("mine");
    std::os::unix::fs::symlink("../secret", work.join("link")).expect("mine");
    std::os::unix::fs::symlink("..", work.join("up")).expect("mine");
    std::os::unix::fs::symlink("repo", work.join("inside")).expect("mine");
    std::fs::write(work.join("repo/a"), "fine").expect("mine");
    for path in
        ["/work/link", "/work/up/secret", "/etc/passwd", "/work/../secret", "../../secret", "/work/up/work/repo/a"]
    {
        let channel = server.open(Purpose::ReadFile { path: path.to_owned() });
        let (text, end) = server.ends(channel).await;
        assert!(matches!(end, End::Failed { ref code, .. } if code == "bad_path"), "{path}: {end:?}");
        assert_eq!(text, "");
    }
    for path in ["/work/up/new", "/etc/new", "/work/.."] {
        let channel = server.open(Purpose::WriteFile { path: path.to_owned() });
        let (_, end) = server.ends(channel).await;
        assert!(matches!(end, End::Failed { ref code, .. } if code == "bad_path"), "{path}: {end:?}");
    }
    let channel = server.open(Purpose::ReadFile { path: "/work/inside/a".to_owned() });
    assert_eq!(server.ends(channel).await.0, "fine");
    let channel = server.open(Purpose::ReadFile { path: "~/none".to_owned() });
    let (_, end) = server.ends(channel).await;
    assert!(matches!(end, End::Failed { ref code, .. } if code == "not_found"), "{end:?}");
}
