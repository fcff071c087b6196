//! The two calls of GitHub's API that make a token: which installation of the app sees the repository, and a token of that
//! installation for this repository alone. Every way in which they can fail becomes a sentence for a person.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use lap_domain::repository_token::Repository;
use lap_domain::secret::Secret;
use lap_domain::time::Timestamp;
use lap_engine::{MintError, Minted};
use serde::Deserialize;

use crate::GithubAppError;
use crate::connect;

/// Both calls together. GitHub answers in less than a second or is in trouble.
const MINT_DEADLINE: Duration = Duration::from_secs(20);

/// The version of the API this was written against.
const API_VERSION: &str = "2022-11-28";

/// Most of what GitHub says about an error that is passed on.
const MAX_SAID_CHARS: usize = 200;

/// Where an API is: `https://api.github.com`, `https://github.example.com/api/v3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiBase {
    host: String,
    port: u16,
    path: String,
}

impl ApiBase {
    /// Reads an address. The error is the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url =
            url::Url::parse(text).map_err(|_| format!("`{text}` is no address such as https://api.github.com"))?;
        if url.scheme() != "https" {
            return Err(format!("`{text}` must begin with https://, since keys go there"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("`{text}` may only have a host, a port and a path"));
        }
        let host = url.host_str().ok_or_else(|| format!("`{text}` names no host"))?.to_owned();
        let (port, path) = (url.port().unwrap_or(443), url.path().trim_end_matches('/').to_owned());
        Ok(Self { host, port, path })
    }

    /// Host, with port where it is not the usual one.
    pub fn authority(&self) -> String {
        if self.port == 443 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Where repositories are whose API is here: `github.com` for `api.github.com`, the same host for GitHub Enterprise
    /// Server, the host behind `api.` for GitHub Enterprise Cloud.
    pub fn repository_host(&self) -> String {
        let authority = self.authority();
        authority.strip_prefix("api.").map_or(authority.clone(), str::to_owned)
    }
}

/// An API and how to reach it safely.
pub struct Api {
    base: ApiBase,
    tls: Arc<rustls::ClientConfig>,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct AccessToken {
    token: Secretly,
    expires_at: String,
}

/// A text that is a secret from the moment it is read.
struct Secretly(Secret);

impl<'de> Deserialize<'de> for Secretly {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// GitHub's body of an error.
#[derive(Deserialize, Default)]
struct Said {
    #[serde(default)]
    message: String,
}

impl Api {
    /// Checks what can be checked without asking.
    pub fn new(base: ApiBase, extra_ca_pem: Option<&str>) -> Result<Self, GithubAppError> {
        Ok(Self { base, tls: connect::tls_config(extra_ca_pem)? })
    }

    /// A token for the repository.
    pub async fn token(
        &self,
        statement: &Secret,
        repository: &Repository,
        permissions: &[(String, String)],
    ) -> Result<Minted, MintError> {
        let made = tokio::time::timeout(MINT_DEADLINE, self.make(statement, repository, permissions));
        made.await.unwrap_or_else(|_| {
            let seconds = MINT_DEADLINE.as_secs();
            Err(self.unavailable(repository, &format!("{} gave no answer in {seconds} s", self.base.host)))
        })
    }

