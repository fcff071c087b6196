//! `lap agents` and `lap agent …`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use lap_api::MASK;
use lap_api::agent::{Agent, CreateAgent, PatchAgent, SandboxFile};
use lap_client::Client;
use serde::de::DeserializeOwned;

use super::{confirm, usage};
use crate::args::{AgentCreateArgs, AgentDeleteArgs, AgentEditArgs, AgentFields, AgentShowArgs, AgentsArgs, Limit};
use crate::context::{Context, Io};
use crate::failure::{Exit, Failure};
use crate::resolve;
use crate::text::{clean, one_line, table};
use crate::variables;

pub(super) async fn list(args: AgentsArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let agents = resolve::all_agents(client, args.search.as_deref()).await?;
    if args.json {
        io.json(&agents)?;
        return Ok(Exit::Ok);
    }
    if agents.is_empty() {
        io.talk(match args.search {
            Some(_) => "No agent fits. `lap agents` lists all.",
            None => "There are no agents yet. `lap agent create NAME --model MODEL` makes one.",
        });
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|agent| {
            let mut sessions = agent.session_count.map_or("-".to_owned(), |n| n.to_string());
            if agent.has_active_session == Some(true) {
                sessions += " (live)";
            }
            vec![
                agent.name.as_deref().map_or("-".to_owned(), |name| one_line(name, 40)),
                agent.harness_id.clone(),
                agent.model.clone(),
                agent.repo_url.clone().unwrap_or_else(|| "-".to_owned()),
                sessions,
                agent.id.clone(),
            ]
        })
        .collect();
    io.data(&table(&["NAME", "HARNESS", "MODEL", "REPOSITORY", "SESSIONS", "ID"], &rows))?;
    Ok(Exit::Ok)
}

pub(super) async fn create(args: AgentCreateArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let AgentCreateArgs { label, name, harness, fields } = args;
    let mut new: CreateAgent = match &fields.from {
        Some(path) => from_file(path)?,
        None => CreateAgent::default(),
    };
    let env_vars = variables::gather(&context.environment, &fields.env_file, &fields.env)?;
    let AgentFields {
        model,
        prompt,
        prompt_file,
        repo,
        branch,
        env: _,
        env_file: _,
        plain,
        env_hosts,
        allow_out,
        deny_out,
        mcp_server,
        file,
        skill,
        permission_mode,
        image,
        requirements,
        max_tokens,
        max_cost_usd,
        from: _,
        json,
    } = fields;
    let set = |field: &mut Option<String>, given: Option<String>| {
        if given.is_some() {
            *field = given;
        }
    };
    set(&mut new.name, label.or(name));
    set(&mut new.model, model);
    set(&mut new.harness_id, harness);
    set(&mut new.prompt, prompt.or(text_of(prompt_file.as_deref())?));
    set(&mut new.repo_url, repo);
    set(&mut new.branch, branch);
    set(&mut new.permission_mode, permission_mode);
    set(&mut new.image, image);
    set(&mut new.requirements, text_of(requirements.as_deref())?);
    if let Some(Limit(max)) = max_tokens {
        new.max_tokens = max;
    }
    if let Some(Limit(max)) = max_cost_usd {
        new.max_cost_usd = max;
    }
    new.env_vars.extend(env_vars);
    new.env_var_hosts.extend(env_hosts);
    let replace = |field: &mut Vec<String>, given: Vec<String>| {
        if !given.is_empty() {
            *field = given;
        }
    };
    replace(&mut new.plain_env_vars, plain);
    replace(&mut new.allow_out, allow_out);
    replace(&mut new.deny_out, deny_out);
    replace(&mut new.mcp_servers, mcp_server);
    replace(&mut new.skill_ids, skill);
    new.sandbox_files.extend(sandbox_files(&file)?);
    if new.model.as_deref().is_none_or(str::is_empty) {
        return Err(Failure::usage("an agent needs a model")
            .hint("Add --model, as the gateway names it: --model anthropic/claude-opus-4-7"));
    }
    let agent = client.create_agent(&new).await?;
    let io = &mut context.io;
    if json {
        io.json(&agent)?;
    } else {
        io.data(&format!("{}\n", agent.id))?;
    }
    warn(&agent, io);
    io.talk(&format!("Created. `lap {}` opens it.", spoken_name(&agent)));
    Ok(Exit::Ok)
}

