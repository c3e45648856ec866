//! Timed training steps on random tokens, and their parts.

pub mod gpu;
pub mod ops;

use crate::smelter::plan::Precision;
use anyhow::Result;
use autograd::Tape;
use nn::losses::CrossEntropy;
use nn::model::{Input, ModelConfig, Student};
use nn::optim::{Optimizer, OptimizerConfig, grad_norm};
use serde::Serialize;
use std::time::{Duration, Instant};
use tensor::{Device, Stream, Tensor};

/// What is timed.
#[derive(Clone, Debug)]
pub struct TrainBench {
    /// Shape of the model.
    pub model: ModelConfig,
    /// Optimizer settings.
    pub optimizer: OptimizerConfig,
    /// Sequences a step.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Steps that are timed, after two that are not.
    pub steps: usize,
    /// Computes blocks again in the backward pass instead of remembering them; `None`: only a GPU without the memory.
    pub recompute: Option<bool>,
    /// Rows computed at once on a GPU; `None` for as many as fit.
    pub micro_batch: Option<usize>,
    /// Type of the activations on a GPU, bf16 if not given.
    pub precision: Option<Precision>,
    /// Most bytes that the process takes of a GPU's memory.
    pub memory_limit: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct TrainReport {
    /// Trained elements.
    pub parameters: usize,
    /// Tokens a step.
    pub tokens_per_step: usize,
    /// Seconds of the median step.
    pub step_seconds: f64,
    /// Of the fastest.
    pub best_step_seconds: f64,
    /// Tokens a second at the median step.
    pub tokens_per_second: f64,
    /// Share of the median step in the forward pass, with the head's gradient, which is computed there.
    pub forward_seconds: f64,
    /// In the backward pass.
    pub backward_seconds: f64,
    /// In clipping, optimizers and quantization.
    pub optimizer_seconds: f64,
    /// Loss before the first step and at the last.
    pub losses: [f32; 2],
    /// Blocks of memory that tensors took from the system after the second step.
    pub allocations_after_warmup: usize,
}

/// Tokens of a vocabulary, all equally likely.
fn random_ids(vocab: usize, count: usize, seed: u64) -> Vec<u32> {
    let stream = Stream { site: u32::MAX, ..Stream::new(seed) };
    (0..count as u64).map(|i| stream.below(i, vocab as u64) as u32).collect()
}

/// Runs the bench on the CPU; `progress` is called after each step.
pub fn train(bench: &TrainBench, mut progress: impl FnMut(usize)) -> Result<TrainReport> {
    const WARMUP: usize = 2;
    let device = Device::Cpu;
    let mut model = Student::random(bench.model.clone(), bench.model.vocab_size, &device, 0)?;
    let mut grads = model.params().gradients()?;
    let mut optimizer = Optimizer::new(bench.optimizer, model.params())?;
    let (b, t) = (bench.batch, bench.seq_len);
    let tokens = random_ids(bench.model.vocab_size, b * (t + 1), 0);
    let rows =
        |from: usize| tokens.chunks_exact(t + 1).flat_map(move |row| row[from..from + t].iter().copied());
    let ids: Vec<u32> = rows(0).collect();
    let targets: Vec<i32> = rows(1).map(|id| id as i32).collect();
    let input = Input { ids: Tensor::from_slice(&ids, &[b, t], &device)?, first_key: None };
    let targets = Tensor::from_slice(&targets, &[b * t], &device)?;
    let mut times: Vec<[Duration; 3]> = Vec::new();
    let mut losses = Vec::new();
    let mut allocations = 0;
    for step in 0..WARMUP + bench.steps {
        if step == WARMUP {
            allocations = tensor::storage::pool_stats().system_allocations;
        }
        let start = Instant::now();
        grads.clear();
        let mut tape = Tape::new();
        let (hidden, _) = model.hidden(&mut tape, &input, bench.recompute.unwrap_or(false), None)?;
        let terms = vec![(1.0, CrossEntropy::default().into())];
        let (loss, _) = model.loss(&mut tape, &hidden, targets.clone(), terms, (b * t) as f64, None)?;
        drop(hidden);
        let forward = start.elapsed();
        losses.push(loss.detach().item::<f32>()?);
        tape.backward(&loss, &mut grads)?;
        let backward = start.elapsed();
        let norm = grad_norm(model.params(), &grads)?;
        optimizer.step(model.params_mut(), &grads, norm.clip_factor(1.0), 1.0)?;
        let all = start.elapsed();
        if step >= WARMUP {
            times.push([forward, backward - forward, all - backward]);
        }
        progress(step + 1);
    }
    let allocations_after_warmup = tensor::storage::pool_stats().system_allocations - allocations;
    times.sort_by_key(|parts| parts.iter().sum::<Duration>());
    let seconds = |parts: &[Duration; 3]| parts.iter().sum::<Duration>().as_secs_f64();
    let median = times[times.len() / 2];
    Ok(TrainReport {
        parameters: model.params().numel(),
        tokens_per_step: b * t,
        step_seconds: seconds(&median),
        best_step_seconds: seconds(&times[0]),
        tokens_per_second: (b * t) as f64 / seconds(&median),
        forward_seconds: median[0].as_secs_f64(),
        backward_seconds: median[1].as_secs_f64(),
        optimizer_seconds: median[2].as_secs_f64(),
        losses: [losses[0], losses[losses.len() - 1]],
        allocations_after_warmup,
    })
}
