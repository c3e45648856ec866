//! Parity with a reference: golden files hold inputs and results of each piece, and everything in them is computed
//! again through the code that training and inference use.

mod golden;
mod losses;
mod model;
mod modules;
mod optim;
mod report;

pub use report::{Group, Report};

use anyhow::{Context, bail};
use golden::Golden;
use std::path::Path;
use tensor::Device;

/// Computes everything in the golden file at `path` again, and compares. The settings are in the JSON file of the same
/// name beside it; what kind of file it is, the names of its tensors tell.
///
/// # Errors
/// If a file cannot be read, is of no known kind, lacks something, or holds something that nothing is compared with.
pub fn verify(path: &Path, device: &Device) -> anyhow::Result<Report> {
    let golden = Golden::open(path, device)?;
    compare(&golden).with_context(|| path.display().to_string())
}

fn compare(golden: &Golden) -> anyhow::Result<Report> {
    let any = |prefixes: &[&str]| golden.names().any(|name| prefixes.iter().any(|p| name.starts_with(p)));
    let report = if any(&["w."]) {
        let mut report = Report::new("model");
        model::verify(golden, &mut report)?;
        report
    } else if any(&["muon.", "adamw."]) {
        let mut report = Report::new("optimizers");
        optim::verify(golden, &mut report)?;
        report
    } else if any(&["bitlinear.", "attn_", "rms.", "rope", "swiglu.", "softcap"]) {
        let mut report = Report::new("modules");
        modules::verify(golden, &mut report)?;
        report
    } else if any(&["dz."]) {
        let mut report = Report::new("losses");
        losses::verify(golden, &mut report)?;
        report
    } else {
        bail!("has tensors of no kind of golden file: model, modules, optimizers or losses");
    };
    golden.all_read()?;
    Ok(report)
}
