//! Agents with their files and attached skills.

use std::collections::BTreeMap;

use lap_domain::agent::{Agent, PermissionMode};
use lap_domain::budget::Budget;
use lap_domain::files::SandboxFile;
use lap_domain::ids::{AgentId, SessionId, SkillId};
use lap_domain::secret::Secret;
use lap_domain::session::{EndReason, Session, SessionEvent};
use lap_domain::time::Timestamp;
use sqlx::SqliteConnection;

use crate::change::Change;
use crate::crypt::{EncryptionKey, Place};
use crate::usage::{budgets_of, write_budget};
use crate::wake::Wakers;
use crate::{Page, Store, StoreError, numbers};

/// Which agents to list, and how.
#[derive(Debug, Clone)]
pub struct AgentFilter {
    /// Part of the name, the id or the harness, in any case.
    pub search: Option<String>,
    /// By what.
    pub sort: AgentSort,
    /// Which way.
    pub order: Order,
    /// Rows of a page.
    pub limit: u32,
    /// Rows before it.
    pub offset: u64,
}

/// What a list of agents is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentSort {
    /// When it was made.
    #[default]
    CreatedAt,
    /// Its name, without regard to case; those without one come first.
    Name,
    /// Its harness.
    HarnessId,
    /// How many sessions it has.
    Sessions,
}

impl AgentSort {
    fn column(self) -> &'static str {
        match self {
            Self::CreatedAt => "created_at",
            Self::Name => "name",
            Self::HarnessId => "harness_id",
            Self::Sessions => "sessions",
        }
    }
}

/// Direction of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Smallest first.
    Asc,
    /// Largest first.
    #[default]
    Desc,
}

/// An agent in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRow {
    /// The agent; contents of its files are left out, their sizes are not.
    pub agent: Agent,
    /// How many sessions it has that were not deleted.
    pub session_count: u64,
    /// Whether one of them is creating or ready.
    pub has_active_session: bool,
}

impl Store {
    /// Inserts an agent.
    pub async fn insert_agent(&self, agent: &Agent) -> Result<(), StoreError> {
        let row = Row::from_domain(agent, self.key());
        let mut tx = self.begin().await?;
        sqlx::query!(
            "INSERT INTO agents (id, name, model, prompt, harness_id, repo_url, branch, mcp_servers, mcp_headers, env_vars,
                plain_env_vars, env_var_hosts, allow_out, deny_out, permission_mode, image, requirements, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
            row.id,
            row.name,
            row.model,
            row.prompt,
            row.harness_id,
            row.repo_url,
            row.branch,
            row.mcp_servers,
            row.mcp_headers,
            row.env_vars,
            row.plain_env_vars,
            row.env_var_hosts,
            row.allow_out,
            row.deny_out,
            row.permission_mode,
            row.image,
            row.requirements,
            row.created_at,
            row.updated_at
        )
        .execute(&mut *tx)
        .await?;
        insert_files(&mut tx, agent, self.key()).await?;
        insert_skills(&mut tx, agent).await?;
        write_budget(&mut tx, agent.id.as_str(), &agent.budget).await?;
        tx.commit().await?;
        Ok(())
    }

    /// An agent that was not deleted.
    pub async fn agent(&self, id: &AgentId) -> Result<Agent, StoreError> {
        let mut snapshot = self.readers().begin().await?;
        match load(&mut snapshot, id, self.key()).await? {
            Some(loaded) if !loaded.deleted => Ok(loaded.agent),
            _ => Err(StoreError::no_agent(id)),
        }
    }

    /// An agent, also a deleted one, which has neither values nor files any more: for the history of its sessions.
    pub async fn agent_or_deleted(&self, id: &AgentId) -> Result<Agent, StoreError> {
        let mut snapshot = self.readers().begin().await?;
        let loaded = load(&mut snapshot, id, self.key()).await?;
        loaded.map(|loaded| loaded.agent).ok_or_else(|| StoreError::no_agent(id))
    }

