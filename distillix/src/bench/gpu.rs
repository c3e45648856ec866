//! Timed training steps on a GPU: the trainer's own, captured and replayed.

use super::TrainBench;
use crate::smelter::config::Config;
use crate::smelter::data::{Batch, Step};
use crate::smelter::plan::{Plan, Precision, too_large};
use crate::smelter::trainer::Trainer;
use anyhow::{Context, Result};
use nn::model::Student;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tensor::cuda::Cuda;
use tensor::{Device, Stream};

/// What was measured on a GPU.
#[derive(Clone, Debug, Serialize)]
pub struct GpuReport {
    /// The card.
    pub device: String,
    /// How the steps ran.
    pub plan: String,
    /// Trained elements.
    pub parameters: usize,
    /// Tokens a step.
    pub tokens_per_step: usize,
    /// From the start of the bench to the end of its first step: weights, kernels, algorithms.
    pub first_step_seconds: f64,
    /// Seconds of the median step, of a few together.
    pub step_seconds: f64,
    /// Of the fastest.
    pub best_step_seconds: f64,
    /// Tokens a second at the median step.
    pub tokens_per_second: f64,
    /// Share of the card's bf16 peak that the model's multiplications take, recomputation not counted; `None` for a card
    /// whose peak is not known.
    pub mfu: Option<f64>,
    /// Most bytes in tensors at once.
    pub peak_bytes: usize,
    /// Bytes taken from the driver.
    pub reserved_bytes: usize,
    /// Bytes of the card in use, by the driver's count.
    pub card_bytes: usize,
    /// Times the host waited for the device within the timed steps, from giving one its data to having launched it.
    pub waits_in_steps: u64,
    /// Milliseconds of a step on the device by kind of work, launched one by one.
    pub phases: BTreeMap<&'static str, f64>,
    /// The same by kernel file.
    pub kernels: BTreeMap<&'static str, f64>,
    /// Loss of the first step and of the last.
    pub losses: [f64; 2],
    /// Why steps were not replayed, if so.
    pub notes: Vec<String>,
}

/// Steps timed together, so that the end of one overlaps with the launch of the next as in training.
const GROUP: usize = 5;
/// Untimed steps: those run eagerly, the captured one, and some to warm the card.
const WARMUP: usize = 8;

/// Runs the bench; `progress` is called after each step.
pub fn train(bench: &TrainBench, gpu: Cuda, mut progress: impl FnMut(usize)) -> Result<GpuReport> {
    let start = Instant::now();
    let device = Device::Cuda(gpu);
    let config = config(bench);
    let student = Student::random(config.model.clone(), config.model.vocab_size, &device, 0);
    let student = student.map_err(|error| too_large(error.into()))?;
    let plans = Plan::candidates(&config, &device, bench.memory_limit)?;
    let first = plans.first().context("there is no plan for this device")?.clone();
    first.apply(&device)?;
    let mut trainer = Trainer::new(config.clone(), first, student, None).map_err(too_large)?;
    let step = trainer.settle(plans, |plan| Ok(random_step(&config, plan)))?;
    let (mut losses, mut waits) = (Vec::new(), 0);
    let mut steps = |trainer: &mut Trainer, count: usize| -> Result<(Duration, u64)> {
        let start = Instant::now();
        for _ in 0..count {
            let before = gpu.waits();
            trainer.step(&step)?;
            waits += gpu.waits() - before;
            losses.extend(trainer.reports(false)?.iter().map(|report| report.loss));
        }
        losses.extend(trainer.reports(true)?.iter().map(|report| report.loss));
        Ok((start.elapsed(), std::mem::take(&mut waits)))
    };
    let mut run = |trainer: &mut Trainer, count: usize| {
        steps(trainer, count).map_err(|error| trainer.plan().advise(error))
    };
    run(&mut trainer, 1)?;
    let first_step_seconds = start.elapsed().as_secs_f64();
    progress(1);
    // The second step runs eagerly too: it tells where the time goes.
    let (profiled, times) = gpu.profile(|| Ok(run(&mut trainer, 1)))?;
    profiled?;
    run(&mut trainer, WARMUP - 2)?;
    progress(WARMUP);
    let mut groups = Vec::new();
    let mut waits_in_steps = 0;
    for group in 0..bench.steps.div_ceil(GROUP).max(2) {
        let (time, waits) = run(&mut trainer, GROUP)?;
        groups.push(time.as_secs_f64() / GROUP as f64);
        waits_in_steps += waits;
        progress(WARMUP + (group + 1) * GROUP);
    }
    groups.sort_by(f64::total_cmp);
    let (mut phases, mut kernels) = (BTreeMap::new(), BTreeMap::new());
    for time in times {
        *kernels.entry(time.name).or_insert(0.0) += f64::from(time.milliseconds);
        *phases.entry(phase(time.name)).or_insert(0.0) += f64::from(time.milliseconds);
    }
    let stats = gpu.memory_stats();
    let (free, total) = gpu.memory_info()?;
    let tokens = config.training.tokens_per_step();
    let median = groups[groups.len() / 2];
    let flops = flops_per_token(bench) * tokens as f64;
    Ok(GpuReport {
        device: gpu.name().to_owned(),
        plan: trainer.plan().describe(&config),
        parameters: config.model.parameters(),
        tokens_per_step: tokens,
        first_step_seconds,
        step_seconds: median,
        best_step_seconds: groups[0],
        tokens_per_second: tokens as f64 / median,
        mfu: peak_flops(gpu.name()).map(|peak| flops / median / peak),
        peak_bytes: stats.peak,
        reserved_bytes: stats.peak_reserved,
        card_bytes: total - free,
        waits_in_steps,
        phases,
        kernels,
        losses: [losses.first().copied().unwrap_or(f64::NAN), losses.last().copied().unwrap_or(f64::NAN)],
        notes: trainer.notes(),
    })
}

