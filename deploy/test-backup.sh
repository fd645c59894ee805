#!/bin/sh
# Backs up both stores while a broker serves, destroys them, restores, and serves again: with the
# commands of deploy/README.md. Needs sqlite3 and Postgres' programs; starts a Postgres of its own.
#
#   deploy/test-backup.sh BROKER LOADTEST
set -eu
broker=$(realpath "$1") load=$(realpath "$2")
dir=$(mktemp -d)
port=$((40000 + $$ % 10000)) pgport=$((50000 + $$ % 10000))
node="" postgres=""
stop() {
    [ -z "$1" ] || { kill "-$2" "$1" 2>/dev/null && wait "$1" || true; }
}
cleanup() {
    stop "$node" TERM
    stop "$postgres" INT
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
fail() {
    echo "test-backup: $*" >&2
    tail -n 5 "$dir"/*.log >&2
    exit 1
}
export BIND_ADDR=127.0.0.1 BROKER_PORT="$port" DATA_DIR="$dir/data" LOG_LEVEL=warn DRAIN_SECONDS=1

until_it() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "waited 40 s for: $*"
        sleep 0.2
    done
}
serve() {
    "$broker" serve 2>>"$dir/broker.log" &
    node=$!
    until_it curl -fs "http://127.0.0.1:$port/health/ready"
}
message() {
    "$load" burst --mesh "$dir/mesh.json" --url "ws://127.0.0.1:$port/ws" --peers 2 --messages 2 >"$dir/burst.log" ||
        fail "no message"
}
# $1 backs up, $2 destroys, $3 restores.
try() {
    serve
    "$broker" mesh create demo --members 2 --json >"$dir/mesh.json"
    message
    "$1"
    "$broker" mesh create later --members 2 --json >"$dir/later.json"
    stop "$node" TERM
    node=""
    "$2"
    "$3"
    serve
    "$broker" mesh list >"$dir/list"
    grep -q demo "$dir/list" || fail "the mesh is not in what was restored"
    ! grep -q later "$dir/list" || fail "what was restored is not the backup"
    "$broker" audit verify >"$dir/verify.log" 2>&1 || fail "the audit chain is broken after the restore"
    # In their graces, or gone: the same members connect again.
    message
    stop "$node" TERM
    node=""
}

# --- SQLite
sqlite_backup() { sqlite3 "$DATA_DIR/claudemesh.sqlite" ".backup '$dir/copy.sqlite'"; }
sqlite_destroy() { rm -r "$DATA_DIR"; }
sqlite_restore() { mkdir -p "$DATA_DIR" && cp "$dir/copy.sqlite" "$DATA_DIR/claudemesh.sqlite"; }
try sqlite_backup sqlite_destroy sqlite_restore
echo "test-backup: SQLite backed up while serving, and restored"

# --- Postgres
bin=$(dirname "$(ls -d /usr/lib/postgresql/*/bin/pg_ctl 2>/dev/null | tail -n 1)")
[ -x "$bin/pg_ctl" ] || bin=$(dirname "$(command -v pg_ctl)")
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        exec setpriv --reuid postgres --regid postgres --clear-groups "$@"
    else
        exec "$@"
    fi
}
chmod 711 "$dir"
mkdir "$dir/pg"
[ "$(id -u)" -ne 0 ] || chown postgres "$dir/pg"
(cd / && as_postgres "$bin/initdb" -D "$dir/pg" -U claudemesh -A trust -E UTF8 --locale=C.UTF-8) >"$dir/initdb.log"
(cd / && as_postgres "$bin/postgres" -D "$dir/pg" -h 127.0.0.1 -p "$pgport" -k "") 2>"$dir/postgres.log" &
postgres=$!
export PGHOST=127.0.0.1 PGPORT="$pgport" PGUSER=claudemesh
until_it "$bin/psql" -d postgres -c "SELECT 1"
"$bin/createdb" claudemesh
export DATABASE_URL="postgres://claudemesh@127.0.0.1:$pgport/claudemesh"
postgres_backup() { "$bin/pg_dump" --format=custom --file="$dir/copy.dump" claudemesh; }
postgres_destroy() { "$bin/dropdb" claudemesh; }
postgres_restore() {
    "$bin/createdb" --encoding=UTF8 --template=template0 claudemesh
    "$bin/pg_restore" --exit-on-error --single-transaction --no-owner --dbname=claudemesh "$dir/copy.dump"
}
try postgres_backup postgres_destroy postgres_restore
echo "test-backup: Postgres backed up while serving, and restored"
