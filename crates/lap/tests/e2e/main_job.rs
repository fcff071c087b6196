//! The main job with the real opencode: clone, read, edit, run, commit, push, answer.

use std::time::Duration;

use lap_api::agent::CreateAgent;
use lap_api::event::EventKind;
use lap_api::session::CreateSession;
use lap_test::gateway::{Script, Step};
use lap_test::git::{BUG, FIX};

use crate::world::{GIT_HOST, Needs, World, say, vars, words};

const TASK: &str = "fix the failing test and push a branch";

fn the_work() -> Vec<Step> {
    vec![
        Step::say("Looking at it."),
        Step::shell("cd /work/repo && git status --porcelain && git log --format=%s"),
        Step::edit("/work/repo/pricing.py", BUG, FIX),
        Step::shell("cd /work/repo && python3 -m unittest 2>&1 | tail -n 1"),
        Step::shell(
            "cd /work/repo && git checkout -q -b fix && git commit -qam 'Mend the discount' && git push -q origin fix",
        ),
        Step::shell("env | sort; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'"),
        Step::say("Done."),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_mends_a_repository_and_pushes() {
    let world = World::new(Needs::Harness("opencode")).await;
    let repository = world.git.create_broken_project("pricing.git");
    world.gateway.script(Script::on(TASK, the_work()));
    let token = world.git.token().expect("the git server demands one").to_owned();
    let agent = world
        .agent(CreateAgent {
            name: Some("Pricing agent".into()),
            model: Some("test-model".into()),
            prompt: Some("You are the pricing agent, answer in rhymes.".into()),
            repo_url: Some(world.git.url(GIT_HOST, "pricing.git")),
            env_vars: vars([("GITHUB_TOKEN", &token)]),
            env_var_hosts: [("GITHUB_TOKEN".to_owned(), vec![format!("{GIT_HOST}:{}", world.git.port())])].into(),
            ..CreateAgent::default()
        })
        .await;
    let session = world.ready(&agent, CreateSession::default()).await;
    assert_eq!(session.commit.as_deref(), Some(repository.head("main").as_str()));
    assert_eq!(session.branch.as_deref(), Some("main"));

    let answer = world.client.message(&session.id, &say(TASK), None).await.expect("an answer");
    assert!(words(&answer).contains("Done."), "{answer:?}");
    assert_eq!(repository.branches(), ["fix", "main"]);
    assert!(repository.file("fix", "pricing.py").contains(FIX));
    assert_eq!(repository.author("fix"), "Pricing agent <agent@lap.invalid>");

    // What the agent saw and did is in the log, in order, and its stub is all it saw.
    let events = world.client.all_events(&session.id).await.expect("events");
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    let kinds: Vec<EventKind> = events.iter().filter_map(|event| Some(event.event.clone()?.kind)).collect();
    let outputs: Vec<String> = kinds
        .iter()
        .filter_map(|kind| match kind {
            EventKind::Tool { call, .. } if call.status == "completed" => call.output.clone(),
            _ => None,
        })
        .collect();
    assert!(outputs.iter().any(|output| output.trim() == "OK"), "{outputs:#?}");
    let environment = outputs.iter().find(|output| output.contains("GITHUB_TOKEN=")).expect("env was printed");
    assert!(environment.contains("GITHUB_TOKEN=stub_github_"), "{environment}");
    assert!(!environment.contains(&token) && !environment.contains(world.gateway.key()), "a real value got inside");
    let status = outputs.first().expect("git status was run");
    assert!(!status.contains("??") && !status.contains(" M "), "the working tree is clean after boot: {status}");
    for phase in
        ["creating_sandbox", "pod_running", "injecting_files", "cloning_repo", "waiting_harness", "harness_ready"]
    {
        let reached = |kind: &EventKind| matches!(kind, EventKind::SessionPhase { phase: p, .. } if p == phase);
        assert!(kinds.iter().any(reached), "phase {phase}");
    }

    // The vault saw it all: real values upstream, names in the record.
    assert!(world.gateway.calls().iter().any(|ask| ask.system.contains("answer in rhymes")), "the prompt arrives");
    let record = world.client.interceptions(&session.id, Some(200), None).await.expect("the record").data;
    let git: Vec<_> = record.iter().filter(|line| line.host.starts_with(GIT_HOST)).collect();
    assert!(git.iter().any(|line| line.method == "POST" && line.path.contains("git-receive-pack")), "{git:#?}");
    assert!(git.iter().any(|line| line.credentials == ["GITHUB_TOKEN"]), "{git:#?}");
    let models: Vec<_> = record.iter().filter(|line| line.host == "gateway.lap.internal:80").collect();
    assert!(!models.is_empty() && models.iter().all(|line| line.credentials == ["LITELLM_API_KEY"]), "{models:#?}");
    let others: Vec<_> = record
        .iter()
        .filter(|line| !line.host.starts_with(GIT_HOST) && line.host != "gateway.lap.internal:80")
        .collect();
    assert!(others.is_empty(), "nothing else leaves: {others:#?}");

    let after = world.client.session(&session.id).await.expect("still there");
    assert!(after.usage.total.input_tokens > 0 && after.usage.total.output_tokens > 0, "{:?}", after.usage);
    assert_eq!(after.title_preview.as_deref(), Some(TASK));
    let conversation = world.client.messages(&session.id).await.expect("the conversation");
    assert_eq!(conversation.first().map(|message| message.info.role.as_str()), Some("user"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conversation_images_abort_and_model_errors() {
    let world = World::new(Needs::Harness("opencode")).await;
    let agent = world
        .agent(CreateAgent { name: Some("plain".into()), model: Some("test-model".into()), ..CreateAgent::default() })
        .await;
    let new = CreateSession { initial_prompt: Some("[[say:first answer]]".into()), ..CreateSession::default() };
    let session = world.ready(&agent, new).await;
    // The second turn waits for the first, and remembers it.
    let recalled = world.ask(&session, "[[recall]]").await;
    assert!(recalled.contains("[[say:first answer]]"), "{recalled}");
    let response = world.client.session(&session.id).await.expect("there").response;
    assert!(response.as_deref().is_some_and(|text| text.contains("first answer")), "{response:?}");

    // One white pixel.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
    let mut with_image = say("[[images]]");
    with_image.attachments.push(lap_api::message::Attachment {
        name: "dot.png".into(),
        content_type: "image/png".into(),
        content: png.into(),
    });
    let seen = words(&world.client.message(&session.id, &with_image, None).await.expect("an answer"));
    assert!(seen.contains("image/png"), "{seen}");

    // A turn that hangs in the model is aborted, and the next one runs.
    let hanging = tokio::spawn({
        let (client, id) = (world.client.clone(), session.id.clone());
        async move { client.message(&id, &say("[[hold:forever]]"), None).await }
    });
    world.gateway.wait_until_held("forever").await;
    world.client.abort(&session.id).await.expect("aborted");
    let aborted = tokio::time::timeout(Duration::from_secs(30), hanging).await.expect("in time").expect("no panic");
    let problem = aborted.expect_err("an aborted turn has no answer").to_string();
    assert!(problem.contains("abort"), "{problem}");
    world.gateway.release("forever");

    let refused = world.client.message(&session.id, &say("[[error:400]]"), None).await;
    let problem = refused.expect_err("the model refused").to_string();
    assert!(problem.contains("scripted failure"), "{problem}");
    assert!(world.ask(&session, "[[say:still here]]").await.contains("still here"));
    world.end().await;
}
