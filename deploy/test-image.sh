#!/bin/sh
# Builds the image's last stage around a given binary and runs it as PID 1, not root, with a
# read-only root: first message, `health`, SIGTERM and exit 0, owner of /data.
# Needs root and Debian's buildah. No registry: the base is made of Debian's packages.
#
#   deploy/test-image.sh BROKER LOADTEST
set -eu
broker=$(realpath "$1") load=$(realpath "$2")
cd "$(dirname "$0")/.."
port=$((20000 + $$ % 10000)) uid=65532
dir=$(mktemp -d)
store() { buildah --storage-driver vfs --root "$dir/store" --runroot "$dir/run" "$@"; }
fail() { echo "test-image: $*" >&2; [ ! -e "$dir/log" ] || cat "$dir/log" >&2; exit 1; }
pid=""
cleanup() {
    [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
    store umount --all >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap cleanup EXIT
# Without these a signal would end the shell and leave the rest.
trap 'exit 130' INT TERM

# --- the base: what a distroless image has, from Debian's packages
mkdir -p "$dir/debs" "$dir/base" "$dir/context/data"
chmod 755 "$dir"
(cd "$dir/debs" && apt-get -qq download libc6 libgcc-s1 ca-certificates 2>"$dir/apt") || fail "$(cat "$dir/apt")"
for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir/base"; done
mkdir -p "$dir/base/etc/ssl/certs" "$dir/base/tmp" "$dir/base/dev" "$dir/base/proc"
chmod 1777 "$dir/base/tmp"
cat "$dir"/base/usr/share/ca-certificates/mozilla/*.crt >"$dir/base/etc/ssl/certs/ca-certificates.crt"
base=$(store from scratch)
store copy -q "$base" "$dir/base" / >/dev/null
store commit -q "$base" localhost/base >/dev/null

# --- the image
strip -o "$dir/context/claudemesh-broker" "$broker" 2>/dev/null || cp "$broker" "$dir/context/claudemesh-broker"
store build -q --isolation chroot --format docker --pull-never -f deploy/Dockerfile \
    --build-arg BINARY=given --build-arg BASE=localhost/base --build-arg GIT_SHA=test \
    -t localhost/claudemesh-broker "$dir/context" >"$dir/id" || fail "the image does not build"
store inspect --type image localhost/claudemesh-broker >"$dir/image.json"
python3 - "$dir/image.json" <<'PY' || fail "the image's settings are not as promised"
import json, sys
config = json.load(open(sys.argv[1]))["Docker"]["config"]
program = "/usr/local/bin/claudemesh-broker"
assert config["User"] == "65532:65532", config["User"]
assert config["Entrypoint"] == [program] and config["Cmd"] == ["serve"], config
assert config["Healthcheck"]["Test"] == ["CMD", program, "health"], config["Healthcheck"]
assert config["StopSignal"] == "SIGTERM", config
assert "/data" in config["Volumes"] and "7900/tcp" in config["ExposedPorts"], config
assert "GIT_SHA=test" in config["Env"] and "DATA_DIR=/data" in config["Env"], config["Env"]
assert config["Labels"]["org.opencontainers.image.revision"] == "test", config["Labels"]
PY

# --- its root
container=$(store from localhost/claudemesh-broker)
root=$(store mount "$container")
[ "$(stat -c %u:%g "$root/data")" = "$uid:$uid" ] || fail "/data is $(stat -c %u:%g "$root/data")"
[ "$(stat -c %u "$root")" = 0 ] || fail "the root folder is not root's"
[ "$(stat -c %u "$root/usr/local/bin/claudemesh-broker")" = 0 ] || fail "the program is not root's"
for shell in bin/sh bin/bash usr/bin/sh bin/busybox; do
    [ ! -e "$root/$shell" ] || fail "there is a shell: /$shell"
done

# --- as a container runs it: first process of its PID namespace, root read-only but for /data
mkdir "$dir/root" "$dir/data"
chown "$uid:$uid" "$dir/data"
program=/usr/local/bin/claudemesh-broker
# Always in a subshell: by exec, so that $! is `unshare` and its exit code the broker's.
run() {
    exec env -i PATH="$PATH" DATA_DIR=/data NODE_ENV=production GIT_SHA=test \
        BIND_ADDR=127.0.0.1 BROKER_PORT="$port" \
        unshare --mount --pid --fork --kill-child sh -eu -c '
            mount --bind "$1" "$2"
            mount --bind "$3" "$2/data"
            mount -t proc proc "$2/proc"
            mount -o remount,bind,ro "$2"
            root=$2
            shift 3
            exec chroot --userspec=65532:65532 "$root" "$@"' sh "$root" "$dir/root" "$dir/data" "$@"
}

run "$program" serve >"$dir/log" 2>&1 &
pid=$!
tries=0
until curl -fs -o /dev/null "http://127.0.0.1:$port/health/ready"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "not ready after 20 s"
    kill -0 "$pid" 2>/dev/null || fail "the broker ended"
    sleep 0.2
done
(run "$program" mesh create demo --members 2 --json) >"$dir/mesh.json" || fail "mesh create"
"$load" burst --mesh "$dir/mesh.json" --url "ws://127.0.0.1:$port/ws" --peers 2 --messages 1 >"$dir/burst" ||
    fail "$(cat "$dir/burst")"
(run "$program" health) || fail "health says no while the broker runs"

first=$(pgrep -P "$pid")
grep -q '^NSpid:.*[[:space:]]1$' "/proc/$first/status" || fail "the broker is not PID 1 of its namespace"
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$first/status")" = "$uid" ] || fail "the broker runs as another user"
[ "$(awk '/^CapEff:/ { print $2 }' "/proc/$first/status")" = 0000000000000000 ] || fail "the broker has capabilities"
kill -TERM "$first"
code=0
wait "$pid" || code=$?
pid=""
[ "$code" -eq 0 ] || fail "exit code $code after SIGTERM"
(run "$program" health) >/dev/null 2>&1 && fail "health says yes after the broker ended"
[ "$(stat -c %u "$dir/data/claudemesh.sqlite")" = "$uid" ] || fail "the data are not the user's"
[ -z "$(find "$root" -newer "$dir/id" -type f)" ] || fail "something was written outside of /data"
echo "test-image: built, first message, health, read-only root, SIGTERM and exit 0"
