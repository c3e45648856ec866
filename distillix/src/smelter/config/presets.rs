//! The presets: whole configs by name.

use super::{Config, DistillationConfig, TrainingConfig};
use crate::smelter::data::DataConfig;
use nn::losses::ForwardKl;
use nn::model::ModelConfig;

/// A named config.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    build: fn() -> Config,
}

/// All presets, smallest first.
pub const PRESETS: [Preset; 4] = [
    Preset { name: "tiny", about: "built-in curriculum, trained on a CPU within two minutes", build: tiny },
    Preset { name: "50m", about: "Llama-2 vocabulary, context 2048", build: m50 },
    Preset {
        name: "125m",
        about: "Llama-2 vocabulary, context 2048; the default of a config file",
        build: m125,
    },
    Preset { name: "300m", about: "Llama-2 vocabulary, context 2048", build: m300 },
];

impl Preset {
    /// The preset's config.
    pub fn config(&self) -> Config {
        (self.build)()
    }
}

fn tiny() -> Config {
    Config {
        model: ModelConfig {
            vocab_size: 1024,
            hidden: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            mlp: 352,
            max_seq: 256,
            rope_theta: 1e3,
            ..ModelConfig::default()
        },
        training: TrainingConfig {
            steps: 2000,
            batch_size: 4,
            micro_batch: Some(4),
            seq_len: 256,
            adamw_lr: 6e-3,
            warmup_steps: 40,
            final_lr_fraction: 0.0,
            label_smoothing: 0.0,
            recompute: Some(false),
            checkpoint_every: 500,
            eval_every: 0,
            sample_every: 0,
            ..TrainingConfig::default()
        },
        distillation: DistillationConfig {
            teacher: Some("embedded".to_owned()),
            // What helps most, see EXPERIMENTS.md.
            init: true,
            // A docstring has one right body, so a softened teacher would only blur it.
            loss: ForwardKl { temperature: 1.0 }.into(),
            ..DistillationConfig::default()
        },
        data: DataConfig { fim_rate: 0.0, ..DataConfig::default() },
        ..Config::default()
    }
}

fn m50() -> Config {
    let model =
        ModelConfig { hidden: 512, layers: 12, heads: 8, kv_heads: 2, mlp: 1408, ..ModelConfig::default() };
    Config { model, ..Config::default() }
}

fn m125() -> Config {
    Config::default()
}

fn m300() -> Config {
    let model =
        ModelConfig { hidden: 1024, layers: 24, heads: 16, kv_heads: 4, mlp: 2816, ..ModelConfig::default() };
    Config { model, ..Config::default() }
}
