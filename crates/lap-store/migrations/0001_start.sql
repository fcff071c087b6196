-- Times are Unix milliseconds, ids are text, JSON is text: nothing here needs more than another engine has, too.

-- Facts about the database itself, such as the check of the encryption key.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT;

-- A deleted agent keeps its row, without secrets, so that its sessions stay readable.
CREATE TABLE agents (
    id              TEXT PRIMARY KEY NOT NULL,
    name            TEXT,
    model           TEXT NOT NULL,
    prompt          TEXT,
    harness_id      TEXT NOT NULL,
    repo_url        TEXT,
    branch          TEXT NOT NULL,
    mcp_servers     TEXT NOT NULL,
    mcp_headers     TEXT NOT NULL,
    -- All values as one encrypted JSON object.
    env_vars        BLOB,
    plain_env_vars  TEXT NOT NULL,
    env_var_hosts   TEXT NOT NULL,
    allow_out       TEXT NOT NULL,
    deny_out        TEXT NOT NULL,
    permission_mode TEXT NOT NULL,
    image           TEXT,
    requirements    TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    deleted_at      INTEGER
) STRICT;
CREATE INDEX agents_by_time ON agents (created_at) WHERE deleted_at IS NULL;

CREATE TABLE agent_files (
    agent_id     TEXT NOT NULL REFERENCES agents (id),
    position     INTEGER NOT NULL,
    name         TEXT NOT NULL,
    sandbox_path TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size         INTEGER NOT NULL,
    -- Encrypted. Last, so that lists do not have to read past it.
    content      BLOB NOT NULL,
    PRIMARY KEY (agent_id, position)
) STRICT;

CREATE TABLE agent_skills (
    agent_id TEXT NOT NULL REFERENCES agents (id),
    position INTEGER NOT NULL,
    skill_id TEXT NOT NULL,
    PRIMARY KEY (agent_id, position)
) STRICT;
CREATE INDEX agent_skills_by_skill ON agent_skills (skill_id);

-- A deleted session keeps its row as the place its last egress lines belong to; nothing else of it stays.
CREATE TABLE sessions (
    id                 TEXT PRIMARY KEY NOT NULL,
    agent_id           TEXT NOT NULL REFERENCES agents (id),
    title              TEXT,
    state              TEXT NOT NULL,
    failure_reason     TEXT,
    end_reason         TEXT,
    phase              TEXT,
    phase_detail       TEXT,
    incarnation        INTEGER NOT NULL,
    harness_id         TEXT NOT NULL,
    harness_session_id TEXT,
    branch             TEXT,
    commit_id          TEXT,
    title_preview      TEXT,
    response           TEXT,
    session_env_keys   TEXT NOT NULL,
    input_tokens       INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    cost_usd           REAL,
    created_at         INTEGER NOT NULL,
    last_seen_at       INTEGER NOT NULL,
    idle_timeout_ms    INTEGER NOT NULL,
    -- Newest numbers given out; a number is never given twice, whatever is erased.
    last_event_id      INTEGER NOT NULL,
    last_message       INTEGER NOT NULL,
    last_turn          INTEGER NOT NULL,
    last_egress_id     INTEGER NOT NULL,
    deleted_at         INTEGER
) STRICT;
CREATE INDEX sessions_by_time ON sessions (created_at) WHERE deleted_at IS NULL;
CREATE INDEX sessions_by_agent ON sessions (agent_id, created_at) WHERE deleted_at IS NULL;
CREATE INDEX sessions_live ON sessions (state) WHERE deleted_at IS NULL AND state IN ('creating', 'ready');

-- The sandboxes a session has had, one per bring-up: proof of its sidecar and how far its log is stored.
CREATE TABLE sandboxes (
    session_id      TEXT NOT NULL REFERENCES sessions (id),
    incarnation     INTEGER NOT NULL,
    boot_token_hash BLOB,
    log_seq         INTEGER NOT NULL,
    PRIMARY KEY (session_id, incarnation)
) STRICT;

-- Placeholders a sandbox sees instead of secrets. They are worth nothing outside it and therefore not encrypted.
CREATE TABLE session_stubs (
    session_id TEXT NOT NULL REFERENCES sessions (id),
    key        TEXT NOT NULL,
    stub       TEXT NOT NULL,
    PRIMARY KEY (session_id, key)
) STRICT;

CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (id),
    id         INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    data       TEXT NOT NULL,
    PRIMARY KEY (session_id, id)
) STRICT;

CREATE TABLE turns (
    id              TEXT PRIMARY KEY NOT NULL,
    session_id      TEXT NOT NULL REFERENCES sessions (id),
    position        INTEGER NOT NULL,
    state           TEXT NOT NULL,
    error_code      TEXT,
    error           TEXT,
    -- True for the prompt given at creation, whose answer becomes the session's response.
    initial         INTEGER NOT NULL,
    idempotency_key TEXT,
    body_hmac       BLOB,
    created_at      INTEGER NOT NULL,
    answer          TEXT,
    -- What the harness is to be told; dropped when the turn is over.
    input           TEXT,
    UNIQUE (session_id, position)
) STRICT;
CREATE UNIQUE INDEX turns_by_key ON turns (session_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX turns_open ON turns (session_id, position) WHERE state IN ('queued', 'sent');

CREATE TABLE messages (
    session_id TEXT NOT NULL REFERENCES sessions (id),
    position   INTEGER NOT NULL,
    id         TEXT NOT NULL,
    turn_id    TEXT NOT NULL,
    role       TEXT NOT NULL,
    at         INTEGER NOT NULL,
    data       TEXT NOT NULL,
    PRIMARY KEY (session_id, position),
    UNIQUE (session_id, id)
) STRICT;

-- What left a sandbox. Outlives the session; has a retention of its own.
CREATE TABLE egress_lines (
    session_id  TEXT NOT NULL REFERENCES sessions (id),
    id          INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    method      TEXT NOT NULL,
    host        TEXT NOT NULL,
    path        TEXT NOT NULL,
    status      INTEGER,
    bytes_out   INTEGER NOT NULL,
    bytes_in    INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    credentials TEXT NOT NULL,
    verdict     TEXT NOT NULL,
    detail      TEXT,
    PRIMARY KEY (session_id, id)
) STRICT;
CREATE INDEX egress_lines_by_time ON egress_lines (at);

-- Answers kept for repeats of a request with the same Idempotency-Key.
CREATE TABLE kept_answers (
    scope     TEXT NOT NULL,
    key       TEXT NOT NULL,
    body_hmac BLOB NOT NULL,
    status    INTEGER NOT NULL,
    body      TEXT NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT;
CREATE INDEX kept_answers_by_time ON kept_answers (at);
