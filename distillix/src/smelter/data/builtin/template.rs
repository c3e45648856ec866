//! Forms, steps and families, and the small template language they are written in.
//!
//! | placeholder | stands for |
//! | --- | --- |
//! | `$a` `$b` `$c` | the arguments |
//! | `$f` | the function's own name |
//! | `$k` `$m` | integer constants |
//! | `$s` `$t` | quoted string constants |
//! | `$1` `$2` | the two steps of a family |
//! | `$i` | the second step's initial value |
//! | `$x` | inside a step: what it works on |
//!
//! A step always writes its own constant `$k` or `$s`; in second place these are the instance's `$m` and `$t`.

use std::fmt::Write;

use super::names::Name;

/// A function that is described by one template.
pub(super) struct Form {
    /// Unique name.
    pub(super) id: &'static str,
    /// First half of the function name.
    pub(super) stem: &'static str,
    /// One letter per argument, see [`super::names::Kind`].
    pub(super) params: &'static str,
    /// Docstrings that say the same.
    pub(super) docs: &'static [&'static str],
    /// Right bodies; the first is the one the deterministic mode teaches.
    pub(super) bodies: &'static [&'static str],
    /// A Python expression for the result, written without looking at the bodies.
    pub(super) reference: &'static str,
}

/// Shorthand for the rows of the form tables.
pub(super) const fn form(
    id: &'static str,
    stem: &'static str,
    params: &'static str,
    docs: &'static [&'static str],
    bodies: &'static [&'static str],
    reference: &'static str,
) -> Form {
    Form { id, stem, params, docs, bodies, reference }
}

/// One step of a composition, in its three languages.
pub(super) struct Step {
    /// Unique name within its table.
    pub(super) id: &'static str,
    /// How a docstring says it.
    pub(super) phrase: &'static str,
    /// How a body does it.
    pub(super) code: &'static str,
    /// How the reference computes it.
    pub(super) reference: &'static str,
    /// For accumulators: the value to start from.
    pub(super) initial: &'static str,
}

/// Shorthand for the rows of the step tables.
pub(super) const fn step(
    id: &'static str,
    phrase: &'static str,
    code: &'static str,
    reference: &'static str,
) -> Step {
    Step { id, phrase, code, reference, initial: "" }
}

/// What a step works on, in docstring, body and reference.
pub(super) struct Operand {
    pub(super) doc: &'static str,
    pub(super) code: &'static str,
    pub(super) reference: &'static str,
}

/// A way to compose a step of one table with a step of another.
pub(super) struct Family {
    /// Unique name.
    pub(super) id: &'static str,
    /// First half of the function name.
    pub(super) stem: &'static str,
    /// One letter per argument.
    pub(super) params: &'static str,
    /// Steps in first place.
    pub(super) firsts: &'static [Step],
    /// Steps in second place.
    pub(super) seconds: &'static [Step],
    /// `$x` of the first step.
    pub(super) first_operand: Operand,
    /// `$x` of the second step; it may mention `$1`.
    pub(super) second_operand: Operand,
    /// Docstrings that say the same.
    pub(super) docs: &'static [&'static str],
    /// Right bodies, as in [`Form`].
    pub(super) bodies: &'static [&'static str],
    /// As in [`Form`].
    pub(super) reference: &'static str,
    /// How often the family is drawn, relative to the others.
    pub(super) weight: u32,
}

/// What an instance is an instance of.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// A single form.
    Single(&'static Form),
    /// A family with the indices of its two steps.
    Composed(&'static Family, usize, usize),
}

impl Shape {
    pub(super) fn stem(self) -> &'static str {
        match self {
            Self::Single(form) => form.stem,
            Self::Composed(family, ..) => family.stem,
        }
    }

    pub(super) fn params(self) -> &'static str {
        match self {
            Self::Single(form) => form.params,
            Self::Composed(family, ..) => family.params,
        }
    }

    pub(super) fn docs(self) -> &'static [&'static str] {
        match self {
            Self::Single(form) => form.docs,
            Self::Composed(family, ..) => family.docs,
        }
    }

    pub(super) fn bodies(self) -> &'static [&'static str] {
        match self {
            Self::Single(form) => form.bodies,
            Self::Composed(family, ..) => family.bodies,
        }
    }

    pub(super) fn reference(self) -> &'static str {
        match self {
            Self::Single(form) => form.reference,
            Self::Composed(family, ..) => family.reference,
        }
    }

    /// Unique over all shapes.
    pub(super) fn id(self) -> String {
        match self {
            Self::Single(form) => form.id.to_owned(),
            Self::Composed(family, first, second) => {
                format!("{}/{}/{}", family.id, family.firsts[first].id, family.seconds[second].id)
            }
        }
    }
}

