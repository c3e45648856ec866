//! Weights in {-1, 0, 1} with one scale, activations in 8 bits with a scale a row (BitNet b1.58, Ma et al. 2024).

pub(crate) mod cuda;
mod replay;

pub(crate) use replay::chosen;
pub use replay::{record, replay};

use autograd::ParamId;
use tensor::cpu::gemm::MatMut;
use tensor::cpu::ternary::{PackedTernary, quantize_activations, quantize_weights, ternary_gemm};
use tensor::cuda::Pending;
use tensor::{DType, Device, Error, Result, Tensor};

/// Activations in 8 bits: codes `[…, K]` i8 and a scale a row, f32 `[rows]`.
#[derive(Clone, Debug)]
pub struct QuantizedRows {
    codes: Tensor,
    scales: Tensor,
}

impl QuantizedRows {
    /// Quantizes the rows (last axis) of x, f32, on a GPU also bf16: `s = 127/max(absmax(x), 1e-5)`,
    /// `Xq = clamp(round(x·s), -128, 127)`, half to even.
    pub fn new(x: &Tensor) -> Result<Self> {
        let x = x.contiguous()?;
        let mut codes = Tensor::empty(x.dims(), DType::I8, &x.device())?;
        let mut scales = Tensor::empty(&[x.numel() / x.last_dim().max(1)], DType::F32, &x.device())?;
        if let Device::Cuda(gpu) = x.device() {
            cuda::quantize_rows(gpu, &x, &mut codes, &mut scales)?;
        } else {
            quantize_activations(x.as_slice::<f32>()?, codes.as_mut_slice()?, scales.as_mut_slice()?);
        }
        Ok(QuantizedRows { codes, scales })
    }

