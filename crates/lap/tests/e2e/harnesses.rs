//! Every real harness in real sandboxes: the whole job, the prompt, skills and tools of an MCP server, a crash, permissions.
//! Each says of itself only what differs.

use std::collections::BTreeMap;

use lap_api::agent::{CreateAgent, SandboxFile};
use lap_api::event::EventKind;
use lap_api::message::ToolCall;
use lap_api::session::{CreateSession, Session};
use lap_test::ca::TestCa;
use lap_test::gateway::{Script, Step};
use lap_test::git::{BUG, FIX};
use lap_test::mcp::McpServer;

use crate::world::{GIT_HOST, Needs, World, say, vars, words};

const MCP_HOST: &str = "mcp.test";

/// What a test must know of a harness.
struct Kind {
    id: &'static str,
    /// Name of its process.
    process: &'static str,
    /// Folder of its skills.
    skills: &'static str,
    /// What it calls the tool `ping` of the server `mcp_test`.
    ping: &'static str,
}

const OPENCODE: Kind =
    Kind { id: "opencode", process: "opencode", skills: "~/.config/opencode/skill", ping: "mcp_test_ping" };
const CLAUDE_CODE: Kind =
    Kind { id: "claude-code", process: "claude", skills: "~/.claude/skills", ping: "mcp__mcp_test__ping" };
const CLAUDE_SDK: Kind = Kind { id: "claude-agent-sdk", ..CLAUDE_CODE };
const CODEX: Kind = Kind { id: "codex", process: "codex", skills: "~/.codex/skills", ping: "mcp__mcp_test::ping" };

