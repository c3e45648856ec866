//! Made-up tasks: a list goes through two to four steps. Each step is known in English and in Python, so the tests compare with
//! a reference on drawn arguments.

use super::{Draws, prompt};
use crate::foundry::language::Language;
use crate::foundry::prompts::Prompt;

/// One step: what it does, and how. `{k}` is a drawn number, `{c}` a drawn letter; Python turns the list `v` into the next `v`.
struct Step {
    english: &'static str,
    python: &'static str,
}

const fn step(english: &'static str, python: &'static str) -> Step {
    Step { english, python }
}

/// What the list holds, and the steps that make sense for it.
struct Domain {
    topic: &'static str,
    /// After "takes".
    takes: &'static str,
    argument: &'static str,
    keep: &'static [Step],
    change: &'static [Step],
    end: &'static [Step],
    /// Draws an argument, as Python.
    draw: fn(&mut Draws, k: i64) -> String,
}

static NUMBERS: Domain = Domain {
    topic: "lists",
    takes: "a list of integers",
    argument: "numbers",
    keep: &[
        step("keeps only those divisible by {k}", "v = [x for x in v if x % {k} == 0]"),
        step("keeps only those greater than {k}", "v = [x for x in v if x > {k}]"),
        step("drops every number whose absolute value is below {k}", "v = [x for x in v if abs(x) >= {k}]"),
        step("keeps only the odd ones", "v = [x for x in v if x % 2 == 1]"),
        step("keeps the numbers at even positions, counting from 0", "v = v[::2]"),
        step("keeps each different number once, where it first occurs", "v = list(dict.fromkeys(v))"),
        step(
            "keeps the first number and every one that is greater than the number right before it",
            "v = [x for i, x in enumerate(v) if i == 0 or x > v[i - 1]]",
        ),
        step("drops the first {k} of them", "v = v[{k}:]"),
        step("drops all occurrences of the smallest number", "v = [x for x in v if x != min(v)]"),
    ],
    change: &[
        step("squares each of them", "v = [x * x for x in v]"),
        step("replaces each by its distance from {k}", "v = [abs(x - {k}) for x in v]"),
        step(
            "replaces each by the sum of the digits of its absolute value",
            "v = [sum(map(int, str(abs(x)))) for x in v]",
        ),
        step(
            "replaces each by the sum of all up to and including it",
            "v = [sum(v[:i + 1]) for i in range(len(v))]",
        ),
        step(
            "replaces the list by the differences between each number and the one before it, which are one fewer",
            "v = [b - a for a, b in zip(v, v[1:])]",
        ),
        step("multiplies each by its position, counting from 1", "v = [i * x for i, x in enumerate(v, 1)]"),
        step(
            "replaces each by its remainder modulo {k}, which is never negative",
            "v = [x % {k} for x in v]",
        ),
        step("sorts them in ascending order", "v = sorted(v)"),
        step("limits each to at most {k}", "v = [min(x, {k}) for x in v]"),
    ],
    end: &[
        step("returns their sum", "return sum(v)"),
        step("returns the largest, or `None` if nothing is left", "return max(v, default=None)"),
        step("returns how many are left", "return len(v)"),
        step("returns them from the largest to the smallest", "return sorted(v, reverse=True)"),
        step("returns them in the opposite order", "return v[::-1]"),
        step(
            "returns the one that occurs most often, the smallest of several, or `None` if nothing is left",
            "return min(set(v), key=lambda x: (-v.count(x), x)) if v else None",
        ),
        step(
            "returns a dictionary from each different number to how often it occurs",
            "return {x: v.count(x) for x in v}",
        ),
        step(
            "returns them as one string, separated by commas without spaces",
            "return ','.join(map(str, v))",
        ),
        step(
            "returns the difference between the largest and the smallest, or 0 if nothing is left",
            "return max(v) - min(v) if v else 0",
        ),
        step(
            "returns them cut into lists of {k}, the last of which may be shorter",
            "return [v[i:i + {k}] for i in range(0, len(v), {k})]",
        ),
        step("returns the list of pairs (tuples) of neighbours", "return list(zip(v, v[1:]))"),
        step(
            "returns their arithmetic mean, or `None` if nothing is left",
            "return sum(v) / len(v) if v else None",
        ),
        step(
            "returns the two numbers that are largest, as a list with the larger first, or fewer if there are fewer",
            "return sorted(v, reverse=True)[:2]",
        ),
    ],
    draw: |draws, k| {
        let n = draws.between(3, 9);
        let number = |draws: &mut Draws| match draws.below(4) {
            0 => k,
            1 => k * draws.between(-2, 4),
            _ => draws.between(-20, 40),
        };
        let numbers: Vec<String> = (0..n).map(|_| number(draws).to_string()).collect();
        format!("[{}]", numbers.join(", "))
    },
};

