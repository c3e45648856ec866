//! `distillix bench`.

mod ops;

use super::progress::Progress;
use super::{Compute, Output, WrongUse};
use crate::bench::{TrainBench, train};
use crate::smelter::config::Config;
use crate::smelter::plan::{Precision, parse_bytes};
use anyhow::Result;
use nn::model::ModelConfig;
use nn::optim::{AdamW, MatrixOptimizer, Muon, OptimizerConfig};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use tensor::Device;
use tensor::cuda::Cuda;

/// Times this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Train(TrainArgs),
    Ops(ops::Args),
}

/// Times training steps on random tokens.
///
/// The default is a 5 M-parameter model: vocabulary 4096, hidden 256, 4 layers, 4 heads and 2 key heads of 64, mlp 704,
/// untied head, no head norms, no caps; 8 rows of 256 tokens; AdamW.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix bench train --json --threads 2
  distillix bench train --preset 125m --batch 1 --steps 2
  distillix bench train --preset 125m --device cuda --json")]
struct TrainArgs {
    /// The model of a preset instead: tiny, 50m, 125m, 300m.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// What optimizes the matrices: adamw or muon.
    #[arg(long, value_parser = optimizer)]
    optimizer: Option<MatrixOptimizer>,
    /// Rows of a step.
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Tokens of a row.
    #[arg(long, value_name = "N")]
    seq_len: Option<NonZeroUsize>,
    /// Steps that are timed, after two that are not.
    #[arg(long, value_name = "N", default_value = "10")]
    steps: NonZeroUsize,
    /// Rows computed at once on a GPU, which must divide --batch; as many as fit if not given.
    #[arg(long, value_name = "N")]
    micro_batch: Option<NonZeroUsize>,
    /// Type of the activations on a GPU: bf16 or f32.
    #[arg(long, value_parser = precision)]
    precision: Option<Precision>,
    /// Most memory of the GPU that the process takes, as in 8GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_limit: Option<usize>,
    #[command(flatten)]
    compute: Compute,
    /// Print the figures as a JSON line on stdout.
    #[arg(long)]
    json: bool,
}

fn optimizer(name: &str) -> Result<MatrixOptimizer, String> {
    match name {
        "adamw" => Ok(MatrixOptimizer::AdamW),
        "muon" => Ok(MatrixOptimizer::Muon),
        _ => Err("expected adamw or muon".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Train(args) => run_train(args),
        What::Ops(args) => ops::run(args),
    }
}

fn run_train(args: &TrainArgs) -> Result<ExitCode> {
    let device = args.compute.open()?;
    let mut bench = match &args.preset {
        None => default_shape(),
        Some(name) => {
            let config = Config::preset(name).map_err(|error| WrongUse(format!("{error:#}")))?;
            TrainBench {
                optimizer: config.training.optimizer(),
                batch: match device {
                    Device::Cpu => config.training.micro_batch.unwrap_or(1),
                    _ => config.training.batch_size,
                },
                seq_len: config.training.seq_len,
                recompute: config.training.recompute.or((device == Device::Cpu).then_some(true)),
                micro_batch: None,
                precision: None,
                memory_limit: None,
                model: config.model,
                steps: 0,
            }
        }
    };
    bench.steps = args.steps.get();
    bench.batch = args.batch.map_or(bench.batch, NonZeroUsize::get);
    bench.seq_len = args.seq_len.map_or(bench.seq_len, NonZeroUsize::get);
    bench.model.max_seq = bench.model.max_seq.max(bench.seq_len);
    bench.optimizer.matrices = args.optimizer.unwrap_or(bench.optimizer.matrices);
    bench.micro_batch = args.micro_batch.map(NonZeroUsize::get);
    bench.precision = args.precision;
    bench.memory_limit = args.memory_limit;
    if let Device::Cuda(gpu) = device {
        return run_gpu(&bench, gpu, args.json);
    }
    let mut progress = Progress::new("steps", Some(bench.steps as u64 + 2));
    let report = train(&bench, |step| progress.at(step as u64))?;
    progress.finish();
    let output = Output { json: args.json };
    output.prose(&format!(
        "{:.0} tokens/s: {:.1} ms a step of {} tokens (forward {:.1}, backward {:.1}, optimizer {:.1}), {} parameters",
        report.tokens_per_second,
        1e3 * report.step_seconds,
        report.tokens_per_step,
        1e3 * report.forward_seconds,
        1e3 * report.backward_seconds,
        1e3 * report.optimizer_seconds,
        report.parameters,
    ))?;
    output.record(&report)?;
    Ok(ExitCode::SUCCESS)
}

fn run_gpu(bench: &TrainBench, gpu: Cuda, json: bool) -> Result<ExitCode> {
    let mut progress = Progress::new("steps", None);
    let report = crate::bench::gpu::train(bench, gpu, |step| progress.at(step as u64))?;
    progress.finish();
    let output = Output { json };
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    output.prose(&report.plan)?;
    output.prose(&format!(
        "{:.0} tokens/s: {:.1} ms a step of {} tokens{}; first step after {:.1} s; peak {:.1} GiB in tensors, {:.1} GiB of the card",
        report.tokens_per_second,
        1e3 * report.step_seconds,
        report.tokens_per_step,
        report.mfu.map(|mfu| format!(", {:.1}% of the card's peak", 100.0 * mfu)).unwrap_or_default(),
        report.first_step_seconds,
        gib(report.peak_bytes),
        gib(report.card_bytes),
    ))?;
    for (phase, milliseconds) in &report.phases {
        output.prose(&format!("{phase}: {milliseconds:.1} ms"))?;
    }
    output.record(&report)?;
    Ok(ExitCode::SUCCESS)
}

fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("expected f32 or bf16".to_owned()),
    }
}

fn default_shape() -> TrainBench {
    let model = ModelConfig {
        vocab_size: 4096,
        hidden: 256,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        mlp: 704,
        max_seq: 256,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        attn_softcap: 0.0,
        final_softcap: 0.0,
        qk_norm: false,
        tie_embeddings: false,
        ..ModelConfig::default()
    };
    let optimizer = OptimizerConfig {
        matrices: MatrixOptimizer::AdamW,
        muon: Muon { lr: 0.02, momentum: 0.95, weight_decay: 0.0 },
        adamw: AdamW { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
    };
    TrainBench {
        model,
        optimizer,
        batch: 8,
        seq_len: 256,
        steps: 10,
        recompute: Some(false),
        micro_batch: None,
        precision: None,
        memory_limit: None,
    }
}
