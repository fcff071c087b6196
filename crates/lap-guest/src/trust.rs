//! Makes the programs of the sandbox trust its own authority, beside the system's: a bundle where most look, the variables
//! that name it to the others, and the formats of those that read none.
//!
//! Nothing outside learns of this authority, and it signs for nobody but this sandbox's vault.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::child;
use crate::environment::Environment;
use crate::layout::Layout;
use crate::outbox::Outbox;

mod java;

/// Variables that name a file of all certificates that count.
const BUNDLE_VARIABLES: [&str; 21] = [
    // OpenSSL, and with it Python, Ruby, PHP and many more; Go; rustls where it reads the system's.
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    // Python: requests, pip, httplib2, websocket-client.
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "HTTPLIB2_CA_CERTS",
    "WEBSOCKET_CLIENT_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    // Clouds.
    "AWS_CA_BUNDLE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    // Package managers.
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH",
    "BUNDLE_SSL_CA_CERT",
    "HEX_CACERTS_PATH",
    "COMPOSER_CAFILE",
    "NIX_SSL_CERT_FILE",
    // Other run times and libraries.
    "DENO_CERT",
    "PERL_LWP_SSL_CA_FILE",
    "HTTPS_CA_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CODEX_CA_CERTIFICATE",
];

/// How NSS calls the authority in its database.
const NSS_NAME: &str = "LAP sandbox";

/// NSS makes a database in a fraction of a second; one that hangs must not hold up the sandbox.
const NSS_DEADLINE: Duration = Duration::from_secs(20);

/// What tells every kind of program where certificates are. There is no one name that all of them know.
pub(crate) fn variables(layout: &Layout) -> Environment {
    let bundle = layout.ca_bundle().display().to_string();
    let mut env: Environment = BUNDLE_VARIABLES.map(|name| (name.to_owned(), bundle.clone())).into();
    env.insert("NODE_EXTRA_CA_CERTS".to_owned(), layout.ca().display().to_string());
    env.insert("NODE_USE_SYSTEM_CA".to_owned(), "1".to_owned());
    // For a JDK that brings a store of its own; each start of it says a line about this on standard error. Those of the
    // distribution look at the store without being told.
    let store = format!("-Djavax.net.ssl.trustStore={}", layout.java_store().display());
    env.insert("JAVA_TOOL_OPTIONS".to_owned(), store);
    env
}

/// Writes the authority's certificate alone, the bundle of all, and the store of Java.
pub(crate) fn write(layout: &Layout, ca_pem: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(layout.run().join("tls"))?;
    std::fs::write(layout.ca(), ca_pem)?;
    // Without a system bundle the sandbox's own authority is the only one; all traffic carries its certificates anyway.
    let mut bundle = std::fs::read(layout.system_bundle()).unwrap_or_default();
    if !bundle.is_empty() && !bundle.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(ca_pem.as_bytes());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let store = java::key_store(&bundle, i64::try_from(now).unwrap_or_default());
    replace(&layout.java_store(), &store)?;
    replace(&layout.ca_bundle(), &bundle)
}

/// Readers may be at work already: the new file appears whole.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, content)?;
    std::fs::rename(new, path)
}

/// Puts the authority into the user's NSS database, where the machine has the tool for it. The home folder may be that of an
/// earlier sandbox, with an earlier authority.
pub(crate) async fn tell_nss(layout: &Layout, env: &Environment, out: &Outbox) {
    let Some(certutil) = find(env, "certutil") else { return };
    let database = layout.nss_database();
    let told = async {
        std::fs::create_dir_all(&database).map_err(|error| error.to_string())?;
        let place = format!("sql:{}", database.display());
        if !database.join("cert9.db").exists() {
            run(&certutil, layout, env, out, &["-N", "--empty-password", "-d", &place]).await?;
        } else {
            // There is none in a database of somebody else's making.
            let _ = run(&certutil, layout, env, out, &["-D", "-n", NSS_NAME, "-d", &place]).await;
        }
        let ca = layout.ca().display().to_string();
        run(&certutil, layout, env, out, &["-A", "-n", NSS_NAME, "-t", "C,,", "-i", &ca, "-d", &place]).await
    };
    let problem = match tokio::time::timeout(NSS_DEADLINE, told).await {
        Ok(Ok(())) => return,
        Ok(Err(problem)) => problem,
        Err(_) => "it took too long".to_owned(),
    };
    out.line("guest", &format!("programs that use NSS will not trust the vault: {problem}"));
}

async fn run(
    program: &Path,
    layout: &Layout,
    env: &Environment,
    out: &Outbox,
    arguments: &[&str],
) -> Result<(), String> {
    let mut command = child::command(program, &layout.home(), env);
    command.args(arguments);
    let (status, last) = child::run(&mut command, "guest", out, |_| None).await.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("certutil {}: {}", child::ending(status), last.text())) }
}

/// A program on the sandbox's search path.
fn find(env: &Environment, program: &str) -> Option<PathBuf> {
    std::env::split_paths(env.get("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
