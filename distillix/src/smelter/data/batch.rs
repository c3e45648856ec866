//! Rows of tokens with their targets.

use super::config::SourceConfig;
use super::document::{Encoding, Sequence};
use super::generated::{Example, ExampleGenerator};
use super::jsonl::answered;
use super::pack::Plan;
use super::shard::{Shard, Split};
use anyhow::{Context, Result, bail};
use std::sync::Arc;

/// The target of a position that is not trained on.
pub const IGNORE: i32 = -100;

/// A micro-batch. The three lists are `[rows, cols]`, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Input ids.
    pub ids: Vec<i32>,
    /// The id that follows within the document, or [`IGNORE`].
    pub targets: Vec<i32>,
    /// Which document of its row a position belongs to: 0, 1, … without gaps, the padding at a row's end being one more. Attention
    /// stays within equal numbers. Positions count from the row's start; RoPE sees only their differences.
    pub docs: Vec<i32>,
    /// Number of rows.
    pub rows: usize,
    /// Length of a row.
    pub cols: usize,
    /// Targets that are not [`IGNORE`].
    pub trained_tokens: usize,
    /// Bytes of text that those targets stand for. Exact for plain and prompt/response sequences; of a fill-in it counts
    /// one more where the tokenizer puts a space before the prefix.
    pub trained_bytes: u64,
}

/// What rows need to know of a tokenizer.
pub(super) struct Alphabet {
    pub(super) byte_lengths: Vec<u32>,
    pub(super) never_target: [i32; 4],
    pub(super) pad: i32,
    pub(super) bos: u32,
    pub(super) dummy_prefix_bytes: u32,
}

impl Batch {
    /// Checks that a model of `vocab` tokens knows those of the batch: a GPU could not refuse them, it would compute NaN.
    ///
    /// # Errors
    /// Names the token.
    pub fn check_tokens(&self, vocab: usize) -> Result<()> {
        let unknown = |id: &&i32| usize::try_from(**id).map_or(true, |id| id >= vocab);
        let targets = self.targets.iter().filter(|target| **target != IGNORE);
        match self.ids.iter().chain(targets).find(unknown) {
            Some(id) => bail!("the data has a token {id}, the model only those from 0 to {}", vocab - 1),
            None => Ok(()),
        }
    }

    pub(super) fn with_capacity(rows: usize, cols: usize) -> Self {
        let list = || Vec::with_capacity(rows * cols);
        Self { ids: list(), targets: list(), docs: list(), rows, cols, trained_tokens: 0, trained_bytes: 0 }
    }

    /// Appends a piece of a sequence as document `doc` of the row in progress. `tokens` gives id and trained flag of the
    /// piece's tokens and of the one after it, if the sequence goes on.
    fn push(
        &mut self,
        alphabet: &Alphabet,
        doc: usize,
        len: usize,
        tokens: impl Iterator<Item = (u32, bool)>,
    ) {
        let mut tokens = tokens.peekable();
        for _ in 0..len {
            let Some((id, _)) = tokens.next() else { return };
            self.ids.push(id as i32);
            self.docs.push(doc as i32);
            let target = match tokens.peek() {
                Some((next, true)) if !alphabet.never_target.contains(&(*next as i32)) => {
                    let bytes = alphabet.byte_lengths.get(*next as usize).copied().unwrap_or(0);
                    let dummy = if id == alphabet.bos { alphabet.dummy_prefix_bytes } else { 0 };
                    self.trained_tokens += 1;
                    self.trained_bytes += u64::from(bytes.saturating_sub(dummy));
                    *next as i32
                }
                _ => IGNORE,
            };
            self.targets.push(target);
        }
    }

    /// Fills the row in progress, whose last document was `docs - 1`.
    fn pad(&mut self, alphabet: &Alphabet, docs: usize, row: usize) {
        let end = (row + 1) * self.cols;
        self.ids.resize(end, alphabet.pad);
        self.targets.resize(end, IGNORE);
        self.docs.resize(end, docs as i32);
    }
}

