//! Tokens of the platform's own for one repository: who gets them, how they are made anew, and what happens when they
//! cannot be made.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lap_domain::egress::Entry;
use lap_domain::repository_token::Repository;
use lap_domain::secret::Secret;
use lap_domain::session::SessionState;
use lap_domain::time::Timestamp;
use lap_engine::{MintError, Minted, Minting, NewSession, RepositoryTokens, TokenMinter};

use crate::granted;
use crate::kit::{Memory, World, secrets};

const REPOSITORY: &str = "https://git.test/acme/pricing.git";

/// Long enough that nothing is renewed unasked.
const LONG: Duration = Duration::from_secs(3600);

/// Makes numbered tokens that live so long, unless it is told to fail.
struct Press {
    life: Duration,
    made: AtomicUsize,
    asked: Mutex<Vec<String>>,
    trouble: Mutex<Vec<MintError>>,
}

impl Press {
    fn new(life: Duration, trouble: Vec<MintError>) -> (Arc<Self>, RepositoryTokens) {
        let press =
            Arc::new(Self { life, made: AtomicUsize::new(0), asked: Mutex::default(), trouble: Mutex::new(trouble) });
        let tokens = RepositoryTokens {
            host: Entry::parse("git.test").expect("a host"),
            credential_hosts: vec!["git.test".into(), "api.git.test".into()],
            patience: Duration::from_millis(1500),
            minter: press.clone(),
        };
        (press, tokens)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }

    /// The next tries fail like this.
    fn fail(&self, trouble: Vec<MintError>) {
        *self.trouble.lock().expect("no panic") = trouble;
    }
}

impl TokenMinter for Press {
    fn mint<'a>(&'a self, repository: &'a Repository) -> Minting<'a> {
        Box::pin(async move {
            self.asked.lock().expect("no panic").push(repository.to_string());
            let trouble = self.trouble.lock().expect("no panic").pop();
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
            let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
            let now = Timestamp(jiff::Timestamp::now().as_millisecond());
            let life = i64::try_from(self.life.as_millis()).expect("short");
            Ok(Minted { token: Secret::new(format!("the-token-number-{number}")), expires_at: now.plus_ms(life) })
        })
    }
}

fn unavailable() -> MintError {
    MintError::Unavailable("nobody answers".into())
}

