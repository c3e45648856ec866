//! All sources of a config together: batches by step.

use super::batch::{Alphabet, Batch, Rows, no_rows};
use super::cache::open_shard;
use super::config::{DataConfig, SourceKind};
use super::document::Encoding;
use super::generated::ExampleGenerator;
use super::order::{Mixture, epoch_row};
use super::random::permute;
use super::shard::{Meta, Split};
use super::template::Template;
use super::tokenize::OnProgress;
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, ensure};
use std::sync::Arc;

/// Training and validation rows. Nothing in it changes: any step's batch can be asked for at any time.
pub struct Dataset {
    sources: Vec<Rows>,
    mixture: Mixture,
    /// Source and row of each validation row, in the order in which they are evaluated.
    validation: Vec<(usize, u64)>,
    reports: Vec<SourceReport>,
    tokenizer: Arc<Tokenizer>,
    alphabet: Alphabet,
    seq_len: usize,
    seed: u64,
}

/// What became of a source.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// Path or `builtin`.
    pub name: String,
    /// What its shard holds; `None` for a generated source.
    pub meta: Option<Meta>,
    /// Hash of the files' content and of all that decides how they become tokens; `None` for a generated source.
    pub key: Option<String>,
    /// Training rows an epoch; `None` for a generated source, which has no end.
    pub rows: Option<u64>,
}

impl SourceReport {
    /// Documents that were left out, by reason, if there were any.
    pub fn left_out(&self) -> Option<String> {
        let meta = self.meta.as_ref().filter(|meta| !meta.skipped.is_empty())?;
        let reasons: Vec<String> = meta.skipped.iter().map(|(why, n)| format!("{n} {why}")).collect();
        Some(format!("{}: {} documents; left out: {}", self.name, meta.documents, reasons.join(", ")))
    }
}

/// The micro-batches of one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In order.
    pub micro_batches: Vec<Batch>,
    /// Counted targets of all of them: what the losses are divided by. May be 0.
    pub trained_tokens: usize,
    /// Bytes of text of those targets.
    pub trained_bytes: u64,
}

impl Dataset {
    /// Opens the sources of `config` for rows of `seq_len` tokens, tokenizing what is not in the cache.
    ///
    /// `builtin` is what a source of kind `builtin` gives, made for the same seed.
    ///
    /// # Errors
    /// When the config is wrong, a source cannot be read, or nothing is there to train on.
    pub fn open(
        config: &DataConfig,
        tokenizer: Arc<Tokenizer>,
        seq_len: usize,
        seed: u64,
        builtin: Option<Arc<dyn ExampleGenerator>>,
        on_progress: OnProgress,
    ) -> Result<Self> {
        config.validate()?;
        ensure!(seq_len >= 2, "a row of {seq_len} tokens has nothing to predict");
        let template = Template::new(&config.template).context("data.template")?;
        let encoding = Encoding {
            tokenizer: &tokenizer,
            fim_rate: config.fim_rate,
            seed,
            seq_len,
            validation_fraction: config.validation_fraction,
        };
        let (mut sources, mut reports) = (Vec::new(), Vec::new());
        for source in &config.sources {
            let (rows, stored) = if source.resolved_kind() == SourceKind::Builtin {
                let validation_rows = config.validation_rows as u64;
                let generator = builtin
                    .clone()
                    .context("there is no built-in curriculum here: name files to train on")?;
                (Rows::Generated { generator, validation_rows }, None)
            } else {
                let shard = open_shard(source, &template, &encoding, &config.cache_folder()?, on_progress)?;
                let key = shard.folder().file_name().unwrap_or_default().to_string_lossy().into_owned();
                let stored = (shard.meta().clone(), key);
                (Rows::stored(shard, seq_len)?, Some(stored))
            };
            let count = rows.count(Split::Train);
            ensure!(count != Some(0), no_rows(source));
            let (meta, key) = stored.unzip();
            reports.push(SourceReport { name: source.name(), meta, key, rows: count });
            sources.push(rows);
        }
        let weights: Vec<f64> = config.sources.iter().map(|source| source.weight).collect();
        let fim = tokenizer.fim();
        let alphabet = Alphabet {
            byte_lengths: tokenizer.byte_lengths(),
            never_target: [fim.prefix, fim.suffix, fim.middle, fim.pad].map(|id| id as i32),
            pad: fim.pad as i32,
            bos: tokenizer.bos(),
            dummy_prefix_bytes: tokenizer.dummy_prefix_bytes(),
        };
        Ok(Self {
            validation: validation_rows(&sources, &weights, config.validation_rows),
            mixture: Mixture::new(&weights, seed),
            sources,
            reports,
            alphabet,
            tokenizer,
            seq_len,
            seed,
        })
    }

