//! Fenced blocks of code in Markdown, as CommonMark defines them, and a little more leniently where models are sloppy.

use std::ops::Range;

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence<'a> {
    /// The first word after the opening fence: usually a language; may be empty.
    pub tag: &'a str,
    /// The content, without the indentation that the fence has.
    pub code: String,
    /// False if the text ends before the block does.
    pub closed: bool,
    /// Bytes of the text, fences included.
    pub range: Range<usize>,
}

/// An opening fence.
struct Open<'a> {
    mark: char,
    len: usize,
    indent: usize,
    tag: &'a str,
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

fn opening(line: &str) -> Option<Open<'_>> {
    let indent = indent(line);
    let rest = line[indent..].trim_end();
    let mark = rest.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let info = rest.trim_start_matches(mark);
    let len = rest.len() - info.len();
    if len < 3 || (mark == '`' && info.contains('`')) {
        return None;
    }
    let info = info.trim_start().trim_start_matches(['{', '.']);
    let end = info.find(|c: char| !(c.is_alphanumeric() || "+#-_".contains(c))).unwrap_or(info.len());
    Some(Open { mark, len, indent, tag: &info[..end] })
}

impl Open<'_> {
    fn is_closed_by(&self, line: &str) -> bool {
        let rest = line.trim();
        rest.len() >= self.len && rest.chars().all(|c| c == self.mark) && indent(line) <= self.indent + 3
    }
}

/// The fenced blocks of a text, in order.
pub fn fences(text: &str) -> Vec<Fence<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut inside: Option<(Open<'_>, usize, String)> = None;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        match &mut inside {
            None => inside = opening(line).map(|open| (open, at, String::new())),
            Some((open, start, code)) if open.is_closed_by(line) => {
                let (tag, code) = (open.tag, std::mem::take(code));
                found.push(Fence { tag, code, closed: true, range: *start..end });
                inside = None;
            }
            Some((open, _, code)) => code.push_str(&line[indent(line).min(open.indent)..]),
        }
        at = end;
    }
    if let Some((open, start, code)) = inside {
        found.push(Fence { tag: open.tag, code, closed: false, range: start..text.len() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(text: &str) -> Vec<(&str, String, bool)> {
        fences(text).into_iter().map(|fence| (fence.tag, fence.code, fence.closed)).collect()
    }

    #[test]
    fn forms_of_fences() {
        let block = |tag, code: &str, closed| (tag, code.to_owned(), closed);
        assert_eq!(blocks("Sure!\n```python\nx = 1\n```\nDone."), [block("python", "x = 1\n", true)]);
        assert_eq!(blocks("~~~ {.rust title=a}\nx\n~~~~\n"), [block("rust", "x\n", true)]);
        assert_eq!(blocks("1. do\n   ```c++\n   a;\n     b;\n   ```\n"), [block("c++", "a;\n  b;\n", true)]);
        assert_eq!(blocks("````md\n```py\nx\n```\n````"), [block("md", "```py\nx\n```\n", true)]);
        assert_eq!(blocks("```py\nx\n"), [block("py", "x\n", false)]);
        // A docstring with a fence in it does not end the block.
        let docstring = "def f():\n    \"\"\"\n    ```\n    f()\n    ```\n    \"\"\"\n";
        assert_eq!(blocks(&format!("```python\n{docstring}```\n")), [block("python", docstring, true)]);
        assert_eq!(blocks("use ```x``` inline\n```a``` b\n"), []);
    }

    proptest! {
        #[test]
        fn ranges_are_within_and_in_order(text in "(```|~~~|a|é| |\n|py){0,40}") {
            let mut last = 0;
            for fence in fences(&text) {
                prop_assert!(fence.range.start >= last && text.get(fence.range.clone()).is_some());
                last = fence.range.end;
            }
        }
    }
}
