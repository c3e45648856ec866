//! The steps that compositions are made of.

use super::template::{Step, step};

/// Conditions on a number. Phrases follow "is" or "that are".
pub(super) const CONDITIONS: &[Step] = &[
    step("even", "even", "$x % 2 == 0", "not $x & 1"),
    step("odd", "odd", "$x % 2 == 1", "bool($x & 1)"),
    step("positive", "positive", "$x > 0", "not $x <= 0"),
    step("negative", "negative", "$x < 0", "not $x >= 0"),
    step("nonzero", "not zero", "$x != 0", "bool($x)"),
    step("above", "above $k", "$x > $k", "not $x <= $k"),
    step("below", "below $k", "$x < $k", "not $x >= $k"),
    step("at_least", "at least $k", "$x >= $k", "not $x < $k"),
    step("at_most", "at most $k", "$x <= $k", "not $x > $k"),
    step("divisible", "divisible by $k", "$x % $k == 0", "$x // $k * $k == $x"),
    step("indivisible", "not divisible by $k", "$x % $k != 0", "$x // $k * $k != $x"),
    step("other_than", "other than $k", "$x != $k", "not $x == $k"),
];

/// What can be done to a number. Phrases are participles.
pub(super) const MAPS: &[Step] = &[
    step("squared", "squared", "$x ** 2", "$x * $x"),
    step("cubed", "cubed", "$x ** 3", "$x * $x * $x"),
    step("doubled", "doubled", "$x * 2", "$x + $x"),
    step("halved", "halved", "$x // 2", "$x >> 1"),
    step("negated", "negated", "-$x", "0 - $x"),
    step("absolute", "made absolute", "abs($x)", "max($x, 0 - $x)"),
    step("plus", "plus $k", "$x + $k", "$x - -$k"),
    step("minus", "minus $k", "$x - $k", "$x + -$k"),
    step("times", "times $k", "$x * $k", "$k * $x"),
    step("modulo", "modulo $k", "$x % $k", "$x - $x // $k * $k"),
    step("divided", "divided by $k", "$x // $k", "($x - $x % $k) // $k"),
    step("at_most", "limited to at most $k", "min($x, $k)", "$x if $x < $k else $k"),
    step("at_least", "raised to at least $k", "max($x, $k)", "$x if $x > $k else $k"),
];

/// What can be asked of a list of numbers. `$x` reads "values of …".
pub(super) const SUMMARIES: &[Step] = &[
    step("sum", "the sum of the $x", "sum($x)", "functools.reduce(operator.add, $x, 0)"),
    step("count", "the number of $x", "len($x)", "functools.reduce(lambda n, _: n + 1, $x, 0)"),
    step(
        "largest",
        "the largest of the $x or 0",
        "max($x, default=0)",
        "(lambda r: r[-1] if r else 0)(sorted($x))",
    ),
    step(
        "smallest",
        "the smallest of the $x or 0",
        "min($x, default=0)",
        "(lambda r: r[0] if r else 0)(sorted($x))",
    ),
    step(
        "ascending",
        "the ascending $x",
        "sorted($x)",
        "(lambda r: [r.pop(r.index(min(r))) for _ in list(r)])(list($x))",
    ),
    step(
        "descending",
        "the descending $x",
        "sorted($x, reverse=True)",
        "(lambda r: [r.pop(r.index(max(r))) for _ in list(r)])(list($x))",
    ),
    step("distinct", "the set of $x", "set($x)", "set(dict.fromkeys($x))"),
    step("contains", "whether $k is among the $x", "$k in $x", "list($x).count($k) > 0"),
    step("occurrences", "how often $k is among the $x", "$x.count($k)", "sum(y == $k for y in $x)"),
];

