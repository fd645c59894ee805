#!/usr/bin/env python3
"""Holds the files under deploy/ against README and against each other.

Whatever a platform is told must be true of the broker: each variable is a setting, each time-out
is longer than the drain, ports and limits are the same everywhere, nothing runs as root. Prints what
is wrong, one line each, and ends with 1.

    deploy/check.py                  reads the files; needs PyYAML
    deploy/check.py --tools DIR      and asks hadolint, kubernetes-validate, haproxy and k6; DIR has the
                                     programs of requirements.txt
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent
ROOT = DEPLOY.parent
K8S = DEPLOY / "k8s"
# The oldest with a native preStop.sleep, and the newest that is known.
KUBERNETES = ("1.30.0", "1.37.0")
# Sessions on one node: what has been measured, see loadtest/README.md.
CONNECTIONS = 5000
# How much longer a platform waits than a stop takes at most.
MARGIN = 5
USER = 65532

problems: list[str] = []


def must(good: object, complaint: str) -> None:
    if not good:
        problems.append(complaint)


def read(path: str) -> str:
    return (DEPLOY / path).read_text()


def document(path: str) -> dict:
    return yaml.safe_load(read(path))


# --- what README says of the broker


def settings() -> dict[str, str]:
    """Name and default of each row between README's markers."""
    table = (ROOT / "README.md").read_text().split("<!-- settings:begin -->")[1]
    table = table.split("<!-- settings:end -->")[0]
    return dict(re.findall(r"(?m)^\| `([A-Z0-9_]+)` \| (.*?) \|", table))


SETTINGS = settings()


def seconds(name: str, otherwise: int) -> int:
    found = re.search(r"\d+", SETTINGS.get(name, ""))
    return int(found.group()) if found else otherwise


# Until README has DRAIN_ACCEPT_SECONDS, its promised default counts.
ACCEPT, DRAIN = seconds("DRAIN_ACCEPT_SECONDS", 4), seconds("DRAIN_SECONDS", 8)
STOP = ACCEPT + DRAIN
PORT = seconds("BROKER_PORT", 7900)


def known(where: str, names: object) -> None:
    for name in names:
        must(name in SETTINGS, f"{where}: {name} is no setting of README's table")


def stops_in_time(where: str, waits: float, before: int = 0) -> None:
    must(
        waits >= before + STOP + MARGIN,
        f"{where}: waits {waits:g} s; a stop takes {before} + {ACCEPT} + {DRAIN} s and wants {MARGIN} to spare",
    )


def notices_in_time(where: str, interval: float, failures: int) -> None:
    must(
        interval * failures <= ACCEPT,
        f"{where}: {failures} checks {interval:g} s apart are longer than DRAIN_ACCEPT_SECONDS ({ACCEPT})",
    )


def duration(text: str | int) -> float:
    """`30`, `30s`, `500ms`, `2m`."""
    value, unit = re.fullmatch(r"(\d+)(ms|s|m)?", str(text)).groups()
    return int(value) * {"ms": 0.001, "s": 1, "m": 60, None: 1}[unit]


def env_file(text: str) -> list[str]:
    return re.findall(r"(?m)^#?([A-Z0-9_]+)=", text)


# --- one function for each way to run it


def dockerfile() -> None:
    text = read("Dockerfile")
    last = text[text.rindex("\nFROM ") :]
    must(f"USER {USER}:{USER}" in last, "Dockerfile: the last stage does not run as 65532")
    must("STOPSIGNAL SIGTERM" in last, "Dockerfile: no STOPSIGNAL SIGTERM")
    must(f"EXPOSE {PORT}" in last, f"Dockerfile: does not expose {PORT}")
    must(re.search(r'CMD \["\S+/claudemesh-broker", "health"\]', last), "Dockerfile: HEALTHCHECK is not `health`")
    must('ENTRYPOINT ["/usr/local/bin/claudemesh-broker"]' in last, "Dockerfile: the entrypoint is not the program")
    must("RUN" not in re.findall(r"(?m)^\w+", last), "Dockerfile: the last stage has no shell to RUN in")
    builds = re.findall(r"cargo build[^\n]*", text)
    must(len(builds) == 2, "Dockerfile: expected two builds, dependencies and source")
    must(all("--locked" in build for build in builds), "Dockerfile: a build without --locked")
    known("Dockerfile", re.findall(r"(?m)^(?:ENV| {4}) *([A-Z_]+)=", last))
    toolchain = re.search(r"rust:(\d+\.\d+)", text).group(1)
    wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    must(
        tuple(map(int, toolchain.split("."))) >= tuple(map(int, wanted.split("."))),
        f"Dockerfile: Rust {toolchain} is older than Cargo.toml's rust-version {wanted}",
    )
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    for member in members:
        must(f"COPY {member}/Cargo.toml {member}/" in text, f"Dockerfile: lacks the manifest of {member}")
        must(f"!{member}/Cargo.toml" in (ROOT / ".dockerignore").read_text(), f".dockerignore: leaves {member} out")


