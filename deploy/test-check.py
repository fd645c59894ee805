#!/usr/bin/env python3
"""Breaks one thing after the other in a copy, and expects check.py to complain of each."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# File, what is there, what is put there instead.
MISTAKES = [
    ("fly.toml", "kill_timeout = 30", "kill_timeout = 12"),
    ("fly.toml", "NODE_ENV =", "NODE_ENVV ="),
    ("fly.toml", "internal_port = 7900", "internal_port = 8080"),
    ("fly.toml", "hard_limit = 5000", "hard_limit = 25"),
    ("fly.toml", '"SIGTERM"', '"SIGINT"'),
    ("fly.toml", 'interval = "2s"', 'interval = "15s"'),
    ("fly.toml", "[[http_service.checks]]", "[checks.ready]"),
    ("compose.yaml", "stop_grace_period: 30s", "stop_grace_period: 10s"),
    ("compose.yaml", "NODE_ID: c", "NODE_ID: a"),
    ("compose.yaml", "CLUSTER_SECRET: $", "CLUSTER_SECRETT: $"),
    ("compose.yaml", "${PUBLISH", "${PUBLISHED"),
    ("haproxy.cfg", "timeout tunnel 90s", "timeout tunnel 60s"),
    ("haproxy.cfg", "X-Client-Address %", "X-Real-IP %"),
    ("haproxy.cfg", "inter 1s fall 2", "inter 2s fall 3"),
    ("haproxy.cfg", "node-c:7900", "node-d:7900"),
    ("Dockerfile", "USER 65532:65532", "USER root"),
    ("Dockerfile", "--locked -p claudemesh-broker\n", "-p claudemesh-broker\n"),
    ("Dockerfile", "rust:1.95.0", "rust:1.80.0"),
    ("k8s/deployment.yaml", "terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 20"),
    ("k8s/deployment.yaml", "enableServiceLinks: false", "enableServiceLinks: true"),
    ("k8s/deployment.yaml", "        runAsNonRoot: true\n", ""),
    ("k8s/deployment.yaml", "path: /health/ready", "path: /health"),
    ("k8s/configmap.yaml", "BROKER_WS_URL:", "BROKER_WSS_URL:"),
    ("k8s/kustomization.yaml", "  - pdb.yaml\n", ""),
    ("k8s/pdb.yaml", "name: claudemesh-broker", "name: broker"),
    ("k8s/monitoring/prometheusrule.yaml", "broker_db_healthy", "broker_db_well"),
    ("systemd/claudemesh-broker.service", "TimeoutStopSec=30", "TimeoutStopSec=10"),
    ("systemd/broker.env.example", "BIND_ADDR=", "BIND_ADDRESS="),
    ("README.md", "(fly.md)", "(flyy.md)"),
]


def check(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, root / "deploy/check.py"], capture_output=True, text=True)


def main() -> int:
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        # Links from the page lead out of deploy/, so the copy has what is around it.
        root = Path(folder, "tree")
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("target", ".git", "data"))
        if (clean := check(root)).returncode != 0:
            print(f"test-check: not clean to begin with:\n{clean.stdout}{clean.stderr}")
            return 1
        for name, there, instead in MISTAKES:
            path = root / "deploy" / name
            text = path.read_text()
            if there not in text:
                missed.append(f"{name}: there is no {there!r} to break")
                continue
            path.write_text(text.replace(there, instead))
            run = check(root)
            # A complaint, not a crash.
            if run.returncode != 1 or "deploy/check.py:" not in run.stdout:
                missed.append(f"{name}: {there!r} became {instead!r}, unnoticed\n{run.stderr}")
            path.write_text(text)
    print("\n".join(f"test-check: {line}" for line in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
