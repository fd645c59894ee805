#!/usr/bin/env python3
"""Starts what compose.yaml describes, without containers: the same processes with the same
settings, commands and haproxy.cfg, on free ports of this machine. Sends a first message through
haproxy, kills a node, sends another.

Needs python3-yaml, and the programs of Postgres, Redis (in Valkey's place) and haproxy:
    apt-get install --no-install-recommends python3-yaml postgresql redis-server haproxy
(test.sh of this repository installs the two servers without starting them.)

    deploy/test-compose.py --broker target/release/claudemesh-broker --loadtest target/release/loadtest
    --ipv6     everything on ::1, as on Fly.io's private network; by name, as there
"""

import argparse
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
SECRETS = {"POSTGRES_PASSWORD": "test", "CLUSTER_SECRET": "0123456789abcdef" * 2}


def interpolate(text: str, values: dict[str, str]) -> str:
    """${NAME}, ${NAME:-default} and ${NAME:?why}, as compose reads them."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.group(1), match.group(2), match.group(3)
        if values.get(name):
            return values[name]
        if kind == "?":
            raise SystemExit(f"{name}: {rest}")
        return rest or ""

    return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, text)


def example_settings() -> dict[str, str]:
    lines = (HERE / "compose.env.example").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value for name, value in pairs} | SECRETS


def with_ipv6_name(options: argparse.Namespace) -> None:
    """Goes on in a mount namespace whose /etc/hosts knows ip6-localhost, if this machine's does not."""
    try:
        socket.getaddrinfo("ip6-localhost", None, socket.AF_INET6)
    except OSError:
        if os.geteuid() != 0:
            raise SystemExit("/etc/hosts has no ip6-localhost") from None
        with tempfile.NamedTemporaryFile("w", prefix="hosts-", delete=False) as hosts:
            hosts.write(Path("/etc/hosts").read_text() + "\n::1 ip6-localhost\n")
        os.chmod(hosts.name, 0o644)
        script = 'mount --bind "$1" /etc/hosts && rm "$1"; shift; exec "$@"'
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, "sh", hosts.name,
                              sys.executable, *sys.argv])  # fmt: skip


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    for path in glob.glob(f"/usr/lib/postgresql/*/bin/{name}") if not found else []:
        found = path
    if not found:
        raise SystemExit(f"{name} is missing; {__file__} says how to install it")
    return found


