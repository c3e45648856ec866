"""Runs a sample and its tests, and tells the launcher how it went.

File descriptor 3 carries segments (four bytes of length, then the bytes): the file's name, whether there are tests,
the code, the tests, and a nonce. A pass counts only with the nonce.

Code and tests share this interpreter, so what a sample can reach must not help it to a pass. `steps` is a generator
with a namespace and builtins of its own. It is suspended while anything of the sample runs, so no frame that the
sample can walk to is one of its, and the nonce is no variable even there: it waits on the interpreter's stack for the
one line that uses it. Loops written in C run what the generator yields. What is in reach, everything at the top level
of this script, can only say that a sample failed.
"""

import builtins
import collections
import functools
import itertools
import os
import sys
import types

TESTS = "<tests>"
THIS = "<string>"


class Refusal(Exception):
    """A verdict that is no pass: its kind and its reason."""


def steps(about, refusal):
    """Yields, in tuples of partials, what is to be run; ends the process with a pass."""
    import _ast
    import builtins
    import functools
    import gc
    import itertools
    import os
    import sys
    import types

    channel, tests_file = 3, "<tests>"
    match = getattr(_ast, "Match", _ast.If)  # which Python 3.8 and 3.9 do not have
    loops = (_ast.For, _ast.AsyncFor, _ast.While)
    scopes = (_ast.FunctionDef, _ast.AsyncFunctionDef, _ast.ClassDef)
    # Names that the tests get beside their own.
    checked_name, passed_name, plain_name = "__checked__", "__passed__", "__plain__"
    partial, getframe = functools.partial, sys._getframe
    # What a sample may have set to be told of every step is unset before the generator goes on.
    untraced = (partial(sys.settrace, None), partial(sys.setprofile, None))
    read, write, leave, run = os.read, os.write, os._exit, exec
    modules, setting = sys.modules, setattr

    def exactly(count):
        data = b""
        while len(data) < count:
            part = read(channel, count - len(data))
            if not part:
                raise EOFError("nothing more to read")
            data += part
        return data

    def segment():
        return exactly(int.from_bytes(exactly(4), "big"))

    def compiled(text, name, what, *flags):
        try:
            return compile(text, name, "exec", *flags, dont_inherit=True)
        except BaseException as error:
            raise refusal("error", "%s not Python: %s: %s" % (what, type(error).__name__, error)) from error

    def below(node, but=()):
        """A node and all nodes below it, but those of some kinds and what they hold."""
        found = [node]
        for node in found:
            for field in node._fields:
                value = getattr(node, field, None)
                values = value if isinstance(value, list) else [value]
                found.extend(v for v in values if isinstance(v, _ast.AST) and not isinstance(v, but))
        return found

    def called(node):
        """The last part of the name that a call calls."""
        function = node.func if isinstance(node, _ast.Call) else None
        return getattr(function, "attr", None) or getattr(function, "id", None) or ""

    def is_never(node):
        """Whether it is an assertion that fails whenever it is reached."""
        return isinstance(node, _ast.Assert) and isinstance(node.test, _ast.Constant) and not node.test.value

    def can_raise(node):
        ends = ("exit", "quit", "fail")
        return any(isinstance(n, _ast.Raise) or is_never(n) or called(n) in ends for n in below(node))

    def is_check(node):
        """Whether a statement fails if what is tested is wrong."""
        if isinstance(node, _ast.Assert):
            return not isinstance(node.test, _ast.Constant)
        if isinstance(node, (_ast.If, _ast.Try, match)):
            return can_raise(node)
        if isinstance(node, loops):
            return any(can_raise(n) for n in node.orelse)
        if isinstance(node, (_ast.With, _ast.AsyncWith)):
            return any(called(i.context_expr).lower().endswith(("raises", "warns")) for i in node.items)
        return isinstance(node, _ast.Expr) and called(node.value).lower().startswith("assert")

    def is_test(node):
        return isinstance(node, (_ast.FunctionDef, _ast.AsyncFunctionDef)) and node.name.startswith("test")

    def definitions(body):
        """The functions and classes of a module, those under a condition too."""
        for node in body:
            if isinstance(node, scopes):
                yield node
            else:
                for field in ("body", "orelse", "finalbody"):
                    yield from definitions(getattr(node, field, ()))

    def placed(node, at):
        node.lineno, node.col_offset = at.lineno, at.col_offset
        return node

    def call(name, at, *arguments):
        function = placed(_ast.Name(id=name, ctx=_ast.Load()), at)
        return placed(_ast.Call(func=function, args=list(arguments), keywords=[]), at)

    def note(name, at):
        """A statement that calls `name` with nothing."""
        return placed(_ast.Expr(value=call(name, at)), at)

    def plain(values):
        """Expressions, what they give looked at first."""
        return [v if isinstance(v, (_ast.Constant, _ast.Starred)) else call(plain_name, v, v) for v in values]

    def doubt(node):
        """Looks at everything that a check, or an expression, compares."""
        if hasattr(node, "subject"):
            node.subject = plain([node.subject])[0]
        if isinstance(node, _ast.If):
            node = node.test
        elif hasattr(node, "body") and not isinstance(node, loops + (_ast.IfExp,)):
            return  # what is in it is looked at itself
        for part in below(node):
            if isinstance(part, _ast.Compare):
                part.left, part.comparators = plain([part.left])[0], plain(part.comparators)
            elif called(part).lower().startswith("assert"):
                part.args = plain(part.args)

    def watch(tree):
        """Makes checks and test functions tell when they are reached, or done."""
        for node in below(tree):
            for field in ("body", "orelse", "finalbody"):
                body = getattr(node, field, None)
                if isinstance(body, list):
                    # What stands before a `raise` decides whether that is reached.
                    after = [isinstance(s, _ast.Raise) for s in body[1:]] + [False]
                    marked = [is_check(s) or then for s, then in zip(body, after)]
                    for check in itertools.compress(body, marked):
                        doubt(check)
                    body[:] = [n for s, is_marked in zip(body, marked)
                               for n in ([note(checked_name, s), s] if is_marked else [s])]
            # A failed subTest does not end its function, which then is not done.
            if is_test(node) and not any(called(n) == "subTest" for n in below(node)):
                for part in below(node, scopes):
                    if isinstance(part, _ast.Return):
                        # After what it returns, which may fail.
                        part.value = call(passed_name, part, *([part.value] if part.value else []))
                node.body.append(note(passed_name, node.body[-1]))

    def end_of(tree):
        """The statements that a file ends with; where the last of them raises SystemExit, it calls exit instead."""
        body = tree.body
        while body and isinstance(body[-1], _ast.If):
            body = body[-1].body
        raised = body[-1].exc if body and isinstance(body[-1], _ast.Raise) else None
        if "SystemExit" in (called(raised), getattr(raised, "id", None)):
            exit_call = call("exit", raised, *getattr(raised, "args", []))
            body[-1] = placed(_ast.Expr(value=exit_call), raised)
        return body

    def without_end(body):
        """An exit at the end only says how it went."""
        if body and isinstance(body[-1], _ast.Expr) and called(body[-1].value) in ("exit", "quit"):
            last = body[-1]
            none, zero = (placed(_ast.Constant(value=value, kind=None), last) for value in (None, 0))
            good = placed(_ast.Tuple(elts=[none, zero], ctx=_ast.Load()), last)
            status = last.value.args[0] if last.value.args else none
            doubt(status)
            test = placed(_ast.Compare(left=status, ops=[_ast.In()], comparators=[good]), last)
            body[-1] = placed(_ast.Assert(test=test, msg=None), last)

    def imported(tree, tests):
        """The parts of the standard library that the tests import, as they are before the sample runs."""
        known = getattr(sys, "stdlib_module_names", ("unittest", "asyncio", "math", "random"))
        names = {"unittest"} if "unittest" in tests else set()
        if names and "ANY" in tests:
            names.add("unittest.mock")
        for node in below(tree):
            if isinstance(node, _ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, _ast.ImportFrom) and not node.level:
                names.add(node.module)
            elif is_test(node) and isinstance(node, _ast.AsyncFunctionDef):
                names.add("asyncio")
        found = {}
        for name in sorted(names):
            # Two that do something when they are imported.
            if name.partition(".")[0] in known and name not in ("antigravity", "this"):
                try:
                    __import__(name)
                except Exception:
                    continue  # the tests meet it themselves
                found[name] = modules[name]
        return found

    def without_exit(unittest):
        """Lets unittest.main() return, so that the rest of the tests is run too."""

        class Main(unittest.TestProgram):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **{**options, "exit": False})
                if not self.result.wasSuccessful():
                    bad = self.result.failures + self.result.errors + self.result.unexpectedSuccesses
                    raise AssertionError("%d of %d unit tests failed" % (len(bad), self.result.testsRun))

        unittest.main = unittest.TestProgram = Main

    def needs(function, given):
        """The parameters, but the first `given`, that have no value of their own."""
        code = function.__code__
        plain = code.co_varnames[given : code.co_argcount - len(function.__defaults__ or ())]
        named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        return plain + tuple(n for n in named if n not in (function.__kwdefaults__ or {}))

    def cases(function):
        """The arguments that marks of pytest give, a dict for each call."""
        found = [{}]
        for mark in getattr(function, "pytestmark", []):
            if mark.name in ("skip", "skipif", "xfail"):
                return []
            if mark.name == "parametrize":
                names, rows = mark.args[:2]
                names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
                # pytest.param() has `values`; a single name stands for a value that is no row.
                rows = [r.values if hasattr(r, "marks") else r if len(names) > 1 else (r,) for r in rows]
                found = [{**case, **dict(zip(names, row))} for case in found for row in rows]
        return found

    def refuse(name, why):
        raise refusal("error", "a test cannot be run: %s %s" % (name, why))

    def job(name, test, case):
        """What runs a test once, and the code that has to come to its end."""
        function = getattr(test, "__func__", test)
        if not isinstance(function, types.FunctionType):
            refuse(name, "is no function")
        missing = [n for n in needs(function, int(function is not test)) if n not in case]
        if missing:
            refuse(name, "takes %s, which only pytest could give" % ", ".join(missing))
        flags = function.__code__.co_flags
        if flags & 0x220:  # inspect.CO_GENERATOR, CO_ASYNC_GENERATOR: calling it runs nothing
            refuse(name, "is a generator")
        if flags & 0x80:  # inspect.CO_COROUTINE
            if "asyncio" not in guarded:
                refuse(name, "is a coroutine")
            return partial(guarded["asyncio"].run, test(**case)), True, function.__code__
        return partial(test, **case), True, None

    def optional(thing, name):
        """A call of a method that need not be there, nor take the test that pytest tells it."""
        method = getattr(thing, name, None)
        function = getattr(method, "__func__", None)
        given = (None,) if function is not None and needs(function, 1) else ()
        return partial(method or int, *given), False, None

    def jobs_of_class(name, kind, is_case, passed):
        """What runs a class of tests, one of unittest's or one as pytest takes them."""
        tests = [n for n in dir(kind) if n.startswith("test") and callable(getattr(kind, n))]
        tests = [n for n in tests if getattr(getattr(kind, n), "__code__", None) not in passed]
        if not tests or getattr(kind, "__unittest_skip__", False):
            return
        if not is_case and isinstance(kind.__init__, types.FunctionType):
            refuse(name, "has an __init__, which no runner of tests calls")
        yield optional(kind, "setUpClass" if is_case else "setup_class")
        for test in tests:
            function = getattr(kind, test)
            marks = ("__unittest_skip__", "__unittest_expecting_failure__")
            if is_case and not any(getattr(function, mark, False) for mark in marks):
                # Unlike run(), it lets what fails be seen; old ones forget to await.
                code = getattr(function, "__code__", None)
                yield partial(kind(test).debug), True, code if code and code.co_flags & 0x80 else None
            for case in () if is_case else cases(function):
                it = kind()
                yield optional(it, "setup_method")
                yield job("%s.%s" % (name, test), getattr(it, test), case)
                yield optional(it, "teardown_method")
        yield optional(kind, "tearDownClass" if is_case else "teardown_class")

    def jobs(defined, space, own, passed):
        """What runs those of the tests that did not run while their file did."""
        for node in defined:
            thing = space.get(node.name)
            if isinstance(node, _ast.ClassDef):
                is_case = "unittest" in guarded and isinstance(thing, type)
                is_case = is_case and issubclass(thing, guarded["unittest"].TestCase)
                if is_case or isinstance(thing, type) and node.name.startswith("Test"):
                    yield from jobs_of_class(node.name, thing, is_case, passed)
            elif is_test(node) and thing is not None:
                code = getattr(thing, "__code__", None)
                if not node.decorator_list and code not in own:
                    refuse(node.name, "is not what it was defined as")
                if code not in passed:
                    for case in cases(thing):
                        yield job(node.name, thing, case)

    def apart(function):
        """A function that leads to nothing but what it closes over."""
        scope = {"__builtins__": dict(vars(builtins))}
        return types.FunctionType(function.__code__, scope, None, function.__defaults__, function.__closure__)

    def codes(code):
        """The ids of a code object and of all those in it."""
        yield id(code)
        for part in code.co_consts:
            if isinstance(part, types.CodeType):
                yield from codes(part)

    def helpers(passed, own, tests):
        """What the names of `watch` stand for, but the counter. `own` is the ids of the tests' code objects."""
        # Tests that name it may expect it.
        anything = getattr(guarded.get("unittest.mock"), "ANY", None) if "ANY" in tests else None

        def plain(value, deep=2):
            """Gives the value back, unless it is equal to everything, and not because the tests want it so."""
            kind = type(value)
            try:
                # Arrays of several truths raise here: they are no such values.
                is_same = value is not anything and bool(value == object())
                is_same = is_same and id(getattr(kind.__eq__, "__code__", None)) not in own
            except Exception:
                is_same = False
            if is_same:
                raise AssertionError("a value of the class %s is equal to everything" % kind.__name__)
            if deep and kind in (list, tuple, set, dict) and len(value) <= 1000:
                for part in value.values() if kind is dict else value:
                    plain(part, deep - 1)
            return value

        def done(value=None):
            passed.add(getframe(1).f_code)
            return value

        plain = apart(plain)
        return {plain_name: plain, passed_name: apart(done)}

    guarded = {}

    def work(name, code, tests):
        module = types.ModuleType("__main__" if tests is None else "solution")
        module.__file__ = name
        space = module.__dict__
        space["__builtins__"] = builtins
        modules["__main__"] = module
        sys.argv[:] = [name]
        program = compiled(code, name, "it is")
        if tests is None:
            yield (partial(run, program, space),)
            return b""
        # Code that is tested is a module, so its `if __name__ == "__main__"` part does not run.
        modules["solution"] = module
        # As they were written first, so that what is wrong with them is told of that.
        compiled(tests, tests_file, "the tests are")
        tree = compiled(tests, tests_file, "the tests are", 0x400)  # ast.PyCF_ONLY_AST
        defined = list(definitions(tree.body))
        end = end_of(tree)  # before `watch`, which takes what stands before a `raise` for a check
        watch(tree)
        without_end(end)
        checks = compiled(tree, tests_file, "the tests are")
        own = {c for c in checks.co_consts if isinstance(c, types.CodeType)}
        guarded.update(imported(tree, tests))
        kept = [builtins, *guarded.values()]
        if "unittest" in guarded:
            without_exit(guarded["unittest"])
            guarded["unittest.case"] = modules["unittest.case"]
            kept += [guarded["unittest"].TestCase, guarded["unittest.case"]]
        kept = [(thing, {k: v for k, v in vars(thing).items() if callable(v)}) for thing in kept]

        def restore():
            """Undoes what the sample did to what its tests rest on."""
            modules.update(guarded)
            space["__builtins__"] = builtins
            for thing, saved in kept:
                for key, value in saved.items():
                    if vars(thing).get(key) is not value:
                        setting(thing, key, value)

        yield (partial(gc.freeze), partial(run, program, space)) + untraced
        restore()
        about["phase"] = "tests"
        checked, passed = itertools.count(), set()
        module.__name__ = "__main__"
        space[checked_name] = checked.__next__
        space.update(helpers(passed, frozenset(codes(checks)), tests))
        yield (partial(run, checks, space),) + untraced
        for job, counts, code in jobs(defined, space, own, passed):
            yield (job,) + untraced
            if code is not None and passed_name in code.co_names and code not in passed:
                refuse(code.co_name, "did not come to its end")
            if counts:
                next(checked)
        if not passed and not next(checked):
            raise refusal("error", "the tests check nothing: they reach no assertion, and no test that could be run")
        return b""

    def flushed(result):
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                pass
        return result

    name, with_tests, code, tests = segment().decode(), segment() == b"tests", segment().decode(), segment().decode()
    about.update(phase="code", name=name, with_tests=with_tests, sources={name: code, tests_file: tests})
    if not with_tests:
        yield from work(name, code, None)
        return
    write(channel, b"pass " + segment() + b"\n" + flushed((yield from work(name, code, tests))))
    leave(0)


