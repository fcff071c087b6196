//! `lap attach` and `lap exec` as a person uses them: in a real terminal (tmux), with the built program.

use std::process::Command;
use std::time::Duration;

use lap_api::agent::CreateAgent;
use lap_api::session::{CreateSession, Session};
use tokio::time::Instant;

use crate::world::{Needs, PATIENCE, World, binary, say, shell_agent, words};

/// A window of a tmux of its own.
struct Window {
    server: String,
    key: String,
    folder: tempfile::TempDir,
}

/// A terminal announces nothing to those who look at it from outside: they look this often.
const LOOK_EVERY: Duration = Duration::from_millis(30);

impl Window {
    /// A window in which this runs, and then says how it ended and whether the terminal is as it was.
    fn run(world: &World, arguments: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let window = Self { server: world.server.url().to_owned(), key: world.server.key().to_owned(), folder };
        let line = format!(
            "stty -a > before; {} {arguments}; echo \"status $?\"; stty -a > after; cmp before after && echo 'terminal as before'; exec cat",
            binary().display()
        );
        let home = window.folder.path().display().to_string();
        window.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "-c", &home, "-s", "w", &line]);
        window.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        window
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let out = Command::new("tmux")
            .arg("-S")
            .arg(self.folder.path().join("socket"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("LANG", "C.UTF-8")
            .env("SHELL", "/bin/sh")
            .env("LAP_SERVER", &self.server)
            .env("LAP_API_KEY", &self.key)
            .output()
            .expect("tmux is installed");
        assert!(out.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "w"])
    }

    /// What tmux knows of the window, such as the modes that a program set.
    fn knows(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", "-t", "w", format]).trim().to_owned()
    }

    fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "w"], keys].concat());
    }

    async fn until(&self, wanted: impl Fn(&Self) -> bool) -> bool {
        let began = Instant::now();
        while !wanted(self) {
            if began.elapsed() > PATIENCE {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }

    async fn shows(&self, text: &str) {
        let seen = self.until(|window| window.screen().contains(text)).await;
        assert!(seen, "`{text}` does not show on\n{}", self.screen());
    }

    async fn shows_no_more(&self, text: &str) {
        let gone = self.until(|window| !window.screen().contains(text)).await;
        assert!(gone, "`{text}` still shows on\n{}", self.screen());
    }

    async fn comes_to(&self, format: &str, value: &str) {
        let there = self.until(|window| window.knows(format) == value).await;
        assert!(there, "{format} is {:?} and not {value:?}", self.knows(format));
    }

    /// The `lap` that runs in it.
    fn lap_pid(&self) -> u32 {
        let shell: u32 = self.knows("#{pane_pid}").parse().expect("a number");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("it runs");
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(shell)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(self.folder.path().join("socket")).arg("kill-server").output();
    }
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.expect("kill is there").success());
}

