//! Flags and environment of the server, checked all at once. The only place that knows their names.

mod github_app;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use lap_domain::egress::{Entry, HostPattern, parse_entries};
use lap_domain::secret::Secret;
use lap_engine::{EngineConfig, GatewayConfig, OutboundConfig};
use lap_sandbox::Limits;

use crate::keys;

/// Flags of `lap serve`; each can be given in the environment instead, secrets only there.
#[derive(Args)]
pub struct ServeArgs {
    /// Folder of everything the server keeps: database, keys, harnesses, sandboxes
    #[arg(long, env = "LAP_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, env = "LAP_LISTEN", default_value = "127.0.0.1:4773", value_name = "ADDR:PORT")]
    listen: String,
    /// Model gateway (LiteLLM), such as https://litellm.example.com; its key comes from LITELLM_API_KEY
    #[arg(long, env = "LITELLM_API_BASE", value_name = "URL")]
    gateway: Option<String>,
    #[arg(skip = secret("LITELLM_API_KEY"))]
    gateway_key: Option<Secret>,
    #[arg(skip = secret("LAP_MASTER_KEY"))]
    master_key: Option<Secret>,
    #[arg(skip = secret("LAP_ENCRYPTION_KEY"))]
    encryption_key: Option<Secret>,
    /// Memory of one sandbox
    #[arg(long, env = "LAP_SANDBOX_MEMORY", default_value = "4GiB", value_name = "SIZE")]
    sandbox_memory: String,
    /// Processes and threads of one sandbox
    #[arg(long, env = "LAP_SANDBOX_PIDS", default_value = "1024", value_name = "COUNT")]
    sandbox_pids: String,
    /// Processors of one sandbox
    #[arg(long, env = "LAP_SANDBOX_CPUS", default_value = "2", value_name = "NUMBER")]
    sandbox_cpus: String,
    /// Disk of one sandbox (/work and home)
    #[arg(long, env = "LAP_SANDBOX_DISK", default_value = "10GiB", value_name = "SIZE")]
    sandbox_disk: String,
    /// Files and folders of one sandbox (/work and home)
    #[arg(long, env = "LAP_SANDBOX_INODES", default_value = "1000000", value_name = "COUNT")]
    sandbox_inodes: String,
    /// Size of /tmp in one sandbox
    #[arg(long, env = "LAP_SANDBOX_TMP", default_value = "1GiB", value_name = "SIZE")]
    sandbox_tmp: String,
    /// End a session after this long without activity
    #[arg(long, env = "LAP_SESSION_IDLE_TIMEOUT", default_value = "24h", value_name = "TIME")]
    idle_timeout: String,
    /// Fail a turn that shows no sign of life for this long
    #[arg(long, env = "LAP_TURN_STALL_TIMEOUT", default_value = "60min", value_name = "TIME")]
    turn_stall_timeout: String,
    /// Private addresses that sandboxes may reach, as HOST[:PORT] or CIDR[:PORT], separated by commas
    #[arg(long, env = "LAP_VAULT_PRIVATE_ALLOW", value_name = "ENTRIES")]
    vault_private_allow: Option<String>,
    /// Names that the vault resolves itself, as NAME=ADDR[:PORT], separated by commas
    #[arg(long, env = "LAP_VAULT_RESOLVE", value_name = "ENTRIES")]
    vault_resolve: Option<String>,
    /// PEM file of certificates that the vault trusts beside the system's
    #[arg(long, env = "LAP_VAULT_EXTRA_CA", value_name = "FILE")]
    vault_extra_ca: Option<PathBuf>,
    /// Hosts whose TLS passes unread and unswapped, as HOST[:PORT] or *.SUFFIX[:PORT], separated by commas
    #[arg(long, env = "LAP_VAULT_PASSTHROUGH", value_name = "ENTRIES")]
    vault_passthrough: Option<String>,
    #[arg(skip = secret("https_proxy").or_else(|| secret("HTTPS_PROXY")))]
    https_proxy: Option<Secret>,
    #[arg(skip = secret("no_proxy").or_else(|| secret("NO_PROXY")))]
    no_proxy: Option<Secret>,
    /// Refuse credentials that are not bound to hosts
    #[arg(long, env = "LAP_VAULT_REQUIRE_BINDING", value_name = "BOOL", default_value = "false")]
    vault_require_binding: String,
    /// Name and mail of commits made in sandboxes, as "Name <mail>"; default: the agent's name
    #[arg(long, env = "LAP_GIT_AUTHOR", value_name = "AUTHOR")]
    git_author: Option<String>,
    #[arg(skip = secret("GIT_TOKEN"))]
    git_token: Option<Secret>,
    /// Hosts whose clones may use the platform's GIT_TOKEN, separated by commas
    #[arg(long, env = "LAP_GIT_TOKEN_HOSTS", default_value = "github.com", value_name = "HOSTS")]
    git_token_hosts: String,
    #[command(flatten)]
    github_app: github_app::GithubAppArgs,
    /// Offer the `shell` harness, which answers with the output of the message run as a command; for smoke checks
    #[arg(long, env = "LAP_TEST_HARNESSES", value_name = "BOOL", default_value = "false", hide = true)]
    test_harnesses: String,
}

