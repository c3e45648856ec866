//! Code turned into prompts: its functions are asked for, explained, tested, mended, filled in.

use super::bug::plant;
use super::{Prompt, language_of_answer, title};
use crate::foundry::language::Language;
use crate::foundry::syntax::Syntax;
use crate::smelter::data::random::{below, hash};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use tree_sitter::Node;

/// What is asked about a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its body, from signature and documentation.
    Document,
    /// Its body, from the signature alone.
    Signature,
    /// What it does.
    Explain,
    /// Tests for it.
    Tests,
    /// The mistake that was planted in it.
    Fix,
    /// A part of it that was taken out.
    Fill,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] =
        [Kind::Document, Kind::Signature, Kind::Explain, Kind::Tests, Kind::Fix, Kind::Fill];

    fn name(self) -> &'static str {
        match self {
            Kind::Document => "document",
            Kind::Signature => "signature",
            Kind::Explain => "explain",
            Kind::Tests => "tests",
            Kind::Fix => "fix",
            Kind::Fill => "fill",
        }
    }
}

/// Lines of a function that is neither trivial nor too long to be asked for whole.
const LINES: std::ops::RangeInclusive<usize> = 4..=60;
/// Most bytes of a function.
const BYTES: usize = 4000;

/// A function of a file; all ranges are bytes of the file.
struct Function {
    /// With its documentation, from the beginning of its first line.
    whole: Range<usize>,
    /// From the first comment before it to where it begins, or the text at the beginning of its body; empty if there is none.
    document: Range<usize>,
    body: Range<usize>,
}

/// Prompts about the functions of `text`: of each as many as `kinds`, as far as they are possible. `origin` says where it
/// comes from and begins their ids. The same arguments give the same prompts.
///
/// What the file itself has there is kept under `reference`.
pub fn prompts(language: Language, text: &str, origin: &str, kinds: &[Kind], seed: u64) -> Vec<Prompt> {
    let Some(syntax) = Syntax::parse(language, text).filter(Syntax::is_valid) else { return Vec::new() };
    let mut prompts = Vec::new();
    for (number, function) in functions(language, &syntax, text).iter().enumerate() {
        for kind in kinds {
            let draw = hash(&[seed, number as u64, *kind as u64]);
            let Some((asked, reference)) = ask(*kind, language, text, &syntax, function, draw) else {
                continue;
            };
            let extra = [("kind", kind.name()), ("origin", origin), ("reference", &reference)];
            prompts.push(Prompt {
                id: Some(format!("{origin}#{number}-{}", kind.name())),
                language: Some(language_of_answer(language, &asked, false)),
                prompt: asked,
                tests: None,
                extra: extra.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect(),
            });
        }
    }
    prompts
}

fn functions(language: Language, syntax: &Syntax, text: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    syntax.visit(|node| {
        if !is_function(node.kind()) {
            return true;
        }
        if let Some(function) = function(language, node, text) {
            functions.push(function);
        }
        // What is inside of a function is asked for with it.
        false
    });
    functions
}

fn is_function(kind: &str) -> bool {
    matches!(
        kind,
        "function_definition"
            | "function_item"
            | "function_declaration"
            | "method_definition"
            | "method_declaration"
            | "generator_function_declaration"
    )
}

fn function(language: Language, node: Node<'_>, text: &str) -> Option<Function> {
    let body = node.child_by_field_name("body")?;
    let mut start = node.start_byte();
    let mut document = start..start;
    // An exported or decorated function begins before itself.
    let mut first = node;
    while let Some(parent) = first.parent()
        && matches!(parent.kind(), "decorated_definition" | "export_statement")
    {
        first = parent;
        start = parent.start_byte();
    }
    if language == Language::Python {
        let text_first = body.named_child(0).filter(|n| n.kind() == "expression_statement");
        if let Some(string) = text_first.and_then(|n| n.named_child(0)).filter(|n| n.kind() == "string") {
            document = string.byte_range();
        }
    } else {
        let mut above = first.prev_sibling();
        while let Some(node) = above.filter(|n| n.kind().contains("comment") || n.kind() == "attribute_item")
        {
            // A comment that ends two lines above belongs to something else.
            if text[node.end_byte()..start].matches('\n').count() > 1 {
                break;
            }
            start = node.start_byte();
            if node.kind() != "attribute_item" {
                document = start..first.start_byte();
            }
            above = node.prev_sibling();
        }
    }
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    if text[line_start..start].trim().is_empty() {
        start = line_start;
    }
    let whole = start..node.end_byte();
    let lines = text.get(whole.clone())?.lines().count();
    let name = node.child_by_field_name("name").or_else(|| node.child_by_field_name("declarator"))?;
    let name = &text[name.byte_range()];
    let fits = LINES.contains(&lines)
        && whole.len() <= BYTES
        && !name.starts_with("test")
        && !name.starts_with("__");
    fits.then(|| Function { whole, document, body: body.byte_range() })
}

