//! GitHub's API as far as LAP and the `gh` program need it, behind TLS: it verifies an app's statements, hands out tokens that
//! end soon, and says of any token whether it counts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::ca::TestCa;
use crate::web::{self, Body, Running};

/// The app's number.
pub const APP_ID: &str = "424242";

/// Number of its installation.
const INSTALLATION: u64 = 77;

/// The running server.
pub struct GithubApi {
    running: Running,
    shared: Arc<Shared>,
    key: KeyPair,
}

/// A token handed out.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: String,
    /// Names of the repositories it was asked for.
    pub repositories: Value,
    pub permissions: Value,
    pub expires_at: SystemTime,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct GithubRequest {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub status: u16,
}

struct Shared {
    public_key: Vec<u8>,
    life: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    installed: BTreeSet<String>,
    /// Tokens of people, which do not end.
    personal: BTreeSet<String>,
    issued: Vec<Issued>,
    requests: Vec<GithubRequest>,
    /// Answered to everything the app asks, instead of the truth.
    trouble: Option<(StatusCode, &'static str)>,
}

impl GithubApi {
    /// Starts one whose tokens live this long.
    pub async fn start(ca: &TestCa, names: &[&str], life: Duration) -> GithubApi {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("an RSA key can be made");
        let shared = Arc::new(Shared { public_key: key.public_key().as_ref().to_vec(), life, state: Mutex::default() });
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let tls = ca.server_config(&names, &["h2", "http/1.1"]);
        let serving = shared.clone();
        let running = web::serve(Some(tls), move |request| handle(serving.clone(), request)).await;
        GithubApi { running: running.expect("a free port on 127.0.0.1"), shared, key }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.running.address.port()
    }

    /// The app's private key in PKCS#8.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8())
    }

    /// The app's private key as GitHub hands it out, in PKCS#1.
    pub fn key_pem_pkcs1(&self) -> String {
        // PKCS#8 wraps PKCS#1 in a head of the same length for every key of this size.
        pem("RSA PRIVATE KEY", &self.pkcs8()[26..])
    }

    fn pkcs8(&self) -> Vec<u8> {
        let der: Pkcs8V1Der<'_> = self.key.as_der().expect("the key can be written down");
        der.as_ref().to_vec()
    }

    /// Installs the app on a repository `owner/name`.
    pub fn install(&self, repository: &str) {
        self.shared.state().installed.insert(repository.to_owned());
    }

    /// Takes it off again.
    pub fn uninstall(&self, repository: &str) {
        self.shared.state().installed.remove(repository);
    }

    /// Lets a person's token count.
    pub fn allow(&self, token: &str) {
        self.shared.state().personal.insert(token.to_owned());
    }

