//! Loss goldens: every loss and its gradient, through the head op with an identity as the output head.

use super::golden::Golden;
use super::report::Report;
use anyhow::{Context, Result, bail, ensure};
use autograd::{Gradients, Tape};
use nn::losses::{
    CrossEntropy, Focal, ForwardKl, Jsd, Loss, RelationKl, ReverseKl, SkewForwardKl, SkewReverseKl,
    TopKForwardKl, Tvd, Uld,
};
use nn::ops::{HeadLoss, IGNORE, Teacher};
use tensor::{DType, Device, Tensor};

const LOSS: f64 = 2e-6;

pub(super) fn verify(golden: &Golden, report: &mut Report) -> Result<()> {
    let z = golden.floats("z")?;
    let [rows, vocab] = z.dims_n("z")?;
    let targets = golden.tokens("targets")?.targets(i64::from(IGNORE), vocab)?;
    ensure!(targets.numel() == rows, "targets has {} elements for {rows} rows of z", targets.numel());
    let counted: Vec<bool> = targets.to_vec::<i32>()?.iter().map(|&target| target != IGNORE).collect();
    report.equal("mask", "mask", &counted, &golden.mask("mask")?)?;
    let cases = golden.keys("cases")?;
    ensure!(!cases.is_empty(), "the JSON has no cases");
    for case in cases {
        if kind_of(case) == "relation_kl" {
            relation(golden, report, case)?;
        } else {
            row_loss(golden, report, case, &z, &targets)?;
        }
    }
    // Read by the losses above, unless the file has none of their kind.
    golden.floats("y")?;
    Ok(())
}

/// The loss that a case's name names.
fn kind_of(case: &str) -> &str {
    let kind = case.split_once('.').map_or(case, |(kind, _)| kind);
    if kind.starts_with("jsd") { "jsd" } else { kind }
}

/// The loss a case is of, with its settings.
fn loss_of(golden: &Golden, case: &str) -> Result<Loss> {
    let number = |key: &str| golden.setting::<f64>(&["cases", case, key]);
    Ok(match kind_of(case) {
        "cross_entropy" => CrossEntropy { label_smoothing: number("label_smoothing")? }.into(),
        "focal" => Focal { gamma: number("gamma")? }.into(),
        "forward_kl" => ForwardKl { temperature: number("T")? }.into(),
        "reverse_kl" => ReverseKl { temperature: number("T")? }.into(),
        "jsd" => Jsd { beta: number("beta")?, temperature: number("T")? }.into(),
        "skew_forward_kl" => SkewForwardKl { alpha: number("alpha")?, temperature: number("T")? }.into(),
        "skew_reverse_kl" => SkewReverseKl { alpha: number("alpha")?, temperature: number("T")? }.into(),
        "tvd" => Tvd { temperature: number("T")? }.into(),
        "topk_forward_kl" => TopKForwardKl { temperature: number("T")? }.into(),
        "uld" => Uld { temperature: number("T")? }.into(),
        _ => bail!("case {case} of the JSON is of no known loss"),
    })
}

/// A teacher whose logits are exactly `y`: hidden states `y` and an identity as its head.
fn teacher_of_logits(y: Tensor) -> Result<Teacher> {
    let [_, vocab] = y.dims_n("teacher logits")?;
    let table = identity(vocab, &y.device())?;
    Ok(Teacher::Hidden { hidden: y.contiguous()?, table, softcap: 0.0, vocab })
}

fn identity(n: usize, device: &Device) -> Result<Tensor> {
    let mut one = Tensor::zeros(&[n, n], DType::F32, &Device::Cpu)?;
    one.as_mut_slice::<f32>()?.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
    Ok(one.to_device(device)?)
}

