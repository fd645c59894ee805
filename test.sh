#!/bin/sh
# Runs every test. Needs Rust; what else is missing it installs with the system's package manager,
# saying so. The tests start the servers they need, on ports of their own, and end them again.
#
#   ./test.sh                      everything
#   ./test.sh -p claudemesh-router what `cargo test` understands narrows it down
set -eu
cd "$(dirname "$0")"

say() { printf 'test.sh: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

# Nobody has to be asked for a password when nothing is missing.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        say "neither root nor sudo: please run as root: $*"
        exit 1
    fi
}

# Debian's server packages start a database on port 5432 when they are first installed. Nobody
# asked for that one: this file tells them not to, as long as they are being installed.
NO_CLUSTER=/etc/postgresql-common/createcluster.d/zz-no-main-cluster.conf

apt_install() {
    say "installing with apt-get: $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

apt_postgres() {
    as_root sh -c 'mkdir -p "${1%/*}" && echo "create_main_cluster = false" >"$1"' sh "$NO_CLUSTER"
    trap 'as_root rm -f "$NO_CLUSTER"' EXIT
    apt_install postgresql
    as_root rm -f "$NO_CLUSTER"
    trap - EXIT
}

# Debian's packages of servers start one when they are installed, and at every boot. This file, which
# the system's administrator may have, says no to the former.
POLICY=/usr/sbin/policy-rc.d

# A package whose service has the same name.
apt_server() {
    if [ -e "$POLICY" ]; then
        apt_install "$1"
    else
        trap 'as_root rm -f "$POLICY"' EXIT
        as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$POLICY"
        apt_install "$1"
        as_root rm -f "$POLICY"
        trap - EXIT
    fi
    if has systemctl; then
        as_root systemctl disable --quiet "$1" 2>/dev/null || true
    fi
}

# The servers' programs: on the path, or where Debian keeps them off it.
postgres_is_here() {
    has initdb && has postgres && return
    for program in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$program" ] && return
    done
    return 1
}

need_cc() {
    if has apt-get; then
        apt_install gcc libc6-dev
    else
        say "a C compiler (cc) is missing: SQLite is compiled into the broker"
        say "please install one (macOS: xcode-select --install) and run this again"
        exit 1
    fi
}

need_postgres() {
    if has apt-get; then
        apt_postgres
    elif has brew; then
        say "installing with brew: postgresql@17"
        brew install --quiet postgresql@17
    fi
    brew_postgres
    if ! postgres_is_here; then
        say "Postgres is missing: its programs initdb and postgres, no running server"
        say "please install your system's package (often postgresql or postgresql-server),"
        say "put both on the PATH and run this again"
        exit 1
    fi
}

need_redis() {
    if has apt-get; then
        apt_server redis-server
    elif has brew; then
        say "installing with brew: redis"
        brew install --quiet redis
    fi
    if ! has redis-server; then
        say "Redis is missing: its program redis-server, no running server"
        say "please install your system's package (often redis or redis-server) and run this again"
        exit 1
    fi
}

# Debian keeps it off a user's path.
pooler_is_here() {
    has pgbouncer || [ -x /usr/sbin/pgbouncer ]
}

need_pooler() {
    if has apt-get; then
        apt_server pgbouncer
    elif has brew; then
        say "installing with brew: pgbouncer"
        brew install --quiet pgbouncer
    fi
    if ! pooler_is_here; then
        say "PgBouncer is missing: its program pgbouncer, no running server"
        say "please install your system's package pgbouncer and run this again"
        exit 1
    fi
}

# Homebrew keeps it off the path.
brew_postgres() {
    if has brew && prefix=$(brew --prefix postgresql@17 2>/dev/null); then
        PATH="$prefix/bin:$PATH"
        export PATH
    fi
}

if ! has cargo; then
    say "Rust is missing: https://rustup.rs"
    exit 1
fi
has cc || need_cc
postgres_is_here || brew_postgres
postgres_is_here || need_postgres
has redis-server || need_redis
pooler_is_here || need_pooler

# Many tests wait for a grace or a stalled reader rather than work.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-8}"

# What is named narrows it down; --workspace would make everything of it again.
case " $* " in
*" -p "* | *" --package "*) ;;
*) set -- --workspace "$@" ;;
esac
# Without --no-fail-fast one red crate would hide the others. --show-output, since the simulator
# prints which faults it met, and how soon the planted ones were caught.
case " $* " in
*" -- "*) exec cargo test --locked --no-fail-fast "$@" ;;
*) exec cargo test --locked --no-fail-fast "$@" -- --show-output ;;
esac
