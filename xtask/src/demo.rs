//! `make demo`: the main job, run visibly through the built program, as a user would.
//!
//! A small repository with a failing test is served over https on this machine, and a server is started on its defaults.
//! An agent of it is told to mend the test and push a branch. Everything the agent does is printed as it happens, then the
//! pushed diff, what the vault recorded, and how long each phase took. Without `LITELLM_API_BASE` a scripted gateway
//! plays the model.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lap_api::agent::CreateAgent;
use lap_api::event::EventKind;
use lap_api::message::SendMessage;
use lap_api::session::{CreateSession, Session};
use lap_client::Client;
use lap_test::ca::TestCa;
use lap_test::gateway::{Gateway, Script, Step};
use lap_test::git::{BUG, FIX, GitConfig, GitServer};
use lap_test::server::LapServer;

const GIT_HOST: &str = "git.demo.test";
const BRANCH: &str = "fix-discount";
const TASK: &str = "fix the failing test and push a branch";
const KEY_VARIABLE: &str = "GITHUB_TOKEN";

/// Where `lap` listens by default; the demo takes it when it is free, so that the commands it prints stay short.
const USUAL_ADDRESS: &str = "127.0.0.1:4773";

/// Longest wait for a sandbox on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(120);

type Fault = Box<dyn std::error::Error>;