def report(kind, reason):
    """Says what came of it, in one line, and ends the process whatever threads are left."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass
    line = kind + " " + " ".join(reason.split())[:2000] + "\n"
    os.write(3, line.encode("utf-8", "replace"))
    os._exit(1)


def files(error):
    """The files of the frames that an exception went through, the outermost first, and their lines."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def describe(error, sources):
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:
        text = ""
    if not text and isinstance(error, AssertionError):
        # The line of code or tests in which it happened.
        for file, line in files(error):
            if file in sources:
                text = sources[file].splitlines()[line - 1].strip()
    return name + ": " + text if text else name


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


def failed(error, about):
    """Tells of an exception that ended the sample or its tests."""
    in_tests, sources, name = about["phase"] == "tests", about["sources"], about["name"]
    if isinstance(error, Refusal):
        kind, reason = error.args
        if error.__cause__ is not None:
            show(error.__cause__, sources)
        report(kind, reason)
    if isinstance(error, SystemExit):
        if not in_tests:
            report("fail", "the code ended the program before its tests")
        if error.code in (None, 0) and all(file != name for file, _ in files(error)):
            report("error", "the tests end the program before they are done")
        report("fail", "SystemExit: %s" % (error.code,))
    show(error, sources)
    last = [file for file, _ in files(error) if file != THIS and not file.startswith("<frozen")][-1:]
    if not last:
        report("error", "the sandbox's own script failed: " + describe(error, sources))
    if in_tests and type(error) is ModuleNotFoundError and last == [TESTS]:
        report("error", "the tests need the module %s, which this Python does not have" % error.name)
    if type(error).__name__ in ("SkipTest", "Skipped"):
        report("error", "the tests skip themselves: %s" % error)
    report("fail", describe(error, sources))


# Files that the sample writes never stand for those of the standard library.
sys.path.remove("")
sys.path.append("")
about = {}
sys.argv = [""]
try:
    collections.deque(
        map(
            functools.partial.__call__,
            itertools.chain.from_iterable(
                types.FunctionType(steps.__code__, {"__builtins__": dict(vars(builtins))})(about, Refusal)
            ),
        ),
        0,
    )
except MemoryError as error:
    # Frees what can be freed, so that there is room to say so.
    error.__traceback__ = None
    sys.modules["__main__"].__dict__.clear()
    report("memory", "")
except BaseException as error:
    if isinstance(error, SystemExit) and not about["with_tests"]:
        raise
    failed(error, about)
