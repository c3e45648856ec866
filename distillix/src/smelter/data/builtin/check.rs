//! Arguments to call an instance with, and the reference to compare with.

use std::fmt::Write;

use super::names::Kind;
use super::rng::Rng;
use super::template::{Instance, Language};

/// How to verify a body by running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// A Python lambda with the right results, written independently of the body. It uses only builtins and
    /// the modules `collections`, `functools`, `heapq`, `itertools`, `math`, `operator`, `re` and `statistics`.
    pub reference: String,
    /// Python tuples of arguments.
    pub calls: Vec<String>,
}

const CALLS: usize = 6;

const WORDS: [&str; 12] =
    ["sun", "Tree", "RIVER", "x", "42", "7", "level", "Data", "moon9", "GO", "stone", "aeiou"];

impl Instance {
    /// The reference and arguments that reach the branches: constants, their neighbours, empty values.
    pub(super) fn check(&self, rng: &mut Rng) -> Check {
        let params = self.shape.params().as_bytes();
        let mut reference = String::from("lambda ");
        reference.push_str(&["a", "b", "c"][..params.len()].join(", "));
        reference.push_str(": ");
        self.render(&mut reference, self.shape.reference(), Language::Reference);
        let calls = (0..CALLS)
            .map(|_| {
                let mut call = String::from("(");
                for &letter in params {
                    self.write_value(&mut call, rng, Kind::from_letter(letter));
                    call.push_str(", ");
                }
                call.push(')');
                call
            })
            .collect();
        Check { reference, calls }
    }

    fn number(&self, rng: &mut Rng) -> i64 {
        let constant = i64::from(*rng.pick(&self.integers));
        match rng.below(6) {
            0 => constant,
            1 => constant + rng.between(-1, 1),
            2 => constant * rng.between(-2, 3),
            3 => rng.between(-3, 3),
            _ => rng.between(-120, 120),
        }
    }

    fn text(&self, rng: &mut Rng, least: usize) -> String {
        let mut out = String::new();
        let parts = rng.between(least as i64, 4) as usize;
        for i in 0..parts {
            if i > 0 && rng.percent(60) {
                out.push(' ');
            }
            if rng.percent(40) {
                let [letter, digit] = *rng.pick(&self.codes);
                out.extend([char::from(letter), char::from(digit)]);
            } else {
                out.push_str(WORDS[rng.below(WORDS.len())]);
            }
        }
        if rng.percent(15) {
            out = format!(" {out} ");
        }
        out
    }

    /// A length near a constant, now and then: only then do slices cut.
    fn long(&self, rng: &mut Rng) -> Option<i64> {
        rng.percent(25).then(|| i64::from(*rng.pick(&self.integers)) + rng.between(-2, 6))
    }

    fn write_list(out: &mut String, length: usize, mut item: impl FnMut(&mut String)) {
        out.push('[');
        for i in 0..length {
            if i > 0 {
                out.push_str(", ");
            }
            item(out);
        }
        out.push(']');
    }

    fn write_value(&self, out: &mut String, rng: &mut Rng, kind: Kind) {
        // Writing to a `String` cannot fail, and no text needs escaping in Python quotes.
        let least =
            i64::from(matches!(kind, Kind::SomeNumbers | Kind::SomeText | Kind::SomeTexts | Kind::SomeTable));
        match kind {
            Kind::Number => {
                let _ = write!(out, "{}", self.number(rng));
            }
            Kind::Small => {
                let _ = write!(out, "{}", rng.between(0, 8));
            }
            Kind::Numbers | Kind::SomeNumbers => {
                if let Some(length) = self.long(rng) {
                    let _ = write!(out, "[i * 37 % 241 - 120 for i in range({length})]");
                    return;
                }
                let length = rng.between(least, 7) as usize;
                Self::write_list(out, length, |out| {
                    let _ = write!(out, "{}", self.number(rng));
                });
            }
            Kind::Text | Kind::SomeText => {
                let text = self.text(rng, least as usize);
                if let Some(length) = self.long(rng) {
                    let _ = write!(out, "('{text} Sun' * {length})[:{length}]");
                } else {
                    let _ = write!(out, "'{text}'");
                }
            }
            Kind::Texts | Kind::SomeTexts => {
                let length = rng.between(least, 5) as usize;
                Self::write_list(out, length, |out| {
                    let _ = write!(out, "'{}'", self.text(rng, 0));
                });
            }
            Kind::Table | Kind::SomeTable => {
                let length = rng.between(least, 5) as usize;
                out.push('{');
                for _ in 0..length {
                    let _ = write!(out, "'{}': {}, ", self.text(rng, 0), self.number(rng));
                }
                out.push('}');
            }
        }
    }
}
