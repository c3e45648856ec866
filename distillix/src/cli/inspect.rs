//! `distillix inspect`.

use super::{DeviceArg, Output};
use crate::run::{Inspection, RunModel, Weight, inspect};
use crate::smelter::config::Config;
use anyhow::Result;
use nn::model::{LinearKind, ModelConfig};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows what a model consists of, and whether its weights are well.
///
/// For each ternary weight: its scale γ and the shares of -1, 0 and +1. Warnings name what is outside the bounds of
/// the run's training.health.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix inspect --model runs/tiny
  distillix inspect --model runs/tiny --json | jq .warnings")]
pub(super) struct Args {
    /// The folder of a run.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// auto, cpu or cuda[:N].
    #[arg(long, default_value = "auto")]
    device: DeviceArg,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    config: &'a Config,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let model = RunModel::load(&args.model, &args.device.open()?)?;
    let inspection = inspect(&model)?;
    let output = Output { json: args.json };
    if args.json {
        output.record(&Record { inspection: &inspection, config: &model.config })?;
    } else {
        for line in summary(&inspection, &model.config.model).into_iter().chain(table(&inspection.weights)) {
            output.prose(&line)?;
        }
    }
    for warning in &inspection.warnings {
        output.prose(&format!("warning: {warning}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(inspection: &Inspection, model: &ModelConfig) -> Vec<String> {
    let Inspection { parameters, ternary_parameters, packed_bits, tokens, vocab_size, .. } = inspection;
    let kind = match model.linear {
        LinearKind::Ternary => "ternary",
        LinearKind::Dense => "dense",
    };
    let megabytes = *packed_bits as f64 / 8e6;
    let bits = *packed_bits as f64 / (*parameters).max(1) as f64;
    vec![
        format!(
            "model       {kind}, {} layers of width {}, {} query and {} key heads of {}, mlp {}, context {}",
            model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.mlp, model.max_seq
        ),
        format!("parameters  {parameters}, of these {ternary_parameters} ternary"),
        format!("packed      {megabytes:.1} MB: {bits:.2} bits a weight (2 a ternary one, 16 any other)"),
        format!("vocabulary  {tokens} tokens in {vocab_size} rows"),
    ]
}

/// Lines for the matrices; norms are left to `--json`.
fn table(weights: &[Weight]) -> Vec<String> {
    let matrices: Vec<&Weight> = weights.iter().filter(|weight| weight.dims.len() > 1).collect();
    let short =
        |weight: &Weight| weight.name.trim_start_matches("model.").trim_end_matches(".weight").to_owned();
    let width = matrices.iter().map(|weight| short(weight).len()).max().unwrap_or(0);
    let head = format!(
        "{:width$}  {:>12}  {:>9}  {:>9}  {:>9}  {:>5}  {:>5}  {:>5}",
        "weight", "shape", "rms", "max", "γ", "-1", "0", "+1"
    );
    let line = |weight: &&Weight| {
        let shape = weight.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
        let start =
            format!("{:width$}  {shape:>12}  {:>9.2e}  {:>9.2e}", short(weight), weight.rms, weight.max);
        match (weight.gamma, weight.shares) {
            (Some(gamma), Some(shares)) => {
                let [minus, zero, plus] = shares.map(|share| format!("{:.1}%", 100.0 * share));
                format!("{start}  {gamma:>9.2e}  {minus:>5}  {zero:>5}  {plus:>5}")
            }
            _ => start,
        }
    };
    std::iter::once(head).chain(matrices.iter().map(line)).collect()
}
