//! Commands against a mock server, in process: what goes to standard output, what to standard error, which exit code.

#![allow(clippy::unwrap_used)]

#[path = "../../lap-client/tests/support/mod.rs"]
mod support;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use expect_test::{Expect, expect, expect_file};
use lap_cli::{Cli, Context, Environment, Exit, Io};
use lap_client::ApiKey;
use serde_json::json;
use support::{KEY, Mock};

/// A place to run commands in: a mock server, a home folder, an environment.
struct Place {
    mock: Mock,
    home: tempfile::TempDir,
    environment: Environment,
}

impl Place {
    async fn new() -> Self {
        let mock = Mock::start().await;
        let home = tempfile::tempdir().unwrap();
        let environment = Environment {
            server: Some(mock.url.clone()),
            api_key: Some(ApiKey::new(KEY)),
            lap_home: Some(home.path().join(".lap")),
            variable: Arc::new(|name| (name == "GITHUB_TOKEN").then(|| "ghp_real".to_owned())),
            ..Environment::empty()
        };
        Self { mock, home, environment }
    }

    /// Knows the server only by what `lap login` stored.
    fn forget_environment(&mut self) {
        self.environment.server = None;
        self.environment.api_key = None;
    }

    async fn run(&self, line: &str, input: &str) -> (Exit, String, String) {
        let (out, err) = (Kept::default(), Kept::default());
        let words = ["lap"].into_iter().chain(line.split_whitespace());
        let cli = match Cli::try_parse_from(words) {
            Ok(cli) => cli,
            Err(e) => return (Exit::Usage, String::new(), e.render().to_string()),
        };
        let io = Io {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            input: Box::new(io::Cursor::new(input.to_owned().into_bytes())),
            input_is_terminal: false,
            out_is_terminal: false,
            err_is_terminal: false,
            color: false,
        };
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let context = Context { environment: self.environment.clone(), io, now, program: Cli::command };
        let exit = lap_cli::execute(cli.command.map(Into::into), cli.options, context).await;
        (exit, self.neutral(out.text()), self.neutral(err.text()))
    }