    async fn make(
        &self,
        statement: &Secret,
        repository: &Repository,
        permissions: &[(String, String)],
    ) -> Result<Minted, MintError> {
        let path = format!("/repos/{repository}/installation");
        let (status, headers, body) = self.call(Method::GET, &path, statement, None, repository).await?;
        let installation: Installation = match status {
            StatusCode::OK => read(&body).ok_or_else(|| self.unreadable(repository))?,
            StatusCode::NOT_FOUND => return Err(not_installed(repository)),
            _ => return Err(self.refusal(status, &headers, &body, repository)),
        };
        let mut wanted = serde_json::json!({ "repositories": [repository.name] });
        if !permissions.is_empty() {
            let permissions: serde_json::Map<_, _> =
                permissions.iter().map(|(name, level)| (name.clone(), level.clone().into())).collect();
            wanted["permissions"] = permissions.into();
        }
        let path = format!("/app/installations/{}/access_tokens", installation.id);
        let (status, headers, body) = self.call(Method::POST, &path, statement, Some(wanted), repository).await?;
        if status != StatusCode::CREATED {
            return Err(self.refusal(status, &headers, &body, repository));
        }
        let AccessToken { token: Secretly(token), expires_at } =
            read(&body).ok_or_else(|| self.unreadable(repository))?;
        let expires_at = expires_at.parse::<jiff::Timestamp>().map_err(|_| self.unreadable(repository))?;
        // It is going to stand in headers.
        if token.expose().is_empty() || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.unreadable(repository));
        }
        Ok(Minted { token, expires_at: Timestamp(expires_at.as_millisecond()) })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        statement: &Secret,
        body: Option<serde_json::Value>,
        repository: &Repository,
    ) -> Result<(StatusCode, HeaderMap, Bytes), MintError> {
        let ApiBase { host, port, path: base } = &self.base;
        let mut authorization = http::HeaderValue::try_from(format!("Bearer {}", statement.expose()))
            .expect("a statement is three words of base64");
        authorization.set_sensitive(true);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header(header::HOST, self.base.authority())
            .header(header::AUTHORIZATION, authorization)
            .header(header::ACCEPT, "application/vnd.github+json")
            .header(header::USER_AGENT, concat!("lap/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-github-api-version", API_VERSION)
            .body(Full::new(Bytes::from(body)))
            .expect("base and repository hold nothing but what a path may");
        connect::ask(self.tls.clone(), host, *port, request).await.map_err(|why| self.unavailable(repository, &why))
    }

    fn unavailable(&self, repository: &Repository, why: &str) -> MintError {
        MintError::Unavailable(format!("GitHub could not be asked for a token for {repository}: {why}"))
    }

    fn unreadable(&self, repository: &Repository) -> MintError {
        self.unavailable(repository, &format!("{} answered with something that is no token", self.base.host))
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8], repository: &Repository) -> MintError {
        let Said { message } = read(body).unwrap_or_default();
        let message: String = message.chars().filter(|c| !c.is_control()).take(MAX_SAID_CHARS).collect();
        let said = if message.is_empty() { status.to_string() } else { format!("{}: {message}", status.as_u16()) };
        let limited = headers.contains_key(header::RETRY_AFTER)
            || headers.get("x-ratelimit-remaining").is_some_and(|left| left == "0");
        match status {
            StatusCode::UNAUTHORIZED => MintError::Refused(format!(
                "GitHub refuses the app's key ({said}): check LAP_GITHUB_APP_ID, LAP_GITHUB_APP_PRIVATE_KEY and this machine's clock"
            )),
            StatusCode::UNPROCESSABLE_ENTITY => MintError::Refused(format!(
                "GitHub gives the app no token for {repository} ({said}): give the app the permissions of LAP_GITHUB_APP_PERMISSIONS, \
                 or ask for fewer"
            )),
            StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                MintError::Refused(format!("{repository} has another name now; write that into the agent's repo_url"))
            }
            StatusCode::TOO_MANY_REQUESTS => self.unavailable(repository, &said),
            StatusCode::FORBIDDEN if limited => self.unavailable(repository, &said),
            StatusCode::FORBIDDEN => {
                MintError::Refused(format!("GitHub gives the app no token for {repository} ({said})"))
            }
            // Taken off the repository between the two calls.
            StatusCode::NOT_FOUND => not_installed(repository),
            _ => self.unavailable(repository, &said),
        }
    }
}

fn not_installed(repository: &Repository) -> MintError {
    MintError::NotGranted(format!(
        "the platform's GitHub App is not installed on {repository}: install it there, or give the agent a GITHUB_TOKEN"
    ))
}

/// What cannot be read is not quoted: it may hold a token.
fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests;
