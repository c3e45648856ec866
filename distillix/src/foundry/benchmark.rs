//! Problems of benchmarks, in a form that renaming and reformatting hardly change, and how much of one a text holds.
//!
//! A problem is two sequences: the words of its description (docstrings and comments of the prompt, or the prompt itself), and the
//! tokens of its solution with each name of its own replaced by one mark. A text is compared with the problems that it shares rare
//! runs of tokens with: the share that it holds of a sequence is the length of their longest common subsequence within a window little
//! longer than the problem. That a word between two runs was renamed, or a line broken elsewhere, costs that word alone.

use super::tokens::{HashedMap, hash, hash_word, runs, tokens, words};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Words in a run of a description, and tokens in a run of code.
const PROSE_RUN: usize = 3;
const CODE_RUN: usize = 8;
/// Shorter descriptions are not compared: any text may hold them.
const MIN_WORDS: usize = 6;
/// Shorter solutions are not compared alone.
const MIN_CODE: usize = 40;
/// Share of a solution that convicts without its description.
const CODE_SHARE: f64 = 0.9;
/// Windows of a text that are compared with one problem.
const WINDOWS: usize = 6;

/// Names that stay what they are: they belong to the language, and are not a programmer's choice.
const KEPT: [&str; 84] = [
    "False",
    "None",
    "True",
    "and",
    "as",
    "assert",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "abs",
    "all",
    "any",
    "bool",
    "chr",
    "dict",
    "enumerate",
    "filter",
    "float",
    "int",
    "isinstance",
    "len",
    "list",
    "map",
    "max",
    "min",
    "ord",
    "print",
    "range",
    "reversed",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
    "type",
    "zip",
    "fn",
    "let",
    "mut",
    "match",
    "impl",
    "func",
    "var",
    "const",
    "function",
    "new",
    "this",
    "self",
    "null",
    "nil",
    "void",
    "public",
    "static",
    "switch",
    "case",
    "struct",
    "do",
    "double",
    "string",
    "vector",
];

/// A problem of a benchmark.
#[derive(Clone, Debug)]
struct Problem {
    name: String,
    words: Vec<u64>,
    code: Vec<u64>,
}

/// Where a run of tokens occurs: in which problem, and where in it.
type Places = Vec<(u32, u32)>;

/// The problems to compare with.
#[derive(Clone, Debug, Default)]
pub struct Benchmark {
    problems: Vec<Problem>,
    prose: HashedMap<Places>,
    code: HashedMap<Places>,
}

/// A problem that a text holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The benchmark's file and the problem's name in it.
    pub problem: String,
    /// The share of it that was found, 0 to 1.
    pub share: f64,
    /// What was found.
    pub what: &'static str,
}

impl Benchmark {
    /// Adds a problem, an object with a description (`prompt`, `text`, `question`, …) and perhaps a solution.
    ///
    /// # Errors
    /// When it has no description.
    pub fn add(&mut self, file: &str, fields: &Map<String, Value>) -> Result<(), String> {
        let text = |names: &[&str]| names.iter().find_map(|name| fields.get(*name)?.as_str());
        let description = text(&[
            "prompt",
            "text",
            "question",
            "instruction",
            "problem",
            "description",
            "content",
        ])
        .ok_or(
            "it has no `prompt`, `text`, `question`, `instruction`, `problem`, `description` or `content`",
        )?;
        let solution =
            text(&["canonical_solution", "solution", "code", "response", "completion", "answer", "output"]);
        let id = ["task_id", "id", "name"].iter().find_map(|name| fields.get(*name)).map(|id| match id {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        });
        let name = format!("{file}:{}", id.unwrap_or_else(|| (self.problems.len() + 1).to_string()));
        let problem = Problem {
            name,
            words: words(&documentation(description)).map(hash_word).collect(),
            code: solution
                .map(|solution| code_tokens(solution).map(|(token, _)| token).collect())
                .unwrap_or_default(),
        };
        let at = self.problems.len() as u32;
        if problem.words.len() >= MIN_WORDS {
            index(&mut self.prose, &problem.words, PROSE_RUN, at);
        }
        if problem.code.len() >= MIN_CODE {
            index(&mut self.code, &problem.code, CODE_RUN, at);
        }
        self.problems.push(problem);
        Ok(())
    }

