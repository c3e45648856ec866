//! Wrong answers that are out for a pass: each must fail the tests that it meets.

use super::sandbox;
use distillix::foundry::sandbox::{Limits, Outcome};

/// The wrong answer that all of them give where they get nowhere.
const WRONG: &str = "def add(a, b): return 0\n";

/// Tests in three shapes, so that there is something to do before, while and after they run.
const TESTS: [&str; 3] = [
    "assert add(1, 1) == 2\ndef test_add():\n    assert add(2, 2) == 4\n",
    "def test_add():\n    assert add(2, 2) == 4\ndef test_more():\n    assert add(2, 3) == 5\n",
    "import unittest\nclass T(unittest.TestCase):\n    def test_add(self): self.assertEqual(add(1, 1), 2)\n    \
     def test_more(self): self.assertEqual(add(2, 2), 4)\nunittest.main()\n",
];

/// What an answer does for a pass, before its function is defined or in it.
const CHEATS: &[(&str, &str)] = &[
    ("exit at import", "import sys\nsys.exit(0)"),
    ("_exit at import", "import os\nos._exit(0)"),
    ("exit at exit", "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise SystemExit(0)"),
    ("_exit in the call", "import os\ndef add(a, b): os._exit(0)"),
    ("exit in the call", "def add(a, b): exit()"),
    ("exit in the call, called something else", "exec(compile('def add(a, b): exit()', '<tests>', 'exec'))"),
    ("the child goes on", "import os\nif os.fork(): os._exit(0)"),
    (
        "no hook for errors",
        "import sys\nsys.excepthook = lambda *_: None\ndef add(a, b): raise KeyboardInterrupt",
    ),
    (
        "builtins that do nothing",
        "import builtins\nbuiltins.exec = lambda *_: None\nbuiltins.compile = lambda *_, **__: None\n\
      builtins.isinstance = lambda *_: False\nbuiltins.next = lambda *_: 1",
    ),
    (
        "assertions that do not fail",
        "import unittest\nfor name in dir(unittest.TestCase):\n    if name.startswith('assert') or name == 'debug':\n        \
      setattr(unittest.TestCase, name, lambda *_, **__: None)\nunittest.main = lambda *_, **__: None\n\
      unittest.TestResult.wasSuccessful = lambda _: True",
    ),
    (
        "another unittest",
        "import sys, types\nfake = types.ModuleType('unittest')\nfake.TestCase = type('TestCase', (), {})\n\
      fake.main = lambda: None\nsys.modules['unittest'] = fake",
    ),
    ("a file called unittest", "open('unittest.py', 'w').write('class TestCase: pass\\ndef main(): pass')"),
    (
        "equal to everything",
        "class Same(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\ndef add(a, b): return Same(0)",
    ),
    (
        "unittest's value that is equal to everything",
        "from unittest.mock import ANY\ndef add(a, b): return ANY",
    ),
    (
        "equal to everything, defined elsewhere",
        "space = {}\nexec('class Same(int):\\n    __eq__ = lambda self, other: 1\\n    __hash__ = int.__hash__', space)\n\
      def add(a, b): return space['Same'](0)",
    ),
    (
        "equal to everything, as if the tests defined it",
        "exec(compile('class Same:\\n    def __eq__(self, other): return True', '<tests>', 'exec'))\ndef add(a, b): return Same()",
    ),
    (
        "a class equal to everything",
        "class Kind(type):\n    __eq__ = lambda self, other: True\n    __hash__ = type.__hash__\n\
      class Same(metaclass=Kind): pass\ndef add(a, b): return Same",
    ),
    (
        "another test",
        "def add(a, b):\n    for name in list(globals()):\n        if name.startswith('test'):\n            \
      globals()[name] = lambda: None\n    return 4 if a == 2 else 0",
    ),
    (
        "globals of all frames",
        "import sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n        \
      for scope in (frame.f_globals, frame.f_locals):\n            for value in list(scope.values()):\n                \
      if callable(getattr(value, 'write', None)) or isinstance(value, (str, bytes)):\n                    \
      text = value if isinstance(value, bytes) else str(value).encode()\n                    \
      import os; os.write(3, b'pass ' + text[:200] + b'\\n')\n        frame = frame.f_back\n    import os; os._exit(0)",
    ),
    (
        "functions of all frames replaced",
        "import sys\ndef take(frame):\n    while frame:\n        if frame.f_globals is not globals():\n            \
      for name in list(frame.f_globals):\n                if callable(frame.f_globals[name]): frame.f_globals[name] = lambda *_, **__: b''\n        \
      frame = frame.f_back\ntake(sys._getframe())\ndef add(a, b):\n    take(sys._getframe())\n    return 0",
    ),
    (
        "jumps over the rest",
        "import sys\ndef jump(frame, event, _):\n    if event == 'line' and frame.f_globals is not globals():\n        \
      for by in (9, 5, 2, 1):\n            try:\n                frame.f_lineno += by\n                break\n            \
      except ValueError: pass\n    return jump\ndef begin():\n    frame = sys._getframe().f_back\n    while frame:\n        \
      frame.f_trace = jump\n        frame = frame.f_back\n    sys.settrace(jump)\nbegin()\ndef add(a, b):\n    begin()\n    return 0",
    ),
    (
        "told of every call",
        "import sys, os\ndef told(frame, event, _):\n    for value in frame.f_locals.values():\n        \
      if isinstance(value, bytes): os.write(3, b'pass ' + value[-32:] + b'\\n')\nsys.setprofile(told)",
    ),
    (
        "reads the channel",
        "import os, threading\ndef steal():\n    data = os.read(3, 1 << 20)\n    os.write(3, b'pass ' + data[-32:] + b'\\n')\n    \
      os._exit(0)\nthreading.Thread(target=steal, daemon=True).start()",
    ),
    (
        "its own channel",
        "import os, socket\nmine, other = socket.socketpair()\nos.dup2(mine.fileno(), 3)\n\
      other.sendall(bytes(3) + b'\\x01x' + bytes(3) + b'\\x04pass')",
    ),
    (
        "the generators that the collector shows",
        "import gc\nfor thing in gc.get_objects():\n    if type(thing).__name__ == 'generator':\n        \
      for _ in thing: pass",
    ),
    ("no main module", "import sys\nsys.modules['__main__'].__dict__.clear()"),
];

#[test]
fn no_cheat_passes() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let mut passed = Vec::new();
    for (name, cheat) in CHEATS {
        for tests in TESTS {
            let code =
                if cheat.contains("def add(") { (*cheat).to_owned() } else { format!("{cheat}\n{WRONG}") };
            let verdict = sandbox.run(&code, Some(tests), &Limits::default()).expect("the sandbox works");
            assert!(!verdict.stderr.contains("SyntaxError"), "{name}: {}", verdict.stderr);
            if verdict.verdict == Outcome::Pass {
                passed.push((name, tests));
            }
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
}
