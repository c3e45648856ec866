//! Texts that are certainly no Python, told without a parser.
//!
//! A parser takes a hundred times as long to find that prose is no program, as it looks for all that the text could be meant to be.
//! What is said here is said of the grammar that [`Syntax`](super::syntax::Syntax) uses, which knows `print x` and `exec x` too.

/// Words that may stand beside a name or a string: keywords, soft keywords, and statements of Python 2.
const KEYWORDS: [&str; 41] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "case", "class", "continue",
    "def", "del", "elif", "else", "except", "exec", "finally", "for", "from", "global", "if", "import", "in",
    "is", "lambda", "match", "nonlocal", "not", "or", "pass", "print", "raise", "return", "try", "type",
    "while", "with", "yield", "_",
];

/// What stood before, on the same line, with nothing but blanks in between.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A name or a whole number.
    Name,
    String,
    /// Anything else.
    Other,
}

/// Bytes of the beginning of `text` after which nothing can follow that makes it Python: two names, or a name and a string, side by
/// side, `>>>`, or a character that Python does not know. `None` if it may be Python.
pub fn misfit(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut before = Before::Other;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b' ' | b'\t' => at += 1,
            b'#' => at = line_end(bytes, at),
            b'\'' | b'"' => {
                if before == Before::Name {
                    return Some(at + 1);
                }
                at = string_end(bytes, at, false)?;
                before = Before::String;
            }
            b'$' | b'?' | b'`' => return Some(at + 1),
            b'!' if bytes.get(at + 1).is_some_and(|next| *next != b'=') => return Some(at + 2),
            b'>' if bytes[at..].starts_with(b">>>") => return Some(at + 3),
            byte if byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii() => {
                let end = at + word_len(&bytes[at..]);
                let word = &text[at..end];
                at = end;
                let quoted = matches!(bytes.get(end), Some(b'\'' | b'"'));
                if quoted && is_prefix(word) {
                    if before == Before::Name {
                        return Some(end + 1);
                    }
                    let is_template = word.contains(['f', 'F', 't', 'T']);
                    at = string_end(bytes, end, is_template)?;
                    before = Before::String;
                } else if !is_name(word) {
                    before = Before::Other;
                } else if before != Before::Other && end < bytes.len() {
                    return Some(end + 1);
                } else {
                    before = Before::Name;
                }
            }
            _ => {
                before = Before::Other;
                at += 1;
            }
        }
    }
    None
}

/// True for what cannot stand beside another: a name or a whole number that is no keyword. `1if` are two tokens, so it is none.
fn is_name(word: &str) -> bool {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    (is_number || !word.starts_with(|c: char| c.is_ascii_digit())) && !KEYWORDS.contains(&word)
        // Blank space and signs that are not ASCII are in no name.
        && (word.is_ascii() || word.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

/// True for letters that the grammar takes before a string's quotes, in any number.
fn is_prefix(word: &str) -> bool {
    word.bytes().all(|byte| b"rRbBuUfFtT".contains(&byte))
}

/// Bytes of a run of letters, digits, `_` and of all that is not ASCII.
fn word_len(bytes: &[u8]) -> usize {
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    bytes.iter().position(|byte| !in_word(byte)).unwrap_or(bytes.len())
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |len| at + len)
}

/// The end of the string whose quotes open at `open`. `None` if it cannot be told: its line or the text ends within, or it is a template
/// with more than names in its braces.
fn string_end(bytes: &[u8], open: usize, is_template: bool) -> Option<usize> {
    let quote = bytes[open];
    let triple = bytes[open..].starts_with(&[quote; 3]);
    let mut at = open + if triple { 3 } else { 1 };
    let mut depth = 0;
    loop {
        let byte = *bytes.get(at)?;
        if depth > 0 && matches!(byte, b'\'' | b'"' | b'\\' | b'\n' | b'#') {
            return None;
        }
        match byte {
            // Before a brace it stands for itself.
            b'\\' if is_template && matches!(bytes.get(at + 1), Some(b'{' | b'}')) => at += 1,
            // A line's end may have two bytes.
            b'\\' if bytes[at..].starts_with(b"\\\r\n") => at += 3,
            b'\\' => at += 2,
            // The grammar lets some go on in the next line.
            b'\n' if !triple => return None,
            b'{' | b'}' if is_template => {
                let doubled = depth == 0 && bytes.get(at + 1) == Some(&byte);
                at += if doubled { 2 } else { 1 };
                match byte {
                    _ if doubled => {}
                    b'{' => depth += 1,
                    _ if depth == 0 => return None,
                    _ => depth -= 1,
                }
            }
            _ if byte == quote && !triple => return Some(at + 1),
            _ if byte == quote && bytes[at..].starts_with(&[quote; 3]) => return Some(at + 3),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::language::Language;
    use crate::foundry::syntax::Syntax;
    use proptest::prelude::*;

    #[test]
    fn prose_is_told() {
        for (text, read) in [
            ("Here's one way:\n", 5),
            ("Sure! Here it is.\n", 6),
            ("x = 1\nCertainly. The following\n", 31),
            ("x = 'a'\nwords 'and' b\n", 15),
            ("x = 'a' words\n", 14),
            (">>> f(1)\n", 3),
            ("f'{x}' words\n", 13),
            ("xf'a'\n", 3),
            ("cost $5\n", 6),
        ] {
            assert_eq!(misfit(text), Some(read), "{text}");
        }
    }

    #[test]
    fn code_is_not() {
        for text in [
            "def f(a, b=1):\n    'doc'\n    return a if b else not a\n",
            "print 'x', y\nexec code in ns\nx = 1if y else 2\n",
            "x = f'{a[\"b c\"]} d' 'e' rb'f' # and so on\n",
            "x = '''a b\n\"c d\" 'e''' ; y = \"\"\"it's\"\"\" \"f\"\n",
            "match x:\n    case A(b=c) as d: pass\ntype X = int\nasync def f(): await g\n",
            "x = 'a\\\n b c' != d >> e\ny = 'a\\\r\n b'\n",
            "x = y \\\n    .z\n日本 = é\n",
            "s = f'{{ a b }} {x!r:>{w}}'\n",
            "assert isinstance(x, int), 'no'",
            "last two",
        ] {
            assert_eq!(misfit(text), None, "{text}");
        }
    }

    proptest! {
        /// Whatever is called a misfit, the parser does not take either, nor anything that begins alike.
        #[test]
        fn the_parser_agrees(
            parts in prop::collection::vec("(a|def|print|b1|12|1if|r|f|f'|'|\"|\"\"\"|\\\\|\n|\n    | |=|\\(|\\)|:|,|\\.|#|\\{|\\}|>|!|é|in|if|x y)", 0..24),
            more in "(x|\n|'| |\"\"\"|1){0,6}",
        ) {
            let text = parts.concat();
            if let Some(read) = misfit(&text) {
                prop_assert!(read <= text.len());
                for text in [text.clone(), format!("{}{more}", &text[..text.ceil_char_boundary(read)])] {
                    prop_assert!(!Syntax::parse(Language::Python, &text).expect("parses").is_valid(), "{:?}", text);
                }
            }
        }
    }
}
