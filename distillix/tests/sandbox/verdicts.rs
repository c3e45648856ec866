//! What the sandbox says of honest samples: right ones, wrong ones, and those that only look finished.

use super::{run_all, sandbox};
use distillix::foundry::sandbox::{Limits, Outcome, Sandbox, Verdict};
use std::time::Instant;

const ADD: &str = "def add(a, b):\n    return a + b\n";

fn judge(sandbox: &Sandbox, code: &str, tests: Option<&str>) -> Verdict {
    sandbox.run(code, tests, &Limits::default()).expect("the sandbox works")
}

#[test]
fn tests_decide() {
    let Some(sandbox) = sandbox(&[]) else { return };
    use Outcome::*;
    let class = "class Point:\n    def __init__(self, x): self.x = x\n";
    for (code, tests, expected, reason) in [
        (ADD, "assert add(2, 2) == 4", Pass, ""),
        (ADD, "assert add(2, 2) == 5", Fail, "assert add(2, 2) == 5"),
        (ADD, "assert add(2, 2) == 5, 'two and two'", Fail, "two and two"),
        (ADD, "add(1, '1')", Fail, "TypeError"),
        (ADD, "assert substract(2, 2) == 0", Fail, "NameError"),
        // Tests in the shapes in which people and teachers write them.
        (ADD, "def test_add():\n    assert add(1, 1) == 2", Pass, ""),
        (ADD, "def test_add():\n    assert add(1, 1) == 3", Fail, "assert add(1, 1) == 3"),
        (ADD, "def check(f):\n    assert f(1, 1) == 2\ncheck(add)", Pass, ""),
        (ADD, "def check(f):\n    assert f(1, 1) == 3\ncheck(add)", Fail, "AssertionError"),
        (ADD, "from solution import add as plus\nassert plus(1, 1) == 2", Pass, ""),
        (
            ADD,
            "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 1), 2)",
            Pass,
            "",
        ),
        (
            ADD,
            "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 1), 3)",
            Fail,
            "2 != 3",
        ),
        (
            ADD,
            "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 1), 2)\nunittest.main()",
            Pass,
            "",
        ),
        (
            ADD,
            "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 1), 3)\nif __name__ == '__main__':\n    unittest.main()",
            Fail,
            "1 of 1 unit tests",
        ),
        (ADD, "def check(f):\n    assert f(1, 1) == 3", Error, "check nothing"),
        (ADD, "assert add(2, 2) == ", Error, "the tests are not Python"),
        ("def add(a, b) return a + b", "assert add(2, 2) == 4", Error, "not Python: SyntaxError"),
        ("def add(a, b):\n    return a\0+ b", "assert add(2, 2) == 4", Error, "not Python"),
        ("def add(a, b):\n    return eval('a +')", "add(2, 2)", Fail, "SyntaxError"),
        (class, "import pickle\nassert pickle.loads(pickle.dumps(Point(3))).x == 3", Pass, ""),
        ("count = 0\ndef up():\n    global count\n    count += 1", "up()\nassert count == 1", Pass, ""),
        // A program's main part is not what is tested.
        (
            "def one(): return 1\nif __name__ == '__main__':\n    print(input())",
            "assert one() == 1",
            Pass,
            "",
        ),
        // Ends that look like success.
        (
            "import sys\ndef add(a, b): return 0\nsys.exit(0)",
            "assert add(2, 2) == 4",
            Fail,
            "before its tests",
        ),
        ("import os\nos._exit(0)", "assert add(2, 2) == 4", Fail, "before its tests"),
        ("import os\ndef add(a, b): os._exit(0)", "assert add(2, 2) == 4", Fail, "before its tests"),
        ("import sys\ndef add(a, b): sys.exit(0)", "assert add(2, 2) == 4", Fail, "SystemExit"),
        ("def add(a, b): raise KeyboardInterrupt", "add(2, 2)", Fail, "KeyboardInterrupt"),
        (
            "import os\nos.write(3, b'pass\\npass 0\\n')\nos._exit(0)",
            "assert False",
            Fail,
            "before its tests",
        ),
        ("import os\nos.close(3)", "assert 1 > 2", Fail, "ended with status 1"),
        ("import atexit, os\natexit.register(os._exit, 0)\nassert False", "pass", Fail, "assert False"),
        ("def f(): return [0] * (1 << 40)", "f()", Error, "needed more than 512 MiB"),
        ("def f():\n    while True: pass", "f()", Timeout, "ran longer than 1 s"),
    ] {
        let limits =
            Limits { wall_seconds: if expected == Timeout { 1.0 } else { 10.0 }, ..Limits::default() };
        let verdict = sandbox.run(code, Some(tests), &limits).expect("the sandbox works");
        let explain = format!("{code}\n---\n{tests}\n---\n{verdict:?}");
        assert_eq!(verdict.verdict, expected, "{explain}");
        assert!(
            verdict.reason.contains(reason) && verdict.reason.is_empty() == (expected == Pass),
            "{explain}"
        );
    }
}