    /// A page of agents with what their sessions do.
    pub async fn list_agents(&self, filter: &AgentFilter) -> Result<Page<AgentRow>, StoreError> {
        let AgentFilter { search, sort, order, limit, offset } = filter;
        let pattern = search.as_deref().map(like_pattern);
        let (sort, ascending) = (sort.column(), *order == Order::Asc);
        let (limit, offset) = (i64::from(*limit), numbers::to_sql(*offset));
        let mut snapshot = self.readers().begin().await?;
        // One statement per page: the sort is data, chosen by CASE, so that every query stays checked at compile time.
        let ids = sqlx::query!(
            r#"SELECT id, session_count AS "session_count!: i64", active AS "active!: i64" FROM (
                 SELECT agents.id, agents.name, agents.harness_id, agents.created_at,
                   (SELECT COUNT(*) FROM sessions WHERE sessions.agent_id = agents.id AND sessions.deleted_at IS NULL) AS session_count,
                   (SELECT COUNT(*) FROM sessions WHERE sessions.agent_id = agents.id AND sessions.deleted_at IS NULL
                      AND sessions.state IN ('creating', 'ready')) AS active
                 FROM agents
                 WHERE agents.deleted_at IS NULL AND (?1 IS NULL OR LOWER(COALESCE(agents.name, '')) LIKE ?1 ESCAPE '\'
                   OR LOWER(agents.id) LIKE ?1 ESCAPE '\' OR LOWER(agents.harness_id) LIKE ?1 ESCAPE '\')
               ) AS listed
               ORDER BY
                 CASE WHEN ?3 AND ?2 = 'name' THEN LOWER(COALESCE(name, '')) WHEN ?3 AND ?2 = 'harness_id' THEN harness_id END ASC,
                 CASE WHEN ?3 AND ?2 = 'sessions' THEN session_count WHEN ?3 AND ?2 = 'created_at' THEN created_at END ASC,
                 CASE WHEN NOT ?3 AND ?2 = 'name' THEN LOWER(COALESCE(name, '')) WHEN NOT ?3 AND ?2 = 'harness_id' THEN harness_id END DESC,
                 CASE WHEN NOT ?3 AND ?2 = 'sessions' THEN session_count WHEN NOT ?3 AND ?2 = 'created_at' THEN created_at END DESC,
                 created_at DESC, id DESC
               LIMIT ?4 OFFSET ?5"#,
            pattern,
            sort,
            ascending,
            limit,
            offset
        )
        .fetch_all(&mut *snapshot)
        .await?;
        let total = sqlx::query_scalar!(
            r"SELECT COUNT(*) FROM agents
              WHERE agents.deleted_at IS NULL AND (?1 IS NULL OR LOWER(COALESCE(agents.name, '')) LIKE ?1 ESCAPE '\'
                OR LOWER(agents.id) LIKE ?1 ESCAPE '\' OR LOWER(agents.harness_id) LIKE ?1 ESCAPE '\')",
            pattern
        )
        .fetch_one(&mut *snapshot)
        .await?;
        let wanted: Vec<&str> = ids.iter().map(|listed| listed.id.as_str()).collect();
        let mut agents = load_listed(&mut snapshot, &wanted, self.key()).await?;
        let mut rows = Vec::with_capacity(ids.len());
        for listed in &ids {
            let gone = || StoreError::Corrupt(format!("agent {} left the snapshot it was listed in", listed.id));
            let agent = agents.remove(&listed.id).ok_or_else(gone)?;
            let session_count = numbers::from_sql(listed.session_count);
            rows.push(AgentRow { agent, session_count, has_active_session: listed.active > 0 });
        }
        Ok(Page { rows, total: numbers::from_sql(total) })
    }

    /// Edits an agent: reads it, lets `edit` make the new one, writes that, all in one transaction. What `edit` refuses
    /// with is the inner error, and then nothing is changed.
    pub async fn update_agent<E: Send>(
        &self,
        id: &AgentId,
        edit: impl FnOnce(Agent) -> Result<Agent, E> + Send,
    ) -> Result<Result<Agent, E>, StoreError> {
        let mut tx = self.begin().await?;
        let agent = match load(&mut tx, id, self.key()).await? {
            Some(loaded) if !loaded.deleted => loaded.agent,
            _ => return Err(StoreError::no_agent(id)),
        };
        let agent = match edit(agent) {
            Ok(agent) => agent,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let row = Row::from_domain(&agent, self.key());
        let key = id.as_str();
        sqlx::query!(
            "UPDATE agents SET name = ?2, model = ?3, prompt = ?4, repo_url = ?5, branch = ?6, mcp_servers = ?7,
                mcp_headers = ?8, env_vars = ?9, plain_env_vars = ?10, env_var_hosts = ?11, allow_out = ?12, deny_out = ?13,
                permission_mode = ?14, image = ?15, requirements = ?16, updated_at = ?17
             WHERE id = ?1",
            key,
            row.name,
            row.model,
            row.prompt,
            row.repo_url,
            row.branch,
            row.mcp_servers,
            row.mcp_headers,
            row.env_vars,
            row.plain_env_vars,
            row.env_var_hosts,
            row.allow_out,
            row.deny_out,
            row.permission_mode,
            row.image,
            row.requirements,
            row.updated_at
        )
        .execute(&mut *tx)
        .await?;
        erase_parts(&mut tx, id).await?;
        insert_files(&mut tx, &agent, self.key()).await?;
        insert_skills(&mut tx, &agent).await?;
        write_budget(&mut tx, key, &agent.budget).await?;
        tx.commit().await?;
        Ok(Ok(agent))
    }

    /// Deletes an agent: its values and files are erased, its live sessions end, all of it in one transaction. Answers
    /// with the sessions that ended; deleting it again ends none.
    pub async fn delete_agent(&self, id: &AgentId, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let key = id.as_str();
        let mut tx = self.begin().await?;
        let deleted =
            sqlx::query_scalar!("SELECT deleted_at FROM agents WHERE id = ?1", key).fetch_optional(&mut *tx).await?;
        match deleted {
            None => return Err(StoreError::no_agent(id)),
            Some(Some(_)) => return Ok(Vec::new()),
            Some(None) => {}
        }
        sqlx::query!("UPDATE agents SET deleted_at = ?2, env_vars = NULL WHERE id = ?1", key, now.0)
            .execute(&mut *tx)
            .await?;
        sqlx::query!("DELETE FROM agent_files WHERE agent_id = ?1", key).execute(&mut *tx).await?;
        write_budget(&mut tx, key, &Budget::default()).await?;
        let live = sqlx::query_scalar!(
            "SELECT id FROM sessions WHERE agent_id = ?1 AND deleted_at IS NULL AND state IN ('creating', 'ready')
             ORDER BY created_at, id",
            key
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut ended = Vec::with_capacity(live.len());
        for session in live {
            let mut change = Change::load(&mut tx, &SessionId::new(session)).await?;
            change.apply(SessionEvent::End { reason: EndReason::AgentDeleted }, now).await?;
            ended.push(change.save().await?);
        }
        let bells: Vec<(SessionId, u64)> = ended.iter().map(|saved| (saved.session.id.clone(), saved.newest)).collect();
        let ring_all = move |wakers: &Wakers| bells.iter().for_each(|(session, newest)| wakers.ring(session, *newest));
        self.commit(tx, ring_all).await?;
        Ok(ended.into_iter().map(|saved| saved.session).collect())
    }
}

/// A row of `agents`, in the order of its columns.
struct Row {
    id: String,
    name: Option<String>,
    model: String,
    prompt: Option<String>,
    harness_id: String,
    repo_url: Option<String>,
    branch: String,
    mcp_servers: String,
    mcp_headers: String,
    env_vars: Option<Vec<u8>>,
    plain_env_vars: String,
    env_var_hosts: String,
    allow_out: String,
    deny_out: String,
    permission_mode: String,
    image: Option<String>,
    requirements: Option<String>,
    created_at: i64,
    updated_at: i64,
    deleted_at: Option<i64>,
}

struct Loaded {
    agent: Agent,
    deleted: bool,
}

impl Row {
    fn from_domain(agent: &Agent, key: &EncryptionKey) -> Self {
        let Agent {
            id,
            name,
            model,
            prompt,
            harness_id,
            repo_url,
            branch,
            mcp_servers,
            mcp_headers,
            env_vars,
            plain_env_vars,
            env_var_hosts,
            attached_skill_ids: _,
            allow_out,
            deny_out,
            sandbox_files: _,
            permission_mode,
            image,
            requirements,
            budget: _,
            created_at,
            updated_at,
        } = agent;
        Self {
            id: id.to_string(),
            name: name.clone(),
            model: model.clone(),
            prompt: prompt.clone(),
            harness_id: harness_id.clone(),
            repo_url: repo_url.clone(),
            branch: branch.clone(),
            mcp_servers: numbers::to_json(mcp_servers),
            mcp_headers: numbers::to_json(mcp_headers),
            env_vars: Some(seal_env(key, id, env_vars)),
            plain_env_vars: numbers::to_json(plain_env_vars),
            env_var_hosts: numbers::to_json(env_var_hosts),
            allow_out: numbers::to_json(allow_out),
            deny_out: numbers::to_json(deny_out),
            permission_mode: permission_mode.as_str().to_owned(),
            image: image.clone(),
            requirements: requirements.clone(),
            created_at: created_at.0,
            updated_at: updated_at.0,
            deleted_at: None,
        }
    }

    fn into_domain(
        self,
        key: &EncryptionKey,
        sandbox_files: Vec<SandboxFile>,
        attached_skill_ids: Vec<SkillId>,
        budget: Budget,
    ) -> Result<Loaded, StoreError> {
        let Self {
            id,
            name,
            model,
            prompt,
            harness_id,
            repo_url,
            branch,
            mcp_servers,
            mcp_headers,
            env_vars,
            plain_env_vars,
            env_var_hosts,
            allow_out,
            deny_out,
            permission_mode,
            image,
            requirements,
            created_at,
            updated_at,
            deleted_at,
        } = self;
        let id = AgentId::new(id);
        let env_vars = env_vars.map(|sealed| open_env(key, &id, &sealed)).transpose()?.unwrap_or_default();
        let permission_mode = PermissionMode::parse(&permission_mode)
            .ok_or_else(|| StoreError::Corrupt(format!("agent {id}: unknown permission mode")))?;
        let agent = Agent {
            id,
            name,
            model,
            prompt,
            harness_id,
            repo_url,
            branch,
            mcp_servers: numbers::from_json("agents.mcp_servers", &mcp_servers)?,
            mcp_headers: numbers::from_json("agents.mcp_headers", &mcp_headers)?,
            env_vars,
            plain_env_vars: numbers::from_json("agents.plain_env_vars", &plain_env_vars)?,
            env_var_hosts: numbers::from_json("agents.env_var_hosts", &env_var_hosts)?,
            attached_skill_ids,
            allow_out: numbers::from_json("agents.allow_out", &allow_out)?,
            deny_out: numbers::from_json("agents.deny_out", &deny_out)?,
            sandbox_files,
            permission_mode,
            image,
            requirements,
            budget,
            created_at: Timestamp(created_at),
            updated_at: Timestamp(updated_at),
        };
        Ok(Loaded { agent, deleted: deleted_at.is_some() })
    }
}

async fn load(db: &mut SqliteConnection, id: &AgentId, key: &EncryptionKey) -> Result<Option<Loaded>, StoreError> {
    let Some(row) = load_row(db, id).await? else { return Ok(None) };
    let agent = id.as_str();
    let stored = sqlx::query!(
        "SELECT position, name, sandbox_path, content_type, size, content FROM agent_files WHERE agent_id = ?1 ORDER BY position",
        agent
    )
    .fetch_all(&mut *db)
    .await?;
    let mut files = Vec::with_capacity(stored.len());
    for file in stored {
        let opened = key.open(&file_place(agent, &file.position.to_string()), &file.content)?;
        files.push(SandboxFile {
            name: file.name,
            sandbox_path: file.sandbox_path,
            content: opened.expose().clone(),
            content_type: file.content_type,
            size: numbers::from_sql(file.size),
        });
    }
    let skills = load_skills(&mut *db, id).await?;
    let budget = budgets_of(db, &[agent]).await?.remove(agent).unwrap_or_default();
    row.into_domain(key, files, skills, budget).map(Some)
}

/// A page of agents, without the contents of files, in as many statements for fifty agents as for one.
async fn load_listed(
    db: &mut SqliteConnection,
    ids: &[&str],
    key: &EncryptionKey,
) -> Result<BTreeMap<String, Agent>, StoreError> {
    let mut budgets = budgets_of(&mut *db, ids).await?;
    let ids = numbers::to_json(&ids);
    let rows = sqlx::query_as!(Row, "SELECT * FROM agents WHERE id IN (SELECT value FROM json_each(?1))", ids)
        .fetch_all(&mut *db)
        .await?;
    let stored = sqlx::query!(
        "SELECT agent_id, name, sandbox_path, content_type, size FROM agent_files
         WHERE agent_id IN (SELECT value FROM json_each(?1)) ORDER BY agent_id, position",
        ids
    )
    .fetch_all(&mut *db)
    .await?;
    let mut files: BTreeMap<String, Vec<SandboxFile>> = BTreeMap::new();
    for file in stored {
        files.entry(file.agent_id).or_default().push(SandboxFile {
            name: file.name,
            sandbox_path: file.sandbox_path,
            content: Vec::new(),
            content_type: file.content_type,
            size: numbers::from_sql(file.size),
        });
    }
    let attached = sqlx::query!(
        "SELECT agent_id, skill_id FROM agent_skills
         WHERE agent_id IN (SELECT value FROM json_each(?1)) ORDER BY agent_id, position",
        ids
    )
    .fetch_all(&mut *db)
    .await?;
    let mut skills: BTreeMap<String, Vec<SkillId>> = BTreeMap::new();
    for skill in attached {
        skills.entry(skill.agent_id).or_default().push(SkillId::new(skill.skill_id));
    }
    let mut agents = BTreeMap::new();
    for row in rows {
        let id = row.id.clone();
        let files = files.remove(&id).unwrap_or_default();
        let skills = skills.remove(&id).unwrap_or_default();
        let budget = budgets.remove(&id).unwrap_or_default();
        agents.insert(id, row.into_domain(key, files, skills, budget)?.agent);
    }
    Ok(agents)
}

async fn load_row(db: &mut SqliteConnection, id: &AgentId) -> Result<Option<Row>, StoreError> {
    let key = id.as_str();
    Ok(sqlx::query_as!(Row, "SELECT * FROM agents WHERE id = ?1", key).fetch_optional(db).await?)
}

async fn load_skills(db: &mut SqliteConnection, id: &AgentId) -> Result<Vec<SkillId>, StoreError> {
    let key = id.as_str();
    let skills = sqlx::query_scalar!("SELECT skill_id FROM agent_skills WHERE agent_id = ?1 ORDER BY position", key)
        .fetch_all(db)
        .await?;
    Ok(skills.into_iter().map(SkillId::new).collect())
}

async fn insert_files(db: &mut SqliteConnection, agent: &Agent, key: &EncryptionKey) -> Result<(), StoreError> {
    let id = agent.id.as_str();
    for (position, file) in (0_i64..).zip(&agent.sandbox_files) {
        let SandboxFile { name, sandbox_path, content, content_type, size: _ } = file;
        let size = numbers::to_sql(content.len() as u64);
        let sealed = key.seal(&file_place(id, &position.to_string()), content);
        sqlx::query!(
            "INSERT INTO agent_files (agent_id, position, name, sandbox_path, content_type, size, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            id,
            position,
            name,
            sandbox_path,
            content_type,
            size,
            sealed
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

async fn insert_skills(db: &mut SqliteConnection, agent: &Agent) -> Result<(), StoreError> {
    let id = agent.id.as_str();
    for (position, skill) in (0_i64..).zip(&agent.attached_skill_ids) {
        let skill = skill.as_str();
        sqlx::query!(
            "INSERT INTO agent_skills (agent_id, position, skill_id) VALUES (?1, ?2, ?3)",
            id,
            position,
            skill
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

async fn erase_parts(db: &mut SqliteConnection, id: &AgentId) -> Result<(), StoreError> {
    let key = id.as_str();
    sqlx::query!("DELETE FROM agent_files WHERE agent_id = ?1", key).execute(&mut *db).await?;
    sqlx::query!("DELETE FROM agent_skills WHERE agent_id = ?1", key).execute(&mut *db).await?;
    Ok(())
}

fn env_place(agent: &str) -> Place<'_> {
    Place { table: "agents", column: "env_vars", owner: agent, item: "" }
}

fn file_place<'a>(agent: &'a str, position: &'a str) -> Place<'a> {
    Place { table: "agent_files", column: "content", owner: agent, item: position }
}

/// All values as one sealed object: a value cannot be moved to another key, and not even the keys can be read.
fn seal_env(key: &EncryptionKey, agent: &AgentId, values: &BTreeMap<String, Secret>) -> Vec<u8> {
    let exposed: BTreeMap<&str, &str> =
        values.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
    let json = Secret::new(numbers::to_json(&exposed));
    key.seal(&env_place(agent.as_str()), json.expose().as_bytes())
}

fn open_env(key: &EncryptionKey, agent: &AgentId, sealed: &[u8]) -> Result<BTreeMap<String, Secret>, StoreError> {
    let opened = key.open(&env_place(agent.as_str()), sealed)?;
    // The cause is left out: it could quote a value.
    let values: BTreeMap<String, String> = serde_json::from_slice(opened.expose())
        .map_err(|_| StoreError::Corrupt(format!("agent {agent}: its variables are not an object of strings")))?;
    Ok(values.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
}

/// Encrypts what agents keep secret again with another key, row by row: contents of files can be large.
pub(crate) async fn seal_again(
    db: &mut SqliteConnection,
    old: &EncryptionKey,
    new: &EncryptionKey,
    count: &mut impl FnMut(u64),
) -> Result<(), StoreError> {
    for agent in sqlx::query_scalar!("SELECT id FROM agents WHERE env_vars IS NOT NULL").fetch_all(&mut *db).await? {
        let sealed =
            sqlx::query_scalar!("SELECT env_vars FROM agents WHERE id = ?1", agent).fetch_one(&mut *db).await?;
        let Some(sealed) = sealed else { continue };
        let sealed = new.seal(&env_place(&agent), old.open(&env_place(&agent), &sealed)?.expose());
        sqlx::query!("UPDATE agents SET env_vars = ?2 WHERE id = ?1", agent, sealed).execute(&mut *db).await?;
        count(1);
    }
    for row in sqlx::query!("SELECT agent_id, position FROM agent_files").fetch_all(&mut *db).await? {
        let (agent, position) = (row.agent_id, row.position);
        let number = position.to_string();
        let place = file_place(&agent, &number);
        let sealed = sqlx::query_scalar!(
            "SELECT content FROM agent_files WHERE agent_id = ?1 AND position = ?2",
            agent,
            position
        )
        .fetch_one(&mut *db)
        .await?;
        let sealed = new.seal(&place, old.open(&place, &sealed)?.expose());
        sqlx::query!(
            "UPDATE agent_files SET content = ?3 WHERE agent_id = ?1 AND position = ?2",
            agent,
            position,
            sealed
        )
        .execute(&mut *db)
        .await?;
        count(1);
    }
    Ok(())
}

/// A pattern that finds `search` anywhere; the text's own wildcards mean themselves.
fn like_pattern(search: &str) -> String {
    let escaped = search.to_lowercase().replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    format!("%{escaped}%")
}