/// The rows of one source.
pub(super) enum Rows {
    /// Rows of a shard.
    Stored { shard: Box<Shard>, train: Plan, validation: Plan },
    /// Rows made when they are asked for, without end.
    Generated { generator: Arc<dyn ExampleGenerator>, validation_rows: u64 },
}

/// A row of generated examples is full when this many in a row did not fit.
const MISFITS: usize = 4;

impl Rows {
    pub(super) fn stored(shard: Shard, seq_len: usize) -> Result<Self> {
        let train = Plan::open(&shard, Split::Train, seq_len)?;
        let validation = Plan::open(&shard, Split::Validation, seq_len)?;
        Ok(Self::Stored { shard: Box::new(shard), train, validation })
    }

    /// Number of rows of a split; `None` without end.
    pub(super) fn count(&self, split: Split) -> Option<u64> {
        match (self, split) {
            (Self::Stored { train, .. }, Split::Train) => Some(train.rows()),
            (Self::Stored { validation, .. }, Split::Validation) => Some(validation.rows()),
            (Self::Generated { .. }, Split::Train) => None,
            (Self::Generated { validation_rows, .. }, Split::Validation) => Some(*validation_rows),
        }
    }

    /// Appends row `index` of a split as row `at` of `batch`.
    pub(super) fn fill(
        &self,
        split: Split,
        index: u64,
        encoding: &Encoding,
        alphabet: &Alphabet,
        batch: &mut Batch,
        at: usize,
    ) -> Result<()> {
        match self {
            Self::Stored { shard, train, validation } => {
                let plan = if split == Split::Train { train } else { validation };
                let records = shard.records(split);
                let chunks = plan.row(index);
                for (doc, chunk) in chunks.iter().enumerate() {
                    let record = records[chunk.record as usize];
                    let start = record.start + u64::from(chunk.offset);
                    let end = record.start + u64::from(record.len);
                    let tokens = (start..end).map(|t| (shard.token(t), shard.is_trained(t)));
                    batch.push(alphabet, doc, chunk.len as usize, tokens);
                }
                batch.pad(alphabet, chunks.len(), at);
            }
            Self::Generated { generator, .. } => {
                let cols = batch.cols;
                let (mut used, mut docs, mut misfits) = (0, 0, 0);
                // No two rows share an index: a row cannot hold more examples than tokens.
                let first = index * cols as u64;
                for example in first..first + cols as u64 {
                    let Example { prompt, response } = generator.example(split, example);
                    let name = || format!("example {example} of the built-in curriculum");
                    for Sequence { ids, trained, .. } in
                        encoding.encode(&answered(prompt, response)).with_context(name)?
                    {
                        if used + ids.len() > cols {
                            misfits += 1;
                            continue;
                        }
                        misfits = 0;
                        let flags = (0..ids.len()).map(|at| trained.as_ref().is_none_or(|t| t[at]));
                        batch.push(alphabet, docs, ids.len(), ids.iter().copied().zip(flags));
                        used += ids.len();
                        docs += 1;
                    }
                    if misfits >= MISFITS {
                        break;
                    }
                }
                batch.pad(alphabet, docs, at);
            }
        }
        Ok(())
    }
}

/// How messages call a source that gave no rows.
pub(super) fn no_rows(source: &SourceConfig) -> String {
    format!("{} has no documents to train on", source.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_a_model_lacks_are_named() {
        let batch = |ids: [i32; 2], targets: [i32; 2]| Batch {
            ids: ids.to_vec(),
            targets: targets.to_vec(),
            docs: vec![0; 2],
            rows: 1,
            cols: 2,
            ..Batch::default()
        };
        assert!(batch([0, 9], [9, IGNORE]).check_tokens(10).is_ok());
        for (bad, token) in
            [(batch([0, 10], [9, 9]), "10"), (batch([-1, 0], [9, 9]), "-1"), (batch([0, 0], [-7, 0]), "-7")]
        {
            let error = bad.check_tokens(10).expect_err("there is no such token").to_string();
            assert!(error.contains(&format!("a token {token},")), "{error}");
        }
    }
}