macro_rules! for_each_harness {
    ($($name:ident: $kind:expr;)*) => { $(
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn does_the_whole_job() {
                super::does_the_whole_job(&$kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn comes_back_after_a_crash_and_knows_what_was_said() {
                super::comes_back_after_a_crash(&$kind).await;
            }
        }
    )* };
}

for_each_harness! {
    opencode: super::OPENCODE;
    claude_code: super::CLAUDE_CODE;
    claude_agent_sdk: super::CLAUDE_SDK;
    codex: super::CODEX;
}

async fn does_the_whole_job(kind: &Kind) {
    let ca = TestCa::new("LAP test CA");
    let mcp = McpServer::start(&ca, MCP_HOST).await;
    let opening = format!("{MCP_HOST}:{}", mcp.port());
    let resolve = format!("{MCP_HOST}=127.0.0.1");
    let more = [("LAP_VAULT_PRIVATE_ALLOW", opening.as_str()), ("LAP_VAULT_RESOLVE", resolve.as_str())];
    let world = World::with_ca(ca, Needs::Harness(kind.id), &more).await;
    let repository = world.git.create_broken_project("pricing.git");
    let task = "fix the failing test and push a branch";
    let steps = vec![
        Step::say("Looking at it."),
        Step::shell("cd /work/repo && git status --porcelain && git log --format=%s"),
        Step::edit("/work/repo/pricing.py", BUG, FIX),
        Step::shell("cd /work/repo && python3 -m unittest 2>&1 | tail -n 1"),
        Step::tool(kind.ping, serde_json::json!({ "word": "tea" })),
        Step::shell(
            "cd /work/repo && git checkout -q -b fix && git commit -qam 'Mend the discount' && git push -q origin fix",
        ),
        Step::shell("env | sort; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'"),
        Step::say("Done."),
    ];
    // Harnesses that read a file before they edit it are content with a look of the shell's; these are not.
    world.gateway.script(Script::on(task, with_a_look(kind, steps)));
    let (token, mcp_token) = (world.git.token().expect("it demands one").to_owned(), mcp.token().to_owned());
    let mcp_url = format!("https://{MCP_HOST}:{}/mcp", mcp.port());
    let skill = "---\nname: brewing\ndescription: How to brew tea\n---\nBoil water.";
    let agent = world
        .agent(CreateAgent {
            name: Some("Pricing agent".into()),
            model: Some("test-model".into()),
            harness_id: Some(kind.id.into()),
            prompt: Some("You are the pricing agent, answer in rhymes.".into()),
            repo_url: Some(world.git.url(GIT_HOST, "pricing.git")),
            env_vars: vars([("GITHUB_TOKEN", &token), ("MCP_TOKEN", &mcp_token)]),
            env_var_hosts: [
                ("GITHUB_TOKEN".to_owned(), vec![format!("{GIT_HOST}:{}", world.git.port())]),
                ("MCP_TOKEN".to_owned(), vec![opening.clone()]),
            ]
            .into(),
            mcp_servers: vec![mcp_url.clone()],
            mcp_headers: [(mcp_url, BTreeMap::from([("Authorization".into(), "Bearer ${MCP_TOKEN}".into())]))].into(),
            sandbox_files: vec![file(&format!("{}/brewing/SKILL.md", kind.skills), skill)],
            ..CreateAgent::default()
        })
        .await;
    let session = world.ready(&agent, CreateSession::default()).await;
    assert_eq!(world.gateway.calls().len(), 0, "nothing is asked before somebody asks");

    let answer = world.client.message(&session.id, &say(task), None).await.expect("an answer");
    assert!(words(&answer).contains("Done."), "{answer:?}");
    assert_eq!(repository.branches(), ["fix", "main"]);
    assert!(repository.file("fix", "pricing.py").contains(FIX));
    assert_eq!(mcp.calls(), [serde_json::json!({ "word": "tea" })]);

    let calls = tool_calls(&world, &session).await;
    let outputs: Vec<&str> = calls.iter().filter_map(|call| call.output.as_deref()).collect();
    assert!(outputs.iter().any(|output| output.trim() == "OK"), "{outputs:#?}");
    assert!(outputs.iter().any(|output| output.contains("pong tea")), "{outputs:#?}");
    let status = outputs.first().expect("git status was run");
    assert!(!status.contains("??") && !status.contains(" M "), "the working tree is clean after boot: {status}");
    let environment = outputs.iter().find(|output| output.contains("GITHUB_TOKEN=")).expect("env was printed");
    assert!(environment.contains("GITHUB_TOKEN=stub_github_"), "{environment}");
    for secret in [&token, &mcp_token, world.gateway.key()] {
        assert!(!environment.contains(secret), "a real value got inside");
    }

    let heard = world.gateway.calls();
    assert!(heard.iter().all(|ask| ask.model == "test-model" && ask.system.contains("answer in rhymes")));
    assert_eq!(world.ask(&session, "[[sys:How to brew tea]]").await, "SYS How to brew tea: yes");

    // Nothing left but for the gateway, the repository and the MCP server; with the harness's own ideas nothing did.
    let record = world.client.interceptions(&session.id, Some(200), None).await.expect("the record").data;
    let expected = |host: &str| host.starts_with(GIT_HOST) || host == opening || host == "gateway.lap.internal:80";
    let others: Vec<_> = record.iter().filter(|line| !expected(&line.host) || line.verdict != "allowed").collect();
    assert!(others.is_empty(), "nothing else leaves: {others:#?}");
    assert!(record.iter().any(|line| line.host == opening && line.credentials == ["MCP_TOKEN"]), "{record:#?}");
    let after = world.client.session(&session.id).await.expect("still there");
    let used = after.usage.total;
    assert!(used.input_tokens > 0 && used.output_tokens > 0 && used.cost_usd > Some(0.0), "{used:?}");
    assert!(after.harness_session_id.is_some());
    world.end().await;
}

async fn comes_back_after_a_crash(kind: &Kind) {
    let world = World::new(Needs::Harness(kind.id)).await;
    let agent = world.agent(agent(kind)).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    world.ask(&session, "remember the word teapot [[say:noted]]").await;
    let kill = format!("[[say:Now.]][[bash:kill -9 $(pgrep -o -x {})]]", kind.process);
    let failed = world.client.message(&session.id, &say(&kill), None).await.expect_err("it cannot answer").to_string();
    assert!(failed.contains("was killed") && failed.contains("the conversation goes on"), "{failed}");
    let calls = world.gateway.calls().len();
    let recalled = world.ask(&session, "[[recall]]").await;
    assert!(recalled.contains("remember the word teapot"), "{recalled}");
    assert_eq!(world.gateway.calls().len(), calls + 1, "the model is not asked anything again");
    let kinds = kinds(&world, &session).await;
    assert!(kinds.iter().any(|kind| matches!(kind, EventKind::Error { code, .. } if code == "harness_exited")));
    world.end().await;
}

fn agent(kind: &Kind) -> CreateAgent {
    CreateAgent { model: Some("test-model".into()), harness_id: Some(kind.id.into()), ..CreateAgent::default() }
}

/// Claude's and opencode's editing tools want the file to have been read before.
fn with_a_look(kind: &Kind, mut steps: Vec<Step>) -> Vec<Step> {
    if kind.process != "codex" {
        let edit = steps.iter().position(|step| matches!(step, Step::Edit { .. })).expect("there is one");
        steps.insert(edit, Step::read("/work/repo/pricing.py"));
    }
    steps
}

fn file(path: &str, text: &str) -> SandboxFile {
    use base64::Engine as _;
    SandboxFile {
        name: "skill".into(),
        sandbox_path: path.into(),
        content: Some(base64::engine::general_purpose::STANDARD.encode(text)),
        content_type: "text/markdown".into(),
        size: text.len() as u64,
    }
}

async fn kinds(world: &World, session: &Session) -> Vec<EventKind> {
    let events = world.client.all_events(&session.id).await.expect("events");
    events.iter().filter_map(|event| Some(event.event.clone()?.kind)).collect()
}

/// The tool calls that ended, in order.
async fn tool_calls(world: &World, session: &Session) -> Vec<ToolCall> {
    let ended = kinds(world, session).await.into_iter().filter_map(|kind| match kind {
        EventKind::Tool { call, .. } if call.status != "running" => Some(call),
        _ => None,
    });
    ended.collect()
}
