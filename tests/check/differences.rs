//! Gradients in f64 against central differences.

use super::trial::{cotangent, values};
use super::{Case, Failure};
use autograd::{GradCheck, Tape, Var, grad_check};
use tensor::{DType, Tensor};

/// Up to this many elements, every one is moved; beyond, all move together in a few random directions.
const MOVED: usize = 160;

pub(super) fn check(case: &Case, inputs: &[Tensor]) -> Result<(), Failure> {
    let leaf = |i: usize| case.inputs[i].leaf;
    let total: usize = inputs.iter().enumerate().filter(|&(i, _)| leaf(i)).map(|(_, x)| x.numel()).sum();
    if total > MOVED {
        return directions(case, inputs);
    }
    // `grad_check` moves every f64 input it is given, so constants stay out of its sight.
    let moving: Vec<Tensor> = (0..inputs.len()).filter(|&i| leaf(i)).map(|i| inputs[i].clone()).collect();
    let run = |tape: &mut Tape<'_>, moving: &[Var]| {
        let mut moving = moving.iter();
        let vars: Vec<Var> = (0..inputs.len())
            .map(|i| match leaf(i) {
                true => moving.next().expect("as many as leaves").clone(),
                false => tape.constant(inputs[i].clone()),
            })
            .collect();
        (case.run)(DType::F64, tape, &vars)
    };
    grad_check(run, &moving, GradCheck::default())?;
    Ok(())
}

/// Derivatives along random directions, in f64, against central differences.
fn directions(case: &Case, inputs: &[Tensor]) -> Result<(), Failure> {
    const STEP: f64 = 1e-5;
    let trial = case.trial(DType::F64);
    let (base, leaves) = (trial.outcome(inputs, false)?, &trial.leaves);
    for i in (0..inputs.len()).filter(|&i| leaves[i]) {
        let Some(grad) = &base.grads[i] else { continue };
        let grad = values(grad)?;
        for direction in 0..3 {
            let v = cotangent(&inputs[i], 100 + direction)?;
            let at = |step: f64| -> Result<f64, Failure> {
                let mut moved = inputs.to_vec();
                moved[i] = inputs[i].add(&v.mul_scalar(step)?)?;
                let mut tape = Tape::inference();
                let vars: Vec<Var> = moved.into_iter().map(|x| tape.constant(x)).collect();
                let mut total = 0.0;
                for (n, y) in (case.run)(DType::F64, &mut tape, &vars)?.iter().enumerate() {
                    let (y, c) = (y.detach(), cotangent(&y.detach(), n)?);
                    total += values(&y)?.iter().zip(values(&c)?).map(|(y, c)| y * c).sum::<f64>();
                }
                Ok(total)
            };
            let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            let v = values(&v)?;
            let analytic: f64 = grad.iter().zip(&v).map(|(g, v)| g * v).sum();
            // A random direction sees about ‖g‖ of the gradient.
            let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
            let error = (analytic - numeric).abs() / norm.max(1e-8);
            if error.is_nan() || error > 1e-6 {
                let dims = inputs[i].dims();
                return Err(format!(
                    "gradient of input {i} (dims {dims:?}) is off by {error:.1e} along a direction"
                )
                .into());
            }
        }
    }
    Ok(())
}