const SUBTRACT: &str = "def add(a, b):\n    return a - b\n";

/// A wrong answer that is equal to everything.
const SAME: &str = "class Same(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\ndef add(a, b): return Same(0)\n";

/// Tests that people and teachers write, each of which finds the wrong answer and accepts the right one.
#[test]
fn every_shape_of_tests_is_run() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let function = "def test_add():\n    assert add(1, 1) == 2\n";
    let case = "class T(unittest.TestCase):\n    def test_add(self): self.assertEqual(add(1, 1), 2)\n";
    let class = "class TestAdd:\n    def setup_method(self): self.two = 2\n    def test_add(self):\n        assert add(1, 1) == self.two\n";
    for tests in [
        format!("import sys\nsys.setrecursionlimit(5000)\n{function}"),
        format!("try:\n    import numpy\nexcept ImportError:\n    numpy = None\n{function}"),
        format!("assert True\n{function}"),
        format!("import random, unittest\nrandom.seed(0)\n{case}"),
        format!("import unittest\n{case}unittest.main(argv=[''], exit=False)"),
        format!("import unittest\n{case}if __name__ == '__main__':\n    unittest.main()"),
        format!("def test_other(): pass\n{class}"),
        format!("import unittest\ndef test_other(): pass\n{case}"),
        format!("async {function}"),
        class.replace("    def test", "    async def test"),
        "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n    async def test_add(self): self.assertEqual(add(1, 1), 2)".into(),
        "import unittest\nclass T(unittest.TestCase):\n    def test_add(self):\n        with self.subTest(): self.assertEqual(add(1, 1), 2)\n\
         unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))".into(),
        format!("{function}try:\n    test_add()\nexcept AssertionError:\n    print('failed')"),
        format!("if True:\n    {}", function.replace('\n', "\n    ")),
        "def test_add(a):\n    assert add(a, 1) == 2\ntest_add(1)".into(),
        "if add(1, 1) != 2:\n    raise ValueError".into(),
        "for _ in range(1):\n    if add(1, 1) == 2:\n        continue\n    raise ValueError".into(),
        "import sys\nassert add(1, 1) == 2\nsys.exit(0)".into(),
        "import sys\nif __name__ == '__main__':\n    sys.exit(0 if add(1, 1) == 2 else 1)".into(),
        "if __name__ == '__main__':\n    raise SystemExit(0 if add(1, 1) == 2 else 1)".into(),
        "assert add(1, 1) == 2\nraise SystemExit".into(),
        "assert add(1, 1) == 2\nraise SystemExit(0)".into(),
        format!("async {function}    return\n"),
        "async def test_add():\n    async def two(): return add(1, 1)\n    if await two() == 2:\n        return await two()\n    raise ValueError".into(),
        "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n    async def test_add(self):\n        self.assertEqual(add(1, 1), 2)\n        return".into(),
        "if add(1, 1) != 2:\n    assert False".into(),
        "for n in range(1, 3):\n    if add(1, 1) == n: break\nelse:\n    raise ValueError".into(),
        // Values equal to everything that the tests themselves expect.
        "from unittest import mock\nwant = [2, mock.ANY]\nassert [add(1, 1), 5] == want".into(),
        "class Any:\n    def __eq__(self, other): return True\nassert (add(1, 1), 5) == (2, Any())".into(),
    ] {
        for (code, expected) in [(ADD, Outcome::Pass), (SUBTRACT, Outcome::Fail), (SAME, Outcome::Fail)] {
            let verdict = judge(&sandbox, code, Some(&tests));
            assert_eq!(verdict.verdict, expected, "{code}---\n{tests}\n---\n{verdict:?}");
        }
    }
}

