//! Module goldens: each op of the model, forward and backward, on the tape that training uses.

use super::golden::Golden;
use super::report::Report;
use anyhow::{Context, Result, ensure};
use autograd::{Gradients, Op, Tape};
use nn::ops::{Attention, BitLinear, RmsNorm, Rope, RopeTables, SoftCap, SwiGlu};
use nn::ternary::{QuantizedRows, Ternary};
use smallvec::smallvec;
use std::sync::Arc;
use tensor::{DType, Tensor};

const ELEMENTWISE: f64 = 2e-6;
const ATTENTION: f64 = 5e-6;

pub(super) fn verify(golden: &Golden, report: &mut Report) -> Result<()> {
    for case in cases(golden, "attn_", &["cap50", "nocap"]) {
        attention(golden, report, &case)?;
    }
    rms_norm(golden, report)?;
    for case in cases(golden, "rope", &["0", "_high"]) {
        rope(golden, report, &case)?;
    }
    swiglu(golden, report)?;
    for case in cases(golden, "softcap", &["30"]) {
        soft_cap(golden, report, &case)?;
    }
    for case in
        cases(golden, "bitlinear.", &["random", "ties", "zero_rows", "zero_weight", "outliers", "tiny"])
    {
        bit_linear(golden, report, &case)?;
    }
    Ok(())
}

/// Names with the prefix: those every file has, then any others this one has.
fn cases(golden: &Golden, prefix: &str, always: &[&str]) -> Vec<String> {
    let others = golden.parts(prefix);
    let others = others.iter().map(String::as_str).filter(|case| !always.contains(case));
    always.iter().copied().chain(others).map(|case| format!("{prefix}{case}")).collect()
}

/// The output of an op and the gradients of its inputs, given that of its output.
fn run<'m, O: Op + 'm>(op: O, inputs: &[Tensor], dy: &Tensor) -> Result<(Tensor, Vec<Tensor>)>
where
    O::Saved: 'm,
{
    let mut tape = Tape::new();
    let leaves: Vec<_> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
    let y = tape.apply(op, &leaves.iter().collect::<Vec<_>>())?;
    let mut grads = tape.backward_from(&[&y], [dy.clone()], &mut Gradients::default())?;
    let grads =
        leaves.iter().map(|x| grads.take(x).context("an input got no gradient")).collect::<Result<_>>()?;
    Ok((y.detach(), grads))
}

/// `[B, heads, T, d]` as `[B, T, heads, d]`, or back.
fn swap_heads(x: &Tensor) -> Result<Tensor> {
    Ok(x.transpose(1, 2)?)
}

fn attention(golden: &Golden, report: &mut Report, case: &str) -> Result<()> {
    let input = |name: &str| {
        let name = format!("{case}.{name}");
        swap_heads(&golden.floats(&name)?).with_context(|| name)
    };
    let op = Attention { softcap: golden.setting(&[case, "cap"])?, first_key: None };
    let (y, grads) = run(op, &[input("q")?, input("k")?, input("v")?], &input("dy")?)?;
    for (name, got) in ["y", "dq", "dk", "dv"].iter().zip(std::iter::once(&y).chain(&grads)) {
        report.tensors_close(case, ATTENTION, &format!("{case}.{name}"), got, &input(name)?)?;
    }
    Ok(())
}

fn rms_norm(golden: &Golden, report: &mut Report) -> Result<()> {
    let [x, w, dy] = [golden.floats("rms.x")?, golden.floats("rms.w")?, golden.floats("rms.dy")?];
    let (y, grads) = run(RmsNorm { eps: golden.setting(&["norm_eps"])? }, &[x, w], &dy)?;
    report.rows_close("rms", ELEMENTWISE, "rms.y", &y, &golden.floats("rms.y")?)?;
    report.rows_close("rms", ELEMENTWISE, "rms.dx", &grads[0], &golden.floats("rms.dx")?)?;
    report.tensors_close("rms", ELEMENTWISE, "rms.dw", &grads[1], &golden.floats("rms.dw")?)
}

