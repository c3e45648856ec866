//! The whole decoder on a GPU against the CPU: logits, gradients and training losses.
//!
//! Every check runs first with the CPU itself on the other side, its sums in another order (see
//! [`distillix_tests::sides`]): so it is known on any machine what rounding alone does. The losses of a ternary run:
//!
//! ```sh
//! cargo test -p distillix-tests --test model_devices drift -- --nocapture
//! ```

use anyhow::Result;
use distillix::smelter::config::Config;
use distillix::smelter::data::{Batch, Step};
use distillix::smelter::plan::{Plan, Precision};
use distillix::smelter::trainer::Trainer;
use distillix_tests::sides::{Shape, Side, shapes};
use nn::model::LinearKind;
use nn::ops::IGNORE;
use nn::ternary::{QuantizedRows, record, replay};
use tensor::{Device, Tensor};

/// Largest relative error of logits, gradients and losses from one device to another.
const LIMIT: f64 = 1e-5;
/// Steps of a training run.
const STEPS: u64 = 50;
/// Orders of summation on the CPU.
const ORDERS: std::ops::RangeInclusive<u64> = 1..=3;

fn assert_close(what: &str, errors: impl IntoIterator<Item = (String, f64)>) {
    let (worst, error) =
        errors.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("something is compared");
    eprintln!("{what}: at most {error:.1e} ({worst})");
    assert!(error <= LIMIT, "{what}: {worst} is off by {error:.1e}");
}

#[test]
fn dense_logits_and_gradients() -> Result<()> {
    let gpu = Side::gpu("dense_logits_and_gradients");
    for shape in shapes(LinearKind::Dense) {
        let pass = |side: &Side| shape.pass(side, &side.student(&shape.model, shape.vocab)?);
        let want = pass(&Side::reference())?;
        for side in [&Side::reordered(1)].into_iter().chain(gpu.as_ref().map(|(side, _)| side)) {
            assert_close(&format!("{}, {}", shape.name, side.name), pass(side)?.errors(&want));
        }
    }
    Ok(())
}

/// One code may turn where a sum is rounded otherwise; with the codes of the CPU, nothing may.
#[test]
fn ternary_logits_and_gradients_from_the_same_codes() -> Result<()> {
    let gpu = Side::gpu("ternary_logits_and_gradients_from_the_same_codes");
    for shape in shapes(LinearKind::Ternary) {
        let reference = Side::reference();
        let student = reference.student(&shape.model, shape.vocab)?;
        let (want, codes) = record(|| shape.pass(&reference, &student));
        let want = want?;
        // Four products a block, twice: for the logits and for the gradients.
        assert_eq!(codes.len(), 2 * 4 * shape.model.layers);
        for side in [&Side::reordered(1)].into_iter().chain(gpu.as_ref().map(|(side, _)| side)) {
            let other = side.student(&shape.model, shape.vocab)?;
            if !side.is_reordered() {
                for (param, other) in student.params().iter().zip(other.params().iter()) {
                    let (Some(want), Some(got)) = (&param.ternary, &other.ternary) else { continue };
                    let got_codes = got.codes().to_device(&Device::Cpu)?.to_vec::<i8>()?;
                    assert_eq!(got_codes, want.codes().to_vec::<i8>()?, "{}", param.name);
                    assert_eq!(got.gamma()?.to_bits(), want.gamma()?.to_bits(), "{}", param.name);
                }
            }
            let got = replay(side.codes(&codes)?, || shape.pass(side, &other))?;
            assert_close(&format!("{}, {}", shape.name, side.name), got.errors(&want));
        }
    }
    Ok(())
}

/// Replayed codes are what the products read: another one shows, and so does one too few.
#[test]
fn replayed_codes_decide() -> Result<()> {
    let [shape, _] = shapes(LinearKind::Ternary);
    let side = Side::reference();
    let student = side.student(&shape.model, shape.vocab)?;
    let pass = || shape.pass(&side, &student);
    let (want, mut codes) = record(pass);
    let want = want?;
    let differs = |codes| -> Result<bool> {
        Ok(replay(codes, pass)?.errors(&want).iter().any(|(_, error)| *error > 0.0))
    };
    assert!(!differs(codes.clone())?);
    let first = &codes[0];
    let mut other = first.codes().copy()?;
    let code = &mut other.as_mut_slice::<i8>()?[0];
    *code = if *code > 0 { -*code } else { *code + 1 };
    codes[0] = QuantizedRows::from_parts(other, first.scales().clone())?;
    assert!(differs(codes.clone())?);
    let last = codes.pop().expect("many codes");
    assert!(replay(codes.clone(), pass).is_err(), "one too few");
    codes.extend([last.clone(), last]);
    assert!(replay(codes.clone(), pass).is_err(), "one too many");
    let few = Tensor::zeros(&[1, 3], tensor::DType::I8, &Device::Cpu)?;
    codes[0] = QuantizedRows::from_parts(few, Tensor::zeros(&[1], tensor::DType::F32, &Device::Cpu)?)?;
    assert!(replay(codes, pass).is_err(), "another shape");
    Ok(())
}