/// What a loop does with each value: the update, and in `initial` the start.
pub(super) const ACCUMULATORS: &[Step] = &[
    Step { initial: "0", ..step("add", "add up", "total += v", "sum(r)") },
    Step {
        initial: "1",
        ..step("multiply", "multiply", "total *= v", "functools.reduce(operator.mul, r, 1)")
    },
    Step { initial: "0", ..step("count", "count", "total += 1", "len(r)") },
    Step { initial: "[]", ..step("collect", "collect", "total.append(v)", "list(r)") },
    Step { initial: "''", ..step("join", "join", "total += str(v)", "''.join(map(str, r))") },
    Step {
        initial: "0",
        ..step("squares", "add up the squares of", "total += v ** 2", "sum(y * y for y in r)")
    },
    Step { initial: "0", ..step("last", "keep the last of", "total = v", "r[-1] if r else 0") },
];

/// What can be done to a list of numbers. Phrases are participles.
pub(super) const REARRANGEMENTS: &[Step] = &[
    step("sorted", "sorted", "sorted($x)", "(lambda r: [r.pop(r.index(min(r))) for _ in list(r)])(list($x))"),
    step(
        "descending",
        "sorted in descending order",
        "sorted($x, reverse=True)",
        "(lambda r: [r.pop(r.index(max(r))) for _ in list(r)])(list($x))",
    ),
    step("reversed", "reversed", "$x[::-1]", "list(reversed($x))"),
    step("first", "cut to the first $k values", "$x[:$k]", "[y for i, y in enumerate($x) if i < $k]"),
    step("drop", "without the first $k values", "$x[$k:]", "[y for i, y in enumerate($x) if i >= $k]"),
    step(
        "last",
        "cut to the last $k values",
        "$x[-$k:]",
        "(lambda r: [y for i, y in enumerate(r) if i >= len(r) - $k])($x)",
    ),
    step(
        "drop_last",
        "without the last $k values",
        "$x[:-$k]",
        "(lambda r: [y for i, y in enumerate(r) if i < len(r) - $k])($x)",
    ),
    step(
        "every_second",
        "cut to every second value",
        "$x[::2]",
        "[y for i, y in enumerate($x) if i % 2 == 0]",
    ),
    step(
        "distinct",
        "without duplicates",
        "list(dict.fromkeys($x))",
        "(lambda r: [y for i, y in enumerate(r) if y not in r[:i]])($x)",
    ),
    step("append", "followed by $k", "[*$x, $k]", "$x + [$k]"),
    step("prepend", "preceded by $k", "[$k, *$x]", "[$k] + $x"),
];

/// What can be done to a string, always as a suffix of the expression. Phrases are participles.
pub(super) const TEXT_EDITS: &[Step] = &[
    step("upper", "in upper case", "$x.upper()", "''.join(y.upper() for y in $x)"),
    step("lower", "in lower case", "$x.lower()", "''.join(y.lower() for y in $x)"),
    step(
        "swapcase",
        "with swapped case",
        "$x.swapcase()",
        "''.join(y.lower() if y.isupper() else y.upper() for y in $x)",
    ),
    step(
        "capitalized",
        "capitalized",
        "$x.capitalize()",
        "''.join(y.lower() if i else y.upper() for i, y in enumerate($x))",
    ),
    step("reversed", "reversed", "$x[::-1]", "''.join(reversed($x))"),
    step("stripped", "stripped", "$x.strip()", "$x.lstrip().rstrip()"),
    step("spaceless", "without spaces", "$x.replace(' ', '')", "''.join(y for y in $x if y != ' ')"),
    step(
        "first",
        "cut to the first $k characters",
        "$x[:$k]",
        "''.join(y for i, y in enumerate($x) if i < $k)",
    ),
    step(
        "drop",
        "without the first $k characters",
        "$x[$k:]",
        "''.join(y for i, y in enumerate($x) if i >= $k)",
    ),
    step(
        "last",
        "cut to the last $k characters",
        "$x[-$k:]",
        "(lambda r: ''.join(y for i, y in enumerate(r) if i >= len(r) - $k))($x)",
    ),
    step(
        "drop_last",
        "without the last $k characters",
        "$x[:-$k]",
        "(lambda r: ''.join(y for i, y in enumerate(r) if i < len(r) - $k))($x)",
    ),
    step("removed", "with every $s removed", "$x.replace($s, '')", "''.join($x.split($s))"),
    step(
        "prefix",
        "without the prefix $s",
        "$x.removeprefix($s)",
        "(lambda r: r[2:] if r[:2] == $s else r)($x)",
    ),
    step(
        "suffix",
        "without the suffix $s",
        "$x.removesuffix($s)",
        "(lambda r: r[:-2] if r[-2:] == $s else r)($x)",
    ),
    step(
        "padded",
        "padded with zeros to $k characters",
        "$x.rjust($k, '0')",
        "(lambda r: '0' * ($k - len(r)) + r)($x)",
    ),
    step("filled", "filled up to $k characters", "$x.ljust($k)", "(lambda r: r + ' ' * ($k - len(r)))($x)"),
];

