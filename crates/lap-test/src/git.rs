//! A git server that demands a token: the real `git http-backend` behind TLS, with a small project in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::ca::TestCa;
use crate::web::{self, Body, Running};

/// The running server with its bare repositories.
pub struct GitServer {
    running: Running,
    root: tempfile::TempDir,
    shared: Arc<Shared>,
}

/// Says of a password whether it counts now.
pub type Accepts = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How a git server is set up.
pub struct GitConfig {
    /// The password that opens it, whatever the user; none lets everybody in.
    pub token: Option<String>,
    /// Further passwords, such as tokens that end.
    pub accepts: Option<Accepts>,
    /// Names and addresses of the certificate.
    pub names: Vec<String>,
}

impl Default for GitConfig {
    fn default() -> GitConfig {
        GitConfig {
            token: Some(String::from("git-token-for-tests-0123456789")),
            accepts: None,
            names: ["git.test", "localhost", "127.0.0.1"].map(String::from).to_vec(),
        }
    }
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct GitRequest {
    pub method: String,
    /// Path with query.
    pub path: String,
    pub headers: HeaderMap,
    /// The status answered.
    pub status: u16,
}

struct Shared {
    token: Option<String>,
    accepts: Option<Accepts>,
    root: PathBuf,
    requests: Mutex<Vec<GitRequest>>,
}

impl GitServer {
    /// Starts one with the default configuration and a certificate of `ca`.
    pub async fn start(ca: &TestCa) -> GitServer {
        GitServer::start_with(ca, GitConfig::default()).await
    }

    /// Starts one over https.
    pub async fn start_with(ca: &TestCa, config: GitConfig) -> GitServer {
        let GitConfig { token, accepts, names } = config;
        let root = tempfile::Builder::new().prefix("lap-test-git-").tempdir().expect("a folder for repositories");
        let shared = Arc::new(Shared { token, accepts, root: root.path().to_owned(), requests: Mutex::default() });
        let tls = ca.server_config(&names, &["h2", "http/1.1"]);
        let serving = shared.clone();
        let running = web::serve(Some(tls), move |request| handle(serving.clone(), request));
        let running = running.await.expect("a free port on 127.0.0.1");
        GitServer { running, root, shared }
    }

    /// `https://NAME:PORT/REPOSITORY.git`; the name must be one of the certificate's.
    pub fn url(&self, name: &str, repository: &str) -> String {
        format!("https://{name}:{}/{}", self.port(), folder(repository))
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.running.address.port()
    }

    /// The token that opens it.
    pub fn token(&self) -> Option<&str> {
        self.shared.token.as_deref()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<GitRequest> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A bare repository whose branch `main` holds these files in one commit.
    pub fn create(&self, repository: &str, files: &[(&str, &str)]) -> BareRepo {
        let bare = BareRepo { path: self.root.path().join(folder(repository)) };
        let work = tempfile::tempdir().expect("a folder to commit from");
        for (name, content) in files {
            let path = work.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder for a file");
            std::fs::write(path, content).expect("a file of the project");
        }
        let path = bare.path.to_str().expect("temporary folders have plain names");
        git(self.root.path(), &["init", "--quiet", "--bare", "--initial-branch=main", path]);
        // Off by default for pushes over http; the token above is what decides.
        git(&bare.path, &["config", "http.receivepack", "true"]);
        git(work.path(), &["init", "--quiet", "--initial-branch=main"]);
        git(work.path(), &["add", "--all"]);
        git(work.path(), &["commit", "--quiet", "--allow-empty", "--message", "Start"]);
        git(work.path(), &["push", "--quiet", path, "main"]);
        bare
    }

    /// The project of the demo: a function with a bug, and a unittest that shows it. See [`broken_project`].
    pub fn create_broken_project(&self, repository: &str) -> BareRepo {
        self.create(repository, &broken_project())
    }
}

/// A repository may be named with or without its ending.
fn folder(repository: &str) -> String {
    format!("{}.git", repository.trim_end_matches(".git"))
}

/// Files of a small Python project whose test fails because [`BUG`] should be [`FIX`] in `pricing.py`.
pub fn broken_project() -> Vec<(&'static str, &'static str)> {
    vec![
        ("README.md", "# pricing\n\nComputes what an order costs. Run the tests with `python3 -m unittest`.\n"),
        (
            "pricing.py",
            "\"\"\"What an order costs.\"\"\"\n\n\ndef total(prices, discount_percent=0):\n    \"\"\"Sum of the prices, less the discount.\"\"\"\n    amount = sum(prices)\n    return amount - discount_percent\n",
        ),
        (
            "test_pricing.py",
            "import unittest\n\nfrom pricing import total\n\n\nclass Total(unittest.TestCase):\n    def test_sum(self):\n        self.assertEqual(total([10, 20]), 30)\n\n    def test_discount_is_a_percentage(self):\n        self.assertEqual(total([100, 100], discount_percent=10), 180)\n\n\nif __name__ == \"__main__\":\n    unittest.main()\n",
        ),
        (".gitignore", "__pycache__/\n"),
    ]
}

/// The wrong line of `pricing.py`.
pub const BUG: &str = "return amount - discount_percent";
/// What it should be.
pub const FIX: &str = "return amount * (100 - discount_percent) / 100";

/// A bare repository on disk, to look at what was pushed.
#[derive(Debug, Clone)]
pub struct BareRepo {
    path: PathBuf,
}

impl BareRepo {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all branches, sorted.
    pub fn branches(&self) -> Vec<String> {
        let listing = git(&self.path, &["for-each-ref", "--format=%(refname:short)", "refs/heads"]);
        listing.lines().map(String::from).collect()
    }

