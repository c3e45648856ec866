//! Problems of benchmarks, and texts that hold one, renamed or reformatted though it may be.
//!
//! A problem is two sequences: the words of its description (the longest docstring or comment of the prompt, or the prompt itself), and
//! the tokens of its solution with each name of its own replaced by one mark. [`overlap`](super::overlap) finds them in texts.

use super::overlap::{Index, Sequence};
use super::tokens::{hash, hash_word, tokens, words};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Words in a run of a description, and tokens in a run of code.
const PROSE_RUN: usize = 3;
const CODE_RUN: usize = 8;
/// Shorter descriptions are not compared: any text may hold them.
const MIN_WORDS: usize = 6;
/// Shorter solutions are not compared alone.
const MIN_CODE: usize = 40;
/// Share of a solution that convicts without its description.
const CODE_SHARE: f64 = 0.9;

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

/// The problems to compare with.
#[derive(Clone, Debug)]
pub struct Benchmark {
    names: Vec<String>,
    descriptions: Index,
    solutions: Index,
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

impl Default for Benchmark {
    fn default() -> Self {
        Self { names: Vec::new(), descriptions: Index::new(PROSE_RUN), solutions: Index::new(CODE_RUN) }
    }
}

impl Benchmark {
    /// Adds a problem, an object with a description (`prompt`, `text`, `question`, …) and perhaps a solution.
    ///
    /// # Errors
    /// When it has no description.
    pub fn add(&mut self, file: &str, fields: &Map<String, Value>) -> Result<(), String> {
        let text = |names: &[&str]| names.iter().find_map(|name| fields.get(*name)?.as_str());
        let prompt = text(&[
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
        self.names.push(format!("{file}:{}", id.unwrap_or_else(|| (self.names.len() + 1).to_string())));

        let (description, signature) = split(prompt);
        let own: HashSet<u64> = [signature.as_str(), solution.unwrap_or_default()]
            .into_iter()
            .flat_map(code_tokens)
            .filter(|(_, is_own, _)| *is_own)
            .map(|(_, _, token)| hash_word(token))
            .collect();
        let all: Vec<u64> = words(&description).map(hash_word).collect();
        let lasting: Vec<u64> = all.iter().copied().filter(|word| !own.contains(word)).collect();
        self.descriptions.add(Sequence {
            tokens: if all.len() >= MIN_WORDS { all } else { Vec::new() },
            lasting: if lasting.len() >= MIN_WORDS { lasting } else { Vec::new() },
        });
        let code: Vec<u64> = solution.into_iter().flat_map(code_tokens).map(|(token, _, _)| token).collect();
        let tokens = if code.len() >= MIN_CODE { code } else { Vec::new() };
        self.solutions.add(Sequence { tokens, lasting: Vec::new() });
        Ok(())
    }

    /// Number of problems.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there is no problem.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The problem that `text` holds the most of, if that is `least` of it or more.
    pub fn find(&self, text: &str, least: f64) -> Option<Hit> {
        let hit = |(at, share): (usize, f64), what| Hit { problem: self.names[at].clone(), share, what };
        let prose: Vec<u64> = words(text).map(hash_word).collect();
        // Of few words, more have to be there: short texts are more easily alike.
        let by_words =
            self.descriptions.find(&prose, |words| least + (1.0 - least) * 4.0 / words.max(4) as f64);
        if let Some(found) = by_words {
            return Some(hit(found, "description"));
        }
        let code: Vec<u64> = code_tokens(text).map(|(token, _, _)| token).collect();
        self.solutions.find(&code, |_| CODE_SHARE).map(|found| hit(found, "solution"))
    }
}

/// Tokens of code, with names of one's own replaced, whether each is one, and each token's text. A name after a dot belongs to a library.
fn code_tokens(text: &str) -> impl Iterator<Item = (u64, bool, &str)> {
    let mut after_dot = false;
    tokens(text).map(move |token| {
        let is_name = token.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let is_own = is_name && !after_dot && !KEPT.contains(&token);
        after_dot = token == ".";
        (hash(if is_own { b"$" } else { token.as_bytes() }), is_own, token)
    })
}

/// The longest docstring or comment of a prompt, or all of a prompt that has none; and what is code in it.
fn split(prompt: &str) -> (String, String) {
    let (mut texts, mut code) = (Vec::new(), String::new());
    let mut rest = prompt;
    let marks = ["\"\"\"", "'''", "/*"];
    while let Some((at, mark)) = marks.iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min() {
        let inside = &rest[at + mark.len()..];
        let close = if mark == "/*" { "*/" } else { mark };
        let end = inside.find(close).unwrap_or(inside.len());
        code.push_str(&rest[..at]);
        texts.push(inside[..end].to_owned());
        rest = inside.get(end + close.len()..).unwrap_or_default();
    }
    let is_comment = |line: &&str| ["#", "//", "--"].iter().any(|mark| line.trim_start().starts_with(mark));
    let (comments, other): (Vec<&str>, Vec<&str>) = rest.lines().partition(is_comment);
    texts.push(comments.join("\n"));
    code.push_str(&other.join("\n"));
    let longest = texts.into_iter().map(|text| (words(&text).count(), text)).max_by_key(|(count, _)| *count);
    match longest {
        Some((count, text)) if count >= MIN_WORDS => (text, code),
        _ => (prompt.to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