pub(super) async fn show(args: AgentShowArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let agent = resolve::agent(client, &args.agent).await?;
    if args.json {
        io.json(&agent)?;
    } else {
        io.data(&described(&agent))?;
        warn(&agent, io);
    }
    Ok(Exit::Ok)
}

pub(super) async fn edit(args: AgentEditArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let AgentEditArgs { agent, name, unset_env, fields } = args;
    let mut edit: PatchAgent = match &fields.from {
        Some(path) => from_file(path)?,
        None => PatchAgent::default(),
    };
    let fresh = variables::gather(&context.environment, &fields.env_file, &fields.env)?;
    let AgentFields {
        model,
        prompt,
        prompt_file,
        repo,
        branch,
        env: _,
        env_file: _,
        plain,
        env_hosts,
        allow_out,
        deny_out,
        mcp_server,
        file,
        skill,
        permission_mode,
        image,
        requirements,
        max_tokens,
        max_cost_usd,
        from: _,
        json,
    } = fields;
    let agent = resolve::agent(client, &agent).await?;
    /// An empty text clears the field.
    fn clearable(field: &mut Option<Option<String>>, given: Option<String>) {
        if let Some(text) = given {
            *field = Some(Some(text).filter(|text| !text.is_empty()));
        }
    }
    fn plain_field(field: &mut Option<String>, given: Option<String>) {
        if given.is_some() {
            *field = given;
        }
    }
    /// A list of one empty text clears the list.
    fn list(field: &mut Option<Vec<String>>, given: Vec<String>) {
        if !given.is_empty() {
            *field = Some(given.into_iter().filter(|entry| !entry.is_empty()).collect());
        }
    }
    clearable(&mut edit.name, name);
    plain_field(&mut edit.model, model);
    clearable(&mut edit.prompt, prompt.or(text_of(prompt_file.as_deref())?));
    clearable(&mut edit.repo_url, repo);
    plain_field(&mut edit.branch, branch);
    plain_field(&mut edit.permission_mode, permission_mode);
    clearable(&mut edit.image, image);
    clearable(&mut edit.requirements, text_of(requirements.as_deref())?);
    if let Some(Limit(max)) = max_tokens {
        edit.max_tokens = Some(max);
    }
    if let Some(Limit(max)) = max_cost_usd {
        edit.max_cost_usd = Some(max);
    }
    list(&mut edit.plain_env_vars, plain);
    list(&mut edit.allow_out, allow_out);
    list(&mut edit.deny_out, deny_out);
    list(&mut edit.mcp_servers, mcp_server);
    list(&mut edit.skill_ids, skill);
    if !file.is_empty() {
        edit.sandbox_files = Some(sandbox_files(&file)?);
    }
    if !fresh.is_empty() || !unset_env.is_empty() {
        // The server keeps the stored value of a key that comes back with the mask.
        let mut whole = edit.env_vars.take().unwrap_or_else(|| agent.env_vars.clone());
        for key in &unset_env {
            if whole.remove(key).is_none() {
                return Err(Failure::new(Exit::NotFound, format!("the agent has no variable `{key}`"))
                    .hint(format!("`lap agent show {}` lists its variables.", spoken_name(&agent))));
            }
        }
        whole.extend(fresh);
        edit.env_vars = Some(whole);
        let kept = |key: &String| !unset_env.contains(key);
        if edit.plain_env_vars.is_none() && !agent.plain_env_vars.iter().all(kept) {
            edit.plain_env_vars = Some(agent.plain_env_vars.iter().filter(|key| kept(key)).cloned().collect());
        }
        if edit.env_var_hosts.is_none() && !agent.env_var_hosts.keys().all(kept) {
            let hosts = agent.env_var_hosts.clone();
            edit.env_var_hosts = Some(hosts.into_iter().filter(|(key, _)| kept(key)).collect());
        }
    }
    if !env_hosts.is_empty() {
        let mut whole = edit.env_var_hosts.take().unwrap_or_else(|| agent.env_var_hosts.clone());
        for (key, hosts) in env_hosts {
            match hosts.is_empty() {
                true => drop(whole.remove(&key)),
                false => drop(whole.insert(key, hosts)),
            }
        }
        edit.env_var_hosts = Some(whole);
    }
    if edit == PatchAgent::default() {
        return Err(Failure::usage("nothing to change was given").hint("`lap agent edit --help` lists the options."));
    }
    let agent = client.update_agent(&agent.id, &edit).await?;
    let io = &mut context.io;
    if json {
        io.json(&agent)?;
    }
    warn(&agent, io);
    io.talk("Saved. New sessions have the change; changed variables and limits reach live sessions at once.");
    Ok(Exit::Ok)
}

