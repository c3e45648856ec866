//! The families of two-step functions, and which of their pairs are held out.

use super::rng::hash;
use super::steps::{
    ACCUMULATORS, CONDITIONS, MAPS, REARRANGEMENTS, SUMMARIES, TABLE_VIEWS, TEXT_CONDITIONS, TEXT_EDITS,
    TEXT_QUESTIONS,
};
use super::template::{Family, Operand, Step};

const fn operand(doc: &'static str, code: &'static str, reference: &'static str) -> Operand {
    Operand { doc, code, reference }
}

/// Every family.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        id: "filter_map",
        stem: "select",
        params: "l",
        firsts: CONDITIONS,
        seconds: MAPS,
        first_operand: operand("", "v", "v"),
        second_operand: operand("", "v", "v"),
        docs: &["Return the values of $a that are $1, each $2.", "List each value of $a that is $1, $2."],
        bodies: &[
            "return [$2 for v in $a if $1]",
            "result = []\nfor v in $a:\n    if $1:\n        result.append($2)\nreturn result",
        ],
        reference: "list(map(lambda v: $2, filter(lambda v: $1, a)))",
        weight: 10,
    },
    Family {
        id: "filter_summary",
        stem: "measure",
        params: "l",
        firsts: CONDITIONS,
        seconds: SUMMARIES,
        first_operand: operand("", "v", "v"),
        second_operand: operand(
            "values of $a that are $1",
            "[v for v in $a if $1]",
            "list(filter(lambda v: $1, a))",
        ),
        docs: &["Return $2."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 10,
    },
    Family {
        id: "map_summary",
        stem: "measure",
        params: "l",
        firsts: MAPS,
        seconds: SUMMARIES,
        first_operand: operand("", "v", "v"),
        second_operand: operand("values of $a, each $1", "[$1 for v in $a]", "list(map(lambda v: $1, a))"),
        docs: &["Return $2."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 10,
    },
    Family {
        id: "loop",
        stem: "loop",
        params: "l",
        firsts: CONDITIONS,
        seconds: ACCUMULATORS,
        first_operand: operand("", "v", "v"),
        second_operand: operand("", "", ""),
        docs: &["Loop over $a to $2 the values that are $1."],
        bodies: &["total = $i\nfor v in $a:\n    if $1:\n        $2\nreturn total"],
        reference: "(lambda r: $2)(list(filter(lambda v: $1, a)))",
        weight: 5,
    },
    Family {
        id: "guard",
        stem: "guard",
        params: "n",
        firsts: CONDITIONS,
        seconds: MAPS,
        first_operand: operand("$a", "$a", "a"),
        second_operand: operand("$a", "$a", "a"),
        docs: &["Return 0 if $a is $1, otherwise $a $2.", "If $a is $1 return 0, else $a $2."],
        bodies: &["if $1:\n    return 0\nreturn $2", "return 0 if $1 else $2"],
        reference: "(lambda: $2)() if not ($1) else 0",
        weight: 10,
    },
    Family {
        id: "arithmetic",
        stem: "compute",
        params: "n",
        firsts: MAPS,
        seconds: MAPS,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("", "result", "r"),
        docs: &["Return $a $1 and then $2.", "Compute $a $1, then $2."],
        bodies: &["result = $1\nreturn $2"],
        reference: "(lambda r: $2)($1)",
        weight: 10,
    },
    Family {
        id: "both",
        stem: "check",
        params: "n",
        firsts: CONDITIONS,
        seconds: CONDITIONS,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("", "$a", "a"),
        docs: &["Return whether $a is $1 and $2.", "Tell whether $a is both $1 and $2."],
        bodies: &["return $1 and $2", "if $1:\n    return $2\nreturn False"],
        reference: "all([$1, $2])",
        weight: 8,
    },
    Family {
        id: "either",
        stem: "check",
        params: "n",
        firsts: CONDITIONS,
        seconds: CONDITIONS,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("", "$a", "a"),
        docs: &["Return whether $a is $1 or $2.", "Tell whether $a is either $1 or $2."],
        bodies: &["return $1 or $2", "if $1:\n    return True\nreturn $2"],
        reference: "any([$1, $2])",
        weight: 8,
    },
    Family {
        id: "rearrange",
        stem: "order",
        params: "l",
        firsts: REARRANGEMENTS,
        seconds: REARRANGEMENTS,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("", "$1", "($1)"),
        docs: &["Return $a $1 and then $2.", "Give back $a $1, then $2."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 10,
    },
    Family {
        id: "rearrange_summary",
        stem: "measure",
        params: "l",
        firsts: REARRANGEMENTS,
        seconds: SUMMARIES,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("values of $a $1", "$1", "($1)"),
        docs: &["Return $2."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 8,
    },
    Family {
        id: "edit",
        stem: "change",
        params: "s",
        firsts: TEXT_EDITS,
        seconds: TEXT_EDITS,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("", "$1", "($1)"),
        docs: &["Return $a $1 and then $2.", "Give back $a $1, then $2."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 12,
    },
    Family {
        id: "edit_question",
        stem: "find",
        params: "s",
        firsts: TEXT_EDITS,
        seconds: TEXT_QUESTIONS,
        first_operand: operand("", "$a", "a"),
        second_operand: operand("$a $1", "$1", "($1)"),
        docs: &["Return $2."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 10,
    },
    Family {
        id: "words",
        stem: "select",
        params: "w",
        firsts: TEXT_CONDITIONS,
        seconds: TEXT_EDITS,
        first_operand: operand("", "w", "w"),
        second_operand: operand("", "w", "w"),
        docs: &["Return the words of $a that $1, each $2.", "List the words of $a that $1, $2."],
        bodies: &[
            "return [$2 for w in $a if $1]",
            "result = []\nfor w in $a:\n    if $1:\n        result.append($2)\nreturn result",
        ],
        reference: "list(map(lambda w: $2, filter(lambda w: $1, a)))",
        weight: 10,
    },
    Family {
        id: "table",
        stem: "find",
        params: "d",
        firsts: CONDITIONS,
        seconds: TABLE_VIEWS,
        first_operand: operand("", "v", "v"),
        second_operand: operand("", "$1", "$1"),
        docs: &["Return $2 that are $1."],
        bodies: &["return $2"],
        reference: "$2",
        weight: 8,
    },
    Family {
        id: "table_map",
        stem: "change",
        params: "d",
        firsts: CONDITIONS,
        seconds: MAPS,
        first_operand: operand("", "v", "v"),
        second_operand: operand("", "v", "v"),
        docs: &["Return the entries of $a that are $1, each $2.", "Map the entries of $a that are $1, $2."],
        bodies: &[
            "return {k: $2 for k, v in $a.items() if $1}",
            "result = {}\nfor k, v in $a.items():\n    if $1:\n        result[k] = $2\nreturn result",
        ],
        reference: "dict((k, (lambda v: $2)(a[k])) for k in a if (lambda v: $1)(a[k]))",
        weight: 8,
    },
];

/// Whether the pair of steps never occurs in training.
pub(super) fn is_held_out(family: &Family, first: usize, second: usize) -> bool {
    hash(&["pair", family.id, family.firsts[first].id, family.seconds[second].id]).is_multiple_of(7)
}

/// Whether the pair occurs at all. A step after itself says nothing new. Of two steps at most one has a constant:
/// to tell two constants apart digit by digit is what a small model learns last, and teaches it nothing about
/// code.
pub(super) fn is_used(family: &Family, first: usize, second: usize) -> bool {
    let repeated = std::ptr::eq(family.firsts, family.seconds) && first == second;
    let has_constant = |step: &Step| step.code.contains("$k") || step.code.contains("$s");
    let both_constant = has_constant(&family.firsts[first]) && has_constant(&family.seconds[second]);
    !repeated && !both_constant
}