/// The prompt of a kind, and what the file has for an answer.
fn ask(
    kind: Kind,
    language: Language,
    text: &str,
    syntax: &Syntax,
    function: &Function,
    draw: u64,
) -> Option<(String, String)> {
    let whole = dedent(&text[function.whole.clone()]);
    let fence = |code: &str| format!("```{language}\n{}\n```", code.trim_end());
    let head = |with_document: bool| match (language, with_document) {
        // Python's documentation lies in the body.
        (Language::Python, true) => &text[function.whole.start..function.document.end],
        (Language::Python, false) | (_, true) => &text[function.whole.start..function.body.start],
        (_, false) => &text[function.document.end.max(function.whole.start)..function.body.start],
    };
    let name = title(language);
    let has_document = text[function.document.clone()].len() >= 20;
    Some(match kind {
        Kind::Document if has_document => (
            format!(
                "Write the body of this {name} function so that it does what its documentation says. Answer with the whole \
                 function.\n\n{}",
                fence(&dedent(head(true)))
            ),
            whole,
        ),
        Kind::Signature if has_document => (
            format!(
                "Below is the signature of a {name} function without its documentation. Say in one sentence what it most likely does, \
                 then write the whole function.\n\n{}",
                fence(&dedent(head(false)))
            ),
            whole,
        ),
        Kind::Explain => (
            format!(
                "Explain to a colleague who knows {name} but not this project what the following function does, which cases it treats \
                 separately, and what a caller has to know.\n\n{}",
                fence(&without_document(text, function))
            ),
            text[function.document.clone()].to_owned(),
        ),
        Kind::Tests => (
            format!(
                "Write tests for this {name} function, in the way that is usual for the language. Cover the ordinary use, the cases at \
                 the edges, and errors if it has any. Where the code depends on something that is not shown, say what you \
                 assume.\n\n{}",
                fence(&whole)
            ),
            String::new(),
        ),
        Kind::Fix => {
            let broken = plant(language, &whole, draw)?;
            (
                format!(
                    "A mistake has crept into this {name} function. Find it, say in one sentence what goes wrong because of it, and give the \
                     corrected function.\n\n{}",
                    fence(&broken)
                ),
                whole,
            )
        }
        Kind::Fill => {
            let gap = gap(syntax, function, draw)?;
            let (before, after) =
                (&text[function.whole.start..gap.start], &text[gap.end..function.whole.end]);
            (
                format!(
                    "A part of this {name} function is missing where it says `<missing>`. Answer with that part and nothing \
                     else.\n\n{}",
                    fence(&dedent(&format!("{before}<missing>{after}")))
                ),
                text[gap].to_owned(),
            )
        }
        _ => return None,
    })
}

fn without_document(text: &str, function: &Function) -> String {
    let mut code = text[function.whole.clone()].to_owned();
    if !function.document.is_empty() {
        let from = function.document.start - function.whole.start;
        let to = function.document.end - function.whole.start;
        code.replace_range(from..to, "");
    }
    // Of a documentation's line nothing is left.
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim().is_empty()).collect();
    dedent(&lines.join("\n"))
}

/// A statement or expression of the body to take out, of more than a name and less than half.
fn gap(syntax: &Syntax, function: &Function, draw: u64) -> Option<Range<usize>> {
    let mut gaps = Vec::new();
    let most = function.body.len() / 2;
    syntax.visit(|node| {
        let range = node.byte_range();
        if range.end <= function.body.start || range.start >= function.body.end {
            return false;
        }
        let inside = range.start > function.body.start && range.end <= function.body.end;
        let is_text = node.kind().contains("string") || node.kind().contains("comment");
        // The way to a name is no part that anyone could fill in.
        let is_path = ["field_expression", "member_expression", "attribute", "selector_expression"]
            .contains(&node.kind())
            || ["scoped", "qualified", "type", "parameters"].iter().any(|kind| node.kind().contains(kind));
        if inside && node.is_named() && !is_text && !is_path && (12..=most).contains(&range.len()) {
            gaps.push(range);
        }
        !is_text
    });
    let at = below(draw, gaps.len() as u64) as usize;
    gaps.get(at).cloned()
}

