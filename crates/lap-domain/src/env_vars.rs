//! Environment variables of agents and sessions: which may be given, what a mask means, and who wins.
//!
//! Pure: says what is wrong with a map, never changes one behind the caller's back.

use std::collections::BTreeMap;

use crate::credential::HostRule;
use crate::problem::Problem;
use crate::secret::Secret;

/// What a secret looks like in an answer. Sent back, it keeps the stored value.
pub const MASK: &str = "********";

/// How many variables one map may hold.
pub const MAX_KEYS: usize = 50;

/// How long the JSON encoding of one map may be.
pub const MAX_JSON_BYTES: usize = 16_384;

/// How many hosts one variable may be bound to.
pub const MAX_HOSTS: usize = 100;

/// The variables of one level.
#[derive(Debug, Clone, Copy)]
pub struct Vars<'a> {
    /// Values by key.
    pub env_vars: &'a BTreeMap<String, Secret>,
    /// Keys whose values are no secrets.
    pub plain_env_vars: &'a [String],
    /// Where each secret may go.
    pub env_var_hosts: &'a BTreeMap<String, Vec<String>>,
}

impl Vars<'_> {
    /// Whether this level says that the key's value is no secret.
    pub fn is_plain(&self, key: &str) -> bool {
        self.plain_env_vars.iter().any(|plain| plain == key)
    }
}

/// Everything that is wrong with the variables of one level.
pub fn validate(vars: &Vars<'_>) -> Vec<Problem> {
    let Vars { env_vars, plain_env_vars, env_var_hosts } = vars;
    let mut problems = Vec::new();
    if env_vars.len() > MAX_KEYS {
        problems.push(Problem::new("env_vars", format!("has {} keys; at most {MAX_KEYS} are allowed", env_vars.len())));
    }
    let length = json_length(env_vars);
    if length > MAX_JSON_BYTES {
        let message = format!("takes {length} bytes as JSON; at most {MAX_JSON_BYTES} are allowed");
        problems.push(Problem::new("env_vars", message));
    }
    for (key, value) in *env_vars {
        let field = format!("env_vars.{key}");
        if !is_key(key) {
            let message = "is not a variable name: letters, digits and underscores, not beginning with a digit";
            problems.push(Problem::new(field, message));
        } else if is_reserved(key) {
            problems.push(Problem::new(field, format!("`{key}` is reserved: the platform sets it or depends on it")));
        } else if value.expose().contains('\0') {
            problems.push(Problem::new(field, "has a NUL character in its value, which no environment can hold"));
        }
    }
    for (i, key) in plain_env_vars.iter().enumerate() {
        if !env_vars.contains_key(key) {
            problems.push(Problem::new(format!("plain_env_vars[{i}]"), format!("`{key}` is not among env_vars")));
        }
    }
    for (key, hosts) in *env_var_hosts {
        let field = format!("env_var_hosts.{key}");
        if !env_vars.contains_key(key) {
            problems.push(Problem::new(field.clone(), format!("`{key}` is not among env_vars")));
        }
        if hosts.len() > MAX_HOSTS {
            let message = format!("has {} hosts; at most {MAX_HOSTS} are allowed", hosts.len());
            problems.push(Problem::new(field.clone(), message));
        }
        for (i, host) in hosts.iter().enumerate() {
            if let Err(error) = HostRule::parse(host) {
                problems.push(Problem::new(format!("{field}[{i}]"), error.to_string()));
            }
        }
    }
    problems
}

/// Puts stored values where `given` has the mask. A mask without a stored value is a problem.
pub fn resolve_masks(
    mut given: BTreeMap<String, Secret>,
    stored: &BTreeMap<String, Secret>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Secret> {
    for (key, value) in &mut given {
        if value.expose() != MASK {
            continue;
        }
        match stored.get(key) {
            Some(kept) => *value = kept.clone(),
            None => {
                let message =
                    format!("`{MASK}` keeps a stored value, and there is none for `{key}`: give the value itself");
                problems.push(Problem::new(format!("env_vars.{key}"), message));
            }
        }
    }
    given
}

/// Where a variable came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Stored with the agent.
    Agent,
    /// Given with the session, kept nowhere.
    Session,
}

