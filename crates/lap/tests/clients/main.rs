//! The programs that agents really use, in a real sandbox, each with its own idea of where certificates are: all of them
//! accept the vault's, without being told anything, and what they ask arrives.
//!
//! A program that is missing fails the test: `scripts/setup.sh test` installs those of the system, the test itself the others
//! into the target folder.

#[allow(dead_code, reason = "shared with the end-to-end tests, which use more of it")]
#[path = "../e2e/world.rs"]
mod world;

mod registry;
mod tools;

use lap_api::session::{CreateSession, Session};
use lap_test::ca::TestCa;
use lap_test::git::{GitConfig, GitServer};
use lap_test::github::GithubApi;

use crate::registry::{HOST, Registry};
use crate::world::{Needs, World, shell_agent, vars};

const TOKEN: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;
class Fetch {
    public static void main(String[] a) throws Exception {
        var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(a[0])).build(), HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.body());
    }
}"#;

const BOTO3: &str = "import boto3; \
    s3 = boto3.client('s3', endpoint_url='https://clients.test/s3', region_name='x', aws_access_key_id='AKIAEXAMPLE', aws_secret_access_key='plain'); \
    print([b['Name'] for b in s3.list_buckets()['Buckets']])";

const PYTHON_STRICT: &str = "import ssl, urllib.request as u; c = ssl.create_default_context(); c.verify_flags |= ssl.VERIFY_X509_STRICT; \
    print(u.urlopen('https://clients.test/hello', context=c).read().decode())";

/// A program, a line for the shell, and what its output must hold.
const CLIENTS: &[(&str, &str, &str)] = &[
    ("curl", "curl -sS https://clients.test/hello", "good day"),
    ("curl", "curl -sS --http2 -o /dev/null -w '%{http_version}' https://clients.test/hello", "2"),
    ("curl", "curl -sS --tls-max 1.2 https://clients.test/hello", "good day"),
    ("wget", "wget -qO- https://clients.test/hello", "good day"),
    ("git", "git ls-remote https://github.com/acme/pricing", "refs/heads/main"),
    (
        "git",
        "cd $(mktemp -d) && git clone -q https://github.com/acme/pricing . && git checkout -q -b mend && git commit -q --allow-empty -m Mend \
         && git push -q origin mend && git fetch -q origin && git rev-parse --abbrev-ref origin/mend",
        "origin/mend",
    ),
    ("gh", "cd $(mktemp -d) && gh repo clone acme/pricing . && git log --format=%s", "Start"),
    (
        "openssl",
        "openssl s_client -connect clients.test:443 -servername clients.test -x509_strict -verify_return_error \
         -verify_hostname clients.test </dev/null",
        "Verify return code: 0 (ok)",
    ),
    ("tstclnt", "tstclnt -h clients.test -p 443 -d sql:$HOME/.pki/nssdb -Q </dev/null && echo good", "good"),
    ("gh", "gh api user --jq .login", "acme-bot"),
    ("gh", "gh pr list --repo acme/pricing", "Mend the discount"),
    ("gh", "gh auth status", "acme-bot"),
    (
        "python3",
        "python3 -c \"import urllib.request as u; print(u.urlopen('https://clients.test/hello').read().decode())\"",
        "good day",
    ),
    ("python3", "python3 -c \"$PYTHON_STRICT\"", "good day"),
    ("requests", "python3 -c \"import requests; print(requests.get('https://clients.test/hello').text)\"", "good day"),
    ("httpx", "python3 -c \"import httpx; print(httpx.get('https://clients.test/hello').text)\"", "good day"),
    ("boto3", "python3 -c \"$BOTO3\"", "['the-bucket']"),
    ("pip", "python3 -m pip index versions lapdemo --index-url https://clients.test/pypi/simple", "1.2.3"),
    (
        "uv",
        "echo lapdemo | uv pip compile --no-deps --quiet --index-url https://clients.test/pypi/simple -",
        "lapdemo==1.2.3",
    ),
    ("node", "node -e \"fetch('https://clients.test/hello').then(r => r.text()).then(console.log)\"", "good day"),
    ("node", "node -e \"require('https').get('https://clients.test/hello', r => r.pipe(process.stdout))\"", "good day"),
    ("npm", "npm view lapdemo version --registry https://clients.test/npm/", "1.2.3"),
    ("cargo", "cargo search lapdemo --index sparse+https://clients.test/cargo/", "lapdemo = \"1.2.3\""),
    (
        "go",
        "cd $(mktemp -d) && GOFLAGS=-mod=mod GONOSUMDB=* GOPROXY=https://clients.test/go GOTOOLCHAIN=local \
         go list -m -versions clients.test/lapdemo",
        "v1.2.3",
    ),
    (
        "java",
        "cd $(mktemp -d) && printf %s \"$JAVA\" > Fetch.java && java Fetch.java https://clients.test/hello",
        "good day",
    ),
    (
        "java",
        "cd $(mktemp -d) && printf %s \"$JAVA\" > Fetch.java && JAVA_TOOL_OPTIONS= java Fetch.java https://clients.test/hello",
        "good day",
    ),
    ("keytool", "keytool -list -cacerts -storepass changeit | grep -c 'lap-0, .*trustedCertEntry'", "1"),
];