/// Takes the indentation of the first line from all that have it.
fn dedent(code: &str) -> String {
    let indent = code.len() - code.trim_start_matches([' ', '\t']).len();
    let indent = &code[..indent];
    code.split('\n').map(|line| line.strip_prefix(indent).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: &str = r#"
import math


def distance(a, b):
    """Return the distance between the points a and b."""
    dx = a[0] - b[0]
    dy = a[1] - b[1]
    return math.sqrt(dx * dx + dy * dy)


class Counter:
    def add(self, amount):
        if amount < 0:
            raise ValueError("negative amount")
        self.total += amount
        return self.total


def test_distance():
    a = 1
    b = 2
    assert distance((0, 0), (3, 4)) == 5
"#;

    fn of(kind: Kind, language: Language, text: &str) -> Vec<Prompt> {
        let prompts = prompts(language, text, "file", &[kind], 3);
        assert_eq!(prompts, super::prompts(language, text, "file", &[kind], 3));
        prompts
    }

    #[test]
    fn documentation_is_shown_and_the_body_is_not() {
        let prompts = of(Kind::Document, Language::Python, PYTHON);
        assert_eq!(prompts.len(), 1, "only one function has documentation, and tests are left out");
        let prompt = &prompts[0];
        assert!(
            prompt.prompt.contains("def distance(a, b):\n    \"\"\"Return the distance"),
            "{}",
            prompt.prompt
        );
        assert!(!prompt.prompt.contains("sqrt"));
        assert!(prompt.extra["reference"].as_str().unwrap().contains("sqrt"));
        assert_eq!(prompt.id.as_deref(), Some("file#0-document"));
    }

    #[test]
    fn signatures_come_without_documentation() {
        let prompts = of(Kind::Signature, Language::Python, PYTHON);
        assert!(prompts[0].prompt.contains("def distance(a, b):"));
        assert!(!prompts[0].prompt.contains("Return the distance"));
        let rust = "/// Adds the numbers of a slice together.\n#[inline]\nfn total(values: &[u32]) -> u32 {\n    let mut sum = 0;\n    for v in values {\n        sum += v;\n    }\n    sum\n}\n";
        let documented = of(Kind::Document, Language::Rust, rust);
        assert!(documented[0].prompt.contains("/// Adds") && documented[0].prompt.contains("fn total"));
        assert!(!documented[0].prompt.contains("let mut"));
        let bare = of(Kind::Signature, Language::Rust, rust);
        assert!(
            !bare[0].prompt.contains("/// Adds") && bare[0].prompt.contains("fn total"),
            "{}",
            bare[0].prompt
        );
    }

    #[test]
    fn methods_lose_their_indentation() {
        let prompts = of(Kind::Tests, Language::Python, PYTHON);
        assert_eq!(prompts.len(), 2);
        assert!(
            prompts[1].prompt.contains("\ndef add(self, amount):\n    if amount"),
            "{}",
            prompts[1].prompt
        );
    }

    #[test]
    fn explanations_are_asked_without_giving_them() {
        let prompts = of(Kind::Explain, Language::Python, PYTHON);
        assert!(!prompts[0].prompt.contains("Return the distance") && prompts[0].prompt.contains("sqrt"));
        assert!(prompts[0].extra["reference"].as_str().unwrap().contains("Return the distance"));
    }

    #[test]
    fn a_mistake_is_in_the_prompt_and_not_in_the_reference() {
        for prompt in of(Kind::Fix, Language::Python, PYTHON) {
            let reference = prompt.extra["reference"].as_str().unwrap();
            assert!(!prompt.prompt.contains(reference.trim_end()), "{}", prompt.prompt);
        }
    }

    #[test]
    fn a_gap_and_its_text_make_the_function() {
        let prompts = of(Kind::Fill, Language::Python, PYTHON);
        assert_eq!(prompts.len(), 2);
        for prompt in prompts {
            let reference = prompt.extra["reference"].as_str().unwrap();
            let (_, code) = prompt.prompt.split_once("```python\n").unwrap();
            let whole = code.replace("<missing>", reference);
            let first = whole.lines().next().unwrap();
            assert!(PYTHON.contains(first) && whole.len() > reference.len() + 20, "{whole}");
        }
    }

    #[test]
    fn other_languages_have_functions_too() {
        let samples = [
            (
                Language::JavaScript,
                "export function f(a) {\n  const b = a + 1;\n  console.log(b);\n  return b * 2;\n}\n",
            ),
            (
                Language::TypeScript,
                "class A {\n  f(a: number): number {\n    const b = a + 1;\n    return b * 2;\n  }\n}\n",
            ),
            (
                Language::Go,
                "package a\n\nfunc f(a int) int {\n\tb := a + 1\n\tprintln(b)\n\treturn b * 2\n}\n",
            ),
            (
                Language::Java,
                "class A {\n    int f(int a) {\n        int b = a + 1;\n        return b * 2;\n    }\n}\n",
            ),
            (Language::C, "int f(int a)\n{\n    int b = a + 1;\n    return b * 2;\n}\n"),
            (Language::Cpp, "int f(int a) {\n    auto b = a + 1;\n    return b * 2;\n}\n"),
            (Language::Bash, "f() {\n  local b=$(($1 + 1))\n  echo \"$b\"\n  return 0\n}\n"),
        ];
        for (language, text) in samples {
            assert_eq!(of(Kind::Tests, language, text).len(), 1, "{language}");
            assert!(of(Kind::Tests, language, "(((").is_empty());
        }
    }
}