    /// Subjects of a branch's commits, newest first.
    pub fn commits(&self, branch: &str) -> Vec<String> {
        git(&self.path, &["log", "--format=%s", branch]).lines().map(String::from).collect()
    }

    /// `Name <mail>` of a branch's newest commit.
    pub fn author(&self, branch: &str) -> String {
        git(&self.path, &["log", "-1", "--format=%an <%ae>", branch]).trim().to_owned()
    }

    /// Hash of a branch's newest commit.
    pub fn head(&self, branch: &str) -> String {
        git(&self.path, &["rev-parse", branch]).trim().to_owned()
    }

    /// What a branch changes against another.
    pub fn diff(&self, from: &str, to: &str) -> String {
        git(&self.path, &["diff", from, to])
    }

    /// A file of a branch.
    pub fn file(&self, branch: &str, path: &str) -> String {
        git(&self.path, &["show", &format!("{branch}:{path}")])
    }
}

/// Runs git apart from the user's configuration.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "Test"), ("GIT_AUTHOR_EMAIL", "test@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Test"), ("GIT_COMMITTER_EMAIL", "test@example.com")])
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let given = password(&head.headers);
    let allowed = shared.token.as_ref().is_none_or(|token| given.as_ref() == Some(token))
        || shared.accepts.as_ref().zip(given.as_ref()).is_some_and(|(accepts, given)| accepts(given));
    let response = if allowed {
        let body = web::whole(body).await;
        backend(&shared.root, &head, body).await
    } else {
        let mut response = web::text(StatusCode::UNAUTHORIZED, "text/plain", "the token is missing or wrong\n");
        let basic = HeaderValue::from_static("Basic realm=\"git\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        response
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let status = response.status().as_u16();
    let seen = GitRequest { method: head.method.to_string(), path, headers: head.headers, status };
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    response
}

/// The password a request carries.
fn password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    if let Some(bearer) = value.strip_prefix("Bearer ") {
        return Some(bearer.to_owned());
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    String::from_utf8(decoded).ok()?.split_once(':').map(|(_, password)| password.to_owned())
}

async fn backend(root: &Path, head: &http::request::Parts, body: Bytes) -> Response<Body> {
    let header = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", root)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "agent")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(header::CONTENT_TYPE))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header(header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", header(HeaderName::from_static("git-protocol")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("git is installed");
    let mut input = child.stdin.take().expect("asked for above");
    let mut output = child.stdout.take().expect("asked for above");
    let mut answer = Vec::new();
    let write = async {
        // A backend that answers before it has read everything is right to do so.
        let _ = input.write_all(&body).await;
        drop(input);
    };
    let (_, read) = tokio::join!(write, output.read_to_end(&mut answer));
    let _ = child.wait().await;
    match read {
        Ok(_) => cgi_answer(answer),
        Err(error) => web::text(StatusCode::BAD_GATEWAY, "text/plain", error.to_string()),
    }
}

/// A CGI answer is headers, an empty line and the body; `Status` is the status.
fn cgi_answer(answer: Vec<u8>) -> Response<Body> {
    let Some(split) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return web::text(StatusCode::BAD_GATEWAY, "text/plain", "git http-backend gave no answer");
    };
    let mut response = Response::new(web::full(answer[split + 4..].to_vec()));
    for line in String::from_utf8_lossy(&answer[..split]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(StatusCode::BAD_GATEWAY);
            *response.status_mut() = code;
        } else if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests;