#[tokio::test]
async fn a_sandbox_gets_a_token_of_its_repository_and_nothing_else_does() {
    let (press, tokens) = Press::new(LONG, Vec::new());
    let world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(REPOSITORY, &[]).await;
    let session = world.session(&agent, NewSession::default()).await;
    let mut sidecar = world.dial(&world.sandbox().await, Memory::default()).await;
    let boot = sidecar.boot().await;
    assert_eq!(granted(&boot.grants.credentials, "GITHUB_TOKEN").as_deref(), Some("the-token-number-1"));
    let grant = &boot.grants.credentials[0];
    assert_eq!(format!("{:?}", grant.scope), r#"Hosts { hosts: ["git.test", "api.git.test"] }"#);
    assert!(!grant.clone_only);
    for key in ["GITHUB_TOKEN", "GH_TOKEN"] {
        assert_eq!(boot.guest.env[key], grant.stub);
    }
    assert_eq!(boot.guest.repo.as_ref().expect("a repository").clone_token, None);
    assert!(!serde_json::to_string(&boot.guest).expect("plain").contains("the-token"));
    assert_eq!(world.engine.vault_keys(&session).await.expect("names"), ["GITHUB_TOKEN"]);
    // A second session of the repository shares it.
    world.engine.delete_session(&session).await.expect("deleting");
    world.no_sandboxes().await;
    world.session(&agent, NewSession::default()).await;
    let again = world.dial(&world.sandbox().await, Memory::default()).await.boot().await;
    assert_eq!(granted(&again.grants.credentials, "GITHUB_TOKEN").as_deref(), Some("the-token-number-1"));
    assert_eq!(press.asked(), ["acme/pricing"]);
    world.stop().await;
}

/// What a session's vault is told of the token, and what its shell sees in the two variables.
async fn check_own(repo_url: &str, of_agent: &[(&str, &str)], of_session: &[(&str, &str)], expect: &[(&str, &str)]) {
    let (press, tokens) = Press::new(LONG, Vec::new());
    let world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(repo_url, of_agent).await;
    let new = NewSession { env_vars: secrets(of_session), ..NewSession::default() };
    world.session(&agent, new).await;
    let boot = world.dial(&world.sandbox().await, Memory::default()).await.boot().await;
    let seen: Vec<(&str, &str)> =
        boot.grants.credentials.iter().map(|grant| (grant.name.as_str(), grant.secret.as_str())).collect();
    assert_eq!(seen, expect, "{repo_url} {of_agent:?} {of_session:?}");
    assert_eq!(press.asked(), Vec::<String>::new());
    world.stop().await;
}

#[tokio::test]
async fn a_token_of_the_user_wins_and_other_hosts_get_none() {
    let own = "the-users-own-token-01";
    check_own(REPOSITORY, &[("GITHUB_TOKEN", own)], &[], &[("GITHUB_TOKEN", own)]).await;
    check_own(REPOSITORY, &[("GH_TOKEN", own)], &[], &[("GH_TOKEN", own)]).await;
    check_own(REPOSITORY, &[], &[("GH_TOKEN", own)], &[("GH_TOKEN", own)]).await;
    check_own(REPOSITORY, &[("GITHUB_TOKEN", "")], &[], &[]).await;
    check_own("https://elsewhere.test/acme/pricing.git", &[], &[], &[]).await;
    check_own("http://git.test/acme/pricing.git", &[], &[], &[]).await;
}

#[tokio::test]
async fn a_token_is_made_anew_before_it_ends_and_the_stub_stays() {
    let (press, tokens) = Press::new(Duration::from_secs(4), Vec::new());
    let world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(REPOSITORY, &[]).await;
    let session = world.session(&agent, NewSession::default()).await;
    let mut sidecar = world.dial(&world.sandbox().await, Memory::default()).await;
    let boot = sidecar.boot().await;
    let stub = boot.grants.credentials[0].stub.clone();
    // It fails once on the way, which the session is told, and is tried again.
    press.fail(vec![unavailable()]);
    let told = world.event(&session, "credential.failed").await;
    assert!(told.contains("nobody answers") && told.contains("tried again"), "{told}");
    let credentials = sidecar.credentials().await;
    assert_eq!(granted(&credentials, "GITHUB_TOKEN").as_deref(), Some("the-token-number-2"));
    assert_eq!(credentials[0].stub, stub);
    assert!(world.event(&session, "credential.renewed").await.contains("GITHUB_TOKEN"));
    // And again, without end.
    let credentials = sidecar.credentials().await;
    assert_eq!(granted(&credentials, "GITHUB_TOKEN").as_deref(), Some("the-token-number-3"));
    let names: Vec<String> = world.log(&session).await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names.iter().filter(|name| *name == "credential.failed").count(), 1, "{names:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_new_server_leaves_a_sandbox_its_token_until_it_has_another() {
    let (press, tokens) = Press::new(LONG, Vec::new());
    let mut world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(REPOSITORY, &[("OTHER_TOKEN", "another-token-0123")]).await;
    let (session, sidecar) = world.ready(&agent, NewSession::default()).await;
    let memory = sidecar.memory;
    let spec = world.sandbox().await;
    press.fail(vec![unavailable()]);
    world.restart().await;
    let mut sidecar = world.dial(&spec, memory).await;
    let (credentials, keep) = sidecar.credentials_and_kept().await;
    assert_eq!(granted(&credentials, "GITHUB_TOKEN"), None);
    assert_eq!(granted(&credentials, "OTHER_TOKEN").as_deref(), Some("another-token-0123"));
    assert_eq!(keep, ["GITHUB_TOKEN"]);
    let (credentials, keep) = sidecar.credentials_and_kept().await;
    assert_eq!(granted(&credentials, "GITHUB_TOKEN").as_deref(), Some("the-token-number-2"));
    assert_eq!(keep, Vec::<String>::new());
    world.event(&session, "credential.renewed").await;

    // A token that the user gives takes its place, and gives it back.
    world.edit_vars(&agent, &[("GITHUB_TOKEN", "the-users-own-token-01")]).await;
    assert_eq!(
        granted(&sidecar.credentials().await, "GITHUB_TOKEN").as_deref(),
        Some("the-users-own-token-01"),
        "the user's own wins"
    );
    world.edit_vars(&agent, &[]).await;
    assert_eq!(granted(&sidecar.credentials().await, "GITHUB_TOKEN").as_deref(), Some("the-token-number-2"));
    world.stop().await;
}

#[tokio::test]
async fn a_repository_without_the_app_is_cloned_without_a_token() {
    let (press, tokens) = Press::new(LONG, Vec::new());
    let refusal = || MintError::NotGranted("the app is not installed on acme/pricing".into());
    // Asked when the sandbox is to be made, and when it starts.
    press.fail(vec![refusal(), refusal()]);
    let world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(REPOSITORY, &[]).await;
    let session = world.session(&agent, NewSession::default()).await;
    let boot = world.dial(&world.sandbox().await, Memory::default()).await.boot().await;
    assert!(boot.grants.credentials.is_empty());
    assert!(!boot.guest.env.contains_key("GITHUB_TOKEN"));
    let repo = boot.guest.repo.expect("a repository");
    assert_eq!(repo.no_token.as_deref(), Some("the app is not installed on acme/pricing"));
    assert!(world.event(&session, "credential.failed").await.contains("not installed"));
    world.stop().await;
}

/// How a session ends whose tokens meet this trouble, the last one first; the number of tries.
async fn check_failure(trouble: Vec<MintError>, expect: &str) -> usize {
    let (press, tokens) = Press::new(LONG, Vec::new());
    press.fail(trouble);
    let world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(REPOSITORY, &[]).await;
    let session = world.session(&agent, NewSession::default()).await;
    let SessionState::Failed { reason } = world.state(&session, "failed").await else { panic!("failed") };
    assert_eq!(reason, expect);
    assert!(world.backend.calls().is_empty(), "no sandbox is made for it");
    let tries = press.asked().len();
    world.stop().await;
    tries
}

#[tokio::test]
async fn an_app_that_is_refused_or_not_heard_fails_the_session_with_the_reason() {
    let refused = MintError::Refused("the key is refused".into());
    assert_eq!(check_failure(vec![refused], "the key is refused").await, 1, "asking again would not help");
    let tries = check_failure((0..9).map(|_| unavailable()).collect(), "nobody answers").await;
    assert_eq!(tries, 2, "asked again as long as there is patience");
}

#[tokio::test]
async fn an_api_that_comes_back_in_time_is_not_noticed() {
    let (press, tokens) = Press::new(LONG, Vec::new());
    press.fail(vec![unavailable()]);
    let world = World::with_tokens(Some(tokens)).await;
    let agent = world.agent_of(REPOSITORY, &[]).await;
    world.session(&agent, NewSession::default()).await;
    let boot = world.dial(&world.sandbox().await, Memory::default()).await.boot().await;
    assert_eq!(granted(&boot.grants.credentials, "GITHUB_TOKEN").as_deref(), Some("the-token-number-1"));
    world.stop().await;
}