    /// Codes `[…, K]`, i8, with scales, f32, one a row, made elsewhere.
    ///
    /// # Errors
    /// If they are of other types, or not as many scales as rows.
    pub fn from_parts(codes: Tensor, scales: Tensor) -> Result<Self> {
        for (tensor, dtype) in [(&codes, DType::I8), (&scales, DType::F32)] {
            if tensor.dtype() != dtype {
                return Err(Error::dtype("ternary", "codes in i8 and scales in f32", tensor.dtype()));
            }
        }
        if scales.numel() * codes.last_dim() != codes.numel() {
            let message = format!("codes {:?} with {} scales", codes.dims(), scales.numel());
            return Err(Error::shape("ternary", message));
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
    /// Row-major; the products of a GPU and the backward pass read these.
    codes: Tensor,
    found: Found,
}

/// What quantization finds besides the codes.
#[derive(Debug)]
enum Found {
    Cpu {
        /// The codes as the integer product reads them.
        packed: PackedTernary,
        gamma: f32,
        stats: CodeStats,
    },
    Cuda {
        /// f32 `[1]`.
        gamma: Tensor,
        /// Numbers of -1, of +1 and of changed codes, u32 `[3]`.
        counts: Tensor,
    },
}

impl Ternary {
    /// Quantizes a weight, f32 `[N, K]`.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let mut ternary = Self::blank(&[weight.dims()], &weight.device())?.remove(0);
        // The second time finds what the first left: no code has flipped.
        ternary.refresh(weight)?;
        ternary.refresh(weight)?;
        Ok(ternary)
    }

    /// Places for the codes of weights with dims `[N, K]`, all 0 until they are refreshed. On a GPU they lie side by side.
    pub(crate) fn blank(shapes: &[&[usize]], device: &Device) -> Result<Vec<Self>> {
        if let Some(dims) = shapes.iter().find(|dims| dims.len() != 2) {
            return Err(Error::shape("ternary", format!("a weight with dims {dims:?} is no matrix")));
        }
        if let Device::Cuda(_) = device {
            return cuda::blank(shapes, device);
        }
        let blank = |dims: &&[usize]| {
            let codes = Tensor::zeros(dims, DType::I8, device)?;
            let packed = PackedTernary::new(codes.as_slice::<i8>()?, dims[0], dims[1]);
            Ok(Ternary { codes, found: Found::Cpu { packed, gamma: 0.0, stats: CodeStats::default() } })
        };
        shapes.iter().map(blank).collect()
    }

    /// Quantizes the weight again after it changed, in place, and counts the codes that flipped.
    pub fn refresh(&mut self, weight: &Tensor) -> Result<()> {
        refresh_all(&mut [(weight, self)])
    }

    /// Codes -1, 0, 1, i8 `[N, K]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// γ: the value of a code is `γ·code`. Waits for a GPU.
    pub fn gamma(&self) -> Result<f32> {
        match &self.found {
            Found::Cpu { gamma, .. } => Ok(*gamma),
            Found::Cuda { gamma, .. } => gamma.to_device(&Device::Cpu)?.item(),
        }
    }

    /// Spread of the codes. Waits for a GPU.
    pub fn stats(&self) -> Result<CodeStats> {
        match &self.found {
            Found::Cpu { stats, .. } => Ok(*stats),
            Found::Cuda { counts, .. } => Ok(self.spread(&counts.to_device(&Device::Cpu)?.to_vec()?)),
        }
    }

    /// From the numbers of -1, of +1 and of changed codes.
    fn spread(&self, counts: &[u32]) -> CodeStats {
        let [minus, plus, flips] = [0, 1, 2].map(|i| counts[i] as usize);
        CodeStats { counts: [minus, self.codes.numel() - minus - plus, plus], flips }
    }

    /// `y = acc·(γ/s)` with `acc = Xq·Wqᵀ` exact in integers: x `[…, K]`, y f32 `[…, N]`, on a GPU also bf16.
    pub fn product(&self, x: &QuantizedRows, y: &mut Tensor) -> Result<()> {
        products(&[self], x, std::slice::from_mut(y))
    }
}

/// [`Ternary::product`] of several weights with the same x, at most four.
pub(crate) fn products(weights: &[&Ternary], x: &QuantizedRows, ys: &mut [Tensor]) -> Result<()> {
    let rows = x.scales.numel();
    for (weight, y) in weights.iter().zip(&*ys) {
        let [n, k] = weight.codes.dims_n("ternary")?;
        if x.codes.last_dim() != k || y.numel() != rows * n {
            let message =
                format!("x {:?} and y {:?} for codes {:?}", x.codes.dims(), y.dims(), weight.codes.dims());
            return Err(Error::shape("ternary", message));
        }
    }
    if let Device::Cuda(gpu) = x.codes.device() {
        return cuda::products(gpu, weights, x, ys);
    }
    let (codes, scales) = (x.codes.as_slice::<i8>()?, x.scales.as_slice::<f32>()?);
    for (weight, y) in weights.iter().zip(ys) {
        let Found::Cpu { packed, gamma, .. } = &weight.found else {
            return Err(Error::device("cpu", "the weight's codes are on a GPU; copy the input there"));
        };
        let n = packed.out_features();
        ternary_gemm(codes, scales, packed, *gamma, MatMut::row_major(y.as_mut_slice()?, rows, n));
    }
    Ok(())
}

/// Quantizes weights again after they changed. On a GPU, neighbours in memory of one shape share their launches.
pub(crate) fn refresh_all(weights: &mut [(&Tensor, &mut Ternary)]) -> Result<()> {
    for (weight, ternary) in &*weights {
        if weight.dims() != ternary.codes.dims() {
            let message = format!("weight {:?} for codes {:?}", weight.dims(), ternary.codes.dims());
            return Err(Error::shape("ternary", message));
        }
    }
    if let Some(Device::Cuda(gpu)) = weights.first().map(|(weight, _)| weight.device()) {
        return cuda::refresh_all(gpu, weights);
    }
    for (weight, ternary) in weights {
        let codes = ternary.codes.as_mut_slice::<i8>()?;
        let Found::Cpu { packed, gamma, stats } = &mut ternary.found else { continue };
        let found = quantize_weights(weight.as_slice::<f32>()?, codes);
        packed.repack(codes);
        *gamma = found.gamma;
        *stats = CodeStats { counts: [found.minus, found.zero, found.plus], flips: found.flips };
    }
    Ok(())
}

/// γ and spread of several weights as they were when asked for; from a GPU they arrive later.
pub struct CodeReport {
    arriving: Option<Pending>,
    /// What is known already; on a GPU only the number of codes, as zeros.
    known: Vec<(ParamId, f32, CodeStats)>,
}

impl CodeReport {
    /// Asks for γ and spread of `weights`, and does not wait. On a GPU neighbours in memory share a launch.
    pub(crate) fn of(weights: &[(ParamId, &Ternary)]) -> Result<Self> {
        let known = |(id, weight): &(ParamId, &Ternary)| match &weight.found {
            Found::Cpu { gamma, stats, .. } => (*id, *gamma, *stats),
            Found::Cuda { .. } => (*id, 0.0, weight.spread(&[0; 3])),
        };
        let arriving = match weights.first().map(|(_, weight)| weight.codes.device()) {
            Some(Device::Cuda(gpu)) => Some(cuda::report(gpu, weights)?),
            _ => None,
        };
        Ok(CodeReport { arriving, known: weights.iter().map(known).collect() })
    }

    /// γ and spread of each weight, in order of id; waits for what has not arrived.
    pub fn get(self) -> Result<Vec<(ParamId, f32, CodeStats)>> {
        let mut known = self.known;
        if let Some(arriving) = self.arriving {
            for (row, (_, gamma, stats)) in arriving.get::<u32>()?.chunks_exact(4).zip(&mut known) {
                let [minus, plus, flips] = [row[1], row[2], row[3]].map(|n| n as usize);
                *gamma = f32::from_bits(row[0]);
                *stats = CodeStats { counts: [minus, stats.counts[1] - minus - plus, plus], flips };
            }
        }
        known.sort_by_key(|(id, ..)| id.0);
        Ok(known)
    }
}