/// A secret from the environment; there is no flag for one, since command lines can be read by others.
pub fn secret(name: &str) -> Option<Secret> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new)
}

/// Everything `lap serve` needs to know.
pub struct ServeConfig {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub master_key: Option<Secret>,
    pub encryption_key: Option<Secret>,
    pub engine: EngineConfig,
}

/// Where the server keeps its things when nobody says otherwise.
pub fn default_data_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        return Some("/var/lib/lap".into());
    }
    set("XDG_DATA_HOME").map(|base| base.join("lap")).or_else(|| set("HOME").map(|home| home.join(".local/share/lap")))
}

/// Collects problems, so that all are told at once.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn take<T>(&mut self, name: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.0.push(format!("{name}: {problem}"))).ok()
    }

    fn all<T>(&mut self, result: Result<T, Vec<String>>) -> Option<T> {
        result.map_err(|problems| self.0.extend(problems)).ok()
    }
}

impl ServeArgs {
    /// Checks everything; the error lists every problem, one a line.
    pub fn check(self) -> Result<ServeConfig, Vec<String>> {
        let mut problems = Problems::default();
        let data_dir = self.data_dir.or_else(default_data_dir);
        let data_dir = problems
            .take("LAP_DATA_DIR", data_dir.ok_or("there is no home folder; name a folder".to_owned()))
            .and_then(|folder| {
                let absolute = std::path::absolute(&folder).map_err(|cause| cause.to_string());
                problems.take("LAP_DATA_DIR", absolute)
            });
        let listen = problems.take("LAP_LISTEN", address(&self.listen));
        let memory_bytes = problems.take("LAP_SANDBOX_MEMORY", at_least(size(&self.sandbox_memory), 64 << 20, "64MiB"));
        let pids = problems.take("LAP_SANDBOX_PIDS", at_least(count(&self.sandbox_pids), 16, "16"));
        let cpu_millis = problems.take("LAP_SANDBOX_CPUS", cpus(&self.sandbox_cpus));
        let disk_bytes = problems.take("LAP_SANDBOX_DISK", at_least(size(&self.sandbox_disk), 64 << 20, "64MiB"));
        let inodes = problems.take("LAP_SANDBOX_INODES", at_least(count(&self.sandbox_inodes), 1000, "1000"));
        let tmp_bytes = problems.take("LAP_SANDBOX_TMP", at_least(size(&self.sandbox_tmp), 1 << 20, "1MiB"));
        let idle_timeout_ms = problems.take("LAP_SESSION_IDLE_TIMEOUT", duration_ms(&self.idle_timeout));
        let turn_stall_timeout_ms = problems.take("LAP_TURN_STALL_TIMEOUT", duration_ms(&self.turn_stall_timeout));
        let require_binding = problems.take("LAP_VAULT_REQUIRE_BINDING", boolean(&self.vault_require_binding));
        let test_harnesses = problems.take("LAP_TEST_HARNESSES", boolean(&self.test_harnesses));
        let private_allow = listed(self.vault_private_allow.as_deref());
        let mut bad = Vec::new();
        let _: Vec<Entry> = parse_entries("LAP_VAULT_PRIVATE_ALLOW", &private_allow, &mut bad);
        problems.0.extend(bad.into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)));
        let resolve = listed(self.vault_resolve.as_deref());
        for entry in &resolve {
            let parsed = lap_vault::ResolveOverride::parse(entry).map_err(|problem| problem.to_string());
            problems.take("LAP_VAULT_RESOLVE", parsed);
        }
        let extra_ca_pem = self.vault_extra_ca.as_ref().and_then(|file| {
            let read =
                std::fs::read_to_string(file).map_err(|cause| format!("could not read {}: {cause}", file.display()));
            let text = problems.take("LAP_VAULT_EXTRA_CA", read)?;
            let has = text.contains("-----BEGIN CERTIFICATE-----");
            problems.take("LAP_VAULT_EXTRA_CA", has.then_some(text).ok_or("holds no PEM certificate".to_owned()))
        });
        let passthrough = listed(self.vault_passthrough.as_deref());
        for entry in &passthrough {
            problems.take("LAP_VAULT_PASSTHROUGH", unread(entry));
        }
        let outbound = self.https_proxy.map(|url| {
            // What is on this machine is not the proxy's affair, as with every other program.
            let listed = self.no_proxy.map(|list| list.expose().clone()).unwrap_or_default();
            let no_proxy = format!("{listed},localhost,127.0.0.0/8,::1");
            let checked = lap_vault::Outbound::parse(url.expose(), &no_proxy).map_err(|problem| problem.to_string());
            problems.take("HTTPS_PROXY", checked);
            OutboundConfig { url, no_proxy }
        });
        if self.git_token.is_some() {
            let unread = |host: &Entry| {
                passthrough.iter().filter_map(|e| Entry::parse(e).ok()).any(|e| e.pattern.overlaps(&host.pattern))
            };
            for host in listed(Some(&self.git_token_hosts)) {
                if Entry::parse(&host).is_ok_and(|host| unread(&host)) {
                    let problem = format!(
                        "`{host}` is one of LAP_GIT_TOKEN_HOSTS, and GIT_TOKEN is not swapped where TLS passes unread"
                    );
                    problems.0.push(format!("LAP_VAULT_PASSTHROUGH: {problem}"));
                }
            }
        }
        let gateway_url = self.gateway.filter(|url| !url.is_empty());
        if gateway_url.is_none() && self.gateway_key.is_some() {
            problems.0.push("LITELLM_API_BASE: is missing, though LITELLM_API_KEY is set".to_owned());
        }
        let gateway = gateway_url.and_then(|url| {
            let checked = lap_vault::Gateway::parse(&url).map_err(|problem| problem.to_string());
            problems.take("LITELLM_API_BASE", checked)?;
            Some(GatewayConfig { base_url: url, key: self.gateway_key.clone().unwrap_or_default() })
        });
        if let Some(key) = &self.encryption_key {
            let checked = keys::encryption_key(key).map(drop).map_err(|problem| problem.to_string());
            problems.take("LAP_ENCRYPTION_KEY", checked);
        }
        let git_author = self.git_author.filter(|author| !author.is_empty());
        let git_author = git_author.and_then(|text| problems.take("LAP_GIT_AUTHOR", author(text)));
        let git_token_hosts = listed(Some(&self.git_token_hosts));
        let mut bad = Vec::new();
        let _: Vec<Entry> = parse_entries("LAP_GIT_TOKEN_HOSTS", &git_token_hosts, &mut bad);
        problems.0.extend(bad.into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)));
        if self.master_key.as_ref().is_some_and(|key| key.expose().len() < 16) {
            problems.0.push("LAP_MASTER_KEY: is shorter than 16 characters".to_owned());
        }
        let repository_tokens = problems.all(self.github_app.check(extra_ca_pem.clone()));
        let collected = (|| {
            let limits = Limits {
                memory_bytes: memory_bytes?,
                pids: pids?,
                cpu_millis: cpu_millis?,
                disk_bytes: disk_bytes?,
                inodes: inodes?,
                tmp_bytes: tmp_bytes?,
            };
            let data_dir = data_dir?;
            Some(ServeConfig {
                listen: listen?,
                master_key: self.master_key,
                encryption_key: self.encryption_key,
                engine: EngineConfig {
                    data_dir: data_dir.clone(),
                    limits,
                    idle_timeout_ms: idle_timeout_ms?,
                    turn_stall_timeout_ms: turn_stall_timeout_ms?,
                    gateway,
                    private_allow,
                    resolve,
                    extra_ca_pem,
                    passthrough,
                    outbound,
                    require_binding: require_binding?,
                    git_author,
                    git_token: self.git_token,
                    git_token_hosts,
                    repository_tokens: repository_tokens?,
                    test_harnesses: test_harnesses?,
                },
                data_dir,
            })
        })();
        match collected {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => Err(problems.0),
        }
    }
}