const WORDS_TO_DRAW: [&str; 20] = [
    "anna", "River", "stone", "Otto", "a", "apple", "Echo", "level", "night", "Zebra", "ice", "Moon",
    "umbrella", "tree", "noon", "Kayak", "sun", "oak", "Tree", "letter",
];

static WORDS: Domain = Domain {
    topic: "strings",
    takes: "a list of words, each of one or more ASCII letters",
    argument: "words",
    keep: &[
        step("keeps only those of at least {k} letters", "v = [w for w in v if len(w) >= {k}]"),
        step(
            "keeps only those that begin with a vowel, in either case",
            "v = [w for w in v if w[0].lower() in 'aeiou']",
        ),
        step(
            "keeps only those that read the same backwards, ignoring case",
            "v = [w for w in v if w.lower() == w.lower()[::-1]]",
        ),
        step(
            "drops those that contain the letter `{c}` in either case",
            "v = [w for w in v if '{c}' not in w.lower()]",
        ),
        step("keeps only those that begin with a capital letter", "v = [w for w in v if w[0].isupper()]"),
        step("keeps each different word once, where it first occurs", "v = list(dict.fromkeys(v))"),
        step("keeps every second word, beginning with the first", "v = v[::2]"),
        step(
            "drops words in which a letter occurs twice, ignoring case",
            "v = [w for w in v if len(set(w.lower())) == len(w)]",
        ),
    ],
    change: &[
        step("writes each in capitals", "v = [w.upper() for w in v]"),
        step("turns each around", "v = [w[::-1] for w in v]"),
        step("cuts each to its first {k} letters", "v = [w[:{k}] for w in v]"),
        step("swaps capitals and small letters in each", "v = [w.swapcase() for w in v]"),
        step(
            "removes from each the letters that occurred earlier in it",
            "v = [''.join(dict.fromkeys(w)) for w in v]",
        ),
        step("puts after each its number of letters, as in `sun3`", "v = [w + str(len(w)) for w in v]"),
        step("moves the first letter of each to its end", "v = [w[1:] + w[0] for w in v]"),
        step(
            "puts the letters of each in alphabetical order, capitals first",
            "v = [''.join(sorted(w)) for w in v]",
        ),
    ],
    end: &[
        step("returns them joined with hyphens", "return '-'.join(v)"),
        step(
            "returns the longest, the first of several, or `None` if nothing is left",
            "return max(v, key=len, default=None)",
        ),
        step(
            "returns a dictionary from each first character to the list of the words with it, in their order",
            "return {c: [w for w in v if w[0] == c] for c in dict.fromkeys(w[0] for w in v)}",
        ),
        step(
            "returns them sorted by length and then alphabetically as Python compares strings",
            "return sorted(v, key=lambda w: (len(w), w))",
        ),
        step(
            "returns a dictionary from each different word to how often it occurs",
            "return {w: v.count(w) for w in v}",
        ),
        step("returns how many letters and digits they have together", "return sum(map(len, v))"),
        step(
            "returns the set of the characters that occur in all of them, the empty set if nothing is left",
            "return set(v[0]).intersection(*v) if v else set()",
        ),
        step(
            "returns the pairs (tuples) of a position, counting from 1, and the word there",
            "return list(enumerate(v, 1))",
        ),
        step("returns the list of the last characters", "return [w[-1] for w in v]"),
    ],
    draw: |draws, _| {
        let n = draws.between(2, 7);
        let words: Vec<String> = (0..n).map(|_| format!("'{}'", draws.pick(&WORDS_TO_DRAW))).collect();
        format!("[{}]", words.join(", "))
    },
};

const PEOPLE: [&str; 8] = ["Ada", "Bo", "Cleo", "Dag", "Eve", "Finn", "Gita", "Hal"];
const CITIES: [&str; 4] = ["Oslo", "Rome", "Lima", "Bonn"];

