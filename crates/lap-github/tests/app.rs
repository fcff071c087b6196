//! Tokens from a server that verifies what the app says of itself, and every way in which it can say no.

use std::time::Duration;

use http::StatusCode;
use lap_domain::repository_token::Repository;
use lap_domain::secret::Secret;
use lap_engine::{MintError, TokenMinter as _};
use lap_github::{ApiBase, GithubApp, GithubAppConfig};
use lap_test::ca::TestCa;
use lap_test::github::{APP_ID, GithubApi};

struct World {
    ca: TestCa,
    api: GithubApi,
}

impl World {
    async fn new() -> Self {
        let ca = TestCa::new("LAP test CA");
        let api = GithubApi::start(&ca, &["localhost"], Duration::from_secs(3600)).await;
        api.install("acme/pricing");
        Self { ca, api }
    }

    fn config(&self) -> GithubAppConfig {
        GithubAppConfig {
            app_id: APP_ID.to_owned(),
            private_key_pem: Secret::new(self.api.key_pem_pkcs1()),
            api: ApiBase::parse(&format!("https://localhost:{}/api/v3", self.api.port())).expect("an address"),
            permissions: vec![("contents".to_owned(), "write".to_owned())],
            extra_ca_pem: Some(self.ca.pem().to_owned()),
        }
    }
}

fn pricing() -> Repository {
    Repository::parse("acme/pricing").expect("a name")
}

/// What the app is told when it asks for a token with this configuration.
async fn refused(config: GithubAppConfig) -> MintError {
    let app = GithubApp::new(config).expect("can be used");
    app.mint(&pricing()).await.expect_err("no token")
}

#[tokio::test]
async fn a_token_is_for_one_repository_and_for_what_was_asked() {
    let world = World::new().await;
    for key in [world.api.key_pem(), world.api.key_pem_pkcs1()] {
        let app = GithubApp::new(GithubAppConfig { private_key_pem: Secret::new(key), ..world.config() });
        let minted = app.expect("both forms are read").mint(&pricing()).await.expect("a token");
        let issued = world.api.issued().pop().expect("it was handed out");
        assert_eq!(minted.token.expose(), &issued.token);
        assert_eq!(issued.repositories, serde_json::json!(["pricing"]));
        assert_eq!(issued.permissions, serde_json::json!({ "contents": "write" }));
        let end = issued.expires_at.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
        assert_eq!(minted.expires_at.0.unsigned_abs(), u64::try_from(end).expect("this century"));
    }
    let all = GithubApp::new(GithubAppConfig { permissions: Vec::new(), ..world.config() }).expect("can be used");
    all.mint(&pricing()).await.expect("a token");
    assert!(world.api.issued().pop().expect("handed out").permissions.is_null(), "nothing is narrowed");
}

#[tokio::test]
async fn every_refusal_says_what_to_do() {
    let world = World::new().await;
    let check = |problem: MintError, expect: &[&str]| {
        let text = problem.to_string();
        for word in expect {
            assert!(text.contains(word), "`{word}` is not in `{text}`");
        }
        assert!(!text.contains("PRIVATE KEY---") && !text.contains("ghs_"), "{text}");
        problem
    };
    let refused_by = async |status, message| {
        world.api.set_trouble(Some((status, message)));
        let problem = refused(world.config()).await;
        world.api.set_trouble(None);
        problem
    };

    world.api.uninstall("acme/pricing");
    let missing = check(refused(world.config()).await, &["not installed on acme/pricing", "GITHUB_TOKEN"]);
    assert!(matches!(missing, MintError::NotGranted(_)));
    world.api.install("acme/pricing");

    // The key is not the app's, the app is another, the key was revoked.
    let other = GithubApi::start(&world.ca, &["localhost"], Duration::from_secs(60)).await;
    let foreign = GithubAppConfig { private_key_pem: Secret::new(other.key_pem()), ..world.config() };
    let problem = check(refused(foreign).await, &["refuses the app's key", "LAP_GITHUB_APP_PRIVATE_KEY"]);
    assert!(matches!(problem, MintError::Refused(_)));
    let another = GithubAppConfig { app_id: "1".to_owned(), ..world.config() };
    assert!(matches!(check(refused(another).await, &["LAP_GITHUB_APP_ID"]), MintError::Refused(_)));

    let few = refused_by(StatusCode::UNPROCESSABLE_ENTITY, "The permissions requested are not granted").await;
    assert!(matches!(check(few, &["LAP_GITHUB_APP_PERMISSIONS", "not granted"]), MintError::Refused(_)));
    let suspended = refused_by(StatusCode::FORBIDDEN, "This installation has been suspended").await;
    assert!(matches!(check(suspended, &["suspended"]), MintError::Refused(_)));
    let moved = refused_by(StatusCode::MOVED_PERMANENTLY, "Moved Permanently").await;
    assert!(matches!(check(moved, &["repo_url"]), MintError::Refused(_)));
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_GATEWAY] {
        let later = refused_by(status, "try later").await;
        assert!(matches!(check(later, &[status.as_str(), "try later"]), MintError::Unavailable(_)));
    }

    // Nobody there, and somebody who is not who he says.
    let nobody = GithubAppConfig { api: ApiBase::parse("https://localhost:1").expect("an address"), ..world.config() };
    assert!(matches!(check(refused(nobody).await, &["cannot be reached"]), MintError::Unavailable(_)));
    let stranger = GithubAppConfig { extra_ca_pem: None, ..world.config() };
    assert!(matches!(check(refused(stranger).await, &["no safe connection"]), MintError::Unavailable(_)));
    assert!(world.api.issued().is_empty());
}
