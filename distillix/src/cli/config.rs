//! `distillix config`.

use super::WrongUse;
use crate::smelter::config::{Config, PRESETS};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Prints a whole config as JSON: a preset, with the changes asked for. Without a name, lists the presets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix config                             the presets, and their sizes
  distillix config 125m > my.json              a file to edit, for train --config my.json
  distillix config tiny --set training.steps=50 --set distillation.teacher=null")]
pub(super) struct Args {
    /// Name of a preset.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// A JSON file whose keys change the preset's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change one key; the value is JSON, or else a string.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    if args.name.is_none() && args.config.is_none() && args.settings.is_empty() {
        writeln!(
            stdout,
            "{:6} {:>10}  {:>6} {:>6} {:>5} {:>7}",
            "preset", "parameters", "hidden", "layers", "heads", "context"
        )?;
        for preset in PRESETS {
            let model = preset.config().model;
            let parameters = format!("{:.1}M", model.parameters() as f64 / 1e6);
            let heads = format!("{}/{}", model.heads, model.kv_heads);
            writeln!(
                stdout,
                "{:6} {parameters:>10}  {:>6} {:>6} {heads:>5} {:>7}  {}",
                preset.name, model.hidden, model.layers, model.max_seq, preset.about
            )?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = match &args.name {
        Some(name) => Config::preset(name).map_err(WrongUse::from_error)?,
        None => Config::default(),
    };
    if let Some(path) = &args.config {
        config = config.with_file(path)?;
    }
    for setting in &args.settings {
        config = config.with_setting(setting).map_err(WrongUse::from_error)?;
    }
    config.validate().map_err(WrongUse::from_error)?;
    writeln!(stdout, "{}", config.to_json()?)?;
    Ok(ExitCode::SUCCESS)
}
