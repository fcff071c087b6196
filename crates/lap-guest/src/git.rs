//! Clones the agent's repository, tells git who it is here, and answers git when it asks for credentials.
//!
//! No token is ever in a URL, an argument or a file: git asks the helper, the helper reads its environment, and what it
//! finds there is a stub.

use std::path::Path;

use lap_api::link::{GuestBoot, Repo, Report};

use crate::Failure;
use crate::child::{self, ending};
use crate::environment::Environment;
use crate::layout::Layout;
use crate::outbox::Outbox;

/// Holds the platform's token, and only in the environment of the clone.
const CLONE_TOKEN: &str = "LAP_CLONE_TOKEN";

/// A clone that shows no progress for this long has lost its server.
const STALL_SECONDS: &str = "120";

/// What the clone left behind.
pub(crate) struct Cloned {
    pub(crate) branch: Option<String>,
    pub(crate) commit: Option<String>,
}

/// git's system configuration: identity, credentials, and no refusal of a tree that belongs to another uid.
pub(crate) fn configuration(layout: &Layout, author: &str) -> String {
    let (name, mail) = match author.rsplit_once('<') {
        Some((name, mail)) => (name.trim(), mail.trim_end().trim_end_matches('>')),
        None => (author.trim(), ""),
    };
    let mail = if mail.is_empty() { "agent@lap.invalid" } else { mail };
    let helper = &layout.credential_helper;
    format!(
        "[user]\n\tname = {}\n\temail = {}\n[credential]\n\thelper = {}\n[safe]\n\tdirectory = *\n\
         [init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n\tdefaultBranchName = false\n",
        quoted(if name.is_empty() { "agent" } else { name }),
        quoted(mail),
        quoted(helper),
    )
}

/// A value as git's configuration reads it back.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

/// The helper's answer to `get`: user name and password for https, when a variable holds one.
pub(crate) fn credential(operation: &str, question: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let https = question.lines().any(|line| line == "protocol=https");
    if operation != "get" || !https {
        return String::new();
    }
    [CLONE_TOKEN, "GITHUB_TOKEN", "GH_TOKEN"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty() && !value.contains('\n'))
        .map(|token| format!("username=x-access-token\npassword={token}\n"))
        .unwrap_or_default()
}

/// Clones into the working tree, or finds the tree of an earlier sandbox of this session there.
pub(crate) async fn clone(layout: &Layout, env: &Environment, repo: &Repo, out: &Outbox) -> Result<Cloned, Failure> {
    let mut git = Git { layout, env: quiet(env), repo, out };
    if kept(&layout.repo()) {
        return Ok(git.head().await);
    }
    clear(&layout.repo()).map_err(|error| {
        Failure::new("clone_failed", format!("the remains of an earlier clone cannot be removed: {error}"))
    })?;
    let mut tried = git.clone_with(repo.clone_token.as_deref()).await?;
    let own = ["GITHUB_TOKEN", "GH_TOKEN"].iter().any(|name| env.get(*name).is_some_and(|token| !token.is_empty()));
    // The platform's token may not see what the user's own does.
    if repo.clone_token.is_some() && own && tried.as_ref().is_some_and(|said| refused(said)) {
        tried = git.clone_with(None).await?;
    }
    match tried {
        None => Ok(git.head().await),
        Some(said) => git.recover(&said).await,
    }
}

/// Whether the tree is whole. A clone that was killed has no index yet, or one that is being written; an empty repository
/// has none either, but then what lies in it is somebody's work.
fn kept(tree: &Path) -> bool {
    let git = tree.join(".git");
    let other =
        || std::fs::read_dir(tree).is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name() != ".git"));
    git.exists() && (git.join("index").exists() || (other() && !git.join("index.lock").exists()))
}

