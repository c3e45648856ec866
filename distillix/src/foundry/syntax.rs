//! Syntax trees.

use super::language::Language;
use super::python_lexis;
use std::cell::RefCell;
use std::ops::{ControlFlow, Range};
use tree_sitter::{Node, ParseOptions, ParseState, Parser, Point, Tree};

/// Texts of more bytes are not parsed: time and memory of a parser grow with what it is given.
pub const MAX_BYTES: usize = 4 << 20;

/// The syntax tree of a text.
#[derive(Clone, Debug)]
pub struct Syntax {
    /// The tree. Its offsets are bytes of the text.
    pub tree: Tree,
    /// Ranges that do not fit the grammar, in order; empty where something is missing.
    pub errors: Vec<Range<usize>>,
    /// Bytes within these that are not part of something that does fit.
    pub wrong_bytes: usize,
}

impl Syntax {
    /// Parses `text`, with the grammar of the language that describes it best. `None` for texts above [`MAX_BYTES`].
    pub fn parse(language: Language, text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut best: Option<Self> = None;
        for grammar in language.grammars() {
            let Some(tree) =
                parse_with(&grammar, &mut |at, _| text.as_bytes().get(at..).unwrap_or_default(), false)
            else {
                continue;
            };
            let (errors, wrong_bytes) = errors(language, &tree);
            let syntax = Self { tree, errors, wrong_bytes };
            if best.as_ref().is_none_or(|best| syntax.errors.len() < best.errors.len()) {
                best = Some(syntax);
            }
            if best.as_ref().is_some_and(Self::is_valid) {
                break;
            }
        }
        best
    }

    /// Parses `text` if all of it fits a grammar of the language, else `None`. That is much faster where it does not, as
    /// parsers take long to find out how else a text could be meant.
    pub fn parse_valid(language: Language, text: &str) -> Option<Self> {
        Self::parse_strict(language, text).ok()
    }

    /// [`parse_valid`](Self::parse_valid), and where the text does not fit, how much of it shows that.
    ///
    /// # Errors
    /// So many bytes of the text's beginning that no other text with the same ones fits; `usize::MAX` if that is not known.
    pub fn parse_strict(language: Language, text: &str) -> Result<Self, usize> {
        if text.len() > MAX_BYTES {
            return Err(usize::MAX);
        }
        if language == Language::Python
            && let Some(read) = python_lexis::misfit(text)
        {
            return Err(read);
        }
        let mut most = 0;
        for grammar in language.grammars() {
            match parse_until_error(&grammar, text) {
                Ok(tree) => {
                    let (errors, wrong_bytes) = errors(language, &tree);
                    if errors.is_empty() {
                        return Ok(Self { tree, errors, wrong_bytes });
                    }
                    most = usize::MAX;
                }
                Err(read) => most = most.max(read),
            }
        }
        Err(most)
    }

