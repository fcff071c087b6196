//! The platform as a GitHub App: an API that verifies what the app says, and a git server that takes the app's newest token
//! alone.

use std::time::Duration;

use http::StatusCode;
use lap_api::agent::CreateAgent;
use lap_api::session::{CreateSession, Session};
use lap_test::ca::TestCa;
use lap_test::git::{GitConfig, GitServer};
use lap_test::github::{APP_ID, GithubApi};

use crate::world::{Needs, World, shell_agent};

const HUB: &str = "hub.test";

/// Longer than a bring-up takes on a busy machine; three quarters of it are what the test waits.
const TOKEN_LIFE: Duration = Duration::from_secs(16);

struct Hub {
    api: GithubApi,
    git: GitServer,
    world: World,
    _key: tempfile::NamedTempFile,
}

impl Hub {
    async fn new() -> Self {
        let ca = TestCa::new("LAP test CA");
        let api = GithubApi::start(&ca, &["localhost"], TOKEN_LIFE).await;
        let config = GitConfig { token: Some("nobodys".into()), accepts: Some(api.accepts()), names: vec![HUB.into()] };
        let git = GitServer::start_with(&ca, config).await;
        let key = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(key.path(), api.key_pem_pkcs1()).expect("mine");
        let env = [
            ("LAP_GITHUB_APP_ID", APP_ID.to_owned()),
            ("LAP_GITHUB_APP_PRIVATE_KEY_FILE", key.path().display().to_string()),
            ("LAP_GITHUB_APP_API", format!("https://localhost:{}/api/v3", api.port())),
            ("LAP_GITHUB_APP_HOST", format!("{HUB}:{}", git.port())),
            ("LAP_VAULT_RESOLVE", format!("{HUB}=127.0.0.1")),
            ("LAP_VAULT_PRIVATE_ALLOW", format!("{HUB}:{}", git.port())),
        ];
        let env: Vec<(&'static str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let world = World::with_ca(ca, Needs::Shell, &env).await;
        Self { api, git, world, _key: key }
    }

    async fn settled(&self, repository: &str) -> Session {
        let blueprint = CreateAgent { repo_url: Some(self.git.url(HUB, repository)), ..shell_agent() };
        let agent = self.world.agent(blueprint).await;
        self.world.settled(&self.world.open(&agent, CreateSession::default()).await).await
    }

    async fn check_failure(&self, repository: &str, expect: &[&str]) {
        let session = self.settled(repository).await;
        let reason = session.failure_reason.unwrap_or_default();
        assert_eq!(session.status, "failed", "{repository}: {reason}");
        for words in expect {
            assert!(reason.contains(words), "{repository}: `{reason}` does not say `{words}`");
        }
    }
}

async fn wait_for(world: &World, session: &Session, name: &str) {
    let mut events = world.client.events(&session.id, 0);
    while let Some(entry) = events.next_entry().await {
        if entry.expect("goes on").name == name {
            return;
        }
    }
    panic!("the log ended without {name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_clones_and_pushes_with_tokens_that_change_under_it() {
    let hub = Hub::new().await;
    let repository = hub.git.create_broken_project("acme/pricing");
    hub.api.install("acme/pricing");
    let session = hub.settled("acme/pricing").await;
    assert_eq!(session.status, "ready", "{:?}\n{}", session.failure_reason, hub.world.server.log());
    let seen = "echo $GITHUB_TOKEN $GH_TOKEN";
    let before = hub.world.ask(&session, seen).await;
    assert!(before.starts_with("stub_github_") && !before.contains("ghs_"), "{before}");
    let stubs: Vec<&str> = before.split_whitespace().collect();
    assert_eq!(stubs[0], stubs[1]);
    let first = hub.api.issued();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].repositories, serde_json::json!(["pricing"]));
    assert_eq!(first[0].permissions, serde_json::json!({ "contents": "write", "pull_requests": "write" }));

    wait_for(&hub.world, &session, "credential.renewed").await;
    assert!(!hub.api.accepts()(&first[0].token), "the first one is worth nothing any more");
    let push = "cd /work/repo && git checkout -q -b mend && git commit -q --allow-empty -m Mend && git push -q origin mend 2>&1; echo $?";
    let pushed = hub.world.ask(&session, push).await;
    assert_eq!(pushed.trim(), "0", "{pushed}");
    assert!(repository.branches().contains(&"mend".to_owned()));
    assert_eq!(hub.world.ask(&session, seen).await, before, "the sandbox has noticed nothing");

    hub.git.create_broken_project("acme/elsewhere");
    hub.check_failure("acme/elsewhere", &["needs a token", "not installed on acme/elsewhere"]).await;
    hub.api.install("acme/elsewhere");
    hub.api.set_trouble(Some((StatusCode::UNAUTHORIZED, "A JSON web token could not be decoded")));
    hub.check_failure("acme/elsewhere", &["refuses the app's key", "LAP_GITHUB_APP_PRIVATE_KEY"]).await;

    let log = hub.world.server.log();
    assert!(!log.contains("ghs_") && !log.contains("PRIVATE KEY-"), "{log}");
    hub.world.end().await;
}
