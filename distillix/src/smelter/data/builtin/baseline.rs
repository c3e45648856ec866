//! What copying from the most similar training example achieves: the figure a trained model has to beat.

use std::collections::HashMap;

use super::Example;

/// Shares of held-out examples whose body is right, in `0..=1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaselineScores {
    /// The neighbour's body as it is.
    pub verbatim: f64,
    /// With the neighbour's function and argument names replaced by the prompt's, in order.
    pub renamed: f64,
    /// With its constants replaced too, in order of their appearance in the prompt.
    pub adapted: f64,
}

/// An index of training examples by the words and word pairs of their prompts.
pub struct NearestNeighbour {
    examples: Vec<Example>,
    grams: HashMap<u64, u32>,
    postings: Vec<Vec<u32>>,
    norms: Vec<f32>,
}

/// What a word of a prompt or a body is.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Name,
    Constant,
    Other,
}

/// Splits into identifiers, constants (numbers, quoted strings) and single other characters.
fn words(text: &str) -> Vec<(&str, Word)> {
    let bytes = text.as_bytes();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let first = bytes[at];
        at += 1;
        let kind = if first.is_ascii_digit() {
            while at < bytes.len() && bytes[at].is_ascii_digit() {
                at += 1;
            }
            Word::Constant
        } else if is_name(first) {
            while at < bytes.len() && is_name(bytes[at]) {
                at += 1;
            }
            Word::Name
        } else if first == b'\'' {
            while at < bytes.len() && bytes[at] != b'\'' {
                at += 1;
            }
            at = (at + 1).min(bytes.len());
            Word::Constant
        } else {
            Word::Other
        };
        // Only ASCII delimits, so both ends are character boundaries; the curriculum is ASCII anyway.
        if first != b' '
            && let Some(word) = text.get(start..at)
        {
            out.push((word, kind));
        }
    }
    out
}

/// The function's name and its arguments.
pub(super) fn signature(prompt: &str) -> Vec<&str> {
    let line = prompt.lines().next().unwrap_or_default();
    words(line).into_iter().filter(|w| w.1 == Word::Name && w.0 != "def").map(|w| w.0).collect()
}

/// The numbers and quoted strings, in order.
pub(super) fn constants(prompt: &str) -> Vec<&str> {
    words(prompt).into_iter().filter(|w| w.1 == Word::Constant).map(|w| w.0).collect()
}

/// Hashes of the words and neighbouring pairs, with the names of the signature as `0`, `1`, … and constants
/// alike: without this the neighbour is chosen by names that mean nothing.
fn features(prompt: &str) -> Vec<u64> {
    let names = signature(prompt);
    let mut previous = String::new();
    let mut out = Vec::new();
    for (word, kind) in words(prompt) {
        let word = match (kind, names.iter().position(|name| *name == word)) {
            (_, Some(i)) => i.to_string(),
            (Word::Constant, None) => "#".to_owned(),
            _ => word.to_owned(),
        };
        out.push(super::rng::hash(&[&word]));
        out.push(super::rng::hash(&[&previous, &word]));
        previous = word;
    }
    out.sort_unstable();
    out.dedup();
    out
}

impl NearestNeighbour {
    /// Indexes `examples`.
    pub fn new(examples: impl IntoIterator<Item = Example>) -> Self {
        let examples: Vec<Example> = examples.into_iter().collect();
        let mut grams = HashMap::new();
        let mut postings: Vec<Vec<u32>> = Vec::new();
        for (i, example) in examples.iter().enumerate() {
            for feature in features(&example.prompt) {
                let id = *grams.entry(feature).or_insert_with(|| {
                    postings.push(Vec::new());
                    postings.len() as u32 - 1
                });
                postings[id as usize].push(i as u32);
            }
        }
        let mut norms = vec![0.0_f32; examples.len()];
        for list in &postings {
            let weight = rarity(list.len(), examples.len());
            for &i in list {
                norms[i as usize] += weight * weight;
            }
        }
        norms.iter_mut().for_each(|n| *n = n.sqrt().max(f32::MIN_POSITIVE));
        Self { examples, grams, postings, norms }
    }

    /// The training example whose prompt is most similar by cosine of the inverse-frequency weighted words and
    /// word pairs; the earliest of equals. `None` only without examples.
    pub fn nearest(&self, prompt: &str) -> Option<&Example> {
        let mut scores = vec![0.0_f32; self.examples.len()];
        for id in features(prompt).iter().filter_map(|f| self.grams.get(f)) {
            let list = &self.postings[*id as usize];
            let weight = rarity(list.len(), self.examples.len());
            for &i in list {
                scores[i as usize] += weight * weight;
            }
        }
        let mut best = None;
        let mut best_score = f32::NEG_INFINITY;
        for (i, score) in scores.iter().enumerate() {
            let score = score / self.norms[i];
            if score > best_score {
                (best, best_score) = (Some(i), score);
            }
        }
        best.map(|i| &self.examples[i])
    }

    /// Answers every held-out prompt with its neighbour's body and counts what is right.
    pub fn score(&self, heldout: &[Example]) -> BaselineScores {
        let mut right = [0_usize; 3];
        for example in heldout {
            let Some(neighbour) = self.nearest(&example.prompt) else { continue };
            let names: Vec<_> =
                signature(&neighbour.prompt).into_iter().zip(signature(&example.prompt)).collect();
            let mut swaps = names.clone();
            swaps.extend(constants(&neighbour.prompt).into_iter().zip(constants(&example.prompt)));
            let bodies = [
                neighbour.response.clone(),
                substitute(&neighbour.response, &names),
                substitute(&neighbour.response, &swaps),
            ];
            for (count, body) in right.iter_mut().zip(&bodies) {
                *count += usize::from(example.accepts(body));
            }
        }
        let share = |count: usize| count as f64 / heldout.len().max(1) as f64;
        BaselineScores { verbatim: share(right[0]), renamed: share(right[1]), adapted: share(right[2]) }
    }
}

/// `text` with the names and constants replaced by their positions.
#[cfg(test)]
pub(super) fn normalized(text: &str, names: &[&str], constants: &[&str]) -> String {
    let marks: Vec<String> = (0..names.len().max(constants.len())).map(|i| i.to_string()).collect();
    let mut swaps = Vec::new();
    for (list, kind) in [(names, "name"), (constants, "constant")] {
        swaps.extend(list.iter().zip(&marks).map(|(word, mark)| (*word, format!("<{kind} {mark}>"))));
    }
    let swaps: Vec<(&str, &str)> = swaps.iter().map(|(from, to)| (*from, to.as_str())).collect();
    substitute(text, &swaps)
}

/// Inverse document frequency.
fn rarity(frequency: usize, total: usize) -> f32 {
    (1.0 + total as f32 / frequency as f32).ln()
}

/// Replaces whole words.
fn substitute(body: &str, swaps: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    for (word, _) in words(body) {
        // Words come in order, so each is found at or after the end of the one before.
        let Some(at) = rest.find(word) else { continue };
        out.push_str(&rest[..at]);
        out.push_str(swaps.iter().find(|(from, _)| *from == word).map_or(word, |(_, to)| to));
        rest = &rest[at + word.len()..];
    }
    out.push_str(rest);
    out
}
