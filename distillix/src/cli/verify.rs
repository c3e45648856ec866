//! `distillix verify`.

use super::{DeviceArg, Output};
use crate::verify::{Group, verify};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compares this program with a reference's dump: models, modules, optimizers or losses.
///
/// FILE holds a reference's inputs and results, and a JSON file of the same name beside it the settings. Everything in
/// it is computed again; exit code 1 if an error is over its tolerance.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dump, a safetensors file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// auto, cpu or cuda[:N].
    #[arg(long, default_value = "auto")]
    device: DeviceArg,
    /// Print a JSON line a group on stdout, and a last one for the file.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    file: &'a str,
    kind: &'a str,
    ok: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let output = Output { json: args.json };
    let report = verify(&args.file, &args.device.open()?)?;
    let file = args.file.display().to_string();
    output.prose(&format!("{file}: {}", report.kind))?;
    let width = report.groups.iter().map(|g| g.name.chars().count()).max().unwrap_or(0);
    for group in &report.groups {
        output.record(group)?;
        output.prose(&line(group, width))?;
    }
    let ok = report.ok();
    output.record(&Summary { file: &file, kind: report.kind, ok })?;
    let failed = report.groups.iter().filter(|g| !g.ok).count();
    output.prose(&match failed {
        0 => format!("all {} groups agree", report.groups.len()),
        n => format!("{n} of {} groups disagree", report.groups.len()),
    })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(group: &Group, width: usize) -> String {
    let Group { name, at, tolerance, ok, .. } = group;
    let mark = if *ok { "ok  " } else { "FAIL" };
    let limit = if *tolerance == 0.0 { "exact".to_owned() } else { format!("{tolerance:.0e}") };
    let worst = group.worst.map_or("not finite".to_owned(), |worst| format!("{worst:.2e}"));
    format!("  {mark} {name:width$}  worst {worst:>10}  of {limit:>5}  at {at}")
}
