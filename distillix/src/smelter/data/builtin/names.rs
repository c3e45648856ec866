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

/// First halves of argument names.
const PIECES: [&str; 40] = [
    "left", "right", "new", "old", "raw", "big", "next", "base", "main", "user", "page", "test", "best",
    "cold", "warm", "fast", "slow", "local", "given", "outer", "inner", "open", "safe", "dark", "wide",
    "tall", "rich", "home", "data", "shop", "file", "game", "team", "road", "lake", "wind", "moon", "star",
    "tree", "gold",
];

const NUMBER_NOUNS: [&str; 10] =
    ["count", "size", "rate", "price", "score", "level", "age", "width", "year", "speed"];
const NUMBERS_NOUNS: [&str; 10] =
    ["counts", "sizes", "rates", "prices", "scores", "levels", "ages", "points", "years", "marks"];
const TEXT_NOUNS: [&str; 10] =
    ["text", "name", "line", "title", "label", "path", "code", "note", "tag", "phrase"];
const TEXTS_NOUNS: [&str; 10] =
    ["texts", "names", "lines", "titles", "labels", "paths", "codes", "notes", "tags", "phrases"];
const TABLE_NOUNS: [&str; 10] =
    ["table", "stock", "totals", "grades", "costs", "votes", "limits", "wages", "lookup", "record"];

/// Second halves of function names; the first half says what the form does.
const SUBJECTS: [&str; 24] = [
    "order", "report", "ticket", "account", "budget", "sample", "signal", "batch", "route", "garden",
    "planet", "market", "player", "member", "parcel", "window", "basket", "letter", "engine", "bridge",
    "camera", "doctor", "forest", "island",
];

/// The largest integer constant; the smallest is 2, because 0 and 1 are often identities.
const LARGEST: u32 = 99;

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

    fn nouns(self) -> &'static [&'static str; 10] {
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

/// A name for an argument of `kind` whose halves differ from those of `taken`.
pub(super) fn argument(rng: &mut Rng, split: Split, kind: Kind, taken: &[Name]) -> Name {
    loop {
        let name = (*rng.pick(&PIECES), *rng.pick(kind.nouns()));
        let clash = taken.iter().any(|other| other.0 == name.0 || other.1 == name.1);
        if !clash && side(&["argument", name.0, name.1]) == split {
            return name;
        }
    }
}

/// The second half of a function name that starts with `stem`.
pub(super) fn subject(rng: &mut Rng, split: Split, stem: &str) -> &'static str {
    loop {
        let subject = *rng.pick(&SUBJECTS);
        if side(&["function", stem, subject]) == split {
            return subject;
        }
    }
}

/// An integer constant that is not among `taken`.
pub(super) fn integer(rng: &mut Rng, split: Split, taken: &[u32]) -> u32 {
    loop {
        let value = rng.between(2, i64::from(LARGEST)) as u32;
        let digits = [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        let key = std::str::from_utf8(&digits).unwrap_or_default();
        if !taken.contains(&value) && side(&["integer", key]) == split {
            return value;
        }
    }
}

/// A string constant, a letter and a digit, that is not among `taken`.
pub(super) fn code(rng: &mut Rng, split: Split, taken: &[[u8; 2]]) -> [u8; 2] {
    loop {
        let value = [b'a' + rng.below(26) as u8, b'0' + rng.below(10) as u8];
        let key = std::str::from_utf8(&value).unwrap_or_default();
        if !taken.contains(&value) && side(&["code", key]) == split {
            return value;
        }
    }
}