fn row_loss(golden: &Golden, report: &mut Report, case: &str, z: &Tensor, targets: &Tensor) -> Result<()> {
    let loss = loss_of(golden, case)?;
    let [rows, vocab] = z.dims_n("z")?;
    let teacher = match loss {
        Loss::CrossEntropy(_) | Loss::Focal(_) => None,
        Loss::TopKForwardKl(TopKForwardKl { temperature }) => {
            Some(top_k(golden, report, case, temperature, rows)?)
        }
        _ => {
            let name: Option<String> = golden.setting(&["cases", case, "teacher"]).ok();
            let name = name.unwrap_or_else(|| "y".to_owned());
            let y = golden.floats(&name)?;
            ensure!(
                y.rank() == 2 && y.dims()[0] == rows,
                "{name} has dims {:?}, expected {rows} rows",
                y.dims()
            );
            Some(teacher_of_logits(y)?)
        }
    };
    let counted = targets.to_vec::<i32>()?.iter().filter(|&&target| target != IGNORE).count();
    let head = HeadLoss {
        terms: vec![(1.0, loss)],
        targets: targets.clone(),
        denominator: counted.max(1) as f64,
        softcap: 0.0,
        vocab,
        teacher,
    };
    let mut tape = Tape::new();
    let (x, table) = (tape.leaf(z.clone()), tape.constant(identity(vocab, &z.device())?));
    let value = tape.apply_n(head, &[&x, &table])?.remove(0);
    let mut grads = tape.backward(&value, &mut Gradients::default())?;
    let got = f64::from(value.detach().item::<f32>()?);
    report.number(
        &format!("{} value", kind_of(case)),
        LOSS,
        case,
        got,
        golden.setting(&["cases", case, "value"])?,
    );
    let name = format!("dz.{case}");
    let dz = grads.take(&x).with_context(|| format!("{case} gave no gradient"))?;
    report.tensors_close(&format!("{} gradient", kind_of(case)), LOSS, &name, &dz, &golden.floats(&name)?)
}

/// The stored teacher of a case, compared with the top k of the full one.
fn top_k(golden: &Golden, report: &mut Report, case: &str, temperature: f64, rows: usize) -> Result<Teacher> {
    let suffix = case.split_once('.').map_or("", |(_, suffix)| suffix);
    let (ids_name, log_probs_name) = (format!("topk_idx.{suffix}"), format!("topk_logp.{suffix}"));
    let (stored, log_probs) = (golden.tokens(&ids_name)?, golden.floats(&log_probs_name)?);
    let k: usize = golden.setting(&["cases", case, "k"])?;
    let y = golden.floats("y")?;
    let ids = stored.ids(&stored.dims, y.last_dim())?;
    for (name, dims) in [(&ids_name, ids.dims()), (&log_probs_name, log_probs.dims())] {
        ensure!(dims == [rows, k], "{name} has dims {dims:?}, expected {:?}", [rows, k]);
    }
    let (values, positions) = y.mul_scalar(1.0 / temperature)?.log_softmax()?.topk(k)?;
    report.tensors_equal::<u32>("top k ids", &ids_name, &positions, &ids)?;
    report.tensors_close("top k log-probabilities", LOSS, &log_probs_name, &values, &log_probs)?;
    Ok(Teacher::TopK { ids, log_probs: log_probs.contiguous()? })
}

fn relation(golden: &Golden, report: &mut Report, case: &str) -> Result<()> {
    let setting = |key| ["cases", case, key];
    let op = RelationKl {
        relation_heads: golden.setting(&setting("n_rel"))?,
        causal: golden.setting(&setting("causal"))?,
        weights: golden.setting(&setting("weights"))?,
    };
    // Files have [B, heads, T, d], the op takes [B, T, heads, d].
    let swapped = |name: String| -> Result<Tensor> { Ok(golden.floats(&name)?.transpose(1, 2)?) };
    let mut tape = Tape::new();
    let mut inputs = Vec::new();
    for part in ["q", "k", "v"] {
        inputs.push(tape.leaf(swapped(format!("relation.s_{part}"))?));
    }
    for part in ["q", "k", "v"] {
        inputs.push(tape.constant(swapped(format!("relation.t_{part}"))?));
    }
    let value = tape.apply(op, &inputs.iter().collect::<Vec<_>>())?;
    let mut grads = tape.backward(&value, &mut Gradients::default())?;
    let got = f64::from(value.detach().item::<f32>()?);
    report.number(&format!("{} value", kind_of(case)), LOSS, case, got, golden.setting(&setting("value"))?);
    for (part, input) in ["q", "k", "v"].iter().zip(&inputs) {
        let name = format!("{case}.ds_{part}");
        let ds = grads.take(input).with_context(|| format!("{case} gave no gradient"))?;
        report.tensors_close(
            &format!("{} gradient", kind_of(case)),
            LOSS,
            &name,
            &ds,
            &swapped(name.clone())?,
        )?;
    }
    Ok(())
}
