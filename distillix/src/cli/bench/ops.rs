//! `distillix bench ops`.

use super::super::{Compute, Output, WrongUse};
use crate::bench::ops::{OpTime, OpsBench, time};
use crate::smelter::config::Config;
use crate::smelter::plan::{Plan, Precision};
use anyhow::{Context, Result};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use tensor::Device;

/// Times each op of a training step, forward and backward, beside the least time it could take.
///
/// That is the time to move its bytes or to do its multiplications, whichever is longer, at the rates that a large copy
/// and a large matrix product reach on this machine. One block of the model is computed, with the embedding before and
/// the head after it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix bench ops --preset tiny --device cpu
  distillix bench ops --preset 125m --device cuda --json")]
pub(super) struct Args {
    /// The model of this preset: tiny, 50m, 125m, 300m.
    #[arg(long, value_name = "NAME", default_value = "125m")]
    preset: String,
    /// Rows computed at once; the preset's on the CPU, what a GPU is fastest with there.
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Tokens of a row.
    #[arg(long, value_name = "N")]
    seq_len: Option<NonZeroUsize>,
    /// Passes that are timed, after three that are not.
    #[arg(long, value_name = "N", default_value = "10")]
    repeats: NonZeroUsize,
    /// Type of the activations on a GPU: bf16 or f32.
    #[arg(long, value_parser = super::precision)]
    precision: Option<Precision>,
    #[command(flatten)]
    compute: Compute,
    /// Print a JSON line for each op and pass on stdout, and one with the rates they are measured against.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut config = Config::preset(&args.preset).map_err(|error| WrongUse(format!("{error:#}")))?;
    let training = &mut config.training;
    training.seq_len = args.seq_len.map_or(training.seq_len, NonZeroUsize::get);
    training.precision = args.precision.or(training.precision);
    let device = args.compute.open()?;
    let plan = Plan::candidates(&config, &device, None)?.into_iter().next();
    let plan = plan.context("there is no plan for this device")?;
    let seq_len = config.training.seq_len;
    config.model.max_seq = config.model.max_seq.max(seq_len);
    let bench = OpsBench {
        model: config.model,
        batch: args.batch.map_or(plan.micro_batch, NonZeroUsize::get),
        seq_len,
        precision: plan.precision,
        repeats: args.repeats.get(),
    };
    let output = Output { json: args.json };
    let on = match device {
        Device::Cuda(gpu) => gpu.name().to_owned(),
        _ => format!("{device}, {} threads", rayon::current_num_threads()),
    };
    output.prose(&format!(
        "{on}: {} rows of {seq_len} tokens, activations in {}",
        bench.batch,
        bench.precision.dtype()
    ))?;
    output.prose(&format!(
        "{:<20}{:>9}{:>11}{:>8}{:>9}{:>9}{:>10}{:>8}",
        "op", "", "median ms", "spread", "GB", "GB/s", "GFLOP/s", "share"
    ))?;
    let ceilings = time(&bench, &device, &mut |time| {
        output.prose(&line(time))?;
        Ok(output.record(time)?)
    })?;
    output.prose(&format!(
        "share: of the time, what the bytes take at {:.0} GB/s (a large copy) or the products at {:.0} GFLOP/s (a large product)",
        1e-9 * ceilings.bytes_per_second,
        1e-9 * ceilings.flops_per_second
    ))?;
    output.record(&ceilings)?;
    Ok(ExitCode::SUCCESS)
}

fn line(time: &OpTime) -> String {
    let rate = |amount: f64| 1e-9 * amount / (1e-3 * time.milliseconds);
    format!(
        "{:<20}{:>9}{:>11.3}{:>7.0}%{:>9.3}{:>9.1}{:>10.0}{:>7.0}%",
        time.op,
        time.pass,
        time.milliseconds,
        100.0 * time.spread,
        1e-9 * time.bytes,
        rate(time.bytes),
        rate(time.flops),
        100.0 * time.share
    )
}