/// Python 3.8 and 3.9 have no `match`; what is left of the two tests there is that they are no Python.
#[test]
fn matches_are_checks() {
    let Some(sandbox) = sandbox(&[]) else { return };
    for ends in ["raise AssertionError", "assert False"] {
        let tests = format!("match add(1, 1):\n    case 2: pass\n    case _: {ends}");
        for (code, expected) in [(ADD, Outcome::Pass), (SUBTRACT, Outcome::Fail), (SAME, Outcome::Fail)] {
            let verdict = judge(&sandbox, code, Some(&tests));
            if verdict.reason.contains("the tests are not Python") {
                return;
            }
            assert_eq!(verdict.verdict, expected, "{code}---\n{tests}\n---\n{verdict:?}");
        }
    }
}

/// What `==` gives need not be a truth, as with arrays.
#[test]
fn arrays_are_compared() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let array = "class Array:\n    def __init__(self, parts): self.parts = parts\n    \
        def __eq__(self, other): return Array([part == other for part in self.parts])\n    \
        def __bool__(self): raise ValueError('several truths')\n    def all(self): return all(self.parts)\n";
    for (sum, expected) in [("a + b", Outcome::Pass), ("a - b", Outcome::Fail)] {
        let code = format!("{array}def add(a, b): return Array([{sum}, {sum}])");
        let verdict = judge(&sandbox, &code, Some("assert (add(1, 1) == 2).all()"));
        assert_eq!(verdict.verdict, expected, "{code}---\n{verdict:?}");
    }
}

/// A right answer is not blamed for tests that say nothing, and does not pass them.
#[test]
fn tests_that_cannot_judge_are_errors() {
    let Some(sandbox) = sandbox(&[]) else { return };
    for (tests, reason) in [
        ("", "check nothing"),
        ("assert True", "check nothing"),
        ("print(add(1, 1))", "check nothing"),
        ("print(add(1, 1))\nraise SystemExit(0)", "check nothing"),
        ("for x in [add(1, 1)]:\n    pass\nelse:\n    pass", "check nothing"),
        ("for x in []:\n    assert add(x, 0) == x", "check nothing"),
        (
            "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('no')\n    def test(self): pass",
            "check nothing",
        ),
        ("assert add(1, 1) == 2\ndef test_add(a, b): assert add(a, b) == 2", "test_add takes a, b"),
        (
            "class TestAdd:\n    def test_add(self, case): assert add(*case) == 2",
            "TestAdd.test_add takes case",
        ),
        (
            "class TestAdd:\n    def __init__(self, x): pass\n    def test_add(self): pass",
            "TestAdd has an __init__",
        ),
        ("def test_add():\n    yield add(1, 1)", "test_add is a generator"),
        ("import no_such_module\nassert add(1, 1) == 2", "need the module no_such_module"),
        ("def main():\n    raise SystemExit\nmain()\nassert add(1, 1) == 2", "end the program"),
    ] {
        let verdict = judge(&sandbox, ADD, Some(tests));
        assert_eq!(verdict.verdict, Outcome::Error, "{tests}\n---\n{verdict:?}");
        assert!(verdict.reason.contains(reason), "{tests}\n---\n{verdict:?}");
    }
}

#[test]
fn programs_pass_by_their_status() {
    let Some(sandbox) = sandbox(&[]) else { return };
    for (code, expected, exit_code) in [
        ("print('a')", Outcome::Pass, Some(0)),
        ("raise SystemExit", Outcome::Pass, Some(0)),
        ("raise SystemExit(3)", Outcome::Fail, Some(3)),
        ("1 / 0", Outcome::Fail, Some(1)),
        ("input()", Outcome::Fail, Some(1)),
        ("if __name__ == '__main__':\n    raise SystemExit(4)", Outcome::Fail, Some(4)),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", Outcome::Error, None),
    ] {
        let verdict = judge(&sandbox, code, None);
        assert_eq!((verdict.verdict, verdict.exit_code), (expected, exit_code), "{code}: {verdict:?}");
    }
    let verdict = judge(&sandbox, "import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 / 0", None);
    assert_eq!(verdict.stdout, "out\n");
    assert!(
        verdict.stderr.starts_with("err\nTraceback") && verdict.stderr.contains("    1 / 0\n"),
        "{verdict:?}"
    );
    assert!(
        !verdict.stderr.contains("<string>"),
        "the driver's own frames are not shown: {}",
        verdict.stderr
    );
}

