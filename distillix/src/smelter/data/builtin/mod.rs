//! A curriculum of small Python functions, made up as they are needed.
//!
//! An example is a function whose signature and docstring are the prompt and whose body is the response. It is
//! an instance of one of nearly two hundred single forms or of more than a thousand two-step compositions, with
//! drawn names and constants. Example `index` under `seed` is always the same, on every platform.
//!
//! Held-out examples use function names, argument names and constants that training never draws, and every
//! second one uses a composition that training never draws although both of its steps occur there.

mod baseline;
mod check;
mod compose;
mod forms;
mod names;
mod rng;
mod steps;
mod template;

pub use baseline::{BaselineScores, NearestNeighbour};
pub use check::Check;

use names::{Kind, Split};
use rng::Rng;
use serde::{Deserialize, Serialize};
use template::{Form, Instance, Language, Shape};

/// The curriculum's own byte-level BPE tokenizer: 1,024 tokens, in Hugging Face's `tokenizer.json` format.
pub const TOKENIZER_JSON: &str = include_str!("tokenizer.json");

/// The special tokens of the curriculum's tokenizer, whose ids are their positions here.
pub const SPECIAL_TOKENS: [&str; 6] =
    ["<s>", "</s>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"];

/// Trains the curriculum's tokenizer anew; the result is [`TOKENIZER_JSON`].
///
/// # Errors
/// Passes on what the tokenizer library reports.
pub fn train_tokenizer() -> tokenizers::Result<tokenizers::Tokenizer> {
    let curriculum = Curriculum::new(0, Options { bodies: Bodies::Varied });
    let texts: Vec<String> = (0..60_000)
        .map(|i| {
            let example = curriculum.train_example(i);
            example.prompt + &example.response
        })
        .collect();
    crate::tokenizer::train::train_byte_level_bpe(texts.iter().map(String::as_str), 1024, &SPECIAL_TOKENS)
}

/// How many right bodies a docstring has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bodies {
    /// One: the docstring determines the body.
    #[default]
    Deterministic,
    /// All that the form knows; training draws one of them, any of them counts as right.
    Varied,
}

/// What the curriculum can be asked to do differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// How many right bodies a docstring has.
    pub bodies: Bodies,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Signature and docstring, up to and including the newline before the body.
    pub prompt: String,
    /// The body, indented, without a newline at its end.
    pub response: String,
    /// Every body that counts as right, `response` among them.
    pub accepted: Vec<String>,
    /// The name of the form, or `family/first/second` of a composition.
    pub form: String,
    /// Whether it is a composition.
    pub composed: bool,
}

impl Example {
    /// Whether `body` is right, ignoring white space at its end.
    pub fn accepts(&self, body: &str) -> bool {
        let body = body.trim_end();
        self.accepted.iter().any(|right| right == body)
    }
}

/// Streams of examples.
pub struct Curriculum {
    seed: u64,
    options: Options,
    singles: Vec<&'static Form>,
    seen: Vec<FamilyPairs>,
    unseen: Vec<FamilyPairs>,
}

/// A family with the step pairs of one side of the partition.
struct FamilyPairs {
    family: &'static template::Family,
    pairs: Vec<(usize, usize)>,
}

const TRAIN: u64 = 1;
const HELDOUT: u64 = 2;
/// Keeps the draw of check arguments apart from the draw of the instance.
const CALLS: u64 = 0x100;
/// Share of single forms among the examples that are not unseen compositions.
const SINGLE_PERCENT: usize = 42;
/// The part of it that goes to the forms that only copy. In training alone: they would flatter the score.
const COPYING_PERCENT: usize = 8;

impl Curriculum {
    /// The curriculum of `seed`. The seed changes the draw, never what is held out.
    pub fn new(seed: u64, options: Options) -> Self {
        let side = |held_out: bool| {
            compose::FAMILIES
                .iter()
                .map(|family| FamilyPairs {
                    family,
                    pairs: (0..family.firsts.len())
                        .flat_map(|i| (0..family.seconds.len()).map(move |j| (i, j)))
                        .filter(|&(i, j)| compose::is_used(family, i, j))
                        .filter(|&(i, j)| compose::is_held_out(family, i, j) == held_out)
                        .collect(),
                })
                .collect()
        };
        Self { seed, options, singles: forms::all().collect(), seen: side(false), unseen: side(true) }
    }

    /// The number of single forms, of compositions in training, and of held-out compositions.
    pub fn form_counts(&self) -> (usize, usize, usize) {
        let count = |side: &[FamilyPairs]| side.iter().map(|f| f.pairs.len()).sum();
        (self.singles.len(), count(&self.seen), count(&self.unseen))
    }