fn config(bench: &TrainBench) -> Config {
    let mut config = Config { model: bench.model.clone(), ..Config::default() };
    let training = &mut config.training;
    training.batch_size = bench.batch;
    training.seq_len = bench.seq_len;
    training.micro_batch = bench.micro_batch;
    training.recompute = bench.recompute;
    training.precision = bench.precision.or(Some(Precision::Bf16));
    training.matrix_optimizer = bench.optimizer.matrices;
    training.muon_lr = bench.optimizer.muon.lr;
    training.adamw_lr = bench.optimizer.adamw.lr;
    training.label_smoothing = 0.0;
    training.warmup_steps = 0;
    config.distillation.teacher = None;
    config
}

/// A step of random tokens, each row one document, every target counted.
fn random_step(config: &Config, plan: &Plan) -> Step {
    let training = &config.training;
    let (rows, cols) = (plan.micro_batch, training.seq_len);
    let stream = Stream { site: u32::MAX, ..Stream::new(0) };
    let batch = |micro: usize| {
        let first = micro * rows * (cols + 1);
        let draw = |i: usize| stream.below((first + i) as u64, config.model.vocab_size as u64) as i32;
        let tokens: Vec<i32> = (0..rows * (cols + 1)).map(draw).collect();
        let part = |from: usize| {
            tokens.chunks_exact(cols + 1).flat_map(move |row| row[from..from + cols].iter().copied())
        };
        Batch {
            ids: part(0).collect(),
            targets: part(1).collect(),
            docs: vec![0; rows * cols],
            rows,
            cols,
            trained_tokens: rows * cols,
            trained_bytes: 0,
        }
    };
    Step {
        micro_batches: (0..plan.micro_batches(config)).map(batch).collect(),
        trained_tokens: training.tokens_per_step(),
        trained_bytes: 0,
    }
}

/// What a kernel file is for.
fn phase(kernel: &str) -> &'static str {
    match kernel {
        "matmul" | "ternary_gemm" => "gemm",
        name if name.starts_with("attention") => "attention",
        "optim" | "quantize" => "optimizer and quantization",
        _ => "elementwise",
    }
}

/// Multiplications and additions of a trained token: three times the forward pass's, attention to half of the row.
fn flops_per_token(bench: &TrainBench) -> f64 {
    let model = &bench.model;
    let attention = model.layers * model.heads * model.head_dim * bench.seq_len * 2;
    6.0 * model.products_per_token() as f64 + 3.0 * attention as f64
}

/// Dense bf16 peak of a card in operations a second, by its maker's data sheet.
fn peak_flops(name: &str) -> Option<f64> {
    let known = [
        ("H200", 989e12),
        ("H100 PCIe", 756e12),
        ("H100", 989e12),
        ("A100", 312e12),
        ("L40S", 362e12),
        ("L4", 121e12),
        ("RTX 5090", 209e12),
        ("RTX 4090", 165e12),
        ("RTX 3090", 71e12),
        ("A10", 125e12),
    ];
    known.iter().find(|(card, _)| name.contains(card)).map(|(_, peak)| *peak)
}
