#!/bin/sh
# What a member of one mesh can do to another: the other's acks and the node's memory, quiet and under each
# attack in turn. The node has core 0 to itself; attackers and prober share core 1, the prober first.
#
#   loadtest/attacks.sh BROKER LOADTEST [ROUNDS] [SECONDS] [ATTACK…]
set -eu
broker=$(realpath "$1") load=$(realpath "$2") rounds=${3:-5} seconds=${4:-6}
[ $# -gt 4 ] && shift 4 || set -- flap hellos second-hellos unread-lists questions visible refused-sends acks pings unfinished
dir=$(mktemp -d)
node=""
trap 'kill $node 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
export BIND_ADDR=127.0.0.1 BROKER_PORT=$((20000 + $$ % 10000)) DATA_DIR="$dir/data" LOG_LEVEL=error
url="ws://127.0.0.1:$BROKER_PORT/ws"
# As deployed, but for the limit that the prober would meet.
export SEND_RATE_PER_MINUTE=0

start() {
    taskset -c 0 "$broker" serve 2>"$dir/log" &
    node=$!
    until curl -fs -o "$dir/ready" "http://127.0.0.1:$BROKER_PORT/health/ready"; do sleep 0.1; done
}

stop() {
    kill "$node"
    wait "$node" || true
    node=""
}

"$broker" mesh create probed --members 20 --json >"$dir/probed.json"
"$broker" mesh create attacking --members 20 --json >"$dir/attacking.json"

# The 99th percentile of the acks, in milliseconds, and the most memory, in KiB.
probe() {
    echo 5 >"/proc/$node/clear_refs" 2>/dev/null || true
    taskset -c 1 nice -n -15 "$load" pace --mesh "$dir/probed.json" --url "$url" --peers 20 --rate 100 \
        --seconds "$seconds" --json >"$dir/report" || echo "the prober found fault" >&2
    python3 -c "import json; print(json.load(open('$dir/report'))['ack']['p99_ms'])"
    awk '/^VmHWM/ { print $2 }' "/proc/$node/status"
}

for attack in "$@"; do
    round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        start
        quiet=$(probe | paste -sd' ' -)
        taskset -c 1 nice -n 19 "$load" attack "$attack" --mesh "$dir/attacking.json" --url "$url" \
            --seconds $((seconds + 2)) >"$dir/attack" 2>&1 &
        attacker=$!
        sleep 1
        attacked=$(probe | paste -sd' ' -)
        wait "$attacker" || cat "$dir/attack" >&2
        stop
        echo "$attack $quiet $attacked" >>"$dir/pairs"
    done
    echo "$(cat "$dir/attack")" >&2
done
python3 - "$dir/pairs" <<'PY'
import statistics, sys
pairs = {}
for line in open(sys.argv[1]):
    name, *figures = line.split()
    pairs.setdefault(name, []).append([float(figure) for figure in figures])
print(f"{'attack':15} {'p99 quiet':>10} {'attacked':>9} {'ratio':>6} {'MiB quiet':>10} {'attacked':>9} {'ratio':>6}")
for name, rows in pairs.items():
    q, qm, a, am = (statistics.median(column) for column in zip(*rows))
    print(f"{name:15} {q:8.2f}ms {a:7.2f}ms {a / q:6.2f} {qm / 1024:10.1f} {am / 1024:9.1f} {am / qm:6.2f}")
PY
