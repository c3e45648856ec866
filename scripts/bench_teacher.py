#!/usr/bin/env python3
"""Measures `foundry generate` with the `openai` teacher against the mock: answers a second, and memory over time.

    cargo build --release -p distillix --bin distillix --example mock_teacher
    python3 scripts/bench_teacher.py --seconds 60

The mock waits LATENCY before each answer, so that IN_FLIGHT requests are under way all the time. Prints one line of JSON.
Exits with 1 if a target is missed: 1,000 answers a second, also in the slowest ten seconds, below 200 MB at the peak, and less than 20 MB
more at the end than after a quarter of the time.
"""
import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parent.parent / "target")) / "release"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=int, default=100, help="milliseconds that the mock takes for an answer")
    parser.add_argument("--program", default=TARGET / "distillix")
    parser.add_argument("--mock", default=TARGET / "examples" / "mock_teacher")
    return parser.parse_args()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident(pid):
    """Resident memory of a process in MB, or None once it has ended."""
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout
    return int(shown) / 1024 if shown.strip() else None


def wait_for(port):
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("the mock does not listen")


def measure(run, seconds):
    """(seconds, answers) and (seconds, MB) over the run, which is asked to end after `seconds` of answers."""
    answers, memory = [], []

    def watch():
        while (size := resident(run.pid)) is not None:
            memory.append((time.monotonic(), size))
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()
    begin, end = None, {}
    for line in run.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and len(answers) == 0 and event["done"] > 0:
            begin = time.monotonic()
        if event["event"] == "progress" and begin is not None:
            answers.append((time.monotonic() - begin, event["done"]))
            if answers[-1][0] >= seconds and not end:
                end = {"asked": True}
                run.send_signal(signal.SIGINT)
        if event["event"] == "end":
            end = event
    # 130 is what it says when it was stopped, which it was.
    if run.wait() not in (0, 130) or begin is None:
        sys.exit(f"the run failed: {run.returncode}")
    return answers, [(at - begin, size) for at, size in memory], end


def slowest(answers, window):
    """The fewest answers a second within any `window` seconds."""
    rates = []
    for at, done in answers:
        later = next(((t, d) for t, d in answers if t >= at + window), None)
        if later:
            rates.append((later[1] - done) / (later[0] - at))
    return min(rates, default=None)


def main():
    args = arguments()
    port = free_port()
    # As many as the mock could answer in that time, so that the prompts do not run out.
    prompts = int((args.seconds + 10) * args.in_flight * 1000 / max(args.latency, 10))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with open(folder / "prompts.jsonl", "w") as file:
            for number in range(prompts):
                file.write(json.dumps({"prompt": f"Write a Python function that adds {number} to its argument."}) + "\n")
        mock = subprocess.Popen([args.mock, str(port), str(args.latency)], stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            command = [args.program, "foundry", "generate", "--prompts", folder / "prompts.jsonl", "--json"]
            command += ["--teacher", f"openai:http://127.0.0.1:{port}/v1#mock", "--concurrency", str(args.in_flight)]
            command += ["--output", folder / "out.jsonl"]
            run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            answers, memory, end = measure(run, args.seconds)
        finally:
            mock.kill()
    during = [(at, size) for at, size in memory if at <= args.seconds]
    early = max((size for at, size in during if at <= args.seconds / 4), default=0)
    last = during[-1][1]
    within = [(at, done) for at, done in answers if at <= args.seconds + 1]
    report = {
        "seconds": round(within[-1][0], 1),
        "answers": within[-1][1],
        "answers_per_second": round((within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0]), 1),
        "slowest_10_seconds": slowest(within, min(10, args.seconds / 2)),
        "in_flight": args.in_flight,
        "failed": end["status"]["failed"],
        "mb_after_a_quarter": round(early, 1),
        "mb_at_the_end": round(last, 1),
        "mb_peak_with_writing": round(max(size for _, size in memory), 1),
        "records_written": end["records"],
    }
    print(json.dumps(report))
    rate = min(report["answers_per_second"], report["slowest_10_seconds"] or 0)
    good = rate >= 1000 and report["mb_peak_with_writing"] < 200 and last - early < 20 and not report["failed"]
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
