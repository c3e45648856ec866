//! Weights in {-1, 0, 1} with one scale, activations in 8 bits with a scale a row (BitNet b1.58).

use tensor::{DType, Error, Result, Tensor};

/// Smallest scale of a weight, and smallest largest-magnitude of a row of activations.
pub const EPS: f32 = 1e-5;

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
        let k = x.last_dim().max(1);
        let mut codes = Tensor::empty(x.dims(), DType::I8, &x.device())?;
        let mut scales = Tensor::empty(&[x.numel() / k], DType::F32, &x.device())?;
        let rows = codes.as_mut_slice::<i8>()?.chunks_exact_mut(k).zip(x.as_slice::<f32>()?.chunks_exact(k));
        for ((q, x), s) in rows.zip(scales.as_mut_slice::<f32>()?) {
            let max = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            *s = 127.0 / max.max(EPS);
            for (q, &x) in q.iter_mut().zip(x) {
                *q = (x * *s).round_ties_even().clamp(-128.0, 127.0) as i8;
            }
        }
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
    codes: Tensor,
    gamma: f32,
    stats: CodeStats,
}

impl Ternary {
    /// Quantizes a weight, f32 `[N, K]`.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let codes = Tensor::zeros(weight.dims(), DType::I8, &weight.device())?;
        let mut ternary = Ternary { codes, gamma: EPS, stats: CodeStats::default() };
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
        let w = weight.as_slice::<f32>()?;
        let sum: f64 = w.chunks(4096).map(|b| b.iter().map(|x| f64::from(x.abs())).sum::<f64>()).sum();
        self.gamma = ((sum / w.len() as f64) as f32).max(EPS);
        let mut stats = CodeStats::default();
        for (q, &w) in self.codes.as_mut_slice::<i8>()?.iter_mut().zip(w) {
            let new = (w / self.gamma).round_ties_even().clamp(-1.0, 1.0) as i8;
            stats.flips += usize::from(new != *q);
            stats.counts[(new + 1) as usize] += 1;
            *q = new;
        }
        self.stats = stats;
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

    /// `y = acc·(γ/s)` with `acc = Xq·Wqᵀ` exact: x `[…, K]`, y f32 `[…, N]`.
    pub fn product(&self, x: &QuantizedRows, y: &mut Tensor) -> Result<()> {
        let [n, k] = self.codes.dims_n("ternary")?;
        let (codes, scales) = (x.codes.as_slice::<i8>()?, x.scales.as_slice::<f32>()?);
        let w = self.codes.as_slice::<i8>()?;
        for ((y, x), s) in y.as_mut_slice::<f32>()?.chunks_exact_mut(n).zip(codes.chunks_exact(k)).zip(scales)
        {
            for (y, w) in y.iter_mut().zip(w.chunks_exact(k)) {
                let acc: i32 = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
                *y = acc as f32 * (self.gamma / s);
            }
        }
        Ok(())
    }
}