    /// What the app hears from now on, whatever it asks; `None`: the truth again.
    pub fn set_trouble(&self, trouble: Option<(StatusCode, &'static str)>) {
        self.shared.state().trouble = trouble;
    }

    /// Says of a token whether it counts now: one of the app's only until it ends and, stricter than the real one, only until
    /// there is a newer one for the same repositories.
    pub fn accepts(&self) -> Arc<dyn Fn(&str) -> bool + Send + Sync> {
        let shared = self.shared.clone();
        Arc::new(move |token| shared.counts(token))
    }

    /// All tokens so far.
    pub fn issued(&self) -> Vec<Issued> {
        self.shared.state().issued.clone()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<GithubRequest> {
        self.shared.state().requests.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self, token: &str) -> bool {
        let state = self.state();
        let of_app = state.issued.iter().find(|issued| issued.token == token).is_some_and(|issued| {
            let newest = state.issued.iter().rev().find(|other| other.repositories == issued.repositories);
            newest.is_some_and(|newest| newest.token == token) && SystemTime::now() < issued.expires_at
        });
        of_app || state.personal.contains(token)
    }

    /// Whether this is a statement that GitHub would take: signed with the app's key, about the app, of now and not for long.
    fn proves(&self, statement: &str) -> bool {
        let mut words = statement.split('.');
        let (Some(head), Some(claims), Some(signature), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return false;
        };
        let decoded = |word: &str| URL_SAFE_NO_PAD.decode(word).unwrap_or_default();
        let object = |word: &str| serde_json::from_slice::<Value>(&decoded(word)).unwrap_or_default();
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        let signed = key.verify(format!("{head}.{claims}").as_bytes(), &decoded(signature)).is_ok();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = object(claims);
        let (Some(from), Some(to)) = (claims["iat"].as_u64(), claims["exp"].as_u64()) else { return false };
        let in_time = from <= now && now < to && to - from <= 600;
        signed && in_time && claims["iss"] == APP_ID && object(head)["alg"] == "RS256"
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    let lines: Vec<String> =
        STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = web::whole(body).await;
    let path = head.uri.path().trim_start_matches("/api/v3").to_owned();
    let (status, answer) = answer(&shared, &head.method, &path, &head.headers, &body);
    shared.state().requests.push(GithubRequest {
        method: head.method.to_string(),
        path,
        headers: head.headers,
        status: status.as_u16(),
    });
    let mut response = web::json(status, &answer);
    // What `gh` reads a token's rights from.
    response.headers_mut().insert("x-oauth-scopes", header::HeaderValue::from_static("repo, read:org, gist"));
    response
}

fn answer(shared: &Shared, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Value) {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bearer = authorization.split_once(' ').map_or("", |(_, token)| token);
    let said = |status: StatusCode, message: &str| (status, json!({ "message": message }));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        (&Method::GET, ["repos", .., "installation"])
        | (&Method::POST, ["app", "installations", _, "access_tokens"]) => {
            if let Some((status, message)) = shared.state().trouble {
                return said(status, message);
            }
            if !shared.proves(bearer) {
                return said(StatusCode::UNAUTHORIZED, "A JSON web token could not be decoded");
            }
            match parts.as_slice() {
                ["repos", owner, name, "installation"] => {
                    if shared.state().installed.contains(&format!("{owner}/{name}")) {
                        (StatusCode::OK, json!({ "id": INSTALLATION, "app_id": APP_ID }))
                    } else {
                        said(StatusCode::NOT_FOUND, "Not Found")
                    }
                }
                _ => issue(shared, body),
            }
        }
        _ if !shared.counts(bearer) => said(StatusCode::UNAUTHORIZED, "Bad credentials"),
        (&Method::GET, [""]) => (StatusCode::OK, json!({})),
        (&Method::GET, ["user"]) => (StatusCode::OK, json!({ "login": "acme-bot", "id": 7 })),
        (&Method::POST, ["graphql"]) => (StatusCode::OK, graphql(&String::from_utf8_lossy(body))),
        _ => said(StatusCode::NOT_FOUND, "Not Found"),
    }
}

fn issue(shared: &Shared, body: &[u8]) -> (StatusCode, Value) {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut random = [0; 18];
    aws_lc_rs::rand::fill(&mut random).expect("the operating system has randomness");
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // To the second, as GitHub says it.
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + shared.life;
    let seconds = i64::try_from(end.as_secs()).unwrap_or(i64::MAX);
    let expires_at = jiff::Timestamp::from_second(seconds).expect("this century").to_string();
    let issued = Issued {
        token: format!("ghs_{digits}"),
        repositories: asked["repositories"].clone(),
        permissions: asked["permissions"].clone(),
        expires_at: UNIX_EPOCH + Duration::from_secs(end.as_secs()),
    };
    let answer = json!({ "token": issued.token, "expires_at": expires_at, "permissions": issued.permissions });
    shared.state().issued.push(issued);
    (StatusCode::CREATED, answer)
}

/// What `gh` asks when it shows who one is, when it clones, and when it lists pull requests.
fn graphql(query: &str) -> Value {
    if !query.contains("repository(") {
        return json!({ "data": { "viewer": { "login": "acme-bot" } } });
    }
    if !query.contains("pullRequests") {
        let repository = json!({
            "id": "r", "name": "pricing", "owner": { "id": "o", "login": "acme" }, "hasIssuesEnabled": true, "hasWikiEnabled": false,
            "description": "", "viewerPermission": "WRITE", "defaultBranchRef": { "name": "main" }, "parent": null,
        });
        return json!({ "data": { "repository": repository } });
    }
    let request = json!({
        "number": 7, "title": "Mend the discount", "state": "OPEN", "isDraft": false, "headRefName": "mend",
        "headRepositoryOwner": { "id": "o", "login": "acme" }, "isCrossRepository": false, "createdAt": "2026-01-01T00:00:00Z"
    });
    let requests = json!({
        "totalCount": 1, "nodes": [request], "pageInfo": { "hasNextPage": false, "endCursor": "" }
    });
    json!({ "data": { "repository": { "pullRequests": requests } } })
}