/// Runs the demo; 0 when the branch was pushed.
pub fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Fault::from).and_then(|runtime| runtime.block_on(demo()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\ndemo: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<(), Fault> {
    let binary = beside_this_program("lap")?;
    let data_dir = binary.parent().and_then(Path::parent).ok_or("the program stands in no target folder")?.join("demo");
    let ca = TestCa::new("LAP demo CA");
    std::fs::create_dir_all(&data_dir)?;
    let ca_file = ca.write(&data_dir)?;

    title("the world around it");
    let token = format!("ghp_demo{}", random_hex(16));
    let git = GitServer::start_with(
        &ca,
        GitConfig { token: Some(token.clone()), names: vec![GIT_HOST.into()], ..GitConfig::default() },
    )
    .await;
    let repository = git.create_broken_project("pricing.git");
    let git_url = git.url(GIT_HOST, "pricing.git");
    say(&format!("a git repository with a failing test, over https, demanding a token: {git_url}"));
    let model = Model::choose(&ca).await;
    say(&model.words);

    title("lap harness install opencode");
    let installed = tokio::process::Command::new(&binary)
        .args(["harness", "install", "opencode"])
        .env("LAP_DATA_DIR", &data_dir)
        .status()
        .await?;
    if !installed.success() {
        return Err("opencode could not be installed; it comes from npm".into());
    }

    title("lap serve");
    let env = [
        ("LITELLM_API_BASE", model.base_url.clone()),
        ("LITELLM_API_KEY", model.key.clone()),
        ("LAP_VAULT_EXTRA_CA", ca_file.display().to_string()),
        ("LAP_VAULT_RESOLVE", format!("{GIT_HOST}=127.0.0.1")),
        ("LAP_VAULT_PRIVATE_ALLOW", format!("{GIT_HOST}:{}{}", git.port(), model.private_allow)),
    ];
    let server = match LapServer::start_on(&binary, &data_dir, USUAL_ADDRESS, &env).await {
        Ok(server) => server,
        Err(_) => LapServer::start(&binary, &data_dir, &env).await?,
    };
    say(&format!("listens on {}, keeps everything in {}", server.url(), data_dir.display()));
    let client = server.client();
    let job = main_job(&client, &model.name, &git, &git_url, &token, || repository.branches());
    let result = tokio::select! {
        result = job => result,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    let session = match result {
        Ok(session) => session,
        Err(problem) => {
            let _ = server.delete_everything().await;
            return Err(format!("{problem}\n\nthe server's log: {}", data_dir.join("serve.log").display()).into());
        }
    };

    title("what was pushed");
    let pushed = repository.branches().iter().any(|branch| branch == BRANCH);
    if pushed {
        say(&format!("branch {BRANCH}, by {}", repository.author(BRANCH)));
        print!("{}", repository.diff("main", BRANCH));
    }
    if std::io::stdout().is_terminal() {
        next_things(&server, &binary, &session, &data_dir);
        tokio::signal::ctrl_c().await?;
        say("\nremoving the session and stopping the server");
    }
    server.delete_everything().await?;
    server.stop().await?;
    if !pushed && model.scripted {
        return Err(
            format!("the branch {BRANCH} was not pushed; branches: {}", repository.branches().join(", ")).into()
        );
    }
    println!("\ndone: the agent worked with a stub, the repository took the real token.");
    Ok(())
}

/// Agent, session, turn; everything printed as it happens.
async fn main_job(
    client: &Client,
    model: &str,
    git: &GitServer,
    git_url: &str,
    token: &str,
    branches: impl Fn() -> Vec<String>,
) -> Result<Session, Fault> {
    title("an agent and a session of it");
    let agent = client
        .create_agent(&CreateAgent {
            name: Some("pricing".into()),
            model: Some(model.into()),
            prompt: Some("You mend small Python projects. Work in /work/repo.".into()),
            repo_url: Some(git_url.into()),
            env_vars: BTreeMap::from([(KEY_VARIABLE.into(), token.into())]),
            env_var_hosts: BTreeMap::from([(KEY_VARIABLE.into(), vec![format!("{GIT_HOST}:{}", git.port())])]),
            ..CreateAgent::default()
        })
        .await?;
    say(&format!(
        "agent {} ({}), {KEY_VARIABLE} shown as {}",
        agent.id, agent.harness_id, agent.env_vars[KEY_VARIABLE]
    ));
    let began = Instant::now();
    let session = client.create_session(&agent.id, &CreateSession::default()).await?;
    let mut marks = Marks::new(began);
    marks.mark("accepted");
    say(&format!("session {}", session.id));
    let mut events = client.events(&session.id, 0);
    loop {
        let next = tokio::time::timeout(READY_DEADLINE, events.next_entry()).await;
        let Some(entry) = next.map_err(|_| "the session was not ready in time")? else { break };
        match entry?.event.map(|event| event.kind) {
            Some(EventKind::SessionPhase { phase, detail }) if marks.mark(&phase) => {
                let detail = detail.map(|text| format!(": {text}")).unwrap_or_default();
                say(&format!("{:>8}  {phase}{detail}", marks.since()));
            }
            Some(EventKind::SessionState { status, failure_reason, .. }) if status != "creating" => {
                marks.mark(&status);
                if status == "ready" {
                    say(&format!("{:>8}  ready", marks.since()));
                    break;
                }
                return Err(failure_reason.unwrap_or(status).into());
            }
            _ => {}
        }
    }

    title(&format!("“{TASK}”"));
    let before = branches();
    let sent = Instant::now();
    let message = SendMessage { text: Some(TASK.into()), ..SendMessage::default() };
    let mut turn = client.message_stream(&session.id, &message).await?;
    let mut printer = Printer::default();
    while let Some(entry) = turn.next().await {
        if let Some(event) = entry?.event {
            printer.print(&event.kind)?;
        }
    }
    marks.add("turn", sent.elapsed());
    let new: Vec<String> = branches().into_iter().filter(|branch| !before.contains(branch)).collect();
    say(&format!("\nnew branches at the remote: {}", if new.is_empty() { "none".into() } else { new.join(", ") }));

    title("what the vault recorded");
    let record = client.interceptions(&session.id, Some(200), None).await?;
    for line in record.data.iter().rev() {
        let status = line.status.map_or_else(|| "---".into(), |status| status.to_string());
        let swapped = if line.credentials.is_empty() {
            String::new()
        } else {
            format!("  swapped {}", line.credentials.join(", "))
        };
        say(&format!(
            "{status} {:7} {:28} {:44} {:>6} ms  {}{swapped}",
            line.method,
            line.host,
            clip(&line.path, 44),
            line.duration_ms,
            line.verdict
        ));
    }

    title("how long it took");
    marks.print();
    Ok(client.session(&session.id).await?)
}

/// The gateway of the demo.
struct Model {
    base_url: String,
    key: String,
    name: String,
    words: String,
    /// What the vault must be allowed besides, with a leading comma; nothing for a real gateway.
    private_allow: String,
    scripted: bool,
    _gateway: Option<Gateway>,
}

impl Model {
    async fn choose(ca: &TestCa) -> Model {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(base_url) = set("LITELLM_API_BASE") {
            let name = set("LITELLM_DEFAULT_MODEL").unwrap_or_else(|| "anthropic/claude-opus-4-7".into());
            return Model {
                words: format!("the model gateway {base_url}, model {name} (LITELLM_DEFAULT_MODEL chooses)"),
                base_url,
                key: set("LITELLM_API_KEY").unwrap_or_default(),
                name,
                private_allow: String::new(),
                scripted: false,
                _gateway: None,
            };
        }
        let gateway = Gateway::start(ca).await;
        gateway.script(Script::on(TASK, the_work()));
        Model {
            base_url: gateway.http_url(),
            key: gateway.key().to_owned(),
            name: "test-model".into(),
            words: "a scripted gateway plays the model, because LITELLM_API_BASE is not set; everything else is real"
                .into(),
            private_allow: String::new(),
            scripted: true,
            _gateway: Some(gateway),
        }
    }
}

/// What a model would do about the task.
fn the_work() -> Vec<Step> {
    vec![
        Step::say("I will look at the code and run the tests first."),
        Step::read("/work/repo/pricing.py"),
        Step::shell("cd /work/repo && python3 -m unittest 2>&1 | tail -n 12"),
        Step::say("The discount is subtracted as an amount, but it is a percentage."),
        Step::edit("/work/repo/pricing.py", BUG, FIX),
        Step::shell("cd /work/repo && python3 -m unittest 2>&1 | tail -n 4"),
        Step::shell(format!(
            "cd /work/repo && git checkout -q -b {BRANCH} && git commit -qam 'Treat the discount as a percentage' && git push -q origin {BRANCH} && git log --oneline -2"
        )),
        Step::shell(format!("echo \"the token I have: ${KEY_VARIABLE}\"")),
        Step::say(format!(
            "Fixed: the discount is a percentage now, the tests pass, and the branch `{BRANCH}` is pushed."
        )),
    ]
}

/// When each phase was reached.
struct Marks {
    began: Instant,
    times: Vec<(String, Duration)>,
    extra: Vec<(String, Duration)>,
}

impl Marks {
    fn new(began: Instant) -> Marks {
        Marks { began, times: Vec::new(), extra: Vec::new() }
    }

    /// Notes a phase; false when it was there already.
    fn mark(&mut self, name: &str) -> bool {
        let fresh = self.times.iter().all(|(known, _)| known != name);
        if fresh {
            self.times.push((name.to_owned(), self.began.elapsed()));
        }
        fresh
    }

    fn add(&mut self, name: &str, took: Duration) {
        self.extra.push((name.to_owned(), took));
    }

    fn since(&self) -> String {
        shown(self.began.elapsed())
    }

    fn print(&self) {
        let mut before = Duration::ZERO;
        for (name, at) in &self.times {
            say(&format!("{name:20} reached after {:>10}   (+{})", shown(*at), shown(*at - before)));
            before = *at;
        }
        for (name, took) in &self.extra {
            say(&format!("{name:20} took          {:>10}", shown(*took)));
        }
    }
}

/// Prints a turn as it happens.
#[derive(Default)]
struct Printer {
    in_text: bool,
    shown: BTreeMap<String, String>,
}

impl Printer {
    fn print(&mut self, event: &EventKind) -> Result<(), Fault> {
        match event {
            EventKind::MessageDelta { delta, .. } => {
                print!("{delta}");
                std::io::stdout().flush()?;
                self.in_text = true;
            }
            EventKind::Tool { call, .. } => {
                let before = self.shown.insert(call.id.clone(), call.status.clone());
                if call.status == "running" || before.as_deref() == Some(call.status.as_str()) {
                    return Ok(());
                }
                self.end_text();
                println!(
                    "  [{}] {}",
                    call.tool,
                    call.title.clone().unwrap_or_else(|| clip(&call.input.to_string(), 100))
                );
                for line in call.output.iter().flat_map(|output| output.lines()).take(12) {
                    println!("      {}", clip(line, 110));
                }
            }
            EventKind::TurnFailed { error, .. } => return Err(error.clone().into()),
            EventKind::TurnCompleted { usage, .. } => {
                self.end_text();
                println!("  ({} tokens in, {} out)", usage.input_tokens, usage.output_tokens);
            }
            EventKind::EgressRefused { host, code, .. } => {
                self.end_text();
                println!("  the vault refused {host}: {code}");
            }
            _ => {}
        }
        Ok(())
    }

    fn end_text(&mut self) {
        if std::mem::take(&mut self.in_text) {
            println!();
        }
    }
}

fn next_things(server: &LapServer, binary: &Path, session: &Session, data_dir: &Path) {
    title("next things to try, in another terminal");
    let (url, id, lap, data) = (server.url(), &session.id, binary.display(), data_dir.display());
    say(&format!("export LAP_SERVER={url} LAP_API_KEY=$(cat {data}/master.key)"));
    say(&format!("{lap} sessions"));
    say(&format!("{lap} pricing                        # attach to the session and talk to it"));
    say(&format!("{lap} send {id} '[[bash:ls -la]]'    # the scripted model runs what stands in [[bash:…]]"));
    say(&format!("{lap} logs {id}"));
    say(&format!(
        "curl -s -H \"Authorization: Bearer $LAP_API_KEY\" {url}/api/v1/managed_agents/sessions/{id}/interceptions"
    ));
    say("Ctrl-C here ends the demo.");
}

fn beside_this_program(name: &str) -> Result<PathBuf, Fault> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() { Ok(path) } else { Err(format!("{} is missing; `make demo` builds it", path.display()).into()) }
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("{text}");
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width { text.to_owned() } else { text.chars().take(width - 1).chain(['…']).collect() }
}

fn random_hex(bytes: usize) -> String {
    let mut file = std::fs::File::open("/dev/urandom").expect("every Linux has it");
    let mut buffer = vec![0; bytes];
    std::io::Read::read_exact(&mut file, &mut buffer).expect("it never ends");
    buffer.iter().map(|byte| format!("{byte:02x}")).collect()
}
