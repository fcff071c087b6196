//! The GitHub App that makes tokens for single repositories, as the operator configures it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lap_domain::catalogue;
use lap_domain::egress::Entry;
use lap_domain::repository_token::TOKEN_KEY;
use lap_domain::secret::Secret;
use lap_engine::RepositoryTokens;
use lap_github::{ApiBase, GithubApp, GithubAppConfig};

use super::{listed, secret};

/// How long a session that starts waits for an API that does not answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct GithubAppArgs {
    /// Number or client id of a GitHub App whose tokens sandboxes get for their repository
    #[arg(long, env = "LAP_GITHUB_APP_ID", value_name = "ID")]
    github_app_id: Option<String>,
    #[arg(skip = secret("LAP_GITHUB_APP_PRIVATE_KEY"))]
    private_key: Option<Secret>,
    /// PEM file of the app's private key; or the key itself in LAP_GITHUB_APP_PRIVATE_KEY
    #[arg(long, env = "LAP_GITHUB_APP_PRIVATE_KEY_FILE", value_name = "FILE")]
    github_app_private_key_file: Option<PathBuf>,
    /// Address of the API
    #[arg(long, env = "LAP_GITHUB_APP_API", default_value = "https://api.github.com", value_name = "URL")]
    github_app_api: String,
    /// Host of the repositories; default: the API's, without `api.`
    #[arg(long, env = "LAP_GITHUB_APP_HOST", value_name = "HOST[:PORT]")]
    github_app_host: Option<String>,
    /// What tokens may do, as NAME=LEVEL separated by commas; `all`: whatever the app may
    #[arg(
        long,
        env = "LAP_GITHUB_APP_PERMISSIONS",
        default_value = "contents=write,pull_requests=write",
        value_name = "LIST"
    )]
    github_app_permissions: String,
}

impl GithubAppArgs {
    /// The app, none when none is configured, or everything that is wrong with it.
    pub fn check(self, extra_ca_pem: Option<String>) -> Result<Option<RepositoryTokens>, Vec<String>> {
        let mut problems = Vec::new();
        let mut take = |name: &str, problem: String| problems.push(format!("{name}: {problem}"));
        let app_id = self.github_app_id.filter(|id| !id.is_empty());
        let file = self.github_app_private_key_file.filter(|file| !file.as_os_str().is_empty());
        let key = match (self.private_key, file) {
            (Some(_), Some(_)) => {
                take("LAP_GITHUB_APP_PRIVATE_KEY", "is set, and LAP_GITHUB_APP_PRIVATE_KEY_FILE too; use one".into());
                None
            }
            // Places that take one line only are given line breaks as `\n`.
            (Some(key), None) => Some(Secret::new(key.expose().replace("\\n", "\n"))),
            (None, Some(file)) => std::fs::read_to_string(&file)
                .map(Secret::new)
                .map_err(|cause| {
                    take("LAP_GITHUB_APP_PRIVATE_KEY_FILE", format!("could not read {}: {cause}", file.display()));
                })
                .ok(),
            (None, None) => {
                if app_id.is_some() {
                    take("LAP_GITHUB_APP_ID", "is set, but LAP_GITHUB_APP_PRIVATE_KEY[_FILE] is not".into());
                }
                None
            }
        };
        if key.is_some() && app_id.is_none() {
            take("LAP_GITHUB_APP_PRIVATE_KEY", "is set, but LAP_GITHUB_APP_ID is not".into());
        }
        let api = ApiBase::parse(&self.github_app_api).map_err(|problem| take("LAP_GITHUB_APP_API", problem)).ok();
        let host = match (self.github_app_host.filter(|host| !host.is_empty()), &api) {
            (Some(host), _) => Some(host),
            (None, api) => api.as_ref().map(ApiBase::repository_host),
        };
        let host = host.and_then(|host| {
            Entry::parse(&host).map_err(|problem| take("LAP_GITHUB_APP_HOST", problem.to_string())).ok()
        });
        let permissions = permissions(&self.github_app_permissions)
            .map_err(|problem| take("LAP_GITHUB_APP_PERMISSIONS", problem))
            .ok();
        let (Some(app_id), Some(key), Some(api), Some(host), Some(permissions)) = (app_id, key, api, host, permissions)
        else {
            return if problems.is_empty() { Ok(None) } else { Err(problems) };
        };
        let credential_hosts = credential_hosts(&host, &api);
        let config = GithubAppConfig { app_id, private_key_pem: key, api, permissions, extra_ca_pem };
        match GithubApp::new(config) {
            Ok(app) if problems.is_empty() => {
                Ok(Some(RepositoryTokens { host, credential_hosts, patience: PATIENCE, minter: Arc::new(app) }))
            }
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(format!("LAP_GITHUB_APP_PRIVATE_KEY: {problem}"));
                Err(problems)
            }
        }
    }
}

/// Where the app's tokens may go: what is known of github.com's, else the host of the repositories and the API's.
fn credential_hosts(host: &Entry, api: &ApiBase) -> Vec<String> {
    match catalogue::rules_for(TOKEN_KEY) {
        Some(rules) if host.to_string() == "github.com" => rules.iter().map(ToString::to_string).collect(),
        _ => {
            let mut hosts = vec![host.to_string(), api.authority()];
            hosts.dedup();
            hosts
        }
    }
}

fn permissions(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.trim() == "all" {
        return Ok(Vec::new());
    }
    let entries = listed(Some(text));
    if entries.is_empty() {
        return Err("names no permission; write it like contents=write, or `all`".to_owned());
    }
    let pair = |entry: &String| {
        let (name, level) = entry.split_once('=').unwrap_or((entry, ""));
        let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        match level {
            "read" | "write" | "admin" if named => Ok((name.to_owned(), level.to_owned())),
            _ => Err(format!("`{entry}` is no permission; write it like contents=write")),
        }
    };
    entries.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_pairs() {
        let check = |text: &str, expect: Option<&[(&str, &str)]>| {
            let seen = permissions(text).ok();
            let expect = expect.map(|pairs| pairs.iter().map(|(n, l)| ((*n).to_owned(), (*l).to_owned())).collect());
            assert_eq!(seen, expect, "{text}");
        };
        check("contents=write, issues=read", Some(&[("contents", "write"), ("issues", "read")]));
        check("all", Some(&[]));
        for text in ["", "contents", "contents=", "contents=everything", "=write", "Contents=write", "a=write,b"] {
            check(text, None);
        }
    }

    #[test]
    fn tokens_go_to_the_hosts_of_their_github() {
        let check = |host: &str, api: &str, expect: &[&str]| {
            let api = ApiBase::parse(api).expect("an address");
            let seen = credential_hosts(&Entry::parse(host).expect("a host"), &api);
            for host in expect {
                assert!(seen.contains(&(*host).to_owned()), "{host} is not in {seen:?}");
            }
            seen.len()
        };
        assert!(
            check("github.com", "https://api.github.com", &["github.com", "api.github.com", "uploads.github.com"]) > 3
        );
        assert_eq!(check("git.example.com", "https://git.example.com/api/v3", &["git.example.com"]), 1);
        assert_eq!(check("acme.ghe.com", "https://api.acme.ghe.com", &["acme.ghe.com", "api.acme.ghe.com"]), 2);
    }
}