fn rope(golden: &Golden, report: &mut Report, case: &str) -> Result<()> {
    let name = |part: &str| format!("{case}.{part}");
    let input = |part: &str| swap_heads(&golden.floats(&name(part))?).with_context(|| name(part));
    let x = input("x")?;
    let head_dim = x.last_dim();
    ensure!(head_dim.is_multiple_of(2), "{} has an odd head width {head_dim}", name("x"));
    let positions = golden.tokens(&name("pos"))?.values;
    let positions = positions.into_iter().map(|p| usize::try_from(p).context("a position is negative"));
    let positions: Vec<usize> = positions.collect::<Result<_>>()?;
    let theta = golden.setting(&["rope_theta"])?;
    let tables = RopeTables::new(positions, head_dim, theta, DType::F32, golden.device())?;
    for (part, table) in [("cos", tables.cos()), ("sin", tables.sin())] {
        // The reference stores both halves of a head, which are alike.
        let both = Tensor::cat(&[table, table], 1)?;
        report.tensors_close(case, ELEMENTWISE, &name(part), &both, &golden.floats(&name(part))?)?;
    }
    let (y, grads) = run(Rope { tables: Arc::new(tables) }, &[x], &input("dy")?)?;
    report.tensors_close(case, ELEMENTWISE, &name("y"), &y, &input("y")?)?;
    report.tensors_close(case, ELEMENTWISE, &name("dx"), &grads[0], &input("dx")?)
}

fn swiglu(golden: &Golden, report: &mut Report) -> Result<()> {
    let inputs = [golden.floats("swiglu.gate")?, golden.floats("swiglu.up")?];
    let (y, grads) = run(SwiGlu, &inputs, &golden.floats("swiglu.dy")?)?;
    for (name, got) in ["swiglu.y", "swiglu.dgate", "swiglu.dup"].into_iter().zip([&y, &grads[0], &grads[1]])
    {
        report.tensors_close("swiglu", ELEMENTWISE, name, got, &golden.floats(name)?)?;
    }
    Ok(())
}

fn soft_cap(golden: &Golden, report: &mut Report, case: &str) -> Result<()> {
    let cap = case.strip_prefix("softcap").and_then(|cap| cap.parse().ok());
    let cap: f64 = cap.with_context(|| format!("{case} does not end in a bound"))?;
    ensure!(cap > 0.0, "the bound of {case} is not above 0");
    let name = |part: &str| format!("{case}.{part}");
    let (y, grads) = run(SoftCap { cap }, &[golden.floats(&name("x"))?], &golden.floats(&name("dy"))?)?;
    report.tensors_close(case, ELEMENTWISE, &name("y"), &y, &golden.floats(&name("y"))?)?;
    report.tensors_close(case, ELEMENTWISE, &name("dx"), &grads[0], &golden.floats(&name("dx"))?)
}

fn bit_linear(golden: &Golden, report: &mut Report, case: &str) -> Result<()> {
    let name = |part: &str| format!("{case}.{part}");
    let (x, w, dy) = (golden.floats(&name("x"))?, golden.floats(&name("w"))?, golden.floats(&name("dy"))?);
    let (weight, rows) = (Ternary::new(&w)?, QuantizedRows::new(&x)?);
    report.tensors_equal::<i8>(
        "bitlinear codes",
        &name("wq"),
        weight.codes(),
        &golden.codes(&name("wq"))?,
    )?;
    report.tensors_equal::<i8>("bitlinear codes", &name("xq"), rows.codes(), &golden.codes(&name("xq"))?)?;
    report.close(case, ELEMENTWISE, &name("gamma"), &[weight.gamma()?], &golden.values(&name("gamma"))?)?;
    let scales = golden.values(&name("s"))?;
    for (i, (got, want)) in rows.scales().to_vec::<f32>()?.iter().zip(&scales).enumerate() {
        report.number(
            case,
            ELEMENTWISE,
            &format!("{} row {i}", name("s")),
            f64::from(*got),
            f64::from(*want),
        );
    }
    ensure!(scales.len() == rows.scales().numel(), "{} has {} elements", name("s"), scales.len());
    let (y, grads) = run(BitLinear { weights: smallvec![&weight] }, &[x, w], &dy)?;
    report.rows_close(case, ELEMENTWISE, &name("y"), &y, &golden.floats(&name("y"))?)?;
    report.rows_close(case, ELEMENTWISE, &name("dx"), &grads[0], &golden.floats(&name("dx"))?)?;
    report.columns_close(case, ELEMENTWISE, &name("dw"), &grads[1], &golden.floats(&name("dw"))?)
}