/// The losses of a run of the program's own trainer, in f32: on a GPU captured and replayed.
fn losses(shape: &Shape, side: &Side) -> Result<Vec<f64>> {
    let mut config = Config::preset("tiny")?;
    config.model = shape.model.clone();
    config.distillation.teacher = None;
    config.distillation.init = false;
    let training = &mut config.training;
    (training.steps, training.warmup_steps) = (STEPS, 5);
    (training.batch_size, training.micro_batch, training.seq_len) = (shape.rows, Some(2), shape.cols);
    training.precision = Some(Precision::F32);
    let plan = Plan {
        device: side.device.to_string(),
        precision: Precision::F32,
        micro_batch: 2,
        recompute: false,
        memory_limit: None,
        products: Vec::new(),
    };
    let student = side.student(&shape.model, shape.vocab)?;
    let mut trainer = Trainer::new(config, plan, student, None)?;
    let mut losses = Vec::new();
    for number in 0..STEPS {
        trainer.step(&step(shape, number, side.is_reordered()))?;
        losses.extend(trainer.reports(false)?);
    }
    losses.extend(trainer.reports(true)?);
    trainer.notes().iter().for_each(|note| eprintln!("{}, {}: {note}", shape.name, side.name));
    Ok(losses.into_iter().map(|report| report.loss).collect())
}

/// A step in micro-batches of two rows; the rows may come in another order.
fn step(shape: &Shape, number: u64, reversed: bool) -> Step {
    let rows = shape.rows(100 + number);
    let batch = |pair: usize| {
        let pair = if reversed { shape.rows / 2 - 1 - pair } else { pair };
        let mut order = [2 * pair, 2 * pair + 1];
        if reversed {
            order.reverse();
        }
        let part = |all: &[i32]| {
            order.iter().flat_map(|row| all[row * shape.cols..][..shape.cols].to_vec()).collect()
        };
        let ids: Vec<i32> = rows.ids.iter().map(|&id| id as i32).collect();
        let targets: Vec<i32> = part(&rows.targets);
        let trained_tokens = targets.iter().filter(|&&target| target != IGNORE).count();
        Batch {
            ids: part(&ids),
            docs: part(&rows.docs),
            targets,
            rows: 2,
            cols: shape.cols,
            trained_tokens,
            trained_bytes: 0,
        }
    };
    let micro_batches: Vec<Batch> = (0..shape.rows / 2).map(batch).collect();
    let trained_tokens = micro_batches.iter().map(|batch| batch.trained_tokens).sum();
    Step { micro_batches, trained_tokens, trained_bytes: 0 }
}

#[test]
fn dense_training_losses() -> Result<()> {
    let gpu = Side::gpu("dense_training_losses");
    for shape in shapes(LinearKind::Dense) {
        let want = losses(&shape, &Side::reference())?;
        assert!(want[49] < 0.8 * want[0], "{}: nothing is learnt: {want:?}", shape.name);
        for side in [&Side::reordered(1)].into_iter().chain(gpu.as_ref().map(|(side, _)| side)) {
            let got = losses(&shape, side)?;
            let errors = got.iter().zip(&want).enumerate();
            let errors = errors.map(|(step, (got, want))| (format!("loss {step}"), (got / want - 1.0).abs()));
            assert_close(&format!("{}, {}", shape.name, side.name), errors);
        }
    }
    Ok(())
}

/// How far a run has drifted from another: the mean difference of their losses.
fn drift(losses: &[f64], reference: &[f64]) -> f64 {
    let apart = losses.iter().zip(reference).map(|(a, b)| (a - b).abs());
    apart.sum::<f64>() / reference.len() as f64
}

/// Ternary runs part, whatever rounds differently. A GPU's may part no further than twice what another order of sums does
/// on the CPU. That differs from order to order, so it is the mean of several, and each of them has to pass as well.
#[test]
fn ternary_training_drift() -> Result<()> {
    let gpu = Side::gpu("ternary_training_drift");
    for shape in shapes(LinearKind::Ternary) {
        let reference = losses(&shape, &Side::reference())?;
        let controls: Vec<Side> = ORDERS.map(Side::reordered).collect();
        let runs = controls.iter().chain(gpu.as_ref().map(|(side, _)| side));
        let runs = runs.map(|side| Ok((side.name.as_str(), losses(&shape, side)?)));
        let runs: Vec<(&str, Vec<f64>)> = runs.collect::<Result<_>>()?;
        let drifts: Vec<f64> = runs.iter().map(|(_, losses)| drift(losses, &reference)).collect();
        println!("{}", table(&shape, &reference, &runs, &drifts));
        let usual = drifts[..controls.len()].iter().sum::<f64>() / controls.len() as f64;
        for ((name, _), drift) in runs.iter().zip(drifts) {
            assert!(
                drift <= 2.0 * usual,
                "{}: {name} drifts by {drift:.1e}, other orders by {usual:.1e}",
                shape.name
            );
        }
    }
    Ok(())
}

/// The curves as EXPERIMENTS.md shows them.
fn table(shape: &Shape, reference: &[f64], runs: &[(&str, Vec<f64>)], drifts: &[f64]) -> String {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut text = format!("{}, losses, and how far from the first column\n\n", shape.name);
    let names = std::iter::once("cpu".to_owned()).chain(runs.iter().map(|(name, _)| (*name).to_owned()));
    text += &row("step", names.collect());
    text += &row("---", vec!["---".to_owned(); runs.len() + 1]);
    for step in (0..reference.len()).filter(|step| *step == 0 || (step + 1) % 5 == 0) {
        let apart = runs.iter().map(|(_, losses)| format!("{:+.1e}", losses[step] - reference[step]));
        let cells = std::iter::once(format!("{:.4}", reference[step])).chain(apart).collect();
        text += &row(&(step + 1).to_string(), cells);
    }
    let means = drifts.iter().map(|drift| format!("{drift:.1e}"));
    text + &row("mean difference", std::iter::once(String::new()).chain(means).collect())
}