/// A host whose TLS passes unread is known by its name alone.
fn unread(entry: &str) -> Result<(), String> {
    match Entry::parse(entry).map_err(|cause| cause.to_string())?.pattern {
        HostPattern::Net(_) => Err(format!("`{entry}` is an address; write names, such as `*.example.com`")),
        HostPattern::Name(_) | HostPattern::Suffix(_) => Ok(()),
    }
}

fn listed(text: Option<&str>) -> Vec<String> {
    let entries = text.into_iter().flat_map(|text| text.split(','));
    entries.map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

/// `Name <mail>`, as git takes it.
fn author(text: String) -> Result<String, String> {
    let parts = text.strip_suffix('>').and_then(|text| text.split_once('<'));
    let good = parts.is_some_and(|(name, mail)| {
        let clean = |part: &str| !part.contains(['<', '>']) && !part.chars().any(char::is_control);
        clean(name) && clean(mail) && name.chars().any(char::is_alphanumeric) && mail.contains('@')
    });
    if good { Ok(text) } else { Err(format!("`{text}` is no author; write it like `Name <mail@example.com>`")) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs as _;
    let resolved = text.to_socket_addrs().map_err(|_| format!("`{text}` is no ADDRESS:PORT"))?.next();
    resolved.ok_or_else(|| format!("`{text}` has no address"))
}

fn count(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no whole number"))
}

fn at_least(value: Result<u64, String>, least: u64, shown: &str) -> Result<u64, String> {
    value.and_then(|value| if value < least { Err(format!("must be at least {shown}")) } else { Ok(value) })
}

/// Bytes, with KiB, MiB, GiB, TiB or their first letters.
fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim().to_ascii_lowercase());
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kib" | "kb" => 10,
        "m" | "mib" | "mb" => 20,
        "g" | "gib" | "gb" => 30,
        "t" | "tib" | "tb" => 40,
        _ => return Err(format!("`{text}` is no size; write it like 4GiB or 512MiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size; write it like 4GiB or 512MiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// Thousandths of a processor from a number such as 2 or 0.5.
fn cpus(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no number of processors; write it like 2 or 0.5");
    let number: f64 = text.trim().parse().map_err(|_| bad())?;
    if !(0.01..=1024.0).contains(&number) {
        return Err(bad());
    }
    // In range, so neither sign nor size is lost.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((number * 1000.0).round() as u64)
}

/// Milliseconds from a time such as 24h, 60min, 90s or 500ms.
fn duration_ms(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is no time; write it like 24h, 60min or 90s");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match text[split..].trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    let number: i64 = text[..split].parse().map_err(|_| bad())?;
    number.checked_mul(factor).filter(|ms| *ms > 0).ok_or_else(bad)
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests;
