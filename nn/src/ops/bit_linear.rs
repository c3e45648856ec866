//! Products with ternary weights and 8-bit activations (BitNet b1.58, Ma et al. 2024).

use super::linear::{rows_of, rows_of_mut, weight_dims};
use super::with_last;
use crate::ternary::{QuantizedRows, Ternary};
use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::SmallVec;
use tensor::cpu::gemm::{MatRef, sgemm};
use tensor::{DType, Error, Result, Tensor};

/// `yᵢ = X̃·W̃ᵢᵀ` for one to four weights over the same input, which is quantized once. X̃ = Xq/s are the activations in
/// 8 bits with a scale a row, W̃ = γ·Wq the weights in {-1, 0, 1} with one scale. The integer product is exact.
///
/// Inputs: x `[…, K]`, then the full-precision weights `[N, K]`, which only receive the gradient: the values used are
/// the codes, refreshed by the optimizer step. Outputs `[…, N]`, f32.
///
/// Straight-through gradients (Bengio et al. 2013): `dX = Σ dYᵢ·W̃ᵢ`, `dWᵢ = dYᵢᵀ·X̃`; none through the scales.
#[derive(Clone, Debug)]
pub struct BitLinear<'m> {
    /// Codes and scale of each weight, in the order of the inputs.
    pub weights: SmallVec<[&'m Ternary; 4]>,
}

impl Op for BitLinear<'_> {
    const NAME: &'static str = "bit_linear";
    /// The input's codes and scales.
    type Saved = QuantizedRows;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<QuantizedRows>)> {
        let (x, weights) = (inputs[0].contiguous()?, &inputs[1..]);
        if x.dtype() != DType::F32 {
            return Err(Error::dtype(Self::NAME, "f32", x.dtype()));
        }
        if weights.len() != self.weights.len() {
            let message = format!("{} weights with {} sets of codes", weights.len(), self.weights.len());
            return Err(Error::shape(Self::NAME, message));
        }
        let quantized = QuantizedRows::new(&x)?;
        let mut outputs = Outputs::new();
        for (w, ternary) in weights.iter().zip(&self.weights) {
            let [n, _] = weight_dims(Self::NAME, &x, w)?;
            super::expect_dims(Self::NAME, "codes", ternary.codes(), w.dims())?;
            let mut y = Tensor::empty(&with_last(&x, n), DType::F32, &x.device())?;
            ternary.product(&quantized, &mut y)?;
            outputs.push(y);
        }
        Ok((outputs, keep.then_some(quantized)))
    }

    fn backward(&self, x: QuantizedRows, dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let (dx, dw) = dx.split_at_mut(1);
        for ((ternary, dy), dw) in self.weights.iter().zip(dy).zip(dw) {
            let Some(dy) = dy else { continue };
            let dy = dy.contiguous()?;
            let dy = rows_of::<f32>(&dy)?;
            if let Some(sink) = &mut dx[0] {
                let [n, k] = ternary.codes().dims_n(Self::NAME)?;
                let codes = MatRef::row_major(ternary.codes().as_slice::<i8>()?, n, k);
                sink.accumulate(|dx, beta| {
                    sgemm(ternary.gamma(), dy, codes, beta as f32, rows_of_mut(dx)?);
                    Ok(())
                })?;
            }
            if let Some(sink) = dw {
                let (rows, k) = (dy.rows(), x.codes().last_dim());
                let codes = MatRef::row_major(x.codes().as_slice::<i8>()?, rows, k);
                let x = codes.div_rows(x.scales().as_slice::<f32>()?);
                sink.accumulate(|dw, beta| {
                    sgemm(1.0, dy.t(), x, beta as f32, rows_of_mut(dw)?);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}
