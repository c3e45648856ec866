//! BitLinear in its plainest form, to compare the fast one with.

use autograd::{GradSink, Grads, Op, Outputs};
use nn::ops::BitLinear;
use nn::ternary::{QuantizedRows, Ternary};
use tensor::{DType, Device, Error, Result, Tensor};

/// `γ = max(mean|W|, 1e-5)`, the sum in f64 over blocks of 4,096; `Wq = clamp(round(W/γ), -1, 1)`.
pub fn quantize_weight(w: &[f32]) -> (Vec<i8>, f32) {
    let mut sum = 0.0;
    for block in w.chunks(4096) {
        let mut part = 0.0;
        for &x in block {
            part += f64::from(x).abs();
        }
        sum += part;
    }
    let gamma = ((sum / w.len() as f64) as f32).max(1e-5);
    (w.iter().map(|&x| (x / gamma).round_ties_even().clamp(-1.0, 1.0) as i8).collect(), gamma)
}

/// `s = 127/max(absmax(x), 1e-5)`, `Xq = clamp(round(x·s), -128, 127)` of one row.
pub fn quantize_row(x: &[f32]) -> (Vec<i8>, f32) {
    let s = 127.0 / x.iter().fold(1e-5f32, |max, x| max.max(x.abs()));
    (x.iter().map(|&x| (x * s).round_ties_even().clamp(-128.0, 127.0) as i8).collect(), s)
}

/// `y = f32(Xq·Wqᵀ)·(γ/s)` of x `[rows, k]` and w `[n, k]`.
pub fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let (wq, gamma) = quantize_weight(w);
    let mut y = Vec::new();
    for x in x.chunks_exact(k) {
        let (xq, s) = quantize_row(x);
        for wq in wq.chunks_exact(k) {
            let acc: i32 = xq.iter().zip(wq).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
            y.push(acc as f32 * (gamma / s));
        }
    }
    y
}

/// BitLinear as production has it, with codes made from the weights it is given, f32 (inputs f32 or bf16); and in f64 the surrogate that it
/// claims to have the gradient of: `y = X̃·W̃ᵀ`, `dX = dY·W̃`, `dW = dYᵀ·X̃`, from the codes of the same f32 numbers.
#[derive(Clone, Copy, Debug)]
pub struct StraightThrough;

/// What either form keeps.
pub enum Kept {
    /// The codes, and what the op saved.
    Single(Vec<Ternary>, QuantizedRows),
    /// X̃ `[rows, k]` and the W̃s `[n, k]`.
    Double(Tensor, Vec<Tensor>),
}

/// X̃ or W̃ in f64 of an f64 tensor that holds f32 numbers.
fn dequantized(x: &Tensor, rows: bool) -> Result<Tensor> {
    let single = x.to_dtype(DType::F32)?.to_vec::<f32>()?;
    let values: Vec<f64> = if rows {
        let width = x.last_dim();
        let value = |(codes, s): (Vec<i8>, f32)| {
            codes.into_iter().map(move |code| f64::from(code) / f64::from(s)).collect::<Vec<_>>()
        };
        single.chunks_exact(width).flat_map(|row| value(quantize_row(row))).collect()
    } else {
        let (codes, gamma) = quantize_weight(&single);
        codes.into_iter().map(|code| f64::from(code) * f64::from(gamma)).collect()
    };
    let width = x.last_dim();
    Tensor::from_slice(&values, &[values.len() / width, width], &Device::Cpu)
}

fn flat(x: &Tensor) -> Result<Tensor> {
    x.reshape(&[x.numel() / x.last_dim(), x.last_dim()])
}

impl Op for StraightThrough {
    const NAME: &'static str = "straight_through";
    type Saved = Kept;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Kept>)> {
        if inputs[0].dtype() != DType::F64 {
            let plain = inputs[1..].iter().map(|w| w.contiguous());
            let weights: Vec<Ternary> = plain.map(|w| Ternary::new(&w?)).collect::<Result<_>>()?;
            let (y, saved) = BitLinear { weights: weights.iter().collect() }.forward(inputs, keep)?;
            return Ok((y, saved.map(|saved| Kept::Single(weights, saved))));
        }
        let x = dequantized(inputs[0], true)?;
        let weights: Vec<Tensor> =
            inputs[1..].iter().map(|w| dequantized(w, false)).collect::<Result<_>>()?;
        let mut outputs = Outputs::new();
        for w in &weights {
            let mut dims = inputs[0].dims().to_vec();
            dims[inputs[0].rank() - 1] = w.dims()[0];
            outputs.push(x.matmul(&w.transpose(0, 1)?)?.reshape(&dims)?);
        }
        Ok((outputs, keep.then_some(Kept::Double(x, weights))))
    }

    fn backward(&self, saved: Kept, dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let (x, weights) = match saved {
            Kept::Single(weights, saved) => {
                return BitLinear { weights: weights.iter().collect() }.backward(saved, dy, dx);
            }
            Kept::Double(x, weights) => (x, weights),
        };
        for (i, (w, dy)) in weights.iter().zip(dy).enumerate() {
            let Some(dy) = dy else { continue };
            let mut dims = dy.dims().to_vec();
            let last = dims.last_mut().ok_or_else(|| Error::shape(Self::NAME, "a scalar"))?;
            *last = x.last_dim();
            let dy = flat(&dy)?;
            if let Some(sink) = &mut dx[0] {
                sink.give(dy.matmul(w)?.reshape(&dims)?)?;
            }
            if let Some(sink) = &mut dx[i + 1] {
                sink.give(dy.transpose(0, 1)?.matmul(&x)?)?;
            }
        }
        Ok(())
    }
}
