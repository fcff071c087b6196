#!/bin/sh
# Makes `.sqlx` again after a query or a migration changed: a throw-away database gets the migrations, and the compiler
# asks it about every query of this crate. Plain builds read `.sqlx` and need neither a database nor this script.
set -eu
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 - "$scratch/schema.db" migrations/*.sql <<'PY'
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
for migration in sys.argv[2:]:
    database.executescript(open(migration).read())
database.commit()
PY
mkdir -p "$scratch/sqlx"
touch src/lib.rs
LAP_SQLITE_URL="sqlite://$scratch/schema.db" SQLX_OFFLINE_DIR="$scratch/sqlx" cargo check -p lap-store
rm -rf .sqlx
mkdir .sqlx
cp "$scratch"/sqlx/*.json .sqlx/
touch src/lib.rs