class Stack:
    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        text = interpolate((HERE / "compose.yaml").read_text(), example_settings())
        self.services = yaml.safe_load(text)["services"]
        self.options, self.scratch = options, scratch
        self.host = "::1" if options.ipv6 else "127.0.0.1"
        self.inside: dict[str, int] = {"postgres": 5432, "valkey": 6379, "haproxy": 7900}
        self.nodes = [name for name in self.services if name.startswith("node-")]
        self.inside |= dict.fromkeys(self.nodes, 7900)
        self.ports = {name: self.free_port() for name in self.services}
        self.running: dict[str, subprocess.Popen] = {}

    def free_port(self) -> int:
        family = socket.AF_INET6 if self.options.ipv6 else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((self.host, 0))
            return probe.getsockname()[1]

    def address(self, service: str) -> str:
        # A name as on Fly.io: sqlx takes no [::1] in a database's URL.
        host = "ip6-localhost" if self.options.ipv6 else self.host
        return f"{host}:{self.ports[service]}"

    def local(self, text: str) -> str:
        """`service:port` becomes where that service is here."""
        for service, port in self.inside.items():
            text = re.sub(rf"\b{service}:{port}\b", self.address(service), text)
        return text

    def start(self, name: str, command: list[str], **more: object) -> None:
        log = (self.scratch / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, **more)

    def postgres(self) -> None:
        settings = self.services["postgres"]["environment"]
        data, password = self.scratch / "postgres", self.scratch / "password"
        password.write_text(settings["POSTGRES_PASSWORD"])
        data.mkdir()
        # Postgres refuses to run as root.
        user = {}
        if os.geteuid() == 0:
            who = pwd.getpwnam("postgres")
            user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
            for path in (data, password):
                os.chown(path, who.pw_uid, who.pw_gid)
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/", **user}
        subprocess.run(
            [program("initdb"), "-D", data, "-U", settings["POSTGRES_USER"], "-A", "scram-sha-256",
             "--pwfile", password, "-E", "UTF8", "--locale=C.UTF-8"], **quiet,
        )  # fmt: skip
        _, *arguments = self.services["postgres"]["command"]
        self.start("postgres", [
            program("postgres"), "-D", str(data), "-h", self.host, "-p", str(self.ports["postgres"]),
            "-k", "", *arguments,
        ], cwd="/", **user)  # fmt: skip
        self.database("postgres", "SELECT 1")
        self.database("postgres", f"CREATE DATABASE {settings['POSTGRES_DB']}")

    def database(self, name: str, statement: str) -> None:
        settings = self.services["postgres"]["environment"]
        command = [program("psql"), "-qtA", "-h", self.host, "-p", str(self.ports["postgres"]),
                   "-U", settings["POSTGRES_USER"], "-d", name, "-c", statement]  # fmt: skip
        environment = {**os.environ, "PGPASSWORD": settings["POSTGRES_PASSWORD"]}
        self.wait(
            f"Postgres: {statement}",
            lambda: subprocess.run(command, env=environment, capture_output=True).returncode == 0,
        )

    def valkey(self) -> None:
        _, *arguments = self.services["valkey"]["command"]
        self.start("valkey", [program("redis-server"), *arguments, "--bind", self.host,
                              "--port", str(self.ports["valkey"])], cwd=self.scratch)  # fmt: skip

    def environment(self, service: str) -> dict[str, str]:
        settings = {
            name: self.local(str(value))
            for name, value in self.services[service]["environment"].items()
        }
        bind = "::" if self.options.ipv6 else self.host
        return {**settings, "BROKER_PORT": str(self.ports[service]), "BIND_ADDR": bind}

    def node(self, name: str) -> None:
        # Nothing but what compose.yaml gives it: what is in the caller's environment stays out.
        self.start(name, [self.options.broker, "serve"], env=self.environment(name), cwd="/")

    def haproxy(self) -> None:
        config = self.local((HERE / "haproxy.cfg").read_text())
        config = config.replace("bind :7900", f"bind {self.host}:{self.ports['haproxy']}")
        # What the file asks for needs more open files than a shell usually allows.
        config = config.replace("maxconn 16000", "maxconn 1000")
        # Names are resolved by Docker; here there are none.
        config = re.sub(r"(?m)^resolvers docker\n(?: .*\n)+", "", config)
        config = config.replace(" resolvers docker", "")
        path = self.scratch / "haproxy.cfg"
        path.write_text(config)
        subprocess.run([program("haproxy"), "-c", "-q", "-f", path], check=True)
        self.start("haproxy", [program("haproxy"), "-db", "-f", str(path)])

    def get(self, service: str, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{self.address(service)}{path}", timeout=2) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            return 0

    def wait(self, what: str, condition) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended with {process.returncode} ({what})")
            if time.monotonic() > deadline:
                raise SystemExit(f"waited 40 s for {what}")
            time.sleep(0.2)

    def message(self, mesh: Path, *more: str) -> None:
        url = f"ws://{self.address('haproxy')}/ws"
        run = subprocess.run(
            [self.options.loadtest, "burst", "--mesh", mesh, "--url", url, "--peers", "6", "--messages", "1", *more],
            capture_output=True, text=True,
        )  # fmt: skip
        if run.returncode != 0:
            raise SystemExit(f"no message through haproxy:\n{run.stdout}{run.stderr}")

    def broker(self, *arguments: str) -> str:
        command = [self.options.broker, *arguments]
        return subprocess.run(
            command, env=self.environment(self.nodes[0]), check=True, capture_output=True, text=True
        ).stdout

    def stop(self) -> None:
        """Clients before servers: a node whose store is gone first would wait for it."""
        servers = {"postgres", "valkey"}
        for some in (set(self.running) - servers, servers):
            ending = {name: self.running[name] for name in some if name in self.running}
            for name, process in ending.items():
                # SIGINT is Postgres' way not to wait for its clients.
                process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            for process in ending.values():
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def exercise(self) -> None:
        self.postgres()
        self.valkey()
        for node in self.nodes:
            self.node(node)
        self.haproxy()
        for node in self.nodes:
            self.wait(f"{node} to be ready", lambda node=node: self.get(node, "/health/ready") == 200)
        self.wait("haproxy to see a node", lambda: self.get("haproxy", "/health/ready") == 200)
        if self.get("haproxy", "/metrics") != 404:
            raise SystemExit("haproxy shows /metrics to clients")

        mesh = self.scratch / "mesh.json"
        mesh.write_text(self.broker("mesh", "create", "demo", "--members", "6", "--json"))
        mesh.chmod(0o600)
        self.message(mesh)
        print("test-compose: first message through haproxy")

        victim = self.running.pop(self.nodes[0])
        victim.kill()
        victim.wait()
        self.message(mesh)
        print(f"test-compose: {self.nodes[0]} killed, second message through haproxy")

        # A planned stop: out of the balancer while it still accepts, then exit 0.
        if "--drain-accept-seconds" not in self.broker("--help"):
            print("test-compose: a planned stop is NOT CHECKED: no DRAIN_ACCEPT_SECONDS in this broker")
            return
        leaving = self.running.pop(self.nodes[1])
        leaving.terminate()
        self.message(mesh, "--retry")
        if leaving.wait(30) != 0:
            raise SystemExit(f"{self.nodes[1]} ended with {leaving.returncode} after SIGTERM")
        self.message(mesh)
        print(f"test-compose: {self.nodes[1]} stopped, messages meanwhile and after")


def main() -> int:
    parser = argparse.ArgumentParser(description="Tries the wiring of compose.yaml without containers.")
    parser.add_argument("--broker", required=True, type=os.path.abspath)
    parser.add_argument("--loadtest", required=True, type=os.path.abspath)
    parser.add_argument("--ipv6", action="store_true")
    options = parser.parse_args()
    if options.ipv6:
        with_ipv6_name(options)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # Postgres' user walks through it.
        scratch.chmod(0o711)
        stack = Stack(options, scratch)
        good = False
        try:
            stack.exercise()
            good = True
        finally:
            stack.stop()
            if not good:
                for log in sorted(scratch.glob("*.log")):
                    print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-20:]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