pub(super) async fn delete(args: AgentDeleteArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let agent = resolve::agent(client, &args.agent).await?;
    let name = spoken_name(&agent);
    if !args.yes {
        confirm(io, &format!("Delete agent {name} and end its sessions?"))?;
    }
    client.delete_agent(&agent.id).await?;
    io.talk(&format!("Deleted agent {name}."));
    Ok(Exit::Ok)
}

/// Name or id, quoted where a shell needs it.
pub(super) fn spoken_name(agent: &Agent) -> String {
    match agent.name.as_deref() {
        Some(name) if !name.is_empty() => {
            let name = clean(name);
            let simple = name.chars().all(|c| c.is_alphanumeric() || "-_./".contains(c)) && !name.starts_with('-');
            if simple { name } else { format!("'{}'", name.replace('\'', r"'\''")) }
        }
        _ => agent.id.clone(),
    }
}

fn warn(agent: &Agent, io: &mut Io) {
    for warning in &agent.warnings {
        io.talk(&format!("warning: {}", clean(&warning.message)));
    }
}

fn described(agent: &Agent) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            let value = clean(value).trim_end().replace('\n', "\n                 ");
            text += &format!("{name:<16} {value}\n");
        }
    };
    row("name", agent.name.as_deref().unwrap_or("-"));
    row("id", &agent.id);
    row("model", &agent.model);
    row("harness", &agent.harness_id);
    row("repository", agent.repo_url.as_deref().unwrap_or("none (an empty /work/repo)"));
    if agent.repo_url.is_some() {
        row("branch", &agent.branch);
    }
    row("permission mode", &agent.permission_mode);
    row("prompt", agent.prompt.as_deref().unwrap_or_default());
    for (key, value) in &agent.env_vars {
        let hosts = agent.env_var_hosts.get(key).map(|hosts| format!("  to {}", hosts.join(", ")));
        row("variable", &format!("{key}={value}{}", hosts.unwrap_or_default()));
    }
    row("allow out", &agent.allow_out.join(", "));
    row("deny out", &agent.deny_out.join(", "));
    row("MCP servers", &agent.mcp_servers.join(", "));
    for file in &agent.sandbox_files {
        row("file", &format!("{} ({} bytes)", file.sandbox_path, file.size));
    }
    row("skills", &agent.attached_skill_ids.join(", "));
    row("image", agent.image.as_deref().unwrap_or_default());
    row("requirements", agent.requirements.as_deref().unwrap_or_default());
    row("max tokens", &agent.max_tokens.map(|max| max.to_string()).unwrap_or_default());
    row("max cost", &agent.max_cost_usd.map(|max| format!("${max}")).unwrap_or_default());
    row("used", &usage::words(&agent.usage.total));
    row("created", &agent.created_at);
    row("updated", &agent.updated_at);
    text
}

fn from_file<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
    serde_json::from_str(&text).map_err(|e| {
        Failure::usage(format!("{}: {e}", path.display()))
            .hint("The file holds the fields of the API; those that only answers have (id, times, warnings) must go.")
    })
}

fn text_of(path: Option<&Path>) -> Result<Option<String>, Failure> {
    path.map(|path| fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))).transpose()
}

fn sandbox_files(pairs: &[(std::path::PathBuf, String)]) -> Result<Vec<SandboxFile>, Failure> {
    let read = |(local, sandbox_path): &(std::path::PathBuf, String)| {
        let content = fs::read(local).map_err(|e| Failure::file("read", local, &e))?;
        let name = sandbox_path.rsplit('/').next().unwrap_or(sandbox_path).to_owned();
        Ok(SandboxFile {
            name,
            sandbox_path: sandbox_path.clone(),
            size: content.len() as u64,
            content: Some(base64::engine::general_purpose::STANDARD.encode(content)),
            content_type: "application/octet-stream".to_owned(),
        })
    };
    pairs.iter().map(read).collect()
}

/// Masks never leave this machine as values of new variables.
pub(super) fn no_masks(variables: &BTreeMap<String, String>) -> Result<(), Failure> {
    let masked: Vec<&str> = variables.iter().filter(|(_, v)| *v == MASK).map(|(k, _)| k.as_str()).collect();
    if masked.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!("the value of {} is the mask of an answer, not a secret", masked.join(", "))))
}
