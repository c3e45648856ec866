//! Fill-in-the-middle: which documents are cut, where, and in which order the parts follow.
//!
//! Parts are cut between characters, before tokenization (Bavarian et al., "Efficient training of language models
//! to fill in the middle", 2022). PSM is `<prefix> P <suffix> S <middle> M`, SPM `<prefix> <suffix> S <middle> P M`.
//! A document that is longer than a row is first cut after newlines into windows that fit one: a fill-in
//! whose context lies in another row teaches nothing.

use super::random::{below, hash, unit};
use anyhow::Result;

/// The parts of a document; their concatenation prefix + middle + suffix is the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Text above the hole.
    pub prefix: &'a str,
    /// Text to fill in.
    pub middle: &'a str,
    /// Text below the hole.
    pub suffix: &'a str,
    /// True for suffix-prefix-middle order.
    pub suffix_first: bool,
}

/// The draws of one document, a function of (seed, document hash).
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    seed: u64,
    document: u64,
}

impl Draws {
    /// The draws for a document with this hash.
    pub fn new(seed: u64, document: u64) -> Self {
        Self { seed, document }
    }

    fn bits(&self, window: u64, site: u64) -> u64 {
        hash(&[self.seed, self.document, window, site])
    }

    /// True if the document becomes a fill-in, with probability `rate`.
    pub fn is_fim(&self, rate: f64) -> bool {
        unit(self.bits(0, 0)) < rate
    }

    /// Cuts a window's text. `spans` are byte ranges within it that make good middles; half of the documents that
    /// have some use one of them.
    pub fn split<'a>(&self, window: u64, text: &'a str, spans: &[(usize, usize)]) -> Parts<'a> {
        let (start, end) = if !spans.is_empty() && unit(self.bits(window, 1)) < 0.5 {
            spans[below(self.bits(window, 2), spans.len() as u64) as usize]
        } else {
            let characters = text.chars().count() as u64;
            let cut = |site| below(self.bits(window, site), characters + 1) as usize;
            let (a, b) = (cut(3), cut(4));
            let byte = |n| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
            (byte(a.min(b)), byte(a.max(b)))
        };
        Parts {
            prefix: &text[..start],
            middle: &text[start..end],
            suffix: &text[end..],
            suffix_first: unit(self.bits(window, 5)) < 0.5,
        }
    }
}

/// Cuts `text` after newlines into windows of at most `max` tokens, as many lines each as fit. `count` gives the tokens of a
/// line. A line that is too long by itself is cut between characters.
pub fn windows(text: &str, max: usize, count: impl Fn(&str) -> Result<usize>) -> Result<Vec<&str>> {
    // No token is shorter than a byte.
    if text.len() <= max {
        return Ok(if text.is_empty() { Vec::new() } else { vec![text] });
    }
    let (mut parts, mut start, mut end, mut held) = (Vec::new(), 0, 0, 0);
    for line in text.split_inclusive('\n') {
        let tokens = count(line)?;
        let pieces = if tokens <= max { vec![(line, tokens)] } else { cut_line(line, max) };
        for (piece, tokens) in pieces {
            if held + tokens > max && end > start {
                parts.push(&text[start..end]);
                (start, held) = (end, 0);
            }
            (end, held) = (end + piece.len(), held + tokens);
        }
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// Cuts a line into pieces of at most `max` bytes, of one character at least, each with a bound of its tokens.
fn cut_line(line: &str, max: usize) -> Vec<(&str, usize)> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let at = if rest.len() <= max {
            rest.len()
        } else {
            (1..=max).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(first.len_utf8())
        };
        let (piece, after) = rest.split_at(at);
        pieces.push((piece, piece.len()));
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_and_windows_reassemble(text in "(\\PC|\n){0,60}", seed: u64, window in 0u64..3, max in 1usize..40) {
            let parts = Draws::new(seed, 5).split(window, &text, &[]);
            prop_assert_eq!([parts.prefix, parts.middle, parts.suffix].concat(), text.clone());
            let cut = windows(&text, max, |line| Ok(line.len())).expect("counts");
            prop_assert_eq!(cut.concat(), text.clone());
            prop_assert!(cut.iter().all(|w| !w.is_empty() && (w.len() <= max || w.chars().count() == 1)));
        }
    }

    #[test]
    fn rates() {
        let text = "def f():\n    return 1\n";
        let (mut fim, mut suffix_first, mut spans) = (0, 0, 0);
        for document in 0..10_000 {
            let draws = Draws::new(1, document);
            fim += usize::from(draws.is_fim(0.5));
            let parts = draws.split(0, text, &[(13, 21)]);
            suffix_first += usize::from(parts.suffix_first);
            spans += usize::from(parts.middle == "return 1" && parts.prefix.len() == 13);
        }
        for count in [fim, suffix_first, spans] {
            assert!((4800..5250).contains(&count), "{fim} {suffix_first} {spans}");
        }
        assert!(!Draws::new(1, 1).is_fim(0.0) && Draws::new(1, 1).is_fim(1.0));
    }

    #[test]
    fn windows_end_after_newlines() {
        let windows = |text, max| windows(text, max, |line| Ok(line.len())).expect("counts");
        assert_eq!(windows("ab\ncd\nef", 6), ["ab\ncd\n", "ef"]);
        assert_eq!(windows("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(windows("日本", 1), ["日", "本"]);
        assert!(windows("", 4).is_empty());
    }
}