    /// Number of problems.
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// True if there is no problem.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problem that `text` holds the most of, if that is `least` of it or more.
    pub fn find(&self, text: &str, least: f64) -> Option<Hit> {
        let prose: Vec<u64> = words(text).map(hash_word).collect();
        let by_words = self.best(
            &self.prose,
            &prose,
            PROSE_RUN,
            |problem| &problem.words,
            |problem| {
                // Of few words, more have to be there: short texts are more easily alike.
                least + (1.0 - least) * 4.0 / problem.words.len() as f64
            },
        );
        if let Some((at, share)) = by_words {
            return Some(Hit { problem: self.problems[at].name.clone(), share, what: "description" });
        }
        if self.code.is_empty() {
            return None;
        }
        let code: Vec<u64> = code_tokens(text).map(|(token, _)| token).collect();
        let (at, share) = self.best(&self.code, &code, CODE_RUN, |problem| &problem.code, |_| CODE_SHARE)?;
        Some(Hit { problem: self.problems[at].name.clone(), share, what: "solution" })
    }

    /// The problem whose sequence is found to the largest share, among those that are found to their `least`.
    fn best(
        &self,
        index: &HashedMap<Places>,
        text: &[u64],
        run: usize,
        sequence: impl Fn(&Problem) -> &Vec<u64>,
        least: impl Fn(&Problem) -> f64,
    ) -> Option<(usize, f64)> {
        // For each problem, how many runs lie on about the same diagonal, and where that begins.
        let mut diagonals: HashMap<(u32, i64), u32> = HashMap::new();
        for (at, key) in runs(text, run).enumerate() {
            for (problem, place) in index.get(&key).into_iter().flatten() {
                let width = self.band(sequence(&self.problems[*problem as usize]).len());
                let diagonal = (at as i64 - i64::from(*place)).div_euclid(width);
                *diagonals.entry((*problem, diagonal)).or_default() += 1;
            }
        }
        // Renaming leaves at least a few runs whole.
        let mut likely: Vec<((u32, i64), u32)> = diagonals
            .into_iter()
            .filter(|((problem, _), hits)| {
                let len = sequence(&self.problems[*problem as usize]).len();
                *hits as usize >= 2.max(len / 12)
            })
            .collect();
        likely.sort_by_key(|(place, hits)| (place.0, std::cmp::Reverse(*hits), place.1));
        let mut best: Option<(usize, f64)> = None;
        let (mut last, mut tried) = (u32::MAX, 0);
        for ((problem, diagonal), _) in likely {
            tried = if problem == last { tried + 1 } else { 0 };
            last = problem;
            if tried >= WINDOWS {
                continue;
            }
            let wanted = sequence(&self.problems[problem as usize]);
            let width = self.band(wanted.len());
            let start = ((diagonal - 1) * width).clamp(0, text.len() as i64) as usize;
            let end = (start + wanted.len() + 3 * width as usize).min(text.len());
            let share = common(wanted, &text[start..end]) as f64 / wanted.len() as f64;
            if share >= least(&self.problems[problem as usize]) && best.is_none_or(|(_, best)| share > best) {
                best = Some((problem as usize, share));
            }
        }
        best
    }

    /// How far runs of one problem may be moved against each other and still count together.
    fn band(&self, len: usize) -> i64 {
        (len / 6 + 6) as i64
    }
}

fn index(index: &mut HashedMap<Places>, sequence: &[u64], run: usize, problem: u32) {
    for (at, key) in runs(sequence, run).enumerate() {
        index.entry(key).or_default().push((problem, at as u32));
    }
}

