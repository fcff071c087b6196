-- The lists that a session's sandbox lives by: its agent's as they stood when the session was opened, until they are changed for
-- this session alone. `in_force` is the newest revision that the sandbox's vault has confirmed.
CREATE TABLE session_egress (
    session_id TEXT PRIMARY KEY NOT NULL REFERENCES sessions (id),
    allow_out  TEXT NOT NULL,
    deny_out   TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    in_force   INTEGER NOT NULL
) STRICT;

INSERT INTO session_egress (session_id, allow_out, deny_out, revision, in_force)
SELECT sessions.id, agents.allow_out, agents.deny_out, 0, 0
FROM sessions JOIN agents ON agents.id = sessions.agent_id
WHERE sessions.deleted_at IS NULL;
