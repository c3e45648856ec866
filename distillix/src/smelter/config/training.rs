//! The `training` section of a config.

use crate::smelter::plan::Precision;
use anyhow::{Result, ensure};
use nn::optim::{AdamW, Decay, MatrixOptimizer, Muon, OptimizerConfig, Schedule};
use serde::{Deserialize, Serialize};

/// How to train. The defaults are those of the 125m preset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Rows of an optimizer step.
    pub batch_size: usize,
    /// Rows that are computed at once; divides `batch_size`. Gradients add up over the rest. `null`: as many as the
    /// memory of a GPU takes, on the CPU one.
    pub micro_batch: Option<usize>,
    /// Tokens of a row; at most `model.max_seq`.
    pub seq_len: usize,
    /// Seed of weights, data order and sampling.
    pub seed: u64,
    /// What optimizes the matrices of the blocks.
    pub matrix_optimizer: MatrixOptimizer,
    /// Muon's learning rate.
    pub muon_lr: f64,
    /// Muon's momentum.
    pub muon_momentum: f64,
    /// Muon's weight decay.
    pub muon_weight_decay: f64,
    /// AdamW's learning rate.
    pub adamw_lr: f64,
    /// AdamW's decay rates of the two moments.
    pub adamw_betas: [f64; 2],
    /// Added to AdamW's denominator.
    pub adamw_eps: f64,
    /// AdamW's weight decay; never on norms.
    pub adamw_weight_decay: f64,
    /// Steps of linear growth of the learning rates.
    pub warmup_steps: u64,
    /// How the learning rates fall after warmup.
    pub decay: Decay,
    /// Step at which the fall ends; `null` for `steps`.
    pub decay_steps: Option<u64>,
    /// Share of the learning rates that is left at the end.
    pub final_lr_fraction: f64,
    /// Largest norm of the gradient; it is scaled down to that. 0 for no limit.
    pub clip_norm: f64,
    /// Share of a target's probability that the cross-entropy spreads over the vocabulary.
    pub label_smoothing: f64,
    /// Compute blocks again in the backward pass instead of remembering them: less memory, a third more work. `null`: on
    /// a GPU only if its memory asks for it, on the CPU always.
    pub recompute: Option<bool>,
    /// Type of the activations: `f32`, or `bf16` on a GPU. `null`: `bf16` on a GPU, `f32` on the CPU.
    pub precision: Option<Precision>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints are kept; the best is kept besides.
    pub keep_checkpoints: usize,
    /// Steps between validations; 0 for none but the last.
    pub eval_every: u64,
    /// Micro-batches of a validation; 0 for all that `data.validation_rows` allows.
    pub eval_batches: usize,
    /// Held-out functions of the built-in curriculum that a validation has completed, every second a composition never
    /// trained on; 0 for none.
    pub eval_functions: usize,
    /// Steps between samples; 0 for none.
    pub sample_every: u64,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Training stops after this many steps in a row whose loss or gradient is not finite.
    pub max_bad_steps: u64,
    /// When a layer's weights count as unhealthy.
    pub health: HealthConfig,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        TrainingConfig {
            steps: 20_000,
            batch_size: 32,
            micro_batch: None,
            seq_len: 2048,
            seed: 0,
            matrix_optimizer: MatrixOptimizer::Muon,
            muon_lr: 0.02,
            muon_momentum: 0.95,
            muon_weight_decay: 0.0,
            adamw_lr: 3e-4,
            adamw_betas: [0.9, 0.95],
            adamw_eps: 1e-8,
            adamw_weight_decay: 0.01,
            warmup_steps: 500,
            decay: Decay::Cosine,
            decay_steps: None,
            final_lr_fraction: 0.1,
            clip_norm: 1.0,
            label_smoothing: 0.1,
            recompute: None,
            precision: None,
            checkpoint_every: 500,
            keep_checkpoints: 3,
            eval_every: 500,
            eval_batches: 0,
            eval_functions: 1000,
            sample_every: 500,
            log_every: 10,
            max_bad_steps: 10,
            health: HealthConfig::default(),
        }
    }
}