    /// Training example `index`.
    pub fn train_example(&self, index: u64) -> Example {
        let (instance, mut rng) = self.train_instance(index);
        self.write(&instance, &mut rng)
    }

    /// Held-out example `index`: an unseen composition if it is odd.
    pub fn heldout_example(&self, index: u64) -> Example {
        let (instance, mut rng) = self.heldout_instance(index);
        self.write(&instance, &mut rng)
    }

    /// How to verify training example `index` by running it.
    pub fn train_check(&self, index: u64) -> Check {
        self.train_instance(index).0.check(&mut Rng::new(self.seed, TRAIN | CALLS, index))
    }

    /// How to verify held-out example `index` by running it.
    pub fn heldout_check(&self, index: u64) -> Check {
        self.heldout_instance(index).0.check(&mut Rng::new(self.seed, HELDOUT | CALLS, index))
    }

    fn train_instance(&self, index: u64) -> (Instance, Rng) {
        let mut rng = Rng::new(self.seed, TRAIN, index);
        let shape = self.known_shape(&mut rng, COPYING_PERCENT);
        (draw(shape, &mut rng, Split::Train), rng)
    }

    fn heldout_instance(&self, index: u64) -> (Instance, Rng) {
        let mut rng = Rng::new(self.seed, HELDOUT, index);
        let shape =
            if index % 2 == 1 { composed(&self.unseen, &mut rng) } else { self.known_shape(&mut rng, 0) };
        (draw(shape, &mut rng, Split::Heldout), rng)
    }

    fn known_shape(&self, rng: &mut Rng, copying_percent: usize) -> Shape {
        let kind = rng.below(100);
        if kind < copying_percent {
            Shape::Single(rng.pick(forms::copying()))
        } else if kind < SINGLE_PERCENT {
            Shape::Single(self.singles[rng.below(self.singles.len())])
        } else {
            composed(&self.seen, rng)
        }
    }

    fn write(&self, instance: &Instance, rng: &mut Rng) -> Example {
        let shape = instance.shape;
        let mut prompt = String::with_capacity(160);
        prompt.push_str("def ");
        instance.write_function(&mut prompt);
        prompt.push('(');
        for i in 0..shape.params().len() {
            if i > 0 {
                prompt.push_str(", ");
            }
            instance.write_argument(&mut prompt, i);
        }
        prompt.push_str("):\n    \"\"\"");
        instance.render(&mut prompt, shape.docs()[rng.below(shape.docs().len())], Language::Doc);
        prompt.push_str("\"\"\"\n");

        let bodies = match self.options.bodies {
            Bodies::Deterministic => &shape.bodies()[..1],
            Bodies::Varied => shape.bodies(),
        };
        let accepted: Vec<String> = bodies.iter().map(|body| write_body(instance, body)).collect();
        let response = rng.pick(&accepted).clone();
        let composed = matches!(shape, Shape::Composed(..));
        Example { prompt, response, accepted, form: shape.id(), composed }
    }
}

/// Draws a composition: the family by weight, then one of its pairs.
fn composed(side: &[FamilyPairs], rng: &mut Rng) -> Shape {
    let total: u32 = side.iter().map(|f| f.family.weight).sum();
    let mut ticket = rng.below(total as usize) as u32;
    let mut chosen = &side[0];
    for candidate in side {
        chosen = candidate;
        if ticket < candidate.family.weight {
            break;
        }
        ticket -= candidate.family.weight;
    }
    let (first, second) = *rng.pick(&chosen.pairs);
    Shape::Composed(chosen.family, first, second)
}

fn draw(shape: Shape, rng: &mut Rng, split: Split) -> Instance {
    let stem = shape.stem();
    let subject = names::subject(rng, split, stem);
    let mut args = [("", ""); 3];
    for (i, letter) in shape.params().bytes().enumerate() {
        args[i] = names::argument(rng, split, Kind::from_letter(letter), &args[..i]);
    }
    let mut integers = [0; 2];
    for i in 0..integers.len() {
        integers[i] = names::integer(rng, split, &integers[..i]);
    }
    let first = names::code(rng, split, &[]);
    let codes = [first, names::code(rng, split, &[first])];
    Instance { shape, stem, subject, args, integers, codes }
}

fn write_body(instance: &Instance, template: &str) -> String {
    let mut body = String::with_capacity(96);
    for (i, line) in template.split('\n').enumerate() {
        body.push_str(if i == 0 { "    " } else { "\n    " });
        instance.render(&mut body, line, Language::Code);
    }
    body
}

#[cfg(test)]
mod tests;