def compose() -> None:
    services = document("compose.yaml")["services"]
    nodes = {name: service for name, service in services.items() if name.startswith("node-")}
    must(len(nodes) == 3, "compose.yaml: not three nodes")
    ids = [service["environment"]["NODE_ID"] for service in nodes.values()]
    must(len(set(ids)) == len(ids), "compose.yaml: two nodes with one NODE_ID")
    for name, service in nodes.items():
        known(f"compose.yaml: {name}", service["environment"])
        stops_in_time(f"compose.yaml: {name}", duration(service["stop_grace_period"]))
        must(service["read_only"] and service["cap_drop"] == ["ALL"], f"compose.yaml: {name} is not locked down")
        must("ports" not in service, f"compose.yaml: {name} is published; CLIENT_ADDRESS_HEADER is believed")
        must(service["ulimits"]["nofile"] > 2 * CONNECTIONS, f"compose.yaml: {name} has too few open files")
        must(service["environment"]["BROKER_PORT"] == str(PORT), f"compose.yaml: {name} listens elsewhere")
    for name, service in services.items():
        used = set(re.findall(r"\$\{(\w+)", yaml.safe_dump(service)))
        for variable in used - set(env_file(read("compose.env.example"))):
            must(False, f"compose.yaml: {name} uses {variable}, which compose.env.example lacks")
        must(":" in service["image"] or name in nodes, f"compose.yaml: {name} has an image without a version")
    known("compose.env.example", set(env_file(read("compose.env.example"))) - {"POSTGRES_PASSWORD", "PUBLISH"})
    for secret in ("CLUSTER_SECRET", "POSTGRES_PASSWORD"):
        must(re.search(rf"(?m)^{secret}=$", read("compose.env.example")), f"compose.env.example: has a {secret}")

    text = read("haproxy.cfg")
    servers = re.findall(r"(?m)^ +server \S+ ([\w-]+):(\d+)", text)
    must({(name, str(PORT)) for name in nodes} == set(servers), "haproxy.cfg: its servers are not compose.yaml's nodes")
    header = next(iter(nodes.values()))["environment"]["CLIENT_ADDRESS_HEADER"]
    must(f"set-header {header} %[src]" in text, f"haproxy.cfg: does not set {header}")
    must("option httpchk GET /health/ready" in text, "haproxy.cfg: does not ask /health/ready")
    check = re.search(r"inter (\S+) fall (\d+).* maxconn (\d+)", text)
    notices_in_time("haproxy.cfg", duration(check[1]), int(check[2]) + 1)
    must(int(check[3]) == CONNECTIONS, f"haproxy.cfg: a server takes {check[3]} connections, not {CONNECTIONS}")
    total = int(re.search(r"(?m)^ +maxconn (\d+)", text)[1])
    must(total >= len(nodes) * CONNECTIONS, "haproxy.cfg: takes fewer connections than its nodes")
    # The broker drops a silent peer after 75 s; a proxy that is faster would end good connections.
    must(duration(re.search(r"timeout tunnel (\S+)", text)[1]) > 75, "haproxy.cfg: timeout tunnel is below 75 s")


