#!/usr/bin/env python3
"""Packs test and program binaries into one folder, to run on another machine with a GPU and no Rust.

    scripts/pack_tests.py FOLDER [arguments of cargo test, such as --release -p tensor]

Then, on that machine, `FOLDER/run` runs every test binary with DISTILLIX_REQUIRE_CUDA=1 and prints what passed;
`FOLDER/run NAME…` runs those whose name holds one of the words. Needs cargo, and strip if there is one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

RUN = r"""#!/bin/sh
# Runs the test binaries of this folder, or those whose name holds one of the arguments, and prints what passed.
here=$(cd "$(dirname "$0")" && pwd)
export DISTILLIX_REQUIRE_CUDA=1 CARGO_BIN_EXE_distillix="$here/programs/distillix"
failed=0
for test in "$here"/tests/*; do
    name=$(basename "$test")
    chosen=$([ $# -eq 0 ] && echo yes)
    for word in "$@"; do
        case $name in *"$word"*) chosen=yes ;; esac
    done
    [ "$chosen" ] || continue
    log="$here/logs/$name.log"
    mkdir -p "$here/logs"
    start=$(date +%s)
    # Where the tests look for their data, as under cargo.
    CARGO_MANIFEST_DIR="$here/data/${name%%--*}" "$test" >"$log" 2>&1
    status=$?
    result=$(grep '^test result' "$log" | tail -1)
    if [ $status -ne 0 ]; then
        failed=$((failed + 1))
        grep -E '^(test .* FAILED|thread .* panicked)' -A 2 "$log" | head -40
    fi
    echo "$name: ${result:-no result, exit status $status} ($(($(date +%s) - start)) s)"
done
[ $failed -eq 0 ] && echo "all passed" || echo "$failed binaries failed; see $here/logs"
exit $([ $failed -eq 0 ] && echo 0 || echo 1)
"""


def built(arguments):
    """Executables of a cargo command, as (package folder, target, kind, whether it is a test, path)."""
    command = ["cargo", *arguments, "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message.get("executable"):
            target = message["target"]
            folder = Path(message["manifest_path"]).parent.name
            yield folder, target["name"], target["kind"][0], message["profile"]["test"], message["executable"]


def put(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    if shutil.which("strip"):
        subprocess.run(["strip", target], check=True)


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    shutil.rmtree(folder, ignore_errors=True)
    for package, name, kind, is_test, path in built(["test", "--no-run", *arguments]):
        if is_test:
            name = name if kind == "test" else f"{kind}-unit"
            put(path, folder / "tests" / f"{package}--{name}")
            (folder / "data" / package).mkdir(parents=True, exist_ok=True)
    release = [a for a in arguments if a in ("--release", "-r")]
    for _, name, kind, is_test, path in built(["build", "-p", "distillix", "--bins", *release]):
        if kind == "bin" and not is_test:
            put(path, folder / "programs" / name)
    shutil.copytree(ROOT / "tests" / "goldens", folder / "data" / "tests" / "goldens", dirs_exist_ok=True)
    run = folder / "run"
    run.write_text(RUN)
    run.chmod(0o755)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    count = len(list((folder / "tests").iterdir()))
    print(f"{count} test binaries, {size / 2**20:.0f} MiB in {folder}")


if __name__ == "__main__":
    main()