/// A variable of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// Its value.
    pub value: Secret,
    /// Reaches the sandbox as it is. An empty value always does: there is nothing to hide.
    pub plain: bool,
    /// Its entry of `env_var_hosts`, of the level the value came from.
    pub hosts: Option<Vec<String>>,
    /// Which level that was.
    pub level: Level,
}

/// The variables of a session: its own win over the agent's, and each level speaks for its own keys alone.
pub fn merge(agent: &Vars<'_>, session: &Vars<'_>) -> BTreeMap<String, Merged> {
    let level = |vars: &Vars<'_>, level: Level| -> BTreeMap<String, Merged> {
        let merged = |(key, value): (&String, &Secret)| {
            let plain = vars.is_plain(key) || value.expose().is_empty();
            let hosts = vars.env_var_hosts.get(key).cloned();
            (key.clone(), Merged { value: value.clone(), plain, hosts, level })
        };
        vars.env_vars.iter().map(merged).collect()
    };
    let mut all = level(agent, Level::Agent);
    all.extend(level(session, Level::Session));
    all
}

/// `^[A-Za-z_][A-Za-z0-9_]*$`
pub fn is_key(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Names that carry the platform's own settings into a sandbox.
const RESERVED: &[&str] = &[
    "REPO_URL",
    "BRANCH",
    "LITELLM_API_KEY",
    "LITELLM_API_BASE",
    "LITELLM_DEFAULT_MODEL",
    "AGENT_PROMPT",
    "PORT",
    "GIT_TOKEN",
    "AGENT_REQUIREMENTS",
    "PATH",
    "HOME",
    // Sourced by every shell: how late variables reach them.
    "BASH_ENV",
    // Where git finds its identity, its credential helper and the certificates.
    "GIT_ASKPASS",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_SYSTEM",
    "GIT_EXEC_PATH",
];

/// Proxy and certificate variables, which programs read in either case: the vault is the only way out and its certificate
/// the one to trust.
const RESERVED_IN_ANY_CASE: &[&str] = &[
    "ALL_PROXY",
    "CGI_HTTP_PROXY",
    "FTP_PROXY",
    "GIT_HTTP_PROXY",
    "GIT_PROXY_COMMAND",
    "GRPC_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NODE_USE_ENV_PROXY",
    "NO_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
    "NPM_CONFIG_HTTP_PROXY",
    "NPM_CONFIG_NOPROXY",
    "NPM_CONFIG_PROXY",
    "PIP_PROXY",
    "RSYNC_PROXY",
    "SOCKS_PROXY",
    "WSS_PROXY",
    "WS_PROXY",
    "AWS_CA_BUNDLE",
    "BUNDLE_SSL_CA_CERT",
    "CARGO_HTTP_CAINFO",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "COMPOSER_CAFILE",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "DENO_CERT",
    "DENO_TLS_CA_STORE",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_NO_VERIFY",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "HTTPX_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "NPM_CONFIG_CA",
    "NPM_CONFIG_CAFILE",
    "NPM_CONFIG_STRICT_SSL",
    "PIP_CERT",
    "PYTHONHTTPSVERIFY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SYSTEM_CERTIFICATE_PATH",
    "UV_NATIVE_TLS",
];

/// Beginnings of names the loader and the platform keep for themselves.
const RESERVED_PREFIXES: &[&str] = &["LD_", "LAP_"];

/// Whether the platform keeps this name for itself.
pub fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
        || RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        || RESERVED_IN_ANY_CASE.iter().any(|reserved| reserved.eq_ignore_ascii_case(key))
}

/// Length of the shortest JSON encoding of the map: `{"KEY":"value",…}`.
fn json_length(map: &BTreeMap<String, Secret>) -> usize {
    let members: usize =
        map.iter().map(|(key, value)| json_string_length(key) + 1 + json_string_length(value.expose())).sum();
    2 + members + map.len().saturating_sub(1)
}

fn json_string_length(text: &str) -> usize {
    let length = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    };
    2 + text.chars().map(length).sum::<usize>()
}

#[cfg(test)]
mod tests;
