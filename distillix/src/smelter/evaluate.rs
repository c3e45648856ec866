//! How good a model is on what it never trained on.

use super::data::Dataset;
use super::data::builtin::{Curriculum, Example, NearestNeighbour, Options};
use super::metrics::Validation;
use super::trainer::validation_loss;
use crate::run::{Prompt, Sampling, Session};
use crate::tokenizer::Tokenizer;
use anyhow::Result;
use nn::model::Student;
use rayon::prelude::*;

/// Cross-entropy on the dataset's held-out rows, `rows` at a time and at most `batches` times (0: all). `None` if nothing
/// is held out.
pub fn validate(
    model: &Student,
    dataset: &Dataset,
    rows: usize,
    batches: usize,
) -> Result<Option<Validation>> {
    let total = match batches {
        0 => dataset.validation_rows(),
        n => dataset.validation_rows().min(n * rows),
    };
    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    for first in (0..total).step_by(rows.max(1)) {
        let batch = dataset.validation_batch(first, rows.min(total - first))?;
        let (loss, counted, text) = validation_loss(model, &batch)?;
        nats += loss;
        tokens += counted;
        bytes += text;
    }
    if tokens == 0 || bytes == 0 {
        return Ok(None);
    }
    let bits_per_byte = nats / std::f64::consts::LN_2 / bytes as f64;
    let loss = nats / tokens as f64;
    Ok(Some(Validation { loss, bits_per_byte, exact_match: None, exact_match_unseen: None }))
}

/// The likeliest continuation of the tokens `prompt`, up to `max_new` tokens.
pub fn greedy(model: &Student, tokenizer: &Tokenizer, prompt: &[u32], max_new: usize) -> Result<String> {
    let prompt = Prompt { ids: prompt.to_vec(), dropped: 0, stops: vec![tokenizer.eos()] };
    let mut session = Session::new(model, tokenizer, prompt.ids.len() + max_new)?;
    // The default takes the likeliest token each time.
    Ok(session.complete(&prompt, max_new, Sampling::default(), |_| (), |_| Ok(true))?.text)
}

/// Held-out functions of the built-in curriculum, and what a body must be to count.
pub struct Exam {
    examples: Vec<Example>,
    prompts: Vec<Vec<u32>>,
    max_new: Vec<usize>,
}

impl Exam {
    /// The first `n` held-out functions; half of them are compositions that never occur in training.
    pub fn new(options: Options, n: usize, tokenizer: &Tokenizer) -> Result<Self> {
        let curriculum = Curriculum::new(0, options);
        let examples: Vec<Example> = (0..n as u64).map(|i| curriculum.heldout_example(i)).collect();
        let mut exam = Exam { examples: Vec::new(), prompts: Vec::new(), max_new: Vec::new() };
        for example in &examples {
            let mut prompt = vec![tokenizer.bos()];
            prompt.extend(tokenizer.encode_document(&example.prompt)?);
            exam.prompts.push(prompt);
            // A right body is no longer than the longest accepted one.
            let longest = example.accepted.iter().map(String::len).max().unwrap_or(0);
            exam.max_new.push(longest + 1);
        }
        exam.examples = examples;
        Ok(exam)
    }

    /// The functions.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The greedy body of function `i`.
    pub fn body(&self, model: &Student, tokenizer: &Tokenizer, i: usize) -> Result<String> {
        greedy(model, tokenizer, &self.prompts[i], self.max_new[i])
    }

    /// For each function, whether the greedy body is right.
    pub fn grade(&self, model: &Student, tokenizer: &Tokenizer) -> Result<Vec<bool>> {
        (0..self.examples.len())
            .into_par_iter()
            .map(|i| Ok(self.examples[i].accepts(&self.body(model, tokenizer, i)?)))
            .collect()
    }

    /// Share of the functions that the nearest of `n` training examples gets right, names carried over: what a model
    /// must beat to have learned more than its examples.
    pub fn baseline(&self, options: Options, seed: u64, n: u64) -> f64 {
        let curriculum = Curriculum::new(seed, options);
        let neighbours = NearestNeighbour::new((0..n).map(|i| curriculum.train_example(i)));
        let scores = neighbours.score(&self.examples);
        scores.verbatim.max(scores.renamed)
    }
}

/// Share of `true` among all, and among every second: the compositions never trained on.
pub fn shares(grades: &[bool]) -> (f64, Option<f64>) {
    let share = |grades: &[bool]| {
        let right = grades.iter().filter(|&&right| right).count();
        right as f64 / grades.len().max(1) as f64
    };
    let unseen: Vec<bool> = grades.iter().skip(1).step_by(2).copied().collect();
    (share(grades), (!unseen.is_empty()).then(|| share(&unseen)))
}