/// What can be asked of a string, always as a suffix or a call.
pub(super) const TEXT_QUESTIONS: &[Step] = &[
    step("length", "the length of $x", "len($x)", "sum(1 for _ in $x)"),
    step("starts", "whether $x starts with $s", "$x.startswith($s)", "$x[:2] == $s"),
    step("ends", "whether $x ends with $s", "$x.endswith($s)", "$x[-2:] == $s"),
    step("count", "how often $s occurs in $x", "$x.count($s)", "len($x.split($s)) - 1"),
    step("find", "the position of $s in $x or -1", "$x.find($s)", "$x.index($s) if $s in $x else -1"),
    step("split", "the words of $x", "$x.split()", "[y for y in re.split(r'\\s+', $x) if y]"),
    step("pieces", "the parts of $x between $s", "$x.split($s)", "re.split($s, $x)"),
    step("digits", "whether $x has only digits", "$x.isdigit()", "re.fullmatch('[0-9]+', $x) is not None"),
    step("characters", "the characters of $x", "list($x)", "[y for y in $x]"),
    step("set", "the set of characters of $x", "set($x)", "set(y for y in $x)"),
];

/// Conditions on a string. Phrases follow "that".
pub(super) const TEXT_CONDITIONS: &[Step] = &[
    step("starts", "start with $s", "$x.startswith($s)", "$x[:2] == $s"),
    step("ends", "end with $s", "$x.endswith($s)", "$x[-2:] == $s"),
    step("contains", "contain $s", "$s in $x", "len($x.split($s)) > 1"),
    step("differs", "differ from $s", "$x != $s", "not $x == $s"),
    step("longer", "are longer than $k", "len($x) > $k", "sum(1 for _ in $x) > $k"),
    step("shorter", "are shorter than $k", "len($x) < $k", "sum(1 for _ in $x) < $k"),
    step("upper", "are in upper case", "$x.isupper()", "$x == $x.upper() and $x != $x.lower()"),
    step("digits", "have only digits", "$x.isdigit()", "re.fullmatch('[0-9]+', $x) is not None"),
    step("nonempty", "are not empty", "$x != ''", "len($x) > 0"),
];

/// What to take from the entries of a dictionary that meet a condition.
pub(super) const TABLE_VIEWS: &[Step] = &[
    step(
        "keys",
        "the keys of $a with values",
        "[k for k, v in $a.items() if $x]",
        "[k for k in a if (lambda v: $x)(a[k])]",
    ),
    step(
        "values",
        "the values of $a",
        "[v for v in $a.values() if $x]",
        "list(filter(lambda v: $x, a.values()))",
    ),
    step(
        "entries",
        "the entries of $a with values",
        "{k: v for k, v in $a.items() if $x}",
        "dict((k, a[k]) for k in a if (lambda v: $x)(a[k]))",
    ),
    step(
        "count",
        "the number of entries of $a with values",
        "sum(1 for v in $a.values() if $x)",
        "len([k for k in a if (lambda v: $x)(a[k])])",
    ),
    step(
        "total",
        "the sum of entries of $a with values",
        "sum(v for v in $a.values() if $x)",
        "sum(filter(lambda v: $x, a.values()))",
    ),
    step(
        "any",
        "whether $a has any values",
        "any($x for v in $a.values())",
        "any(map(lambda v: $x, a.values()))",
    ),
    step(
        "all",
        "whether $a has only values",
        "all($x for v in $a.values())",
        "all(map(lambda v: $x, a.values()))",
    ),
];