/// The same for programs that are given no variable at all: what they find in the system's places is enough.
const UNTOLD: &[(&str, &str, &str)] = &[
    ("curl", "curl -sS https://clients.test/hello", "good day"),
    ("wget", "wget -qO- https://clients.test/hello", "good day"),
    ("git", "git ls-remote https://git.test/acme/public", "refs/heads/main"),
    (
        "openssl",
        "openssl s_client -connect clients.test:443 -verify_return_error </dev/null",
        "Verify return code: 0 (ok)",
    ),
    (
        "python3",
        "python3 -c \"import urllib.request as u; print(u.urlopen('https://clients.test/hello').read())\"",
        "good day",
    ),
    (
        "go",
        "cd /tmp && GONOSUMDB=* GOPROXY=https://clients.test/go GOTOOLCHAIN=local go list -m -versions clients.test/lapdemo",
        "v1.2.3",
    ),
    ("cargo", "cargo search lapdemo --index sparse+https://clients.test/cargo/", "lapdemo = \"1.2.3\""),
    (
        "java",
        "cd $(mktemp -d) && printf %s \"$JAVA\" > Fetch.java && java Fetch.java https://clients.test/hello",
        "good day",
    ),
];

/// And what must not work: were these to pass, the others would show nothing.
const STRANGERS: &[(&str, &str)] = &[
    ("curl that trusts the system alone", "curl -sS --cacert /etc/ssl/lap-system.pem https://clients.test/hello"),
    (
        "NSS that was not told",
        "d=$(mktemp -d) && certutil -N --empty-password -d sql:$d && tstclnt -h clients.test -p 443 -d sql:$d -Q </dev/null",
    ),
];

struct Upstreams {
    registry: Registry,
    api: GithubApi,
    git: GitServer,
    _public: GitServer,
}

async fn world() -> (World, Upstreams) {
    let ca = TestCa::new("LAP test CA");
    let tools = tools::archive().await;
    let registry = Registry::start(&ca, tools).await;
    let api = GithubApi::start(&ca, &["api.github.com"], std::time::Duration::from_secs(3600)).await;
    api.allow(TOKEN);
    let config = GitConfig { token: Some(TOKEN.into()), names: vec!["github.com".into()], ..GitConfig::default() };
    let git = GitServer::start_with(&ca, config).await;
    git.create_broken_project("acme/pricing");
    let public = GitServer::start_with(&ca, GitConfig { token: None, ..GitConfig::default() }).await;
    public.create_broken_project("acme/public");
    let resolve = format!(
        "{HOST}=127.0.0.1:{},api.github.com=127.0.0.1:{},github.com=127.0.0.1:{},git.test=127.0.0.1:{}",
        registry.port(),
        api.port(),
        git.port(),
        public.port()
    );
    let private = format!("{HOST}:443,api.github.com:443,github.com:443,git.test:443");
    let env = [
        ("LAP_VAULT_RESOLVE", resolve.as_str()),
        ("LAP_VAULT_PRIVATE_ALLOW", private.as_str()),
        ("LAP_SANDBOX_DISK", "2GiB"),
    ];
    let world = World::with_ca(ca, Needs::Shell, &env).await;
    (world, Upstreams { registry, api, git, _public: public })
}

