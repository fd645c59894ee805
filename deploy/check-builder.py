#!/usr/bin/env python3
"""Does the steps of the Dockerfile's builder stage on this machine, in a clean folder.

The stage itself needs a registry for its base image. What can go wrong in it besides that is
tried here: a file that .dockerignore leaves out, a manifest that was not copied, a dependency
that --locked refuses. It compiles everything twice over; some ten minutes on two cores.

    deploy/check-builder.py            does the steps
    deploy/check-builder.py --list     says what would be done and which files it would see
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def builder_steps(text: str) -> list[tuple[str, str]]:
    """Instructions of the stage called builder, continued lines joined, comments gone."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    steps, inside = [], False
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            inside = rest.endswith(" AS builder")
        elif inside:
            steps.append((word, rest))
    return steps


def context_files() -> list[str]:
    """Tracked files that .dockerignore lets in: all are out but for its `!` lines."""
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [
        file
        for file in tracked
        if any(file.startswith(rule + "/") or fnmatch.fnmatch(file, rule) for rule in kept)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="say what would be done")
    options = parser.parse_args()
    steps, files = builder_steps((ROOT / "deploy/Dockerfile").read_text()), context_files()

    for word, rest in steps:
        if word == "COPY":
            for source in rest.split()[:-1]:
                if not any(file == source or file.startswith(source + "/") for file in files):
                    print(f"check-builder: COPY {source}: .dockerignore leaves nothing of it")
                    return 1
        elif word not in ("ARG", "RUN", "WORKDIR"):
            print(f"check-builder: does not know the instruction {word}")
            return 1
    if options.list:
        print("\n".join(f"{word} {rest}" for word, rest in steps))
        print(f"{len(files)} files in the context")
        return 0

    with tempfile.TemporaryDirectory() as scratch:
        context, root = Path(scratch, "context"), Path(scratch, "root")
        for file in files:
            (context / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, context / file)
        # The image's toolchain is the image's; here it is whatever `rustc` is.
        environment = {**os.environ, "CARGO_TARGET_DIR": "target"}
        work = root
        for word, rest in steps:
            print(f"+ {word} {rest}", flush=True)
            if word == "WORKDIR":
                work = root / rest.lstrip("/")
                work.mkdir(parents=True, exist_ok=True)
            elif word == "ARG":
                # Nobody passes any here: the default.
                name, _, value = rest.partition("=")
                environment[name] = value
            elif word == "COPY":
                *sources, to = rest.split()
                for source in sources:
                    target = work / to / Path(source).name if to.endswith("/") else work / to
                    if (context / source).is_dir():
                        shutil.copytree(context / source, work / to, dirs_exist_ok=True)
                    else:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(context / source, target)
            else:
                # The stage writes to /out; here that is a folder beside /src.
                command = rest.replace("/out/", f"{root}/out/")
                subprocess.run(["sh", "-euc", command], cwd=work, check=True, env=environment)
        binary = root / "out/claudemesh-broker"
        print(f"check-builder: {binary.stat().st_size // 1_000_000} MB")
        subprocess.run([binary, "--version"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