    /// True if the whole text fits the grammar.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// Visits every node, parents first. `visit` says whether to go into the node's children.
    pub fn visit(&self, visit: impl FnMut(Node<'_>) -> bool) {
        visit_nodes(&self.tree, visit);
    }
}

/// Parses the text that `read` gives from a byte on; with `strict` not beyond the first error.
fn parse_with<'a>(
    grammar: &tree_sitter::Language,
    read: &mut impl FnMut(usize, Point) -> &'a [u8],
    strict: bool,
) -> Option<Tree> {
    thread_local! {
        static PARSER: RefCell<Parser> = RefCell::new(Parser::new());
    }
    PARSER.with_borrow_mut(|parser| {
        parser.set_language(grammar).ok()?;
        let mut goes_on = |state: &ParseState| {
            if strict && state.has_error() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = ParseOptions::new().progress_callback(&mut goes_on);
        let tree = parser.parse_with_options(read, None, Some(options));
        // What was broken off must not go on with the next text.
        parser.reset();
        tree
    })
}

/// Parses until the first error. Where there is one, it showed within so many bytes, `usize::MAX` if the text's end may have been needed.
fn parse_until_error(grammar: &tree_sitter::Language, text: &str) -> Result<Tree, usize> {
    let bytes = text.as_bytes();
    let mut seen = 0;
    // By lines, to know what the parser has looked at.
    let mut read = |at: usize, _| {
        let rest = bytes.get(at..).unwrap_or_default();
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        seen = seen.max(if line == rest.len() { usize::MAX } else { at + line });
        &rest[..line]
    };
    let tree = parse_with(grammar, &mut read, true);
    tree.ok_or(seen)
}

fn visit_nodes<'tree>(tree: &'tree Tree, mut visit: impl FnMut(Node<'tree>) -> bool) {
    let mut cursor = tree.walk();
    loop {
        if visit(cursor.node()) && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

fn errors(language: Language, tree: &Tree) -> (Vec<Range<usize>>, usize) {
    let (mut errors, mut wrong) = (Vec::new(), 0);
    visit_nodes(tree, |node| {
        // The grammar of Python lets a block be empty, Python does not.
        let is_empty_block = || {
            let mut cursor = node.walk();
            node.kind() == "block" && node.named_children(&mut cursor).all(|child| child.kind() == "comment")
        };
        if node.is_error() || node.is_missing() || (language == Language::Python && is_empty_block()) {
            errors.push(node.byte_range());
            // Where a grammar loses its way, the error may begin with the file, and hold much that is right.
            let mut cursor = node.walk();
            let right = node.named_children(&mut cursor).filter(|child| !child.is_error());
            wrong +=
                node.byte_range().len().saturating_sub(right.map(|child| child.byte_range().len()).sum());
            return false;
        }
        if node.has_error() {
            errors.extend(hidden_error(&node).map(|at| at..at));
        }
        node.has_error() || language == Language::Python
    });
    (errors, wrong)
}

/// Where something is missing in a node that no child of it shows, as the end of a statement before another in the same line is.
fn hidden_error(node: &Node<'_>) -> Option<usize> {
    let mut cursor = node.walk();
    let children: Vec<Node<'_>> = node.children(&mut cursor).collect();
    if children.iter().any(Node::has_error) {
        return None;
    }
    let joined = |pair: &&[Node<'_>]| {
        pair.iter().all(Node::is_named) && pair[0].end_position().row == pair[1].start_position().row
    };
    Some(children.windows(2).find(joined).map_or(node.end_byte(), |pair| pair[0].end_byte()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grammar_loads_and_tells_right_from_wrong() {
        let samples: [(Language, &str, &str); 9] = [
            (Language::Python, "def f(x):\n    return x\n", "def f(x:\n    return x\n"),
            (Language::Rust, "fn f(x: u8) -> u8 { x }\n", "fn f(x: u8 -> u8 { x }\n"),
            (Language::JavaScript, "const f = x => <b>{x}</b>;\n", "const f = => x;\n"),
            (Language::TypeScript, "const f = (x: number) => x as number;\n", "const f = (x: number => x;\n"),
            (Language::Go, "package a\nfunc f(x int) int { return x }\n", "func f(x int int { return x }\n"),
            (
                Language::Java,
                "class A { int f(int x) { return x; } }\n",
                "class A { int f(int x { return x; } }\n",
            ),
            (Language::C, "int f(int x) { return x; }\n", "int f(int x) { return x; \n"),
            (
                Language::Cpp,
                "template <class T> T f(T x) { return x; }\n",
                "template <class T T f(T x) { return x; }\n",
            ),
            (Language::Bash, "f() { echo \"$1\"; }\n", "if true; then echo 1\n"),
        ];
        for (language, right, wrong) in samples {
            let valid = |text| Syntax::parse(language, text).expect("parses").is_valid();
            assert!(valid(right) && !valid(wrong), "{language}");
            let valid = |text: &str| Syntax::parse_valid(language, text).is_some();
            let long = format!("{}{wrong}", right.repeat(50));
            assert!(valid(&right.repeat(if language == Language::Go { 1 } else { 50 })), "{language}");
            assert!(!valid(wrong) && !valid(&long) && valid(right), "{language}");
        }
        let tsx = Syntax::parse(Language::TypeScript, "const a = <b c={1}>é</b>;\n").expect("parses");
        assert!(tsx.is_valid());
    }

    #[test]
    fn python_wants_bodies() {
        let valid = |text| Syntax::parse(Language::Python, text).expect("parses").is_valid();
        for text in [
            "def f():\n    pass\n",
            "def f(): ...\n",
            "class A: 'doc'\n",
            "if a:\n    # why\n    b()\nelse:\n    c()\n",
        ] {
            assert!(valid(text), "{text}");
        }
        for text in
            ["def f(x):\n", "class A:\n    # comment\n", "if a:\nelse:\n    b()\n", "for a in b:\nc()\n"]
        {
            assert!(!valid(text), "{text}");
        }
    }

    #[test]
    fn statements_end_with_their_line() {
        let errors = |text| Syntax::parse(Language::Python, text).expect("parses").errors;
        assert_eq!(errors("a = 1\nb > c d: int\n"), [11..11]);
        assert_eq!(errors("def f():\n    b > c d: int\n"), [18..18]);
        assert!(errors("a = 1; b = 2  # c\nif a: b\nelse: c\n").is_empty());
        assert!(Syntax::parse_valid(Language::Python, "b > c d: int\n").is_none());
    }

    #[test]
    fn a_deep_tree_is_no_danger() {
        let text = format!("x = {}1{}\n", "(".repeat(100_000), ")".repeat(100_000));
        let syntax = Syntax::parse(Language::Python, &text).expect("parses");
        let mut nodes = 0;
        syntax.visit(|_| {
            nodes += 1;
            true
        });
        assert!(nodes > 100_000);
    }
}