def systemd() -> None:
    unit = read("systemd/claudemesh-broker.service")
    value = lambda key: re.findall(rf"(?m)^{key}=(.*)$", unit)  # noqa: E731
    known("claudemesh-broker.service", [pair.split("=")[0] for line in value("Environment") for pair in line.split()])
    known("broker.env.example", env_file(read("systemd/broker.env.example")))
    stops_in_time("claudemesh-broker.service", duration(value("TimeoutStopSec")[0]))
    must(value("KillSignal") == ["SIGTERM"], "claudemesh-broker.service: does not stop with SIGTERM")
    must(int(value("LimitNOFILE")[0]) > 2 * CONNECTIONS, "claudemesh-broker.service: too few open files")
    must(value("User")[0] not in ("", "root"), "claudemesh-broker.service: runs as root")
    directory = f"/var/lib/{value('StateDirectory')[0]}"
    must(f"DATA_DIR={directory}" in unit, "claudemesh-broker.service: DATA_DIR is not its StateDirectory")
    must(directory in read("systemd/claudemesh.sysusers"), "claudemesh.sysusers: another home")


def fly() -> None:
    app = tomllib.loads(read("fly.toml"))
    service = app["http_service"]
    known("fly.toml", app["env"])
    for name, value in app["env"].items():
        must(isinstance(value, str), f"fly.toml: {name} is no string")
        must(not name.startswith("FLY_"), f"fly.toml: {name} is Fly.io's own")
    must(app["kill_signal"] == "SIGTERM", "fly.toml: kill_signal is not SIGTERM")
    stops_in_time("fly.toml", duration(app["kill_timeout"]))
    must(duration(app["kill_timeout"]) <= 300, "fly.toml: kill_timeout is above Fly.io's 300 s")
    ports = {app["env"]["BROKER_PORT"], str(service["internal_port"]), str(app["metrics"]["port"])}
    must(ports == {str(PORT)}, f"fly.toml: ports differ: {sorted(ports)}")
    must(app["metrics"]["path"] == "/metrics", "fly.toml: metrics are at /metrics")
    must(service["auto_stop_machines"] == "off", "fly.toml: auto_stop_machines is not off")
    must(service["min_machines_running"] >= 2, "fly.toml: fewer than two machines")
    limits = service["concurrency"]
    must(limits["type"] == "connections", "fly.toml: concurrency is not by connections")
    must(limits["hard_limit"] == CONNECTIONS, f"fly.toml: hard_limit is not {CONNECTIONS}")
    must(limits["soft_limit"] < limits["hard_limit"], "fly.toml: soft_limit is not below hard_limit")
    must("checks" not in app, "fly.toml: top-level checks do not route")
    checks = service["checks"]
    must([check["path"] for check in checks] == ["/health/ready"], "fly.toml: does not check /health/ready")
    notices_in_time("fly.toml", duration(checks[0]["interval"]), 2)
    deploy = app["deploy"]
    must(deploy["release_command"] == "migrate", "fly.toml: release_command is not migrate")
    must((deploy["strategy"], deploy["max_unavailable"]) == ("rolling", 1), "fly.toml: not one machine at a time")
    must(app["env"]["BIND_ADDR"] == "::", "fly.toml: does not listen on ::")
    must(app["env"]["CLIENT_ADDRESS_HEADER"] == "Fly-Client-IP", "fly.toml: CLIENT_ADDRESS_HEADER is not Fly-Client-IP")
    must(app["app"] in app["env"]["BROKER_WS_URL"], "fly.toml: BROKER_WS_URL is another app's")
    must((DEPLOY / app["build"]["dockerfile"]).exists(), "fly.toml: no such dockerfile")
    valkey = tomllib.loads(read("fly-valkey.toml"))
    must(valkey["primary_region"] == app["primary_region"], "fly-valkey.toml: is in another region")
    must(f"{valkey['app']}.internal:6379" in read("fly.md"), "fly.md: REDIS_URL is not of fly-valkey.toml's app")


def pod(where: str, spec: dict) -> dict:
    """What holds of every pod of ours; its only container."""
    container = spec["containers"][0]
    both = {**spec["securityContext"], **container["securityContext"]}
    must(both["runAsNonRoot"] and both["runAsUser"] == USER, f"{where}: does not run as {USER}")
    must(both["readOnlyRootFilesystem"], f"{where}: the root can be written to")
    must(not both["allowPrivilegeEscalation"], f"{where}: may gain privileges")
    must(both["capabilities"]["drop"] == ["ALL"], f"{where}: keeps capabilities")
    must(both["seccompProfile"]["type"] == "RuntimeDefault", f"{where}: no seccomp profile")
    must(spec["enableServiceLinks"] is False, f"{where}: a Service called `broker` would set BROKER_PORT")
    must(spec["automountServiceAccountToken"] is False, f"{where}: mounts a token")
    must(spec["serviceAccountName"] == document("k8s/serviceaccount.yaml")["metadata"]["name"], f"{where}: whose account?")
    sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
    must(sources == ["broker", "broker"], f"{where}: does not read the ConfigMap and the Secret")
    known(where, [variable["name"] for variable in container.get("env", [])])
    return container


