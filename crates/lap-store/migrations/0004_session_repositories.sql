-- Sessions whose sandbox was given a token of the platform's own for one repository, and which repository that is: what an
-- agent says of its repository may change while the session lives.
CREATE TABLE session_repositories (
    session_id TEXT PRIMARY KEY NOT NULL REFERENCES sessions (id),
    repository TEXT NOT NULL
) STRICT;
