//! Identifiers and constants, and which of them are held out.
//!
//! An argument is called `piece_noun`: both halves occur in training, but a fifth of the combinations never
//! does. So a held-out name is new and still made of tokens whose embeddings are trained; the model can only
//! get it right by copying it from the prompt. Function names, numbers (digit by digit) and string constants
//! (a letter and a digit) are divided in the same way.

use super::rng::{Rng, hash};

/// Which side of the partition an instance draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Seen in training.
    Train,
    /// Never seen in training.
    Heldout,
}

/// First halves of argument names. Short, common words: each has to become a token.
const PIECES: [&str; 32] = [
    "left", "right", "new", "old", "raw", "big", "next", "main", "user", "page", "test", "best", "cold",
    "fast", "open", "dark", "home", "shop", "game", "team", "lake", "moon", "tree", "gold", "road", "wind",
    "star", "ring", "sand", "snow", "rose", "king",
];

const NUMBER_NOUNS: [&str; 8] = ["count", "size", "rate", "price", "score", "level", "age", "year"];
const NUMBERS_NOUNS: [&str; 8] = ["counts", "sizes", "rates", "prices", "scores", "levels", "ages", "years"];
const TEXT_NOUNS: [&str; 8] = ["text", "name", "line", "label", "path", "code", "note", "tag"];
const TEXTS_NOUNS: [&str; 8] = ["texts", "names", "lines", "labels", "paths", "codes", "notes", "tags"];
const TABLE_NOUNS: [&str; 8] = ["table", "stock", "totals", "costs", "votes", "limits", "map", "index"];

/// Second halves of function names; the first half says what the form does.
const SUBJECTS: [&str; 16] = [
    "order", "report", "ticket", "budget", "batch", "route", "garden", "planet", "market", "player",
    "window", "letter", "bridge", "camera", "forest", "island",
];

fn side(parts: &[&str]) -> Split {
    if hash(parts).is_multiple_of(5) { Split::Heldout } else { Split::Train }
}

/// The kind of value an argument takes, written as one letter in a form's parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `n`: any integer.
    Number,
    /// `p`: a small integer, 0 to 8.
    Small,
    /// `l`: a list of integers, perhaps empty.
    Numbers,
    /// `q`: a list of at least one integer.
    SomeNumbers,
    /// `s`: a string, perhaps empty.
    Text,
    /// `t`: a string of at least one character.
    SomeText,
    /// `w`: a list of strings.
    Texts,
    /// `v`: a list of at least one string.
    SomeTexts,
    /// `d`: a dictionary from strings to integers.
    Table,
    /// `e`: such a dictionary with at least one entry.
    SomeTable,
}

impl Kind {
    /// The kind a letter of a parameter list stands for.
    pub(super) fn from_letter(letter: u8) -> Self {
        match letter {
            b'n' => Self::Number,
            b'p' => Self::Small,
            b'l' => Self::Numbers,
            b'q' => Self::SomeNumbers,
            b's' => Self::Text,
            b't' => Self::SomeText,
            b'w' => Self::Texts,
            b'v' => Self::SomeTexts,
            b'd' => Self::Table,
            b'e' => Self::SomeTable,
            other => unreachable!("parameter letter {:?} in a form table", char::from(other)),
        }
    }

    fn nouns(self) -> &'static [&'static str; 8] {
        match self {
            Self::Number | Self::Small => &NUMBER_NOUNS,
            Self::Numbers | Self::SomeNumbers => &NUMBERS_NOUNS,
            Self::Text | Self::SomeText => &TEXT_NOUNS,
            Self::Texts | Self::SomeTexts => &TEXTS_NOUNS,
            Self::Table | Self::SomeTable => &TABLE_NOUNS,
        }
    }
}

/// An argument name: its two halves.
pub(super) type Name = (&'static str, &'static str);

/// A fifth of the options that go with `word` is held out, whatever the word: options are counted from a
/// place that the word decides.
fn side_of(word: &str, option: usize) -> Split {
    if (hash(&["name", word]) % 5 + option as u64).is_multiple_of(5) { Split::Heldout } else { Split::Train }
}

/// A name for an argument of `kind` whose first half is new among `taken`. Arguments of the same kind share
/// their second half, as in `left_price` and `right_price`.
pub(super) fn argument(rng: &mut Rng, split: Split, kind: Kind, taken: &[Name]) -> Name {
    let nouns = kind.nouns();
    let shared = taken.iter().map(|other| other.1).find(|noun| nouns.contains(noun));
    loop {
        let piece = rng.below(PIECES.len());
        let name = (PIECES[piece], shared.unwrap_or_else(|| nouns[rng.below(nouns.len())]));
        let clash = taken.iter().any(|other| other.0 == name.0);
        if !clash && side_of(name.1, piece) == split {
            return name;
        }
    }
}

/// The second half of a function name that starts with `stem`.
pub(super) fn subject(rng: &mut Rng, split: Split, stem: &str) -> &'static str {
    loop {
        let subject = rng.below(SUBJECTS.len());
        if side_of(stem, subject) == split {
            return SUBJECTS[subject];
        }
    }
}

/// An integer constant of two digits, all different and none of them in one of `taken`: a digit then tells
/// which constant it belongs to and where in it.
///
/// In training one in ten has three digits, so that every digit follows every other one. With two digits alone
/// a model learns which pairs never occur, and then refuses to copy exactly those that are held out.
pub(super) fn integer(rng: &mut Rng, split: Split, taken: &[u32]) -> u32 {
    let used: u32 = taken.iter().map(|value| digit_set(*value).0).sum();
    loop {
        let long = split == Split::Train && rng.percent(10);
        let value = if long { rng.between(100, 999) } else { rng.between(10, 99) } as u32;
        let (set, distinct) = digit_set(value);
        let digits = [value / 100, value / 10 % 10, value % 10].map(|digit| b'0' + digit as u8);
        let key = std::str::from_utf8(&digits).unwrap_or_default();
        if distinct && set & used == 0 && side(&["integer", key]) == split {
            return value;
        }
    }
}

/// The digits as a bit set, and whether they differ.
fn digit_set(mut value: u32) -> (u32, bool) {
    let (mut set, mut distinct) = (0, true);
    while value > 0 {
        let bit = 1 << (value % 10);
        distinct &= set & bit == 0;
        set |= bit;
        value /= 10;
    }
    (set, distinct)
}

/// A string constant, a letter and a digit, with a letter that none of `taken` has.
pub(super) fn code(rng: &mut Rng, split: Split, taken: &[[u8; 2]]) -> [u8; 2] {
    loop {
        let value = [b'a' + rng.below(26) as u8, b'0' + rng.below(10) as u8];
        let key = std::str::from_utf8(&value).unwrap_or_default();
        let clash = taken.iter().any(|other| other[0] == value[0]);
        if !clash && side(&["code", key]) == split {
            return value;
        }
    }
}
