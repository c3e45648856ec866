//! Products with ternary weights and 8-bit activations (BitNet b1.58, Ma et al. 2024).

use super::linear::{rows_of, rows_of_mut, weight_dims};
use super::with_last;
use crate::ternary::{QuantizedRows, Ternary, chosen, cuda, products};
use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::SmallVec;
use tensor::cpu::gemm::{MatRef, sgemm};
use tensor::cuda::{Cuda, Mat};
use tensor::{DType, Device, Error, Result, Tensor};

/// `yᵢ = X̃·W̃ᵢᵀ` for one to four weights over the same input, which is quantized once. X̃ = Xq/s are the activations in
/// 8 bits with a scale a row, W̃ = γ·Wq the weights in {-1, 0, 1} with one scale. The integer product is exact.
///
/// Inputs: x `[…, K]`, then the full-precision weights `[N, K]`, which only receive the gradient: the values used are
/// the codes, refreshed by the optimizer step. Outputs `[…, N]`, f32; on a GPU of x's type, f32 or bf16.
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
        let on_gpu = x.device() != Device::Cpu;
        if x.dtype() != DType::F32 && !(on_gpu && x.dtype() == DType::BF16) {
            return Err(Error::dtype(Self::NAME, "f32, or bf16 on a GPU", x.dtype()));
        }
        if weights.len() != self.weights.len() {
            let message = format!("{} weights with {} sets of codes", weights.len(), self.weights.len());
            return Err(Error::shape(Self::NAME, message));
        }
        let quantized = chosen(QuantizedRows::new(&x)?)?;
        let mut outputs = Outputs::new();
        for (w, ternary) in weights.iter().zip(&self.weights) {
            let [n, _] = weight_dims(Self::NAME, &x, w)?;
            super::expect_dims(Self::NAME, "codes", ternary.codes(), w.dims())?;
            outputs.push(Tensor::empty(&with_last(&x, n), x.dtype(), &x.device())?);
        }
        products(&self.weights, &quantized, &mut outputs)?;
        Ok((outputs, keep.then_some(quantized)))
    }

    fn backward(&self, x: QuantizedRows, dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        if let Device::Cuda(gpu) = x.codes().device() {
            let (dx, dw) = dx.split_at_mut(1);
            if let Some(sink) = &mut dx[0] {
                let gradient =
                    |dx: &mut Tensor, beta| input_gradient(gpu, &self.weights, &dy, dx, beta as f32);
                sink.accumulate(gradient)?;
            }
            return weight_gradients(gpu, &x, &dy, dw);
        }
        let (dx, dw) = dx.split_at_mut(1);
        for ((ternary, dy), dw) in self.weights.iter().zip(dy).zip(dw) {
            let Some(dy) = dy else { continue };
            let dy = dy.contiguous()?;
            let dy = rows_of::<f32>(&dy)?;
            if let Some(sink) = &mut dx[0] {
                let [n, k] = ternary.codes().dims_n(Self::NAME)?;
                let codes = MatRef::row_major(ternary.codes().as_slice::<i8>()?, n, k);
                let gamma = ternary.gamma()?;
                sink.accumulate(|dx, beta| {
                    sgemm(gamma, dy, codes, beta as f32, rows_of_mut(dx)?);
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

/// `dx = beta·dx + Σ dYᵢ·W̃ᵢ` over the gradients that arrived, in their type, with each W̃ in memory for as long as it takes.
pub(super) fn input_gradient(
    gpu: Cuda,
    weights: &[&Ternary],
    dy: &[Option<Tensor>],
    dx: &mut Tensor,
    mut beta: f32,
) -> Result<()> {
    for (ternary, dy) in weights.iter().zip(dy) {
        let Some(dy) = dy else { continue };
        let w = cuda::dequantized_weight(gpu, ternary, dy.dtype())?;
        gpu.matmul(1.0, Mat::rows(&dy.contiguous()?)?, Mat::rows(&w)?, beta, dx)?;
        beta = 1.0;
    }
    Ok(())
}

/// `dWᵢ = dYᵢᵀ·X̃`, with X̃ in memory for as long as it takes; dW in f32.
pub(super) fn weight_gradients(
    gpu: Cuda,
    x: &QuantizedRows,
    dy: &[Option<Tensor>],
    dw: &mut [Option<GradSink<'_>>],
) -> Result<()> {
    let mut values = None;
    for (dy, dw) in dy.iter().zip(dw) {
        let (Some(dy), Some(sink)) = (dy, dw) else { continue };
        let x = match &values {
            Some(x) => x,
            None => values.insert(cuda::dequantized_rows(gpu, x, dy.dtype())?),
        };
        let dy = dy.contiguous()?;
        sink.accumulate(|dw, beta| gpu.matmul(1.0, Mat::rows(&dy)?.t(), Mat::rows(x)?, beta as f32, dw))?;
    }
    Ok(())
}
