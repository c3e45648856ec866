"""Runs a sample and its tests, and tells the launcher how it went.

File descriptor 3 carries segments (four bytes of length, then the bytes): the file's name, whether there are tests,
and the code. The tests and a nonce follow only after the code has run and this script has asked for them, so that
code cannot read its own tests. A pass counts only with the nonce.
"""

import os
import sys

CHANNEL = 3
TESTS = "<tests>"
THIS = "<string>"


def exactly(count):
    data = b""
    while len(data) < count:
        part = os.read(CHANNEL, count - len(data))
        if not part:
            raise EOFError("nothing more to read")
        data += part
    return data


def segment():
    return exactly(int.from_bytes(exactly(4), "big")).decode()


def report(kind, reason):
    """Says what came of it, in one line, and ends the process whatever threads are left."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass
    line = kind + " " + " ".join(reason.split())[:2000] + "\n"
    os.write(CHANNEL, line.encode("utf-8", "replace"))
    os._exit(0 if kind.startswith("pass") else 1)


def describe(error, sources):
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:
        text = ""
    if not text and isinstance(error, AssertionError):
        text = last_line(error, sources)
    return name + ": " + text if text else name


def last_line(error, sources):
    """The line of code or tests in which it happened."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        source = sources.get(trace.tb_frame.f_code.co_filename)
        if source is not None:
            line = source.splitlines()[trace.tb_lineno - 1].strip()
        trace = trace.tb_next
    return line


def show(error, sources):
    """Prints the traceback without this script's frames, with the source lines of code and tests."""
    import linecache
    import traceback

    for name, text in sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == THIS:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def out_of_memory(error, space):
    """Frees what can be freed, so that there is room to say so."""
    error.__traceback__ = None
    space.clear()
    report("memory", "")


def last_file(error):
    trace, name = error.__traceback__, None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return name


def call_tests(space, before):
    """Calls what the tests only define: functions named test… without arguments, and unittest cases."""
    import inspect

    new = {k: v for k, v in space.items() if before.get(k) is not v and not k.startswith("__")}
    called = 0
    for name, value in new.items():
        if not name.startswith("test") or not inspect.isfunction(value):
            continue
        if all(p.default is not p.empty for p in inspect.signature(value).parameters.values()):
            value()
            called += 1
    if "unittest" in sys.modules:
        import unittest

        for value in new.values():
            if isinstance(value, type) and issubclass(value, unittest.TestCase):
                suite = unittest.defaultTestLoader.loadTestsFromTestCase(value)
                result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(suite)
                called += result.testsRun
                if not result.wasSuccessful():
                    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
                    report("fail", "%d of %d unit tests failed" % (bad, result.testsRun))
    if called == 0:
        report("error", "the tests check nothing: they neither assert at the top level nor define test functions without arguments")


def only_defines(tree):
    import ast

    passive = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    texts = (n for n in tree.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)))
    return all(isinstance(n, passive) for n in texts)


def main():
    name, with_tests, code = segment(), segment() == "tests", segment()
    sources = {name: code}
    module = type(sys)("__main__")
    module.__file__ = name
    space = module.__dict__
    space["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    sys.argv = [name]
    if with_tests:
        # Code that is tested is a module, so its `if __name__ == "__main__"` part does not run.
        module.__name__ = "solution"
        sys.modules["solution"] = module

    try:
        program = compile(code, name, "exec", dont_inherit=True)
    except BaseException as error:
        show(error, sources)
        report("error", "not Python: " + describe(error, sources))
    try:
        exec(program, space)
    except SystemExit:
        if not with_tests:
            raise
        report("fail", "the code ended the program before its tests")
    except MemoryError as error:
        out_of_memory(error, space)
    except BaseException as error:
        show(error, sources)
        report("fail", describe(error, sources))
    if not with_tests:
        return

    os.write(CHANNEL, b"ready\n")
    nonce, tests = segment(), segment()
    sources[TESTS] = tests
    module.__name__ = "__main__"
    try:
        tree = compile(tests, TESTS, "exec", 0x400, dont_inherit=True)  # ast.PyCF_ONLY_AST
        program = compile(tree, TESTS, "exec", dont_inherit=True)
    except BaseException as error:
        show(error, sources)
        report("error", "the tests are not Python: " + describe(error, sources))
    try:
        before = dict(space)
        exec(program, space)
        if only_defines(tree):
            call_tests(space, before)
    except SystemExit as error:
        # unittest.main() ends so; the code under test must not.
        if last_file(error) == name or error.code not in (None, 0):
            report("fail", "SystemExit: %s" % (error.code,))
    except MemoryError as error:
        out_of_memory(error, space)
    except BaseException as error:
        show(error, sources)
        report("fail", describe(error, sources))
    report("pass " + nonce, "")


main()
