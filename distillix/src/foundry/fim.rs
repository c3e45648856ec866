//! Which parts of code are worth filling in.

use super::syntax::Syntax;
use super::tokens::mix;
use tree_sitter::Node;

/// Shortest and longest span, in characters.
const MIN_CHARS: usize = 4;
const MAX_CHARS: usize = 1200;

/// The kinds of parts, and how many of the spans each gets.
const SHARES: [(Kind, f64); 3] = [(Kind::Body, 0.4), (Kind::Statement, 0.4), (Kind::Expression, 0.2)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The body of a function, a loop, a branch.
    Body,
    /// A statement or a definition.
    Statement,
    /// What is assigned, returned, compared or passed.
    Expression,
}

/// What kind of part a node is, by the names that grammars give: these are alike in all of ours.
fn kind(node: &Node<'_>) -> Option<Kind> {
    let name = node.kind();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if !node.is_named() || node.is_extra() {
        None
    } else if ends(&["block", "body", "declaration_list", "do_group"]) {
        Some(Kind::Body)
    } else if ends(&["statement", "declaration", "definition", "_item", "assignment", "command"]) {
        Some(Kind::Statement)
    } else if ends(&[
        "expression",
        "operator",
        "call",
        "comprehension",
        "arguments",
        "argument_list",
        "lambda",
        "invocation",
    ]) {
        Some(Kind::Expression)
    } else {
        None
    }
}

/// At most `most` spans of `text`, as ranges `[start, end)` of characters, in order and each once. They are spread over the text, and
/// are a function of it.
pub fn spans(syntax: &Syntax, text: &str, most: usize) -> Vec<(usize, usize)> {
    let mut found: [Vec<(usize, usize)>; 3] = Default::default();
    syntax.visit(|node| {
        if node.is_error() || node.is_missing() {
            return false;
        }
        if let Some(kind) = kind(&node).filter(|_| !node.has_error()) {
            let range = node.byte_range();
            // Nobody asks for the braces alone, nor for the blank space at an end.
            let inner = text[range.clone()].trim_end();
            if !inner.is_empty() {
                found[kind as usize].push((range.start, range.start + inner.len()));
            }
        }
        true
    });
    let offsets = CharOffsets::new(text);
    let total = text.trim().chars().count();
    let mut chosen = Vec::new();
    for (kind, share) in SHARES {
        let ranges = found[kind as usize].iter().map(|(start, end)| (offsets.of(*start), offsets.of(*end)));
        let fits = |(start, end): &(usize, usize)| {
            let chars = end - start;
            // A span that is nearly the whole text leaves nothing to go by.
            (MIN_CHARS..=MAX_CHARS).contains(&chars) && chars * 4 <= total * 3
        };
        let mut ranges: Vec<(usize, usize)> = ranges.filter(fits).collect();
        ranges.sort_unstable();
        ranges.dedup();
        chosen.extend(spread(&ranges, ((most as f64 * share).round() as usize).max(1)));
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen.truncate(most);
    chosen
}

/// `most` of `ranges`, one out of each stretch of the list.
fn spread(ranges: &[(usize, usize)], most: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let parts = most.min(ranges.len());
    (0..parts).map(move |part| {
        let (from, to) = (part * ranges.len() / parts, (part + 1) * ranges.len() / parts);
        let (start, end) = ranges[from];
        let drawn = mix((start as u64) << 32 ^ end as u64 ^ ranges.len() as u64) as usize % (to - from);
        ranges[from + drawn]
    })
}

/// Characters before a byte.
struct CharOffsets {
    /// Characters before each 64th byte. Empty for text of one byte a character.
    marks: Vec<usize>,
    bytes: Vec<u8>,
}

impl CharOffsets {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            return Self { marks: Vec::new(), bytes: Vec::new() };
        }
        let bytes = text.as_bytes().to_vec();
        let mut marks = vec![0];
        for chunk in bytes.chunks(64) {
            marks.push(marks[marks.len() - 1] + starts(chunk));
        }
        Self { marks, bytes }
    }

    fn of(&self, byte: usize) -> usize {
        if self.marks.is_empty() {
            return byte;
        }
        let mark = byte / 64;
        self.marks[mark] + starts(&self.bytes[mark * 64..byte])
    }
}

/// Characters that begin in `bytes`.
fn starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::language::Language;
    use proptest::prelude::*;

    fn spans_of(language: Language, text: &str, most: usize) -> Vec<String> {
        let syntax = Syntax::parse(language, text).expect("parses");
        let chars: Vec<char> = text.chars().collect();
        spans(&syntax, text, most)
            .into_iter()
            .map(|(start, end)| chars[start..end].iter().collect())
            .collect()
    }

    #[test]
    fn bodies_statements_and_expressions() {
        let python = "# é日本\ndef add(a, b):\n    total = a + b\n    return total\n\n\nprint(add(1, 2))\n";
        let found = spans_of(Language::Python, python, 32);
        for span in ["total = a + b\n    return total", "return total", "a + b", "print(add(1, 2))"] {
            assert!(found.iter().any(|f| f == span), "{span}: {found:?}");
        }
        for (language, text, span) in [
            (
                Language::Rust,
                "fn f(x: u8) -> u8 {\n    let y = x + 1;\n    y * 2\n}\n\nfn g() {}\n",
                "let y = x + 1;",
            ),
            (Language::Go, "package a\n\nfunc f(x int) int {\n\ty := x + 1\n\treturn y\n}\n", "return y"),
            (Language::Java, "class A {\n  int f(int x) {\n    return x + 1;\n  }\n}\n", "return x + 1;"),
            (Language::JavaScript, "function f(x) {\n  return g(x) + 1;\n}\n\nf(2);\n", "g(x) + 1"),
            (Language::TypeScript, "function f(x: number) {\n  return x + 1;\n}\n\nf(2);\n", "return x + 1;"),
            (Language::C, "int f(int x) {\n  return x + 1;\n}\n\nint y;\n", "return x + 1;"),
            (Language::Cpp, "int f(int x) {\n  return x + 1;\n}\n\nint y;\n", "x + 1"),
            (Language::Bash, "for f in a b; do\n  echo \"$f\" | wc\ndone\n\nls\n", "echo \"$f\""),
        ] {
            let found = spans_of(language, text, 32);
            assert!(found.iter().any(|f| f == span), "{language} {span}: {found:?}");
        }
    }

    #[test]
    fn few_are_chosen_from_all_over() {
        let text: String = (0..200).map(|i| format!("def f{i}(x):\n    return x + {i}\n\n\n")).collect();
        let found = spans_of(Language::Python, &text, 20);
        assert!((15..=20).contains(&found.len()), "{}", found.len());
        assert!(spans_of(Language::Python, &text, 20) == found);
    }

    proptest! {
        #[test]
        fn spans_are_ranges_of_characters(words in prop::collection::vec("(é|x|日|=|1|\\(|\\)|:|\n|\n    | |def f\\(\\):|return )", 0..60)) {
            let text = words.concat();
            let syntax = Syntax::parse(Language::Python, &text).expect("parses");
            let chars = text.chars().count();
            let found = spans(&syntax, &text, 8);
            prop_assert!(found.len() <= 8);
            for (start, end) in &found {
                prop_assert!(start < end && *end <= chars);
            }
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