    /// What became of each source, in the config's order.
    pub fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    /// Tokens in a row.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The batches of optimizer step `step` (from 0): `micro_batches` of `rows` rows each. The rows of a step depend on
    /// `micro_batches * rows` alone, not on how they are divided.
    ///
    /// # Errors
    /// When a generated example cannot be tokenized.
    pub fn step(&self, step: u64, micro_batches: usize, rows: usize) -> Result<Step> {
        let micro_batches: Vec<Batch> =
            (0..micro_batches).map(|at| self.batch(step, at, micro_batches, rows)).collect::<Result<_>>()?;
        Ok(Step {
            trained_tokens: micro_batches.iter().map(|batch| batch.trained_tokens).sum(),
            trained_bytes: micro_batches.iter().map(|batch| batch.trained_bytes).sum(),
            micro_batches,
        })
    }

    /// Micro-batch `micro_batch` of the `micro_batches` of step `step`.
    ///
    /// # Errors
    /// As [`Dataset::step`].
    pub fn batch(&self, step: u64, micro_batch: usize, micro_batches: usize, rows: usize) -> Result<Batch> {
        let first = (step * micro_batches as u64 + micro_batch as u64) * rows as u64;
        self.rows(rows, |at| {
            let (source, index) = self.mixture.row(first + at as u64);
            let row = match self.sources[source].count(Split::Train) {
                Some(rows) => epoch_row(index, rows, source, self.seed),
                None => index,
            };
            (Split::Train, source, row)
        })
    }

    /// Number of validation rows, 0 if nothing is held out. They are the same for every seed.
    pub fn validation_rows(&self) -> usize {
        self.validation.len()
    }

    /// Validation rows `first..first + rows`, as far as there are any.
    ///
    /// # Errors
    /// As [`Dataset::step`].
    pub fn validation_batch(&self, first: usize, rows: usize) -> Result<Batch> {
        let rows = rows.min(self.validation.len().saturating_sub(first));
        self.rows(rows, |at| {
            let (source, row) = self.validation[first + at];
            (Split::Validation, source, row)
        })
    }

    fn rows(&self, rows: usize, place: impl Fn(usize) -> (Split, usize, u64)) -> Result<Batch> {
        let encoding = Encoding {
            tokenizer: &self.tokenizer,
            fim_rate: 0.0,
            seed: self.seed,
            seq_len: self.seq_len,
            validation_fraction: 0.0,
        };
        let mut batch = Batch::with_capacity(rows, self.seq_len);
        for at in 0..rows {
            let (split, source, row) = place(at);
            self.sources[source].fill(split, row, &encoding, &self.alphabet, &mut batch, at)?;
        }
        Ok(batch)
    }
}

/// At most `limit` validation rows, of each source by its weight as far as it has rows, spread over the source.
fn validation_rows(sources: &[Rows], weights: &[f64], limit: usize) -> Vec<(usize, u64)> {
    let counts: Vec<u64> = sources.iter().map(|rows| rows.count(Split::Validation).unwrap_or(0)).collect();
    let mut taken = vec![0u64; sources.len()];
    let mut rows = Vec::new();
    while rows.len() < limit {
        // The source that is furthest behind its weight.
        let next = (0..sources.len())
            .filter(|at| taken[*at] < counts[*at])
            .min_by(|a, b| (taken[*a] as f64 / weights[*a]).total_cmp(&(taken[*b] as f64 / weights[*b])));
        let Some(source) = next else { break };
        rows.push((source, permute(taken[source], counts[source], VALIDATION_KEY)));
        taken[source] += 1;
    }
    rows
}

/// Not the seed: runs with different seeds are validated on the same rows.
const VALIDATION_KEY: u64 = 0x7661_6c69;