/// Which of a step's three languages is being written.
#[derive(Clone, Copy)]
pub(super) enum Language {
    Doc,
    Code,
    Reference,
}

/// Everything the placeholders of one instance stand for.
pub(super) struct Instance {
    pub(super) shape: Shape,
    pub(super) stem: &'static str,
    pub(super) subject: &'static str,
    pub(super) args: [Name; 3],
    pub(super) integers: [u32; 2],
    pub(super) codes: [[u8; 2]; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    First,
    Second,
}

impl Instance {
    /// Appends the function's name.
    pub(super) fn write_function(&self, out: &mut String) {
        out.push_str(self.stem);
        out.push('_');
        out.push_str(self.subject);
    }

    /// Appends argument `i` as the docstring and the body call it.
    pub(super) fn write_argument(&self, out: &mut String, i: usize) {
        out.push_str(self.args[i].0);
        out.push('_');
        out.push_str(self.args[i].1);
    }

    /// Appends `template` with every placeholder replaced. References call the arguments `a`, `b` and `c`.
    pub(super) fn render(&self, out: &mut String, template: &str, language: Language) {
        self.render_at(out, template, language, Place::Top);
    }

    fn render_at(&self, out: &mut String, template: &str, language: Language, place: Place) {
        let mut rest = template;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let second = usize::from(place == Place::Second);
            match rest.as_bytes()[at + 1] {
                letter @ b'a'..=b'c' => match language {
                    Language::Reference => out.push(char::from(letter)),
                    Language::Doc | Language::Code => self.write_argument(out, usize::from(letter - b'a')),
                },
                b'f' => self.write_function(out),
                b'k' => self.write_integer(out, second),
                b'm' => self.write_integer(out, 1),
                b's' => self.write_code(out, second),
                b't' => self.write_code(out, 1),
                b'1' => self.render_step(out, language, Place::First),
                b'2' => self.render_step(out, language, Place::Second),
                b'i' => {
                    if let Shape::Composed(family, _, index) = self.shape {
                        out.push_str(family.seconds[index].initial);
                    }
                }
                b'x' => {
                    if let Shape::Composed(family, ..) = self.shape {
                        let operand = match place {
                            Place::Second => &family.second_operand,
                            Place::Top | Place::First => &family.first_operand,
                        };
                        let text = match language {
                            Language::Doc => operand.doc,
                            Language::Code => operand.code,
                            Language::Reference => operand.reference,
                        };
                        self.render_at(out, text, language, Place::Top);
                    }
                }
                other => unreachable!("placeholder ${} in a template", char::from(other)),
            }
            rest = &rest[at + 2..];
        }
        out.push_str(rest);
    }

    fn render_step(&self, out: &mut String, language: Language, place: Place) {
        if let Shape::Composed(family, first, second) = self.shape {
            let step = if place == Place::First { &family.firsts[first] } else { &family.seconds[second] };
            let text = match language {
                Language::Doc => step.phrase,
                Language::Code => step.code,
                Language::Reference => step.reference,
            };
            self.render_at(out, text, language, place);
        }
    }

    fn write_integer(&self, out: &mut String, i: usize) {
        // Writing to a `String` cannot fail.
        let _ = write!(out, "{}", self.integers[i]);
    }

    fn write_code(&self, out: &mut String, i: usize) {
        let [letter, digit] = self.codes[i];
        out.extend(['\'', char::from(letter), char::from(digit), '\'']);
    }
}
