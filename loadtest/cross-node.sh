#!/bin/sh
# What it costs that sender, owner and recipient are on different nodes: three nodes on ports 7961 to
# 7963, one mesh, and the same load twice in turn: all peers at the owner, then none of them there.
# Needs DATABASE_URL and REDIS_URL of servers that nobody else uses, release binaries, and curl.
#
#   loadtest/cross-node.sh [RATE] [SECONDS] [ROUNDS]
set -eu
rate=${1:-2000} seconds=${2:-20} rounds=${3:-3}
cd "$(dirname "$0")/.."
broker=${BROKER:-target/release/claudemesh-broker} load=${LOADTEST:-target/release/loadtest}
export SEND_RATE_PER_MINUTE=0 BIND_ADDR=127.0.0.1 LOG_LEVEL=warn
export CLUSTER_SECRET="${CLUSTER_SECRET:-0123456789abcdef0123456789abcdef}"
dir=$(mktemp -d)
pids=""
trap 'kill $pids 2>/dev/null || true; rm -rf "$dir"' EXIT

ports="7961 7962 7963"
for port in $ports; do
    NODE_ID="x$port" BROKER_PORT=$port "$broker" 2>"$dir/$port.log" &
    pids="$pids $!"
    eval "pid$port=$!"
done
for port in $ports; do
    until curl -fs -o "$dir/ready" "http://127.0.0.1:$port/health/ready"; do sleep 0.1; done
done

"$broker" mesh create "cross-$$" --members 100 --json >"$dir/mesh.json"
mesh=$(sed -n 's/^ *"mesh_id": "\(.*\)",$/\1/p' "$dir/mesh.json" | head -n 1)
# The first peers make the mesh run somewhere.
"$load" burst --mesh "$dir/mesh.json" --url ws://127.0.0.1:7961/ws --peers 2 --messages 1 >"$dir/first"
owner=$("$broker" status --mesh "$mesh" --json | sed -n 's/^ *"owner": "x\(.*\)",$/\1/p')

cpu() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 10 }' "/proc/$1/stat"; }
commands() {
    for port in $ports; do curl -fs "http://127.0.0.1:$port/metrics"; done |
        awk '/^broker_redis_commands_total/ { sum += $2 } END { print sum + 0 }'
}

run() {
    what=$1 urls=""
    shift
    for port in "$@"; do urls="$urls --url ws://127.0.0.1:$port/ws"; done
    for port in $ports; do eval "cpu$port=\$(cpu \$pid$port)"; done
    before=$(commands)
    # shellcheck disable=SC2086
    "$load" pace --rate "$rate" --seconds "$seconds" --mesh "$dir/mesh.json" $urls >"$dir/report" || true
    after=$(commands)
    echo "--- $what (owner on $owner)"
    grep -E "delivered|throughput|ack|delivery|PASSED|FAILED" "$dir/report" || true
    for port in $ports; do
        eval "spent=\$((\$(cpu \$pid$port) - cpu$port))"
        echo "  cpu of $port: $((spent * 1000 / (rate * seconds))) us a message"
    done
    echo "  Redis commands a message: $(awk "BEGIN { printf \"%.3f\", ($after - $before) / ($rate * $seconds) }")"
}

others=""
for port in $ports; do [ "$port" = "$owner" ] || others="$others $port"; done
round=0
while [ "$round" -lt "$rounds" ]; do
    run "all on one node" "$owner"
    # shellcheck disable=SC2086
    run "on three nodes" $others
    round=$((round + 1))
done