    /// What differs from run to run is named instead.
    fn neutral(&self, text: String) -> String {
        let text = text.replace(&self.mock.url, "http://SERVER").replace(self.home.path().to_str().unwrap(), "HOME");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for line in &mut lines {
            if line.starts_with("ready after ") {
                *line = "ready after N s".to_owned();
            }
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }

    async fn check(&self, line: &str, expect: Expect) {
        self.check_with(line, "", expect).await;
    }

    async fn check_with(&self, line: &str, input: &str, expect: Expect) {
        let (exit, out, err) = self.run(line, input).await;
        let mut text = format!("exit {}\n", exit.code());
        for (name, part) in [("out", out), ("err", err)] {
            for line in part.lines() {
                text += format!("{name}| {line}").trim_end();
                text.push('\n');
            }
        }
        expect.assert_eq(&text);
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn help_is_worth_reading() {
    let mut text = String::new();
    let mut command = Cli::command().term_width(100);
    command.build();
    collect_help(&mut command, &mut text);
    expect_file!["help.txt"].assert_eq(&text);
}

fn collect_help(command: &mut clap::Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or("lap").to_owned();
    let help = command.render_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!("===== {name} =====\n{}\n\n", lines.join("\n"));
    let below: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for name in below.iter().filter(|name| *name != "help") {
        collect_help(command.find_subcommand_mut(name).unwrap(), text);
    }
}

#[tokio::test]
async fn login_checks_and_keeps_a_key_in_a_private_file() {
    let mut place = Place::new().await;
    place.forget_environment();
    let url = place.mock.url.clone();
    place
        .check_with(
            &format!("login --server {url} --key-stdin"),
            "wrong\n",
            expect![[r#"
            exit 4
            err| error: http://SERVER does not know this key
            err| Nothing was stored. A server prints its master key when it first starts.
        "#]],
        )
        .await;
    place
        .check_with(
            &format!("login --server {url} --key-stdin"),
            &format!("{KEY}\n"),
            expect![[r#"
            exit 0
            err| Logged in to http://SERVER. The key is kept in HOME/.lap/config.json (profile default).
        "#]],
        )
        .await;
    let path = place.home.path().join(".lap/config.json");
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    place
        .check(
            "config",
            expect![[r#"
        exit 0
        out| server   http://SERVER (from profile default)
        out| key      set (from profile default)
        out| profile * default  http://SERVER
    "#]],
        )
        .await;
    place
        .check(
            "agents",
            expect![[r#"
        exit 0
        err| There are no agents yet. `lap agent create NAME --model MODEL` makes one.
    "#]],
        )
        .await;
    place
        .check(
            "config path",
            expect![[r#"
        exit 0
        out| HOME/.lap/config.json
    "#]],
        )
        .await;
    place
        .check(
            "config use other",
            expect![[r#"
        exit 3
        err| error: there is no profile `other`
        err| `lap login --profile other --server URL` makes it.
    "#]],
        )
        .await;
    place
        .check(
            "--profile other agents",
            expect![[r#"
        exit 3
        err| error: there is no profile `other` (there are: default)
        err| `lap login --profile other --server URL` makes it.
    "#]],
        )
        .await;
    place
        .check(
            "logout",
            expect![[r#"
        exit 0
        err| Forgot the key of profile default. The key itself is still valid on its server.
    "#]],
        )
        .await;
    place
        .check(
            "agents",
            expect![[r#"
        exit 4
        err| error: there is no key for http://SERVER
        err| `lap login` stores one; LAP_API_KEY gives one for a single command.
    "#]],
        )
        .await;
    let (_, out, _) = place.run("config --json", "").await;
    assert!(!out.contains(KEY));
}

#[tokio::test]
async fn a_profiles_key_goes_to_its_own_server_only() {
    let mut place = Place::new().await;
    place.forget_environment();
    let login = format!("login --server {} --key-stdin", place.mock.url);
    assert_eq!(place.run(&login, KEY).await.0, Exit::Ok);
    let other = Mock::start().await;
    let (exit, _, err) = place.run(&format!("agents --server {}", other.url), "").await;
    assert_eq!(exit, Exit::Unauthorized, "{err}");
    assert_eq!(other.with(|data| data.requests.len()), 0);
}

#[tokio::test]
async fn the_key_of_a_server_on_this_machine_is_found() {
    let mut place = Place::new().await;
    place.environment.api_key = None;
    let path = place.home.path().join("master.key");
    std::fs::write(&path, format!("{KEY}\n")).unwrap();
    place.environment.local_key_file = Some(path);
    place
        .check(
            "agents",
            expect![[r#"
        exit 0
        err| Using the key of the server on this machine (HOME/master.key).
        err| There are no agents yet. `lap agent create NAME --model MODEL` makes one.
    "#]],
        )
        .await;
    // Not for servers elsewhere, whatever they are called.
    place.environment.server = Some("http://192.0.2.1:1".to_owned());
    place
        .check(
            "agents",
            expect![[r#"
        exit 4
        err| error: there is no key for http://192.0.2.1:1
        err| `lap login` stores one; LAP_API_KEY gives one for a single command.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn agents_are_created_shown_edited_and_deleted() {
    let place = Place::new().await;
    place
        .check(
            "agents",
            expect![[r#"
        exit 0
        err| There are no agents yet. `lap agent create NAME --model MODEL` makes one.
    "#]],
        )
        .await;
    place
        .check(
            "agent create backend",
            expect![[r#"
        exit 2
        err| error: an agent needs a model
        err| Add --model, as the gateway names it: --model anthropic/claude-opus-4-7
    "#]],
        )
        .await;
    place
        .check(
            "agent create backend -m m/1 -r https://git.test/a -e GITHUB_TOKEN --env-hosts GITHUB_TOKEN=git.test,api.git.test --allow-out *.test",
            expect![[r#"
                exit 0
                out| 00000000-0000-7000-8000-000000000001
                err| Created. `lap backend` opens it.
            "#]],
        )
        .await;
    let sent = place.mock.with(|data| data.bodies.last().unwrap().1.clone());
    assert_eq!(sent["env_vars"], json!({ "GITHUB_TOKEN": "ghp_real" }));
    place
        .check(
            "agents",
            expect![[r#"
        exit 0
        out| NAME     HARNESS   MODEL  REPOSITORY          SESSIONS  ID
        out| backend  opencode  m/1    https://git.test/a  -         00000000-0000-7000-8000-000000000001
    "#]],
        )
        .await;
    place
        .check(
            "agent show BACKEND",
            expect![[r#"
        exit 0
        out| name             backend
        out| id               00000000-0000-7000-8000-000000000001
        out| model            m/1
        out| harness          opencode
        out| repository       https://git.test/a
        out| branch           main
        out| permission mode  bypass
        out| variable         GITHUB_TOKEN=********  to git.test, api.git.test
        out| allow out        *.test
        out| created          2026-01-01T00:00:00.000Z
        out| updated          2026-01-01T00:00:00.000Z
    "#]],
        )
        .await;
    place
        .check(
            "agent edit backend",
            expect![[r#"
        exit 2
        err| error: nothing to change was given
        err| `lap agent edit --help` lists the options.
    "#]],
        )
        .await;
    place
        .check(
            "agent edit backend --prompt hi --repo= --unset-env GITHUB_TOKEN",
            expect![[r#"
                exit 0
                err| Saved. New sessions have the change; changed variables and limits reach live sessions at once.
            "#]],
        )
        .await;
    let sent = place.mock.with(|data| data.bodies.last().unwrap().1.clone());
    assert_eq!(sent, json!({ "prompt": "hi", "repo_url": null, "env_vars": {}, "env_var_hosts": {} }));
    place
        .check(
            "agent delete backend",
            expect![[r#"
        exit 2
        err| error: this cannot be undone, and there is nobody to ask
        err| Add --yes to do it.
    "#]],
        )
        .await;
    place
        .check(
            "agent delete backend --yes",
            expect![[r#"
        exit 0
        err| Deleted agent backend.
    "#]],
        )
        .await;
    place
        .check(
            "agent show backend",
            expect![[r#"
        exit 3
        err| error: there is no agent `backend`
        err| `lap agents` lists agents, `lap agent create` makes one, `lap --help` lists commands.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn problems_are_listed_once() {
    let place = Place::new().await;
    let refuse = |problems: serde_json::Value| {
        let error = "env_vars.PATH: `PATH` is reserved";
        let body = json!({ "error": error, "code": "invalid_request", "problems": problems });
        place.mock.with(|data| data.refusals.insert("POST /api/v1/managed_agents/agents".to_owned(), (400, body)));
    };
    let path = json!({ "field": "env_vars.PATH", "message": "`PATH` is reserved" });
    refuse(json!([path]));
    place
        .check(
            "agent create a -m m",
            expect![[r#"
        exit 2
        err| error: env_vars.PATH: `PATH` is reserved
    "#]],
        )
        .await;
    refuse(json!([path, { "field": "", "message": "too large" }]));
    place
        .check(
            "agent create a -m m",
            expect![[r#"
        exit 2
        err| error: env_vars.PATH: `PATH` is reserved
        err|   env_vars.PATH: `PATH` is reserved
        err|   too large
    "#]],
        )
        .await;
}

#[tokio::test]
async fn values_never_stand_on_the_command_line() {
    let place = Place::new().await;
    place
        .check(
            "agent create a -m m -e TOKEN=abc",
            expect![[r#"
        exit 2
        err| error: `-e TOKEN=…` has a value: others can read a command line
        err| Export TOKEN and give `-e TOKEN`, or use --env-file.
    "#]],
        )
        .await;
    place
        .check(
            "agent create a -m m -e MISSING",
            expect![[r#"
        exit 2
        err| error: not set in your environment: MISSING
        err| `-e KEY` takes the value from your environment; export it first, or use --env-file.
    "#]],
        )
        .await;
    place
        .check(
            "backend -e TOKEN=abc",
            expect![[r#"
        exit 2
        err| error: `-e TOKEN=…` has a value: others can read a command line
        err| Export TOKEN and give `-e TOKEN`, or use --env-file.
    "#]],
        )
        .await;
    let file = place.home.path().join("env");
    std::fs::write(&file, "# comment\nexport A=1\nB='x y' \nC=\"l\\n2\"\nD=plain # note\n").unwrap();
    let (exit, ..) = place.run(&format!("agent create a -m m --env-file {}", file.display()), "").await;
    assert_eq!(exit, Exit::Ok);
    let sent = place.mock.with(|data| data.bodies.last().unwrap().1.clone());
    assert_eq!(sent["env_vars"], json!({ "A": "1", "B": "x y", "C": "l\n2", "D": "plain" }));
    std::fs::write(&file, "A=1\nsecret words\n").unwrap();
    place
        .check(
            &format!("agent create a -m m --env-file {}", file.display()),
            expect![[r#"
        exit 2
        err| error: HOME/env: line 2 has no `=`
        err| Each line is KEY=VALUE, a comment after #, or empty; quotes around a value are taken off.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn names_that_fit_several_agents_are_listed() {
    let place = Place::new().await;
    for _ in 0..2 {
        place.mock.add_agent("twin");
    }
    place.mock.add_agent("twins");
    place
        .check_with(
            "twin",
            "hello",
            expect![[r#"
        exit 2
        err| error: 2 agents are called `twin`
        err|   00000000-0000-7000-8000-000000000002  m/1  opencode  no repository
        err|   00000000-0000-7000-8000-000000000001  m/1  opencode  no repository
        err| Give the id of the one you mean.
    "#]],
        )
        .await;
    place
        .check_with(
            "twi",
            "hello",
            expect![[r#"
        exit 3
        err| error: there is no agent `twi`
        err|   similar: twins  00000000-0000-7000-8000-000000000003
        err|   similar: twin  00000000-0000-7000-8000-000000000002
        err|   similar: twin  00000000-0000-7000-8000-000000000001
        err| `lap agents` lists agents, `lap agent create` makes one, `lap --help` lists commands.
    "#]],
        )
        .await;
    place
        .check(
            "agents --search twins --json",
            expect![[r#"
                exit 0
                out| [
                out|   {
                out|     "id": "00000000-0000-7000-8000-000000000003",
                out|     "name": "twins",
                out|     "model": "m/1",
                out|     "prompt": null,
                out|     "harness_id": "opencode",
                out|     "supports_tui": false,
                out|     "repo_url": null,
                out|     "branch": "main",
                out|     "mcp_servers": [],
                out|     "env_vars": {},
                out|     "env_var_hosts": {},
                out|     "plain_env_vars": [],
                out|     "attached_skill_ids": [],
                out|     "allow_out": [],
                out|     "deny_out": [],
                out|     "sandbox_files": [],
                out|     "mcp_headers": {},
                out|     "permission_mode": "bypass",
                out|     "image": null,
                out|     "requirements": null,
                out|     "max_tokens": null,
                out|     "max_cost_usd": null,
                out|     "usage": {
                out|       "calls": 0,
                out|       "estimated_calls": 0,
                out|       "unpriced_calls": 0,
                out|       "input_tokens": 0,
                out|       "output_tokens": 0,
                out|       "cached_tokens": 0,
                out|       "cache_write_tokens": 0,
                out|       "cost_usd": null,
                out|       "models": []
                out|     },
                out|     "warnings": [],
                out|     "created_at": "2026-01-01T00:00:00.000Z",
                out|     "updated_at": "2026-01-01T00:00:00.000Z"
                out|   }
                out| ]
            "#]],
        )
        .await;
}

#[tokio::test]
async fn a_prompt_on_standard_input_is_answered_on_standard_output() {
    let place = Place::new().await;
    place.mock.add_agent("backend");
    place
        .check_with(
            "backend",
            " \n",
            expect![[r#"
        exit 2
        err| error: the message is empty
        err| Give it as an argument or on standard input: echo 'fix the test' | lap AGENT
    "#]],
        )
        .await;
    assert_eq!(place.mock.with(|data| data.sessions.len()), 0);
    // A mistyped command is an unknown agent, whatever waits on standard input.
    place
        .check(
            "agnts",
            expect![[r#"
        exit 3
        err| error: there is no agent `agnts`
        err| `lap agents` lists agents, `lap agent create` makes one, `lap --help` lists commands.
    "#]],
        )
        .await;
    place.check_with("backend", "hello", expect![[r#"
        exit 0
        out| You said: hello
        err| Session 00000000-0000-7000-8000-000000000002
        err| creating the sandbox …
        err| cloning the repository: https://git.test/a …
        err| ready …
        err| ready after N s
        err| - bash: cargo test (completed)
        err| [1.2k tokens in, 34 out, $0.50]
        err| The session goes on: `lap attach 00000000-0000-7000-8000-000000000002` returns, `lap stop 00000000-0000-7000-8000-000000000002` ends it.
    "#]]).await;
    place.check_with("backend", "again", expect![[r#"
        exit 0
        out| You said: again
        err| Going on with the live session 00000000-0000-7000-8000-000000000002 of backend (created 2 h ago); --new starts a fresh one.
        err| - bash: cargo test (completed)
        err| [1.2k tokens in, 34 out, $0.50]
        err| The session goes on: `lap attach 00000000-0000-7000-8000-000000000002` returns, `lap stop 00000000-0000-7000-8000-000000000002` ends it.
    "#]]).await;
    place.check_with("backend -e GITHUB_TOKEN", "with a token", expect![[r#"
        exit 0
        out| You said: with a token
        err| Starting a new session: variables and branch are given to new ones only.
        err| Session 00000000-0000-7000-8000-000000000005
        err| creating the sandbox …
        err| cloning the repository: https://git.test/a …
        err| ready …
        err| ready after N s
        err| - bash: cargo test (completed)
        err| [1.2k tokens in, 34 out, $0.50]
        err| The session goes on: `lap attach 00000000-0000-7000-8000-000000000005` returns, `lap stop 00000000-0000-7000-8000-000000000005` ends it.
    "#]]).await;
    assert_eq!(place.mock.with(|data| data.sessions.len()), 2);
}

#[tokio::test]
async fn a_session_that_fails_says_why() {
    let place = Place::new().await;
    place.mock.add_agent("backend");
    place.mock.with(|data| data.boot_fails = Some("there is no branch `dev`; the default is `main`".to_owned()));
    place
        .check_with(
            "backend",
            "hello",
            expect![[r#"
        exit 5
        err| Session 00000000-0000-7000-8000-000000000002
        err| creating the sandbox …
        err| cloning the repository: https://git.test/a …
        err| error: the session failed: there is no branch `dev`; the default is `main`
        err| `lap logs 00000000-0000-7000-8000-000000000002 --sandbox` shows what the sandbox wrote.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn messages_are_sent_and_answered() {
    let place = Place::new().await;
    let agent = place.mock.add_agent("backend");
    let id = place.mock.add_ready_session(&agent);
    place
        .check(
            &format!("send {id} hello"),
            expect![[r#"
        exit 0
        out| You said: hello
        err| - bash: cargo test (completed)
        err| [1.2k tokens in, 34 out, $0.50]
    "#]],
        )
        .await;
    place
        .check_with(
            &format!("send http://h/ui/sessions/{id}/log -"),
            "from stdin\n",
            expect![[r#"
        exit 0
        out| You said: from stdin
        err| - bash: cargo test (completed)
        err| [1.2k tokens in, 34 out, $0.50]
    "#]],
        )
        .await;
    place.check(&format!("send {id} fail"), expect![[r#"
        exit 5
        err| error: the turn failed: the model is not there
        err| `lap logs 00000000-0000-7000-8000-000000000002` shows what happened, `lap logs 00000000-0000-7000-8000-000000000002 --sandbox` what the harness wrote.
    "#]]).await;
    place
        .check(
            &format!("send {id} hello --no-wait"),
            expect![[r#"
        exit 0
        out| turn-6
    "#]],
        )
        .await;
    let (exit, out, _) = place.run(&format!("send {id} hello --json"), "").await;
    let reply: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, &reply["parts"][0]["text"]), (Exit::Ok, &json!("You said: hello")));
    place.check(&format!("stop {id}"), expect![[r#"
        exit 0
        err| The session is dead (stopped). `lap logs 00000000-0000-7000-8000-000000000002` still shows what happened in it.
    "#]]).await;
    place
        .check(
            &format!("send {id} hello"),
            expect![[r#"
        exit 5
        err| error: The session is dead. Reason: stopped
        err| `lap AGENT --new` starts a fresh session.
    "#]],
        )
        .await;
    place
        .check(
            "send nothing hello",
            expect![[r#"
        exit 3
        err| error: There is no such session.
        err| `lap agents` and `lap sessions` list what there is.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn sessions_and_their_logs_are_listed() {
    let place = Place::new().await;
    let agent = place.mock.add_agent("backend");
    place
        .check(
            "sessions",
            expect![[r#"
        exit 0
        err| There are no sessions yet. `lap AGENT` opens one.
    "#]],
        )
        .await;
    let id = place.mock.add_ready_session(&agent);
    place.run(&format!("send {id} hello"), "").await;
    place.run(&format!("send {id} fail"), "").await;
    place.mock.push(&id, "moon.phase", json!({}));
    place
        .check(
            "sessions --agent backend",
            expect![[r#"
        exit 0
        out| ID                                    AGENT    STATUS  CREATED  LAST SEEN  TITLE
        out| 00000000-0000-7000-8000-000000000002  backend  ready   2 h ago  1 h ago    -
    "#]],
        )
        .await;
    place
        .check(
            "sessions --status dead",
            expect![[r#"
        exit 0
        err| No session fits. `lap sessions` lists all.
    "#]],
        )
        .await;
    place
        .check(
            &format!("logs {id}"),
            expect![[r#"
                exit 0
                out| 1     00:00:01  session creating
                out| 2     00:00:02  phase creating_sandbox
                out| 3     00:00:03  phase cloning_repo: https://git.test/a
                out| 4     00:00:04  phase ready
                out| 5     00:00:05  session ready
                out| 6     00:00:06  user: hello
                out| 7     00:00:07  turn started
                out| 8     00:00:08  tool bash running: cargo test
                out| 9     00:00:09  tool bash completed: cargo test
                out| 12    00:00:12  agent: You said: hello
                out| 13    00:00:13  turn completed [1.2k tokens in, 34 out, $0.50]
                out| 14    00:00:14  user: fail
                out| 15    00:00:15  turn started
                out| 16    00:00:16  turn failed (harness_failed): the model is not there
                out| 17              moon.phase (newer than this lap)
            "#]],
        )
        .await;
    place
        .check(
            &format!("logs {id} -n 2"),
            expect![[r#"
                exit 0
                out| 16    00:00:16  turn failed (harness_failed): the model is not there
                out| 17              moon.phase (newer than this lap)
            "#]],
        )
        .await;
    place
        .check(
            &format!("logs {id} --sandbox"),
            expect![[r#"
        exit 0
        out| clone: done
        out| harness: listening
    "#]],
        )
        .await;
    place
        .check(
            &format!("egress {id}"),
            expect![[r#"
        exit 0
        out| TIME      VERDICT  STATUS  METHOD   WHERE                            TOOK   CREDENTIALS
        out| 00:00:01  allowed  200     POST     git.test:443/a/git-receive-pack  12 ms  GITHUB_TOKEN
        out| 00:00:02  denied   -       CONNECT  evil.test:443                    0 ms
    "#]],
        )
        .await;
    let (_, out, _) = place.run(&format!("logs {id} --json"), "").await;
    let ids: Vec<u64> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    let stop = async {
        // The follower is there once it asked for the stream, beside the page that comes first.
        place.mock.until(|data| data.requests.last().is_some_and(|line| line.ends_with("/events"))).await;
        place.run(&format!("stop {id}"), "").await;
    };
    let follow = format!("logs {id} -f -n 1");
    let (followed, ()) = tokio::join!(place.run(&follow, ""), stop);
    expect![[r#"
        17              moon.phase (newer than this lap)
        18    00:00:18  session dead: stopped
    "#]]
    .assert_eq(&followed.1);
    assert_eq!(followed.0, Exit::Ok);
    place
        .check(
            &format!("delete {id}"),
            expect![[r#"
        exit 2
        err| error: this cannot be undone, and there is nobody to ask
        err| Add --yes to do it.
    "#]],
        )
        .await;
    place
        .check(
            &format!("delete {id} --yes"),
            expect![[r#"
        exit 0
        err| Deleted session 00000000-0000-7000-8000-000000000002.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn what_models_used_is_shown_and_limited() {
    let place = Place::new().await;
    place.mock.add_agent("backend");
    place.check("usage --agent backend", expect![[r#"
        exit 0
        out| DAY         AGENT                                 MODEL  CALLS  IN      CACHED  OUT  COST
        out| 2026-01-01  00000000-0000-7000-8000-000000000003  m      1      5       0       1    -
        out| 2026-01-02  backend                               m      3      ~12.3k  12.0k   ~67  $0.0123+
        err| ~ in part estimated: calls that were cut off or answered without numbers. + and calls whose cost is not known.
    "#]]).await;
    let asked = place.mock.with(|data| data.requests.last().cloned().unwrap());
    expect!["GET /api/v1/usage?agent_id=00000000-0000-7000-8000-000000000001&limit=200&offset=0"].assert_eq(&asked);
    place
        .check(
            "usage --agent nobody",
            expect![[r#"
        exit 3
        err| error: there is no agent `nobody`
        err| `lap agents` lists agents, `lap agent create` makes one, `lap --help` lists commands.
    "#]],
        )
        .await;
    place
        .check(
            "agent edit backend --max-tokens many",
            expect![[r#"
        exit 2
        err| error: invalid value 'many' for '--max-tokens <N|none>': give a number, or `none` for no limit
        err|
        err| For more information, try '--help'.
    "#]],
        )
        .await;
    place.run("agent edit backend --max-tokens 5000 --max-cost-usd 2.5", "").await;
    let limits = |place: &Place| {
        place.mock.with(|data| (data.agents[0]["max_tokens"].clone(), data.agents[0]["max_cost_usd"].clone()))
    };
    assert_eq!(limits(&place), (json!(5000), json!(2.5)));
    place.run("agent edit backend --max-cost-usd none", "").await;
    assert_eq!(limits(&place), (json!(5000), json!(null)));
}

#[tokio::test]
async fn chats_need_a_terminal_and_a_live_session() {
    let place = Place::new().await;
    let agent = place.mock.add_agent("backend");
    let id = place.mock.add_ready_session(&agent);
    place.check(&format!("attach {id}"), expect![[r#"
        exit 2
        err| error: a chat needs a terminal
        err| `lap send 00000000-0000-7000-8000-000000000002 -` sends standard input, `lap logs 00000000-0000-7000-8000-000000000002 -f` follows.
    "#]]).await;
    place.mock.push(&id, "session.state", json!({ "status": "dead", "end_reason": "idle" }));
    place
        .check(
            &format!("--resume {id}"),
            expect![[r#"
        exit 5
        err| error: the session is dead: idle
        err| `lap logs 00000000-0000-7000-8000-000000000002` shows what happened in it.
    "#]],
        )
        .await;
    place
        .check(
            "--resume x agents",
            expect![[r#"
        exit 2
        err| error: --resume goes without a command
        err| Write `lap --resume SESSION`.
    "#]],
        )
        .await;
    place
        .check(
            "attach https://h/sessions/unknown",
            expect![[r#"
        exit 3
        err| error: There is no such session.
        err| `lap agents` and `lap sessions` list what there is.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let mut place = Place::new().await;
    place.environment.server = Some("http://127.0.0.1:1".to_owned());
    place
        .check(
            "agents",
            expect![[r#"
        exit 1
        err| error: could not reach the server at http://127.0.0.1:1: Connection refused (os error 111)
        err| Is it running? `lap serve` starts a server here; `--server URL` or `lap login --server URL` names another.
    "#]],
        )
        .await;
}

#[tokio::test]
async fn completions_know_every_command() {
    let place = Place::new().await;
    for shell in ["bash", "zsh", "fish"] {
        let (exit, out, _) = place.run(&format!("completions {shell}"), "").await;
        assert_eq!(exit, Exit::Ok);
        assert!(out.contains("sessions") && out.contains("env-file"), "{shell}");
    }
}

/// How the `lap` binary embeds the commands: beside roles of its own.
#[derive(Debug, Parser)]
struct Embedding {
    #[command(flatten)]
    options: lap_cli::ClientOptions,
    #[command(subcommand)]
    command: Option<Roles>,
}

#[derive(Debug, clap::Subcommand)]
enum Roles {
    /// A role of the server's.
    Serve,
    #[command(flatten)]
    Client(lap_cli::ClientCommand),
    #[command(external_subcommand)]
    Agent(Vec<OsString>),
}

#[test]
fn the_binary_can_flatten_the_commands_beside_its_own() {
    let parse = |line: &str| Embedding::try_parse_from(line.split_whitespace());
    assert!(matches!(parse("lap serve").unwrap().command, Some(Roles::Serve)));
    let agents = parse("lap --profile x agents --server http://s").unwrap();
    assert!(matches!(agents.command, Some(Roles::Client(lap_cli::ClientCommand::Agents(_)))));
    assert_eq!(agents.options.server.as_deref(), Some("http://s"));
    let agent = parse("lap backend --new -e KEY").unwrap();
    assert!(matches!(agent.command, Some(Roles::Agent(words)) if words.len() == 4));
    assert_eq!(parse("lap --resume s1").unwrap().options.resume.as_deref(), Some("s1"));
    Embedding::command().debug_assert();
}
