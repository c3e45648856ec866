//! Optimizer goldens: Muon from a buffer that is not zero, AdamW from zero.

use super::golden::Golden;
use super::report::Report;
use anyhow::{Result, ensure};
use nn::optim::{AdamW, AdamWState, Muon, MuonState, newton_schulz};
use serde::Deserialize;
use tensor::{DType, Tensor};

#[derive(Deserialize)]
struct MuonSettings {
    lr: f64,
    momentum: f64,
    wd: f64,
}

#[derive(Deserialize)]
struct AdamWSettings {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    wd: f64,
}

/// Compares the states.
const STATE: f64 = 2e-6;
/// Compares the changes of parameters.
const CHANGE: f64 = 1e-4;

pub(super) fn verify(golden: &Golden, report: &mut Report) -> Result<()> {
    let settings: MuonSettings = golden.setting(&["muon"])?;
    let muon = Muon { lr: settings.lr, momentum: settings.momentum, weight_decay: settings.wd };
    let cases = golden.parts("muon.");
    ensure!(!cases.is_empty(), "there is no tensor muon.<rows>x<cols>.p0");
    for case in cases {
        muon_case(golden, report, muon, &format!("muon.{case}"))?;
    }
    adamw_case(golden, report)
}

/// The gradients `[steps, …]` and the parameter they belong to, a copy.
fn start(golden: &Golden, path: &str) -> Result<(Tensor, Tensor)> {
    let (gradients, parameter) =
        (golden.floats(&format!("{path}.g"))?, golden.floats(&format!("{path}.p0"))?);
    ensure!(
        gradients.dims().split_first().is_some_and(|(_, rest)| rest == parameter.dims()),
        "{path}.g has dims {:?}, expected [steps, …] with {:?} of {path}.p0",
        gradients.dims(),
        parameter.dims()
    );
    Ok((gradients, parameter))
}

fn muon_case(golden: &Golden, report: &mut Report, muon: Muon, path: &str) -> Result<()> {
    let (gradients, start) = start(golden, path)?;
    let (mut parameter, buf) = (start.copy()?, golden.floats(&format!("{path}.buf0"))?.copy()?);
    ensure!(buf.dims() == start.dims(), "{path}.buf0 has dims {:?}, expected {:?}", buf.dims(), start.dims());
    let mut state = MuonState { buf };
    let name = format!("{path}.ns_of_g0");
    let orthogonal = newton_schulz(&gradients.select(0, 0)?)?;
    report.tensors_close("newton_schulz", CHANGE, &name, &orthogonal, &golden.floats(&name)?)?;
    for step in 1..=gradients.dims()[0] {
        let gradient = gradients.select(0, step - 1)?.contiguous()?;
        muon.step(&mut parameter, &gradient, 1.0, &mut state)?;
        let name = format!("{path}.buf{step}");
        report.tensors_close("muon buf", STATE, &name, &state.buf, &golden.floats(&name)?)?;
        let name = format!("{path}.p{step}");
        let want = golden.floats(&name)?;
        report.changes_close("muon p", CHANGE, &name, [&parameter, &want, &start])?;
    }
    Ok(())
}

fn adamw_case(golden: &Golden, report: &mut Report) -> Result<()> {
    let settings: AdamWSettings = golden.setting(&["adamw"])?;
    let AdamWSettings { lr, betas, eps, wd } = settings;
    let adamw = AdamW { lr, betas, eps, weight_decay: wd };
    let (gradients, start) = start(golden, "adamw")?;
    let mut parameter = start.copy()?;
    let zeros = || Tensor::zeros(start.dims(), DType::F32, &start.device());
    let mut state = AdamWState { m: zeros()?, v: zeros()? };
    for step in 1..=gradients.dims()[0] {
        let gradient = gradients.select(0, step - 1)?.contiguous()?;
        adamw.step(&mut parameter, &gradient, 1.0, &mut state, step as u64)?;
        for (what, got) in [("m", &state.m), ("v", &state.v)] {
            let name = format!("adamw.{what}{step}");
            report.tensors_close(&format!("adamw {what}"), STATE, &name, got, &golden.floats(&name)?)?;
        }
        let name = format!("adamw.p{step}");
        let want = golden.floats(&name)?;
        report.changes_close("adamw p", CHANGE, &name, [&parameter, &want, &start])?;
    }
    Ok(())
}
