#!/usr/bin/env python3
"""Runs the built-in curriculum: JSON lines of `cargo run --example builtin` on standard input.

Every accepted body is executed with the example's arguments and must return what the independent reference
returns, leave its arguments as they were, and be well-formed Python. Exits with 1 if one does not.

With `builtin completions COUNT RUN` a model's completions come too: those that match an accepted body must run as well
as it, and of the others it is counted how many run right although they are written differently.
"""
import collections
import functools
import heapq
import itertools
import json
import math
import operator
import re
import signal
import statistics
import sys

MODULES = {
    m.__name__: m for m in (collections, functools, heapq, itertools, math, operator, re, statistics)
}


def same(got, want):
    if isinstance(got, float) or isinstance(want, float):
        return isinstance(got, (int, float)) and math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-9)
    if type(got) is not type(want):
        return False
    if isinstance(got, dict):
        return list(map(repr, got.items())) == list(map(repr, want.items()))
    if isinstance(got, set):
        return got == want
    return repr(got) == repr(want)


def problem(example, body):
    space = {}
    exec(compile(example["prompt"] + body + "\n", "<example>", "exec"), space)
    functions = [v for k, v in space.items() if k != "__builtins__"]
    if len(functions) != 1:
        return "does not define exactly one function"
    reference = eval(example["reference"], dict(MODULES))
    for call in example["calls"]:
        args = eval(call)
        got = functions[0](*args)
        want = reference(*eval(call))
        if not same(got, want):
            return f"{call}: got {got!r}, want {want!r}"
        if repr(args) != repr(eval(call)):
            return f"{call}: changed its arguments"
    return None


def runs(example, body):
    """What is wrong with running the body, or None. A model's body may not end by itself."""
    def late(*_):
        raise TimeoutError("takes too long")
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        return problem(example, body)
    except (Exception, MemoryError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main():
    count = bad = 0
    completions = matching = otherwise = 0
    forms = set()
    for line in sys.stdin:
        example = json.loads(line)
        count += 1
        forms.add(example["form"])
        if example["response"] not in example["accepted"]:
            print("response not accepted:", example["form"])
            bad += 1
        for body in example["accepted"]:
            wrong = runs(example, body)
            if wrong:
                bad += 1
                if bad <= 20:
                    print(f"--- {example['form']}: {wrong}\n{example['prompt']}{body}\n{example['reference']}")
        completion = example.get("completion")
        if completion is None:
            continue
        completions += 1
        matches = completion.rstrip() in example["accepted"]
        wrong = runs(example, completion)
        matching += matches
        otherwise += not matches and not wrong
        if matches and wrong:
            bad += 1
            print(f"--- matches but does not run: {wrong}\n{example['prompt']}{completion}")
    if completions:
        print(f"{completions} completions: {matching} match and run, {otherwise} are written differently and run right")
    print(f"{count} examples of {len(forms)} forms, {bad} wrong")
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main())