static RECORDS: Domain = Domain {
    topic: "data processing",
    takes: "a list of dictionaries with the keys `name` (a string), `city` (a string) and `age` (an integer)",
    argument: "people",
    keep: &[
        step("keeps only people of at least {k} years", "v = [p for p in v if p['age'] >= {k}]"),
        step("drops everyone from Rome", "v = [p for p in v if p['city'] != 'Rome']"),
        step(
            "keeps only people whose name has the letter `{c}` in either case",
            "v = [p for p in v if '{c}' in p['name'].lower()]",
        ),
        step(
            "keeps only the first person of each city",
            "v = [p for i, p in enumerate(v) if p['city'] not in [q['city'] for q in v[:i]]]",
        ),
        step(
            "keeps only people whose city somebody else in the list lives in, too",
            "v = [p for p in v if [q['city'] for q in v].count(p['city']) > 1]",
        ),
    ],
    change: &[
        step(
            "sorts them by age, those of equal age staying in order",
            "v = sorted(v, key=lambda p: p['age'])",
        ),
        step(
            "sorts them by name and, where names are equal, from old to young",
            "v = sorted(v, key=lambda p: (p['name'], -p['age']))",
        ),
        step(
            "makes everyone {k} years older, without changing the dictionaries that it was given",
            "v = [{**p, 'age': p['age'] + {k}} for p in v]",
        ),
        step("turns their order around", "v = v[::-1]"),
    ],
    end: &[
        step("returns the list of their names", "return [p['name'] for p in v]"),
        step(
            "returns a dictionary from each city to the list of the names there, in order",
            "return {c: [p['name'] for p in v if p['city'] == c] for c in dict.fromkeys(p['city'] for p in v)}",
        ),
        step(
            "returns the mean of their ages, or `None` if nobody is left",
            "return sum(p['age'] for p in v) / len(v) if v else None",
        ),
        step(
            "returns the name of the oldest, the first of several, or `None` if nobody is left",
            "return max(v, key=lambda p: p['age'])['name'] if v else None",
        ),
        step(
            "returns a dictionary from each city to the number of people there",
            "return {p['city']: sum(q['city'] == p['city'] for q in v) for p in v}",
        ),
        step(
            "returns lines of the form `Ada (36, Oslo)`, joined with line breaks",
            "return '\\n'.join(f\"{p['name']} ({p['age']}, {p['city']})\" for p in v)",
        ),
        step(
            "returns a dictionary from each city to the highest age there",
            "return {p['city']: max(q['age'] for q in v if q['city'] == p['city']) for p in v}",
        ),
    ],
    draw: |draws, k| {
        let n = draws.between(2, 6);
        let person = |draws: &mut Draws| {
            let age = if draws.below(3) == 0 { k } else { draws.between(1, 60) };
            format!("{{'name': '{}', 'city': '{}', 'age': {age}}}", draws.pick(&PEOPLE), draws.pick(&CITIES))
        };
        let people: Vec<String> = (0..n).map(|_| person(draws)).collect();
        format!("[{}]", people.join(", "))
    },
};

const VERBS: [&str; 10] = [
    "summarize",
    "digest",
    "process",
    "condense",
    "transform",
    "evaluate",
    "refine",
    "prepare",
    "reduce",
    "report_on",
];

/// The task of a seed and an index.
pub(super) fn task(id: String, draws: &mut Draws) -> Prompt {
    let domain = *draws.pick(&[&NUMBERS, &WORDS, &RECORDS, &NUMBERS, &WORDS]);
    let k = draws.between(2, 7);
    let letter = *draws.pick(&["a", "e", "n", "t", "o"]);
    let fill = |text: &str| text.replace("{k}", &k.to_string()).replace("{c}", letter);
    // Two kinds of steps in either order, sometimes another one, and an end.
    let mut steps = vec![draws.pick(domain.keep), draws.pick(domain.change)];
    if draws.below(3) == 0 {
        steps.swap(0, 1);
    }
    if draws.below(3) == 0 {
        let more = draws.pick(domain.keep);
        if !steps.iter().any(|s| std::ptr::eq(*s, more)) {
            steps.push(more);
        }
    }
    let end = draws.pick(domain.end);
    let name = format!("{}_{}", draws.pick(&VERBS), domain.argument);
    let all: Vec<String> = steps.iter().chain([&end]).map(|step| fill(step.english)).collect();
    let (last, before) = all.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let text = format!(
        "Write a Python function `{name}({})` that takes {}. In this order, it {}, and {last}. The argument itself is not changed, \
         and may be empty.\n\nGive the code in one block.",
        domain.argument,
        domain.takes,
        before.join(", then "),
    );
    let body: String =
        steps.iter().chain([&end]).map(|step| format!("    {}\n", fill(step.python))).collect();
    let reference = format!("def _expected(v):\n{body}");
    let cases: Vec<String> = (0..8).map(|_| format!("    {},\n", (domain.draw)(draws, k))).collect();
    let tests = format!(
        "import copy\n\n{reference}\nfor _case in [\n    [],\n{}]:\n    _before = copy.deepcopy(_case)\n    _got = {name}(_case)\n    \
         assert _got == _expected(copy.deepcopy(_before)), (_before, _got)\n    assert _case == _before, 'the argument was changed'\n",
        cases.concat()
    );
    let difficulty = if steps.len() > 2 { "medium" } else { "easy" };
    prompt(id, text, Some(tests), Language::Python, domain.topic, difficulty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_as_sentences() {
        for domain in [&NUMBERS, &WORDS, &RECORDS] {
            for step in domain.keep.iter().chain(domain.change).chain(domain.end) {
                assert!(step.english.starts_with(|c: char| c.is_ascii_lowercase()), "{}", step.english);
                assert!(!step.english.ends_with('.'), "{}", step.english);
                assert_eq!(step.english.contains("{k}"), step.python.contains("{k}"), "{}", step.english);
            }
            assert!(domain.end.iter().all(|s| s.python.starts_with("return ")));
            assert!(domain.keep.iter().chain(domain.change).all(|s| s.python.starts_with("v = ")));
        }
    }
}
