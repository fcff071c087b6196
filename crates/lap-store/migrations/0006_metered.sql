-- What model calls used, as the vaults counted it: one row per sandbox, model and day (UTC). Outlives the session, so that
-- an agent's sums stay true.
CREATE TABLE metered (
    session_id         TEXT NOT NULL REFERENCES sessions (id),
    incarnation        INTEGER NOT NULL,
    model              TEXT NOT NULL,
    -- YYYY-MM-DD
    day                TEXT NOT NULL,
    agent_id           TEXT NOT NULL REFERENCES agents (id),
    calls              INTEGER NOT NULL,
    estimated_calls    INTEGER NOT NULL,
    unpriced_calls     INTEGER NOT NULL,
    input_tokens       INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    -- Null: of no call it is known.
    cost_usd           REAL,
    PRIMARY KEY (session_id, incarnation, model, day)
) STRICT;
CREATE INDEX metered_by_agent ON metered (agent_id, day);
CREATE INDEX metered_by_day ON metered (day);

-- Limits of what model calls may use, of an agent or of a session; no row is no limit.
CREATE TABLE budgets (
    owner_id     TEXT PRIMARY KEY NOT NULL,
    max_tokens   INTEGER,
    max_cost_usd REAL
) STRICT;