/// Where the tools are.
const TOOLS: &str = "PATH=$HOME/tools/bin:$PATH:/usr/local/go/bin PYTHONPATH=$HOME/tools/python";

/// Runs a line with the tools on the search path; everything it says, and its status.
async fn run(world: &World, session: &Session, line: &str) -> String {
    let quiet = "NO_COLOR=1 GH_NO_UPDATE_NOTIFIER=1";
    world.ask(session, &format!("{{ env {TOOLS} {quiet} timeout 60 {} ; echo status $?; }} 2>&1", quoted(line))).await
}

/// The same with nothing in its environment but search path, home and the program that some lines run.
async fn run_untold(world: &World, session: &Session, line: &str) -> String {
    let bare = "env -i HOME=$HOME JAVA=\"$JAVA\"";
    world.ask(session, &format!("{{ {bare} {TOOLS} timeout 60 {} ; echo status $?; }} 2>&1", quoted(line))).await
}

/// As one argument of a shell.
fn quoted(line: &str) -> String {
    format!("bash -c '{}'", line.replace('\'', r"'\''"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_trusts_the_vault() {
    let (world, upstreams) = world().await;
    let mut blueprint = shell_agent();
    blueprint.env_vars =
        vars([("GITHUB_TOKEN", TOKEN), ("JAVA", JAVA), ("BOTO3", BOTO3), ("PYTHON_STRICT", PYTHON_STRICT)]);
    blueprint.plain_env_vars = ["JAVA", "BOTO3", "PYTHON_STRICT"].map(String::from).to_vec();
    let agent = world.agent(blueprint).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let unpacked = run(&world, &session, "cd && curl -sS https://clients.test/tools.tar | tar x && ls tools").await;
    assert!(unpacked.contains("python") && unpacked.contains("bin"), "{unpacked}");

    let mut wrong = Vec::new();
    let mut check = |program: &str, line: &str, said: String, good: bool| {
        // A program that is missing shows nothing, whatever is expected of it.
        if !good || said.contains("command not found") {
            wrong.push(format!("{program}: {line}\n{said}"));
        }
    };
    for (program, line, expect) in CLIENTS {
        let said = run(&world, &session, line).await;
        let good = said.contains(expect) && said.contains("status 0");
        check(program, line, said, good);
    }
    for (program, line, expect) in UNTOLD {
        let said = run_untold(&world, &session, line).await;
        let good = said.contains(expect) && said.contains("status 0");
        check(&format!("{program} without variables"), line, said, good);
    }
    for (program, line) in STRANGERS {
        let said = run(&world, &session, line).await;
        let good = !said.contains("status 0") && !said.contains("good day");
        check(program, line, said, good);
    }
    assert!(wrong.is_empty(), "{} do not do as they should:\n\n{}", wrong.len(), wrong.join("\n\n"));

    // The real token arrived where it belongs, and nowhere else.
    let Upstreams { registry, api, git, _public: _ } = &upstreams;
    let bearing = |headers: &http::HeaderMap| format!("{:?}", headers.get("authorization"));
    assert!(api.requests().iter().any(|request| bearing(&request.headers).contains(TOKEN)));
    assert!(git.requests().iter().any(|request| request.path.contains("git-receive-pack") && request.status == 200));
    assert!(registry.requests().iter().all(|request| !format!("{request:?}").contains(TOKEN)));
    world.end().await;
}