/// What honest code does, and the sandbox must not get in the way of.
#[test]
fn ordinary_programs_run() {
    for without in [&[][..], &super::NAMESPACES] {
        let Some(sandbox) = sandbox(without) else { return };
        for code in [
            "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 5\nassert asyncio.run(f()) == 5",
            "import subprocess, sys\nout = subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True, check=True)\nassert out.stdout == b'5\\n'",
            "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
            "from concurrent.futures import ThreadPoolExecutor as P\nwith P(4) as p:\n    assert list(p.map(abs, [-1])) == [1]",
            "import tempfile, pathlib, shutil\nd = tempfile.mkdtemp()\np = pathlib.Path(d, 'a')\np.write_text('x')\nassert p.read_text() == 'x'\nshutil.rmtree(d)",
            "import sqlite3\nc = sqlite3.connect(':memory:')\nassert c.execute('select 1').fetchone() == (1,)",
            "import json, re, datetime, decimal, fractions, random, statistics, hashlib, zlib, csv, textwrap, uuid\nuuid.uuid4()",
            "import inspect\ndef f():\n    return 1\nassert inspect.isfunction(f)",
            "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.1)",
            "open('a.py', 'w').write('x = 5')\nimport a\nassert a.x == 5",
            "import os\npid = os.fork()\nif pid == 0:\n    os._exit(7)\nassert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7",
        ] {
            let verdict = judge(&sandbox, code, None);
            assert!(verdict.passed(), "{code}\n{verdict:?}");
        }
    }
    let Some(sandbox) = sandbox(&[]) else { return };
    let pool = "import multiprocessing as m\nif __name__ == '__main__':\n    with m.get_context('fork').Pool(2) as p:\n        assert p.map(abs, [-1, -2]) == [1, 2]";
    let verdict = judge(&sandbox, pool, None);
    assert!(verdict.passed() || verdict.layers.missing().count() > 1, "{verdict:?}");
}

#[test]
fn verdicts_are_the_same_every_time() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let code = "print({'a', 'b', 'c', 'd', 'e'}, hash('x'))";
    let first = judge(&sandbox, code, None).stdout;
    assert!((0..3).all(|_| judge(&sandbox, code, None).stdout == first));
}

#[test]
fn many_run_at_once() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let codes: Vec<String> = (0..40).map(|n| format!("import time\ntime.sleep(0.05)\nprint({n})")).collect();
    let samples: Vec<(&str, Option<&str>)> = codes.iter().map(|code| (code.as_str(), None)).collect();
    let begin = Instant::now();
    let verdicts = run_all(&sandbox, &samples, 8);
    let elapsed = begin.elapsed().as_secs_f64();
    for (n, verdict) in verdicts.iter().enumerate() {
        assert_eq!(verdict.stdout, format!("{n}\n"));
    }
    let one_by_one: f64 = verdicts.iter().map(|verdict| verdict.wall_seconds).sum();
    assert!(elapsed < one_by_one, "{elapsed} s for samples that ran {one_by_one} s");
}

#[test]
fn large_code_tests_and_output_get_through() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let code = format!("text = '''{}'''\nprint('y' * 200_000)", "x".repeat(1 << 20));
    let tests = format!("assert text == '''{}'''", "x".repeat(1 << 20));
    let verdict = judge(&sandbox, &code, Some(&tests));
    assert!(verdict.passed(), "{}", verdict.reason);
    assert_eq!(verdict.stdout.len(), 200_001);
}

#[test]
fn limits_that_nothing_could_keep_are_errors() {
    let Some(sandbox) = sandbox(&[]) else { return };
    for limits in [
        Limits { wall_seconds: f64::NAN, ..Limits::default() },
        Limits { wall_seconds: 0.0, ..Limits::default() },
        Limits { memory_bytes: 1, ..Limits::default() },
        Limits { processes: 0, ..Limits::default() },
    ] {
        assert!(sandbox.run("pass", None, &limits).is_err(), "{limits:?}");
    }
}