async fn session_of(world: &World) -> Session {
    let agent = world.agent(shell_agent()).await;
    world.ready(&agent, CreateSession::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_types_resizes_leaves_and_comes_back() {
    let world = World::new(Needs::Shell).await;
    let session = session_of(&world).await;
    let window = Window::run(&world, &format!("attach --shell {}", session.id));
    window.types(&["echo he''llo; stty size; pwd", "Enter"]);
    window.shows("hello").await;
    window.shows("30 100").await;
    window.shows("/work/repo").await;
    window.comes_to("#{pane_title}", &format!("lap {}", session.id)).await;
    window.tmux(&["resize-window", "-t", "w", "-x", "80", "-y", "20"]);
    window.types(&["stty size", "Enter"]);
    window.shows("20 80").await;
    // A second viewer sees the same and may type too.
    let second = Window::run(&world, &format!("attach --shell {}", session.id));
    second.shows("hello").await;
    second.types(&["echo fr''om-two", "Enter"]);
    window.shows("from-two").await;
    // A full-screen program with modes; whoever attaches gets all of them.
    window.types(&["printf '\\033[?1049h\\033[?1000h\\033[?2004h\\033[2J\\033[5;10Hin the middle'; read x", "Enter"]);
    window.shows("in the middle").await;
    window.comes_to("#{alternate_on}#{mouse_standard_flag}", "11").await;
    window.types(&["Enter"]);
    window.types(&["printf '\\033[?1049h'; read x", "Enter"]);
    let third = Window::run(&world, &format!("attach --shell {}", session.id));
    third.comes_to("#{alternate_on}#{mouse_standard_flag}", "11").await;
    // Leaving gives the terminal back: modes, screen, settings.
    third.types(&["Enter", "~."]);
    third.shows("Detached.").await;
    third.shows("terminal as before").await;
    third.comes_to("#{alternate_on}#{mouse_standard_flag}", "00").await;
    // The program's end is told to the others.
    window.types(&["Enter", "exit 4", "Enter"]);
    window.shows("The program has ended with status 4").await;
    second.shows("terminal as before").await;
    drop((window, second, third));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_the_program_lives_and_the_client_comes_back() {
    let mut world = World::new(Needs::Shell).await;
    let session = session_of(&world).await;
    {
        let window = Window::run(&world, &format!("attach --terminal {}", session.id));
        window.types(&["kept=yes; echo re''ady", "Enter"]);
        window.shows("ready").await;
        // The terminal is given back on a signal too.
        kill("-TERM", window.lap_pid());
        window.shows("status 130").await;
        window.shows("terminal as before").await;
        let window = Window::run(&world, &format!("attach --terminal {}", session.id));
        window.shows("ready").await;
        kill("-KILL", window.lap_pid());
        window.shows("status 137").await;
    }
    // The server is killed while somebody types: every key arrives, once.
    let window = Window::run(&world, &format!("attach --terminal {}", session.id));
    window.types(&["echo [$kept]; cat > /tmp/keys", "Enter"]);
    window.shows("[yes]").await;
    window.types(&["before ", "the end "]);
    window.shows("before the end").await;
    let address = world.server.url().trim_start_matches("http://").to_owned();
    world.server.kill().await.expect("it can be killed");
    window.types(&["while it is away "]);
    window.shows("reconnecting").await;
    world.start_again_on(&address).await;
    window.types(&["and after", "Enter"]);
    window.shows("before the end while it is away and after").await;
    window.shows_no_more("reconnecting").await;
    window.types(&["~d"]);
    window.types(&["clear; sed s/^/got:/ /tmp/keys", "Enter"]);
    window.shows("got:before the end while it is away and after").await;
    // In a harness's terminal Ctrl-D leaves.
    window.types(&["C-d"]);
    window.shows("Detached.").await;
    window.shows("terminal as before").await;
    drop(window);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_beside_the_harness() {
    let world = World::new(Needs::Shell).await;
    let session = session_of(&world).await;
    let window =
        Window::run(&world, &format!("exec {} -- sh -c 'tty; stty size; read x; echo got $x; exit 9'", session.id));
    window.shows("/dev/pts/").await;
    window.shows("30 100").await;
    window.types(&["this", "Enter"]);
    window.shows("got this").await;
    window.shows("status 9").await;
    window.shows("terminal as before").await;
    // Ctrl-C is the command's.
    let window = Window::run(&world, &format!("exec {} -- sh -c 'echo go\"\"ing; exec sleep 1000'", session.id));
    window.shows("going").await;
    window.types(&["C-c"]);
    window.shows("status 130").await;
    drop(window);
    // With pipes everything stays what it is.
    let (out, err, code) =
        lap(&world, &["exec", &session.id, "--", "sh", "-c", "cat; echo wrong >&2; exit 3"], b"a\0b\xff\r\n");
    assert_eq!((out.as_slice(), err.as_str(), code), (b"a\0b\xff\r\n".as_slice(), "wrong\n", Some(3)));
    let (out, _, code) = lap(&world, &["exec", &session.id, "--", "head", "-c", "3000000", "/dev/zero"], b"");
    assert_eq!((out.len(), code), (3_000_000, Some(0)));
    let (_, err, code) = lap(&world, &["exec", &session.id, "--", "/no/such/program"], b"");
    assert!(err.contains("could not be started") && code == Some(1), "{err}");
    let (_, err, code) = lap(&world, &["attach", "--terminal", &session.id], b"");
    assert!(err.contains("can only be attached from a terminal") && code == Some(2), "{err}");
    world.end().await;
}

/// Both faces of a real harness on one conversation: a message, then a person in the terminal, then a message again.
async fn both_faces(harness: &'static str, in_terminal: &str, joins: bool) {
    let world = World::new(Needs::Harness(harness)).await;
    let agent = CreateAgent {
        name: Some("both".into()),
        model: Some("test-model".into()),
        harness_id: Some(harness.into()),
        ..CreateAgent::default()
    };
    let agent = world.agent(agent).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    world.ask(&session, "remember the teapot [[say:noted by message]]").await;
    let window = Window::run(&world, &format!("attach --terminal {}", session.id));
    window.shows("noted by message").await;
    window.shows(in_terminal).await;
    // Text and Enter in one write would be a paste.
    window.types(&["-l", "remember the kettle [[say:noted in the terminal]]"]);
    window.shows("kettle").await;
    window.types(&["Enter"]);
    // Once as a part of what was typed, once as the answer.
    let answered_there = |window: &Window| window.screen().matches("noted in the terminal").count() > 1;
    assert!(window.until(answered_there).await, "no answer on\n{}", window.screen());
    // A person sits there: a message waits for another time, where both cannot have the conversation.
    let meanwhile = world.client.message(&session.id, &say("[[recall]]"), None).await;
    if joins {
        let recalled = words(&meanwhile.expect("both may have it"));
        assert!(recalled.contains("remember the kettle"), "{recalled}\n{}", window.screen());
    } else {
        let refused = meanwhile.expect_err("it is in use").to_string();
        assert!(refused.contains("is being used in its terminal"), "{refused}");
    }
    window.types(&["C-d"]);
    window.shows("Detached.").await;
    window.shows("terminal as before").await;
    // Nobody looks any more and it is quiet: the conversation comes back with all that was said.
    let recalled = answered(&world, &session, "[[recall]]").await;
    assert!(recalled.contains("remember the teapot") && recalled.contains("remember the kettle"), "{recalled}");
    // And the terminal may have it again.
    let window = Window::run(&world, &format!("attach --terminal {}", session.id));
    window.shows(in_terminal).await;
    window.shows("noted in the terminal").await;
    drop(window);
    world.end().await;
}

/// The answer to a message, as soon as the terminal is quiet enough to give the conversation back.
async fn answered(world: &World, session: &Session, text: &str) -> String {
    let began = Instant::now();
    loop {
        match world.client.message(&session.id, &say(text), None).await {
            Ok(answer) => return words(&answer),
            Err(problem) if problem.to_string().contains("is being used") && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(problem) => panic!("{problem}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_has_two_faces() {
    both_faces("claude-code", "❯", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_has_two_faces() {
    both_faces("codex", "›", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_has_two_faces() {
    both_faces("opencode", "ctrl+p", true).await;
}

/// The built program with pipes: output, errors, status.
fn lap(world: &World, arguments: &[&str], input: &[u8]) -> (Vec<u8>, String, Option<i32>) {
    use std::io::Write as _;
    let mut child = Command::new(binary())
        .args(arguments)
        .env_clear()
        .env("LAP_SERVER", world.server.url())
        .env("LAP_API_KEY", world.server.key())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    (out.stdout, String::from_utf8_lossy(&out.stderr).into_owned(), out.status.code())
}