/// Removes what a killed clone left; a folder without any git in it is left for git to complain about.
fn clear(tree: &Path) -> std::io::Result<()> {
    if !tree.join(".git").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(tree)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The environment of our own git calls: English, and an end to a transfer that stands still.
fn quiet(env: &Environment) -> Environment {
    let mut env = env.clone();
    for (name, value) in [
        ("LC_ALL", "C"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_HTTP_LOW_SPEED_LIMIT", "1"),
        ("GIT_HTTP_LOW_SPEED_TIME", STALL_SECONDS),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    env
}

struct Git<'a> {
    layout: &'a Layout,
    env: Environment,
    repo: &'a Repo,
    out: &'a Outbox,
}

impl Git<'_> {
    /// Clones the branch; `None` when that worked, else what git said.
    async fn clone_with(&mut self, token: Option<&str>) -> Result<Option<String>, Failure> {
        match token {
            Some(token) => self.env.insert(CLONE_TOKEN.to_owned(), token.to_owned()),
            None => self.env.remove(CLONE_TOKEN),
        };
        self.run(&["clone", "--progress", "--branch", &self.repo.branch, "--", &self.repo.url, "."]).await
    }

    /// Runs git in the working tree; `None` when it went well, else what it said.
    async fn run(&self, arguments: &[&str]) -> Result<Option<String>, Failure> {
        let mut progress = Progress::default();
        let mut command = child::command("git", &self.layout.repo(), &self.env);
        command.args(arguments);
        let (status, last) =
            child::run(&mut command, "clone", self.out, |line| progress.report(line)).await.map_err(missing)?;
        Ok((!status.success()).then(|| match last.last() {
            Some(_) => last.text(),
            None => format!("git {}", ending(status)),
        }))
    }

    /// What git prints, when it goes well.
    async fn ask(&self, arguments: &[&str]) -> Option<String> {
        let mut command = child::command("git", &self.layout.repo(), &self.env);
        let mut group = child::Group::spawn(command.args(arguments)).ok()?;
        let mut stdout = child::Lines::new(group.child.stdout.take().expect("output is piped"));
        drop(group.child.stderr.take());
        let mut text = String::new();
        while let Some(line) = stdout.next().await {
            if text.len() < ANSWER_BYTES {
                text.push_str(&line);
                text.push('\n');
            }
        }
        group.wait().await.ok()?.success().then_some(text)
    }

    /// Branch and commit of the working tree.
    async fn head(&self) -> Cloned {
        let trimmed = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Cloned {
            branch: trimmed(self.ask(&["symbolic-ref", "--short", "HEAD"]).await),
            commit: trimmed(self.ask(&["rev-parse", "--verify", "--quiet", "HEAD"]).await),
        }
    }

    /// After a failed clone: an empty repository is taken as it is, everything else becomes a sentence.
    async fn recover(&self, said: &str) -> Result<Cloned, Failure> {
        let Repo { url, branch, clone_token, no_token } = self.repo;
        if !said.contains("Remote branch") {
            let blocked = if said.contains("returned error: 4") || said.contains("returned error: 5") {
                self.blocked().await
            } else {
                None
            };
            let token = clone_token.is_some() || ["GITHUB_TOKEN", "GH_TOKEN"].iter().any(|n| self.env.contains_key(*n));
            return Err(explain(url, said, blocked.as_deref(), token).because(no_token.as_deref()));
        }
        let refs = self.ask(&["ls-remote", "--symref", "--", url]).await.unwrap_or_default();
        if refs.trim().is_empty() {
            if let Some(said) = self.run(&["clone", "--progress", "--", url, "."]).await? {
                return Err(explain(url, &said, None, clone_token.is_some()));
            }
            // The first commit is to land on the branch the agent names.
            self.run(&["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]).await?;
            self.out.phase("cloning_repo", Some("the repository is empty".to_owned())).await;
            return Ok(Cloned { branch: Some(branch.clone()), commit: None });
        }
        let default = refs.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.split_once('\t'));
        let hint = match default {
            Some((default, "HEAD")) => format!("its default branch is `{default}`"),
            _ => "it has other branches, but names no default".to_owned(),
        };
        Err(Failure::new("branch_not_found", format!("the branch `{branch}` does not exist in {url}; {hint}")))
    }

    /// The vault's code, when it was the vault that refused. git shows headers only in its trace, so it is asked again.
    async fn blocked(&self) -> Option<String> {
        let mut env = self.env.clone();
        env.insert("GIT_TRACE_CURL".to_owned(), "1".to_owned());
        env.insert("GIT_TRACE_CURL_NO_DATA".to_owned(), "1".to_owned());
        let mut code = None;
        let mut command = child::command("git", &self.layout.repo(), &env);
        let mut group = child::Group::spawn(command.args(["ls-remote", "--", &self.repo.url])).ok()?;
        drop(group.child.stdout.take());
        let mut stderr = child::Lines::new(group.child.stderr.take().expect("output is piped"));
        while let Some(line) = stderr.next().await {
            let line = line.to_ascii_lowercase();
            if let Some((_, value)) = line.split_once("x-lap-blocked:") {
                code = Some(value.trim().to_owned());
            }
        }
        // Its own exit says nothing new.
        let _ = group.wait().await;
        code
    }
}

/// Most of git's answers that is read: a repository with many thousand branches.
const ANSWER_BYTES: usize = 1024 * 1024;

fn missing(error: std::io::Error) -> Failure {
    Failure::new("clone_failed", format!("git could not be started in the sandbox: {error}"))
}

/// Whether git was turned away for want of the right token.
fn refused(said: &str) -> bool {
    ["Authentication failed", "returned error: 403", "returned error: 401", "not found", "could not read Username"]
        .iter()
        .any(|sign| said.contains(sign))
}

impl Failure {
    /// With the reason why there is no token, if one was what the clone lacked.
    fn because(mut self, no_token: Option<&str>) -> Self {
        if let Some(why) = no_token.filter(|_| matches!(self.code, "repo_auth" | "repo_not_found")) {
            self.reason = format!("{}; {why}", self.reason);
        }
        self
    }
}

/// Says in one sentence why a clone failed.
fn explain(url: &str, said: &str, blocked: Option<&str>, with_token: bool) -> Failure {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or(url);
    let has = |sign: &str| said.contains(sign);
    let (code, reason) = if let Some(blocked) = blocked {
        let why = match blocked {
            "dns" => format!("the name `{host}` does not resolve"),
            "misdirected_stub" => format!("a token was sent that is not meant for `{host}` (see env_var_hosts)"),
            other => format!("the vault does not let the sandbox reach `{host}` ({other}; see allow_out and deny_out)"),
        };
        ("repo_blocked", format!("{url} could not be cloned: {why}"))
    } else if has("Authentication failed") || has("returned error: 401") || has("returned error: 403") {
        (
            "repo_auth",
            format!("`{host}` refused the token for {url}; check that it is valid and may read the repository"),
        )
    } else if has("could not read Username") || has("could not read Password") {
        let why = "it does not exist, or it is private and needs a token (GITHUB_TOKEN)";
        ("repo_auth", format!("{url} could not be cloned: {why}"))
    } else if has("not found") && !has("Could not resolve") {
        let why = if with_token { "or the token may not see it" } else { "or it is private and needs a token" };
        ("repo_not_found", format!("there is no repository at {url}, {why}"))
    } else if has("certificate") || has("SSL") {
        ("repo_tls", format!("the certificate of `{host}` could not be verified"))
    } else if has("Could not resolve") {
        ("repo_unreachable", format!("the name `{host}` does not resolve"))
    } else if has("Failed to connect") || has("Connection refused") || has("timed out") || has("Operation too slow") {
        ("repo_unreachable", format!("`{host}` cannot be reached"))
    } else if has("returned error: 5") {
        ("repo_unreachable", format!("`{host}` answered with a server error; try again later"))
    } else if has("No space left") || has("Disk quota") {
        ("disk_full", format!("{url} does not fit on the sandbox's disk"))
    } else {
        ("clone_failed", format!("{url} could not be cloned: {}", last_words(said)))
    };
    Failure::new(code, reason)
}

/// The line in which git says what was wrong.
fn last_words(said: &str) -> String {
    let fatal = said.lines().rev().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let line = fatal.or_else(|| said.lines().rev().find(|line| !line.trim().is_empty())).unwrap_or("git said nothing");
    crate::clip::head(line.trim_start_matches("fatal: "), 300)
}

/// Turns git's progress into a phase's detail, a few times and not a thousand.
#[derive(Default)]
struct Progress {
    step: String,
    tenth: u32,
}

impl Progress {
    fn report(&mut self, line: &str) -> Option<Report> {
        let (step, rest) = line.trim_start_matches("remote: ").split_once(':')?;
        let percent: u32 = rest.split_once('%')?.0.trim().parse().ok()?;
        let counted = matches!(step, "Receiving objects" | "Resolving deltas" | "Updating files");
        let news = self.step != step || percent / 10 > self.tenth;
        // A small repository is there before anybody could read about it.
        let total = rest.split_once(')')?.0.split_once('/')?.1;
        let large = total.len() >= 4;
        if !counted || !large || !news {
            return None;
        }
        self.step = step.to_owned();
        self.tenth = percent / 10;
        let detail = Some(format!("{step}: {percent}%").to_lowercase());
        Some(Report::Phase { phase: "cloning_repo".to_owned(), detail })
    }
}

/// What the phase says at its start.
pub(crate) fn detail(boot: &GuestBoot) -> Option<String> {
    boot.repo.as_ref().map(|repo| format!("{} at {}", repo.url, repo.branch))
}

#[cfg(test)]
mod tests;