/// The length of the longest common subsequence.
fn common(a: &[u64], b: &[u64]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (at, y) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if x == y { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Tokens of code, with names of one's own replaced, and each token's text. A name after a dot belongs to a library.
fn code_tokens(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let mut after_dot = false;
    tokens(text).map(move |token| {
        let is_name = token.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let own = is_name && !after_dot && !KEPT.contains(&token);
        after_dot = token == ".";
        (hash(if own { b"$" } else { token.as_bytes() }), token)
    })
}

/// What a description says in words: the long strings and comments of code, or all of a text that has none.
fn documentation(text: &str) -> String {
    let mut found = String::new();
    let mut rest = text;
    while let Some((at, mark)) =
        ["\"\"\"", "'''", "/*"].iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min()
    {
        let inside = &rest[at + mark.len()..];
        let close = if mark == "/*" { "*/" } else { mark };
        let end = inside.find(close).unwrap_or(inside.len());
        found.push_str(&inside[..end]);
        found.push('\n');
        rest = inside.get(end + close.len()..).unwrap_or_default();
    }
    if found.is_empty() {
        let comment = |line: &&str| ["#", "//", "--"].iter().any(|mark| line.trim_start().starts_with(mark));
        let comments: Vec<&str> = text.lines().filter(comment).collect();
        found = comments.join("\n");
    }
    if words(&found).count() >= MIN_WORDS { found } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn benchmark() -> Benchmark {
        let mut benchmark = Benchmark::default();
        let problems = [
            json!({"task_id": "T/0", "prompt": "def near(numbers, threshold):\n    \"\"\" Check if in given list of numbers, are any two \
                numbers closer to each other than\n    given threshold.\n    >>> near([1.0, 2.0, 3.0], 0.5)\n    False\n    \"\"\"\n",
                "canonical_solution": "    for idx, elem in enumerate(numbers):\n        for idx2, elem2 in enumerate(numbers):\n            \
                if idx != idx2:\n                distance = abs(elem - elem2)\n                if distance < threshold:\n                    \
                return True\n\n    return False\n"}),
            json!({"task_id": 7, "text": "Write a function to find the similar elements from the given two tuple lists.", "code": "x"}),
        ];
        for problem in problems {
            benchmark.add("b", problem.as_object().expect("object")).expect("adds");
        }
        benchmark
    }

    fn found(text: &str) -> Option<(String, &'static str)> {
        benchmark().find(text, 0.6).map(|hit| (hit.problem, hit.what))
    }

    #[test]
    fn renamed_and_reformatted_problems_are_found() {
        let description = Some(("b:T/0".to_owned(), "description"));
        let other = "import os\n\ndef f(x):\n    return os.path.join(x, 'a')\n".repeat(10);
        let verbatim = "def near(numbers, threshold):\n    \"\"\" Check if in given list of numbers, are any two numbers closer to each \
            other than\n    given threshold.\n    >>> near([1.0, 2.0, 3.0], 0.5)\n    False\n    \"\"\"\n    return 1\n";
        assert_eq!(found(&format!("{other}{verbatim}{other}")), description);
        let renamed = verbatim.replace("numbers", "xs").replace("near", "g").replace("threshold", "limit");
        assert_eq!(found(&format!("{other}{renamed}{other}")), description);
        let reformatted = verbatim.split_whitespace().collect::<Vec<_>>().join("\n        // ");
        assert_eq!(found(&format!("{other}{reformatted}{other}")), description);
        let solution = "def h(v, t):\n  for i, a in enumerate(v):\n    for j, b in enumerate(v):\n      if i != j:\n        d = abs(a - b)\n        \
            if d < t: return True\n  return False\n";
        assert_eq!(found(&format!("{other}{solution}")), Some(("b:T/0".to_owned(), "solution")));
        let prompt = "Write a function to find the similar elements from the given two tuple lists.";
        assert_eq!(found(prompt), Some(("b:7".to_owned(), "description")));
    }

    #[test]
    fn others_are_not() {
        for text in [
            "Write a function to find the largest of three numbers in a list.",
            "def close(a, b):\n    \"\"\"Check if two numbers are close to each other.\"\"\"\n    return abs(a - b) < 1e-9\n",
            "for i, x in enumerate(xs):\n    for j, y in enumerate(xs):\n        if i != j:\n            print(x, y)\n",
            "",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        assert!(Benchmark::default().add("b", json!({"a": 1}).as_object().expect("object")).is_err());
    }

    proptest! {
        #[test]
        fn common_subsequences(a in prop::collection::vec(0u64..4, 0..12), b in prop::collection::vec(0u64..4, 0..12)) {
            fn slow(a: &[u64], b: &[u64]) -> usize {
                match (a.split_first(), b.split_first()) {
                    (Some((x, a_rest)), Some((y, b_rest))) if x == y => 1 + slow(a_rest, b_rest),
                    (Some((_, a_rest)), Some((_, b_rest))) => slow(a_rest, b).max(slow(a, b_rest)),
                    _ => 0,
                }
            }
            prop_assert_eq!(common(&a, &b), slow(&a, &b));
        }
    }
}
