//! Bring-up: what can go wrong says so in words; files, variables and identity are there when it went right.

use lap_api::agent::{CreateAgent, SandboxFile};
use lap_api::session::CreateSession;
use lap_test::git::BUG;

use crate::world::{GIT_HOST, Needs, World, shell_agent, vars};

/// Opens a session of an agent on this repository and branch and checks why it fails.
async fn check_failure(world: &World, url: String, branch: &str, token: Option<&str>, expect: &[&str]) {
    let mut blueprint = shell_agent();
    blueprint.repo_url = Some(url.clone());
    blueprint.branch = Some(branch.into());
    if let Some(token) = token {
        blueprint.env_vars = vars([("GITHUB_TOKEN", token)]);
        blueprint.env_var_hosts =
            [("GITHUB_TOKEN".to_owned(), vec![format!("{GIT_HOST}:{}", world.git.port())])].into();
    }
    let agent = world.agent(blueprint).await;
    let session = world.settled(&world.open(&agent, CreateSession::default()).await).await;
    let reason = session.failure_reason.clone().unwrap_or_default();
    assert_eq!(session.status, "failed", "{url}: {reason}");
    for words in expect {
        assert!(reason.contains(words), "{url}: `{reason}` does not say `{words}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_cloned_says_why() {
    let world = World::new(Needs::Shell).await;
    world.git.create_broken_project("pricing.git");
    let token = world.git.token().map(str::to_owned);
    let token = token.as_deref();
    let url = |name: &str| world.git.url(GIT_HOST, name);
    check_failure(&world, url("missing.git"), "main", token, &["missing.git", "no repository"]).await;
    check_failure(&world, url("pricing.git"), "main", None, &["GITHUB_TOKEN"]).await;
    check_failure(&world, url("pricing.git"), "main", Some("a-wrong-token-0123456789"), &["refuse"]).await;
    check_failure(&world, url("pricing.git"), "production", token, &["production", "main"]).await;
    check_failure(&world, "https://nowhere.invalid/x.git".into(), "main", None, &["nowhere.invalid"]).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_files_and_identity_are_inside() {
    let world = World::new(Needs::Shell).await;
    world.git.create_broken_project("pricing.git");
    let mut blueprint = shell_agent();
    let token = world.git.token().expect("the git server demands one").to_owned();
    blueprint.repo_url = Some(world.git.url(GIT_HOST, "pricing.git"));
    blueprint.env_vars =
        vars([("GITHUB_TOKEN", &token), ("MODE", "fast"), ("EMPTY", ""), ("BOTH", "of-the-agent-0123456789")]);
    blueprint.env_var_hosts = [("GITHUB_TOKEN".to_owned(), vec![format!("{GIT_HOST}:{}", world.git.port())])].into();
    blueprint.plain_env_vars = vec!["MODE".into()];
    blueprint.sandbox_files = vec![SandboxFile {
        name: "note".into(),
        sandbox_path: "~/notes/note.txt".into(),
        content: Some("aGVsbG8K".into()),
        content_type: "text/plain".into(),
        size: 6,
    }];
    let agent = world.agent(blueprint).await;
    let new = CreateSession {
        env_vars: vars([("BOTH", "of-the-session")]),
        plain_env_vars: vec!["BOTH".into()],
        ..CreateSession::default()
    };
    let session = world.ready(&agent, new).await;
    let said = world
        .ask(&session, "echo $MODE; echo [$EMPTY]; echo $BOTH; cat ~/notes/note.txt; echo $GITHUB_TOKEN | cut -c1-12; cd repo 2>/dev/null || cd /work/repo; git config user.name; git status --porcelain | wc -l; cat pricing.py")
        .await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..7], ["fast", "[]", "of-the-session", "hello", "stub_github_", "shell", "0"], "{said}");
    assert!(said.contains(BUG));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harness_that_is_not_installed_is_named() {
    let world = World::new(Needs::Shell).await;
    for harness in ["opencode", "codex", "claude-code", "claude-agent-sdk"] {
        let agent = world
            .agent(CreateAgent { model: Some("m".into()), harness_id: Some(harness.into()), ..CreateAgent::default() })
            .await;
        let refused = world.client.create_session(&agent.id, &CreateSession::default()).await;
        let lap_client::Error::Api(problem) = refused.expect_err("not installed") else { panic!("an answer") };
        assert_eq!((problem.status, problem.code.as_str()), (409, "harness_not_installed"), "{problem:?}");
        assert!(problem.message.contains(harness), "{problem:?}");
    }
    world.end().await;
}
