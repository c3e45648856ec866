#!/usr/bin/env python3
"""How fast the foundry drives an OpenCode server, beside bare calls to the same server.

    npm install opencode-ai
    cargo build --release -p distillix --bin distillix --example mock_teacher
    python3 scripts/bench_opencode.py node_modules/.bin/opencode target/release [--sessions 1,8,16] [--rounds 3]

The server asks the mock teacher, which answers at once, so that what is measured is the server and whoever calls it. A bare
call is what no client can leave out: make a session, send a message, delete the session. Bare calls and the foundry take turns,
each time with prompts that are new, for about --seconds.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("opencode", type=pathlib.Path)
    arguments.add_argument("target", type=pathlib.Path, help="folder with distillix and examples/mock_teacher")
    arguments.add_argument("--sessions", default="1,8,16")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=25)
    options = arguments.parse_args()
    target = options.target.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        teacher_port, port = free_port(), free_port()
        processes = []
        try:
            with open(folder / "server.log", "wb") as log:
                teacher = [target / "examples" / "mock_teacher", str(teacher_port)]
                processes.append(subprocess.Popen(teacher, stdout=log, stderr=log))
                processes.append(start_opencode(options.opencode.resolve(), folder, port, teacher_port, log))
            wait_until_healthy(port, processes, folder / "server.log")
            bare(port, 1, 12, "warm-up")
            for sessions in map(int, options.sessions.split(",")):
                measure(target / "distillix", folder, port, sessions, options)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def measure(program, folder, port, sessions, options):
    """Rounds of both with so many sessions at a time."""
    rate = bare(port, sessions, 4 * sessions + 8, f"trial {sessions}")
    total = round(rate * options.seconds)
    pairs = []
    for round_ in range(options.rounds):
        tag = f"{sessions}-{round_}"
        turns = [
            lambda: bare(port, sessions, total, f"bare {tag}"),
            lambda: foundry(program, folder, port, sessions, total, f"foundry {tag}"),
        ]
        if round_ % 2:
            pairs.append(tuple(reversed([turn() for turn in reversed(turns)])))
        else:
            pairs.append(tuple(turn() for turn in turns))
    ratios = [ours / theirs for theirs, ours in pairs]
    listed = lambda numbers: ", ".join(f"{number:.1f}" for number in numbers)
    print(
        f"{sessions:2} sessions, {total} messages: bare {listed(p[0] for p in pairs)}; foundry {listed(p[1] for p in pairs)} a second;"
        f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_opencode(program, folder, port, teacher_port, log):
    config = {
        "autoupdate": False, "share": "disabled", "snapshot": False, "lsp": False, "formatter": False,
        "enabled_providers": ["local"], "model": "local/mock", "small_model": "local/mock",
        "provider": {"local": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"http://127.0.0.1:{teacher_port}/v1", "apiKey": "none"},
            "models": {"mock": {"limit": {"context": 4096, "output": 512}, "cost": {"input": 1, "output": 2}}},
        }},
        "agent": {"teacher": {"mode": "primary", "prompt": "You teach.", "tools": {"*": False}, "permission": {"*": "deny"}}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "home").mkdir()
    environment = dict(os.environ, HOME=str(folder / "home"), OPENCODE_CONFIG=str(folder / "config.json"))
    environment.pop("OPENCODE_SERVER_PASSWORD", None)
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        environment[f"XDG_{name}_HOME"] = str(folder / name.lower())
    for name in ("MODELS_FETCH", "AUTOUPDATE", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "PROJECT_CONFIG", "CLAUDE_CODE"):
        environment[f"OPENCODE_DISABLE_{name}"] = "1"
    command = [program, "serve", "--hostname", "127.0.0.1", "--port", str(port), "--pure"]
    return subprocess.Popen(command, cwd=folder / "home", env=environment, stdout=log, stderr=log)


def wait_until_healthy(port, processes, log):
    for _ in range(120):
        if all(process.poll() is None for process in processes):
            try:
                call(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/global/health")
                return
            except OSError:
                time.sleep(0.5)
    sys.exit(f"the servers do not start:\n{log.read_text(errors='replace')}")


def call(connection, method, path, body=None):
    headers = {"content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise OSError(f"{path}: {response.status} {data[:200]}")
    return json.loads(data)


def bare(port, sessions, total, tag):
    """Messages a second without the foundry."""
    left, lock, errors = list(range(total)), threading.Lock(), []

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                if not left or errors:
                    return
                number = left.pop()
            try:
                session = call(connection, "POST", "/session", {"title": "bench"})["id"]
                message = {
                    "model": {"providerID": "local", "modelID": "mock"}, "agent": "teacher", "tools": {"*": False},
                    "parts": [{"type": "text", "text": f"Write function {number} of {tag}."}],
                }  # fmt: skip
                reply = call(connection, "POST", f"/session/{session}/message", message)
                if reply["info"].get("error"):
                    raise OSError(str(reply["info"]["error"]))
                call(connection, "DELETE", f"/session/{session}")
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(sessions)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        sys.exit(f"bare calls: {errors[0]}")
    return total / (time.monotonic() - begin)


def foundry(program, folder, port, sessions, total, tag):
    """Messages a second of the foundry, from its start to its end."""
    prompts, output = folder / "prompts.jsonl", folder / f"{tag}.jsonl".replace(" ", "-")
    prompts.write_text("".join(json.dumps({"prompt": f"Write function {n} of {tag}."}) + "\n" for n in range(total)))
    teacher = f"opencode:http://127.0.0.1:{port}#local/mock"
    command = [program, "foundry", "generate", "--prompts", prompts, "--teacher", teacher, "--output", output]
    begin = time.monotonic()
    done = subprocess.run(command + ["--concurrency", str(sessions)], capture_output=True, text=True)
    seconds = time.monotonic() - begin
    if done.returncode or not re.search(rf"{total} of {total} answered", done.stdout + done.stderr):
        sys.exit(f"the foundry: {done.stdout}{done.stderr}")
    return total / seconds


main()
