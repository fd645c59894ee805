#!/usr/bin/env python3
"""Asks the broker itself, by `check-config`, whether it would start with the settings that each platform
gives it: values and not only names.

    deploy/test-settings.py BROKER
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent
# What the pages have people fill in.
SECRETS = {
    "DATABASE_URL": "postgres://claudemesh:x@db.example.org:5432/claudemesh",
    "REDIS_URL": "redis://default:x@claudemesh-valkey.internal:6379",
    "CLUSTER_SECRET": "0123456789abcdef" * 4,
}


def pairs(path: str) -> dict[str, str]:
    """NAME=value lines, those that are commented out included."""
    return dict(re.findall(r"(?m)^#?([A-Z0-9_]+)=(.*)$", (DEPLOY / path).read_text()))


def platforms() -> dict[str, dict[str, str]]:
    fly = tomllib.loads((DEPLOY / "fly.toml").read_text())["env"]
    config = yaml.safe_load((DEPLOY / "k8s/configmap.yaml").read_text())["data"]
    secret = yaml.safe_load((DEPLOY / "k8s/secret.example.yaml").read_text())["stringData"]
    unit = pairs("systemd/broker.env.example")
    return {
        "fly.toml": fly | SECRETS | {"FLY_MACHINE_ID": "148e21", "FLY_REGION": "fra"},
        "k8s": config | secret | {"CLUSTER_SECRET": SECRETS["CLUSTER_SECRET"], "NODE_ID": "broker-5d8f-x2"},
        "systemd": unit | {"CLUSTER_SECRET": SECRETS["CLUSTER_SECRET"]},
    }


def check(broker: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([broker, "check-config"], env=environment, capture_output=True, text=True)


def main() -> int:
    broker, code = str(Path(sys.argv[1]).absolute()), 0
    for name, environment in platforms().items():
        run = check(broker, environment)
        if run.returncode != 0:
            print(f"test-settings: {name}: {run.stdout}{run.stderr}")
            code = 1
    # A template that is applied as it stands must be refused.
    unfilled = yaml.safe_load((DEPLOY / "k8s/secret.example.yaml").read_text())["stringData"]
    if check(broker, unfilled).returncode == 0:
        print("test-settings: secret.example.yaml is accepted as it stands")
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