/// Bounds outside of which a ternary layer is reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Largest share of zeros among a layer's weights.
    pub max_zero_share: f64,
    /// Smallest share of zeros.
    pub min_zero_share: f64,
    /// Largest share of weights that change their code in one step after warmup.
    pub max_flip_share: f64,
    /// Smallest scale γ.
    pub min_gamma: f64,
    /// Largest share that a layer's γ may fall below its highest after warmup.
    pub max_gamma_fall: f64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        HealthConfig {
            max_zero_share: 0.9,
            min_zero_share: 0.05,
            max_flip_share: 0.05,
            min_gamma: 1e-4,
            max_gamma_fall: 0.05,
        }
    }
}

impl TrainingConfig {
    /// Tokens of an optimizer step.
    pub fn tokens_per_step(&self) -> usize {
        self.batch_size * self.seq_len
    }

    /// The learning rates' factor by step.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            warmup: self.warmup_steps,
            horizon: self.decay_steps.unwrap_or(self.steps),
            end: self.final_lr_fraction,
            decay: self.decay,
        }
    }

    /// The optimizer's settings.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            matrices: self.matrix_optimizer,
            muon: Muon {
                lr: self.muon_lr,
                momentum: self.muon_momentum,
                weight_decay: self.muon_weight_decay,
            },
            adamw: AdamW {
                lr: self.adamw_lr,
                betas: self.adamw_betas,
                eps: self.adamw_eps,
                weight_decay: self.adamw_weight_decay,
            },
        }
    }

    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = [
            ("steps", self.steps),
            ("batch_size", self.batch_size as u64),
            ("micro_batch", self.micro_batch.unwrap_or(1) as u64),
            ("seq_len", self.seq_len as u64),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints as u64),
            ("log_every", self.log_every),
            ("max_bad_steps", self.max_bad_steps),
        ];
        for (key, value) in at_least_one {
            ensure!(value > 0, "training.{key} is 0, it must be at least 1");
        }
        let micro_batch = self.micro_batch.unwrap_or(1);
        ensure!(
            self.batch_size.is_multiple_of(micro_batch),
            "training.micro_batch is {micro_batch}, it must divide training.batch_size {}",
            self.batch_size
        );
        let not_negative = [
            ("muon_lr", self.muon_lr),
            ("muon_weight_decay", self.muon_weight_decay),
            ("adamw_lr", self.adamw_lr),
            ("adamw_weight_decay", self.adamw_weight_decay),
            ("clip_norm", self.clip_norm),
        ];
        for (key, value) in not_negative {
            ensure!(
                value.is_finite() && value >= 0.0,
                "training.{key} is {value}, it must be a number from 0 up"
            );
        }
        let below_one = [
            ("muon_momentum", self.muon_momentum),
            ("adamw_betas[0]", self.adamw_betas[0]),
            ("adamw_betas[1]", self.adamw_betas[1]),
            ("label_smoothing", self.label_smoothing),
        ];
        for (key, value) in below_one {
            ensure!((0.0..1.0).contains(&value), "training.{key} is {value}, it must be from 0 to below 1");
        }
        let mut shares = vec![
            ("final_lr_fraction", self.final_lr_fraction),
            ("health.max_zero_share", self.health.max_zero_share),
            ("health.min_zero_share", self.health.min_zero_share),
            ("health.max_flip_share", self.health.max_flip_share),
            ("health.max_gamma_fall", self.health.max_gamma_fall),
        ];
        if let Decay::WarmupStableDecay { fraction } = self.decay {
            shares.push(("decay.fraction", fraction));
        }
        for (key, value) in shares {
            ensure!((0.0..=1.0).contains(&value), "training.{key} is {value}, it must be from 0 to 1");
        }
        ensure!(
            self.adamw_eps.is_finite() && self.adamw_eps > 0.0,
            "training.adamw_eps is {}, it must be above 0",
            self.adamw_eps
        );
        ensure!(
            self.health.min_gamma.is_finite() && self.health.min_gamma >= 0.0,
            "training.health.min_gamma is {}, it must be a number from 0 up",
            self.health.min_gamma
        );
        Ok(())
    }
}