def kubernetes() -> None:
    listed = set()
    for folder in ("k8s", "k8s/migrate", "k8s/monitoring"):
        resources = document(f"{folder}/kustomization.yaml")["resources"]
        listed |= {f"{folder}/{name}" for name in resources}
    present = {str(path.relative_to(DEPLOY)) for path in K8S.rglob("*.yaml")}
    present -= {name for name in present if name.endswith(("kustomization.yaml", "secret.example.yaml"))}
    must(listed == present, f"k8s: kustomizations and files differ: {sorted(listed ^ present)}")
    for name in sorted(present | {"k8s/secret.example.yaml"}):
        must(len(list(yaml.safe_load_all(read(name)))) == 1, f"{name}: more than one object")
        meta = document(name)["metadata"]
        must(meta.get("namespace", meta["name"]) == "claudemesh", f"{name}: is in another namespace")

    config, secret = document("k8s/configmap.yaml")["data"], document("k8s/secret.example.yaml")["stringData"]
    known("k8s/configmap.yaml", [*config, *re.findall(r"(?m)^  # ([A-Z_]+):", read("k8s/configmap.yaml"))])
    known("k8s/secret.example.yaml", secret)
    for name, value in (config | secret).items():
        must(isinstance(value, str), f"k8s: {name} is no string")
    must(set(secret) >= {"DATABASE_URL", "REDIS_URL", "CLUSTER_SECRET"}, "k8s/secret.example.yaml: lacks one of three")
    must(not set(config) & set(secret), "k8s: a setting is in the ConfigMap and in the Secret")

    deployment = document("k8s/deployment.yaml")["spec"]
    spec = deployment["template"]["spec"]
    container = pod("k8s/deployment.yaml", spec)
    labels = deployment["selector"]["matchLabels"]
    must(deployment["template"]["metadata"]["labels"].items() >= labels.items(), "k8s/deployment.yaml: labels differ")
    must(deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, "k8s/deployment.yaml: surge 1, unavailable 0")
    must("replicas" not in deployment, "k8s/deployment.yaml: `replicas` would undo the HorizontalPodAutoscaler")
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    stops_in_time("k8s/deployment.yaml", spec["terminationGracePeriodSeconds"], before)
    port = container["ports"][0]
    must(str(port["containerPort"]) == config["BROKER_PORT"] == str(PORT), "k8s/deployment.yaml: ports differ")
    paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    wanted = {"startupProbe": "/health", "readinessProbe": "/health/ready", "livenessProbe": "/health"}
    must(paths == wanted, f"k8s/deployment.yaml: probes are {paths}")
    ready, startup = container["readinessProbe"], container["startupProbe"]
    notices_in_time("k8s/deployment.yaml", ready["periodSeconds"], ready["failureThreshold"])
    must(startup["periodSeconds"] * startup["failureThreshold"] >= 120, "k8s/deployment.yaml: no time for migrations")
    node_id = [variable for variable in container["env"] if variable["name"] == "NODE_ID"]
    must(node_id and node_id[0]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name", "k8s/deployment.yaml: NODE_ID is not the pod's name")
    keys = {spread["topologyKey"] for spread in spec["topologySpreadConstraints"]}
    must(len(keys) == 2, "k8s/deployment.yaml: spread over zones and machines")
    for name, found in {
        "service": document("k8s/service.yaml")["spec"]["selector"],
        "pdb": document("k8s/pdb.yaml")["spec"]["selector"]["matchLabels"],
        "networkpolicy": document("k8s/networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"],
        "monitoring/podmonitor": document("k8s/monitoring/podmonitor.yaml")["spec"]["selector"]["matchLabels"],
    }.items():
        must(found == labels, f"k8s/{name}.yaml: selects {found}, not the Deployment's pods")
    must(document("k8s/service.yaml")["spec"]["ports"][0]["targetPort"] == port["name"], "k8s/service.yaml: no such port")
    policy = document("k8s/networkpolicy.yaml")["spec"]
    must(policy["ingress"][0]["ports"][0]["port"] == PORT, "k8s/networkpolicy.yaml: lets another port in")

    autoscaler = document("k8s/hpa.yaml")["spec"]
    metric = autoscaler["metrics"][0]["pods"]
    must(autoscaler["scaleTargetRef"]["name"] == document("k8s/deployment.yaml")["metadata"]["name"], "k8s/hpa.yaml: scales something else")
    must(int(metric["target"]["averageValue"]) < CONNECTIONS, "k8s/hpa.yaml: grows only when nodes are full")
    must(autoscaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 600, "k8s/hpa.yaml: scales down fast")
    must(autoscaler["minReplicas"] >= 2, "k8s/hpa.yaml: one node alone survives nothing")

    job = document("k8s/migrate/job.yaml")["spec"]["template"]
    must(pod("k8s/migrate/job.yaml", job["spec"])["args"] == ["migrate"], "k8s/migrate/job.yaml: does not migrate")
    must(not job["metadata"]["labels"].items() >= labels.items(), "k8s/migrate/job.yaml: the Service would send clients to it")
    images = [document(f"k8s/{folder}kustomization.yaml")["images"] for folder in ("", "migrate/")]
    must(images[0] == images[1], "k8s: the Job runs another image than the Deployment")

    source = "\n".join(path.read_text() for path in (ROOT / "broker/src").rglob("*.rs"))
    names = {metric["metric"]["name"]}
    for group in document("k8s/monitoring/prometheusrule.yaml")["spec"]["groups"]:
        for rule in group["rules"]:
            must({"expr", "for", "labels", "annotations"} <= set(rule), f"prometheusrule.yaml: {rule['alert']} lacks a part")
            names |= set(re.findall(r"broker_\w+", rule["expr"]))
    for name in names:
        must(f'"{name.removesuffix("_bucket")}"' in source, f"k8s: the broker has no metric {name}")


def everything_is_told() -> None:
    page = read("README.md")
    for path in sorted(DEPLOY.iterdir()):
        if path.name not in ("README.md", "requirements.txt"):
            must(path.name in page, f"README.md: does not mention {path.name}")
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        must((DEPLOY / target).exists(), f"README.md: links to {target}, which is not there")


# --- what other programs say


def ask(*command: object) -> None:
    run = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    if run.returncode != 0:
        problems.append(f"{Path(command[0]).name}: {(run.stdout + run.stderr).strip()}")


def tools(folder: Path) -> None:
    ask(folder / "hadolint", "deploy/Dockerfile")
    objects = [path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml" and path.parent.name != "monitoring"]
    for version in KUBERNETES:
        ask(folder / "kubernetes-validate", "--strict", "--quiet", "-k", version, *sorted(objects))
    for script in ("steady", "storm", "presence", "fanout", "soak"):
        ask(folder / "k6", "inspect", f"loadtest/k6/{script}.js")
    if analyze := shutil.which("systemd-analyze"):
        # It looks for the program that the unit names: any that is there does.
        unit = read("systemd/claudemesh-broker.service").replace("/usr/local/bin/claudemesh-broker", sys.executable)
        copy = ROOT / "target/claudemesh-broker.service"
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(unit)
        ask(analyze, "verify", copy)
    else:
        print("deploy/check.py: systemd-analyze is not here; the unit's syntax is NOT CHECKED")


def main() -> int:
    parser = argparse.ArgumentParser(description="Holds the files under deploy/ against README and each other.")
    parser.add_argument("--tools", type=lambda path: Path(path).absolute(), help="where hadolint, kubernetes-validate and k6 are")
    options = parser.parse_args()
    checks = [dockerfile, compose, systemd, fly, kubernetes, everything_is_told]
    for check in checks:
        try:
            check()
        except (KeyError, IndexError, TypeError, AttributeError, FileNotFoundError) as gap:
            problems.append(f"{check.__name__}: something it looks for is not there: {gap!r}")
    if options.tools:
        tools(options.tools)
    for problem in problems:
        print(f"deploy/check.py: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
