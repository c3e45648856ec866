//! Gradients against central differences in f64.

use crate::{Gradients, Op, Tape, Var};
use tensor::{DType, Error, Result, Tensor};

/// How [`grad_check`] compares.
#[derive(Clone, Copy, Debug)]
pub struct GradCheck {
    /// Step of the central difference, relative to `max(1, |x|)`.
    pub step: f64,
    /// Largest relative error `‖analytic − numeric‖ / ‖numeric‖` of an input's gradient.
    pub tolerance: f64,
    /// Seed of the random cotangent.
    pub seed: u64,
}

impl Default for GradCheck {
    fn default() -> Self {
        GradCheck { step: 1e-5, tolerance: 1e-6, seed: 0 }
    }
}

/// What was found for one input.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Index of the input.
    pub input: usize,
    /// `‖analytic − numeric‖ / ‖numeric‖`, or the absolute norm of the difference where the numeric gradient is
    /// below 1e-8.
    pub error: f64,
}

/// Compares the gradients of `f` with central differences, for every element of every floating-point input.
///
/// The scalar differentiated is `Σ ⟨yᵢ, cᵢ⟩` over all floating-point outputs with random `cᵢ`. All floating-point
/// inputs must be f64; others (ids, masks) are passed as they are.
///
/// # Errors
/// If `f` fails, or an error is over the tolerance or not a number.
pub fn grad_check(
    f: impl for<'t> Fn(&mut Tape<'t>, &[Var]) -> Result<Vec<Var>>,
    inputs: &[Tensor],
    options: GradCheck,
) -> Result<Vec<Check>> {
    let mut tape = Tape::new();
    let mut leaves = Vec::new();
    for x in inputs {
        match x.dtype() {
            DType::F64 => leaves.push(tape.leaf(x.clone())),
            t if t.is_float() => return Err(Error::DType { op: "grad_check", expected: "f64", got: t }),
            _ => leaves.push(tape.constant(x.clone())),
        }
    }
    let outputs = f(&mut tape, &leaves)?;
    let mut seed = options.seed;
    let cotangents: Vec<Option<Tensor>> =
        outputs.iter().map(|y| cotangent(&y.value, &mut seed)).collect::<Result<_>>()?;
    let (ys, dys): (Vec<&Var>, Vec<Tensor>) =
        outputs.iter().zip(&cotangents).filter_map(|(y, c)| Some((y, c.clone()?))).unzip();
    let mut grads = tape.backward_from(&ys, dys, &mut Gradients::default())?;

    let scalar = |inputs: &[Tensor]| -> Result<f64> {
        let mut tape = Tape::inference();
        let vars: Vec<Var> = inputs.iter().map(|x| tape.constant(x.clone())).collect();
        let outputs = f(&mut tape, &vars)?;
        let mut total = 0.0;
        for (y, c) in outputs.iter().zip(&cotangents) {
            if let Some(c) = c {
                let (y, c) = (y.value.to_vec::<f64>()?, c.to_vec::<f64>()?);
                total += y.iter().zip(&c).map(|(y, c)| y * c).sum::<f64>();
            }
        }
        Ok(total)
    };
    let mut checks = Vec::new();
    for (i, x) in inputs.iter().enumerate().filter(|(_, x)| x.dtype() == DType::F64) {
        let base = x.to_vec::<f64>()?;
        let analytic = match grads.take(&leaves[i]) {
            Some(grad) => grad.to_vec::<f64>()?,
            None => vec![0.0; base.len()],
        };
        let mut moved = inputs.to_vec();
        let (mut difference, mut norm) = (0.0, 0.0);
        for (j, &x0) in base.iter().enumerate() {
            let h = options.step * x0.abs().max(1.0);
            let mut at = |value: f64| {
                let mut values = base.clone();
                values[j] = value;
                moved[i] = Tensor::from_slice(&values, x.dims(), &x.device())?;
                scalar(&moved)
            };
            let numeric = (at(x0 + h)? - at(x0 - h)?) / ((x0 + h) - (x0 - h));
            difference += (analytic[j] - numeric).powi(2);
            norm += numeric * numeric;
        }
        let (difference, norm) = (difference.sqrt(), norm.sqrt());
        let error = if norm > 1e-8 { difference / norm } else { difference };
        if error.is_nan() || error > options.tolerance {
            let message = format!("gradient of input {i} (dims {:?}) is off by {error:.2e}", x.dims());
            return Err(Error::Argument { op: "grad_check", message });
        }
        checks.push(Check { input: i, error });
    }
    Ok(checks)
}

/// [`grad_check`] of one op.
pub fn grad_check_op<O: Op + Clone + 'static>(
    op: O,
    inputs: &[Tensor],
    options: GradCheck,
) -> Result<Vec<Check>> {
    grad_check(
        |tape, vars| Ok(tape.apply_n(op.clone(), &vars.iter().collect::<Vec<_>>())?.into_vec()),
        inputs,
        options,
    )
}

/// Reproducible values in ±[0.5, 1.5) of the shape of `y`; none for integers.
fn cotangent(y: &Tensor, seed: &mut u64) -> Result<Option<Tensor>> {
    if y.dtype() != DType::F64 {
        return Ok(None);
    }
    let values: Vec<f64> = (0..y.numel())
        .map(|_| {
            // SplitMix64 (Steele, Lea, Flood 2014).
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = z ^ (z >> 31);
            let magnitude = 0.5 + (bits >> 12) as f64 / (1u64 << 52) as f64;
            if bits & 1 == 0 { magnitude } else { -magnitude }
        })
        .collect();
    Tensor::from_slice(&values, y.dims(), &y.device()).map(Some)
}
