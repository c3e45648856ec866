//! Weights in {-1, 0, 1} with one scale, activations in 8 bits with a scale a row (BitNet b1.58, Ma et al. 2024).

use tensor::cpu::gemm::MatMut;
use tensor::cpu::ternary::{PackedTernary, quantize_activations, quantize_weights, ternary_gemm};
use tensor::{DType, Error, Result, Tensor};

/// Activations in 8 bits: codes `[…, K]` i8 and a scale a row, f32 `[rows]`.
#[derive(Clone, Debug)]
pub struct QuantizedRows {
    codes: Tensor,
    scales: Tensor,
}

impl QuantizedRows {
    /// Quantizes the rows (last axis) of x, f32: `s = 127/max(absmax(x), 1e-5)`,
    /// `Xq = clamp(round(x·s), -128, 127)`, half to even.
    pub fn new(x: &Tensor) -> Result<Self> {
        let x = x.contiguous()?;
        let mut codes = Tensor::empty(x.dims(), DType::I8, &x.device())?;
        let mut scales = Tensor::empty(&[x.numel() / x.last_dim().max(1)], DType::F32, &x.device())?;
        quantize_activations(x.as_slice::<f32>()?, codes.as_mut_slice()?, scales.as_mut_slice()?);
        Ok(QuantizedRows { codes, scales })
    }

    /// Codes, i8, shaped like the activations.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// s of each row, f32 `[rows]`; the value of a code is `code / s`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }
}

/// How a weight's codes are spread, and how many changed at the last refresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeStats {
    /// Numbers of -1, 0 and +1.
    pub counts: [usize; 3],
    /// Codes that changed.
    pub flips: usize,
}

/// Codes and scale of one weight `[N, K]`: `γ = max(mean|W|, 1e-5)`, `Wq = clamp(round(W/γ), -1, 1)`, half to even.
#[derive(Debug)]
pub struct Ternary {
    /// Row-major, for the backward pass.
    codes: Tensor,
    /// As the integer product reads them.
    packed: PackedTernary,
    gamma: f32,
    stats: CodeStats,
}

impl Ternary {
    /// Quantizes a weight, f32 `[N, K]`.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let [n, k] = weight.dims_n("ternary")?;
        let codes = Tensor::zeros(weight.dims(), DType::I8, &weight.device())?;
        let packed = PackedTernary::new(codes.as_slice::<i8>()?, n, k);
        let mut ternary = Ternary { codes, packed, gamma: 0.0, stats: CodeStats::default() };
        ternary.refresh(weight)?;
        ternary.stats.flips = 0;
        Ok(ternary)
    }

    /// Quantizes the weight again after it changed, in place, and counts the codes that flipped.
    pub fn refresh(&mut self, weight: &Tensor) -> Result<()> {
        if weight.dims() != self.codes.dims() {
            let message = format!("weight {:?} for codes {:?}", weight.dims(), self.codes.dims());
            return Err(Error::shape("ternary", message));
        }
        let codes = self.codes.as_mut_slice::<i8>()?;
        let found = quantize_weights(weight.as_slice::<f32>()?, codes);
        self.packed.repack(codes);
        self.gamma = found.gamma;
        self.stats = CodeStats { counts: [found.minus, found.zero, found.plus], flips: found.flips };
        Ok(())
    }

    /// Codes -1, 0, 1, i8 `[N, K]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// γ: the value of a code is `γ·code`.
    pub fn gamma(&self) -> f32 {
        self.gamma
    }

    /// Spread of the codes.
    pub fn stats(&self) -> CodeStats {
        self.stats
    }

    /// `y = acc·(γ/s)` with `acc = Xq·Wqᵀ` exact in integers: x `[…, K]`, y f32 `[…, N]`.
    pub fn product(&self, x: &QuantizedRows, y: &mut Tensor) -> Result<()> {
        let [n, k] = self.codes.dims_n("ternary")?;
        let rows = x.scales.numel();
        if x.codes.last_dim() != k || y.numel() != rows * n {
            let message =
                format!("x {:?} and y {:?} for codes {:?}", x.codes.dims(), y.dims(), self.codes.dims());
            return Err(Error::shape("ternary", message));
        }
        let (codes, scales) = (x.codes.as_slice::<i8>()?, x.scales.as_slice::<f32>()?);
        ternary_gemm(codes, scales, &self.packed, self.gamma, MatMut::row_major(y.as_mut_slice()?, rows, n));
        Ok(())
    }
}
