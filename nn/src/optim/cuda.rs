//! Optimizers on a GPU, in kernels `optim`: what a step decides stays in device memory, and what follows reads it there, so
//! that nothing waits and a captured step can be replayed. Neighbours in memory share their launches.

use super::newton_schulz::COEFFICIENTS;
use super::{AdamW, AdamWState, GradNorm, Muon, Outcome, Skipped};
use crate::params::Params;
use autograd::Gradients;
use tensor::cuda::{Cuda, Grid, Mat};
use tensor::{DType, Device, Error, Result, Tensor};

/// Thread blocks that sum over a matrix, and over a run of gradients at most.
const MATRIX_BLOCKS: usize = 64;
const RUN_BLOCKS: usize = 1024;

/// `State` of the kernels, as words.
const WORDS: usize = 14;

/// What a step decided: learning-rate factor, clip factor, whether to skip, and the number of steps.
#[derive(Debug)]
pub(super) struct Decided {
    gpu: Cuda,
    state: Tensor,
}

/// Parameters of one AdamW that lie one after another, and so do the rest: the first of each, and elements in all.
pub(super) struct AdamWRun<'a> {
    pub param: &'a mut Tensor,
    pub grad: &'a Tensor,
    pub state: &'a mut AdamWState,
    pub numel: usize,
}

/// Matrices of one shape that lie one after another, and so do the rest: the first of each.
pub(super) struct MuonRun<'a> {
    pub param: &'a mut Tensor,
    pub grad: &'a Tensor,
    pub buf: &'a mut Tensor,
    pub matrices: usize,
    pub dims: [usize; 2],
}

/// f64s, which are no type of a GPU's tensors.
fn doubles(gpu: Cuda, count: usize) -> Result<Tensor> {
    Tensor::empty(&[2 * count], DType::U32, &Device::Cuda(gpu))
}

fn f64_at(words: &[u32], i: usize) -> f64 {
    f64::from_bits(u64_at(words, i))
}

fn u64_at(words: &[u32], i: usize) -> u64 {
    u64::from(words[i]) | u64::from(words[i + 1]) << 32
}

/// Reads a copy of the state.
pub(super) fn outcome(words: &[u32], params: &Params) -> Result<Outcome> {
    if words.len() != WORDS {
        return Err(Error::shape("optimizer", format!("{} words of state, expected {WORDS}", words.len())));
    }
    let (norm, bad, skip, updates) = (f64_at(words, 6), u64_at(words, 8), words[11] != 0, u64_at(words, 12));
    let skipped = skip.then(|| match params.name_at(bad) {
        Some(name) => Skipped::Gradient(name.to_owned()),
        None => Skipped::Loss,
    });
    Ok(Outcome { norm, updates, skipped })
}

impl Decided {
    /// To decide on the device; no steps were taken.
    pub fn new(gpu: Cuda) -> Result<Self> {
        Ok(Decided { gpu, state: Tensor::from_slice(&[0u32; WORDS], &[WORDS], &Device::Cuda(gpu))? })
    }

    /// Continues after `updates` steps.
    pub fn set_updates(&mut self, updates: u64) -> Result<()> {
        let mut words = [0u32; WORDS];
        words[12..].copy_from_slice(&[updates as u32, (updates >> 32) as u32]);
        self.state.copy_from_slice(&words)
    }

    /// Decided by the host: gradients times `clip`, learning rates times `factor`, Adam's averages at step `updates`.
    pub fn known(gpu: Cuda, clip: f32, factor: f64, updates: u64, betas: [f64; 2]) -> Result<Self> {
        let mut decided = Self::new(gpu)?;
        decided.set_known(clip, factor, updates, betas)?;
        Ok(decided)
    }

    /// As [`Decided::known`], in place.
    pub fn set_known(&mut self, clip: f32, factor: f64, updates: u64, betas: [f64; 2]) -> Result<()> {
        let [m, v] = betas.map(|beta| 1.0 - beta.powf(updates as f64));
        let numbers = [factor, 1.0 / m, 1.0 / v.sqrt(), 0.0].map(f64::to_bits);
        let bits = [u64::MAX, u64::from(clip.to_bits()), updates];
        let words = numbers.into_iter().chain(bits).flat_map(|bits| [bits as u32, (bits >> 32) as u32]);
        self.state.copy_from_slice(&words.collect::<Vec<_>>())
    }

    /// A copy of the state for [`outcome`], asked for.
    pub fn read_later(&self) -> Result<tensor::cuda::Pending> {
        self.gpu.read_later(&self.state)
    }

    /// Norm of all gradients, the factor that clips it to `limit` (0: none), and whether loss and gradients are finite.
    /// `factors`, f32 `[2]`: that of the learning rates, and that of the gradients, which comes before all else.
    pub fn decide(
        &mut self,
        params: &Params,
        grads: &Gradients,
        factors: &Tensor,
        loss: Option<&Tensor>,
        limit: f64,
        betas: [f64; 2],
    ) -> Result<()> {
        let gpu = self.gpu;
        let launch = gpu.entry("optim", "optim_clear").write(&mut self.state)?;
        // SAFETY: the kernel writes the state, which has its size.
        unsafe { launch.run(Grid::blocks(1, 1)) }?;
        // Gradients that lie one after another, and how many elements come before each run.
        let mut runs: Vec<(&Tensor, &Tensor, usize, usize)> = Vec::new();
        let mut before = 0;
        for param in params.memory_order() {
            let numel = param.parameter.value.numel();
            if let Some(grad) = grads.get(param.parameter.id) {
                match runs.last_mut() {
                    Some((_, last, elements, _)) if grad.follows(last) => {
                        *last = grad;
                        *elements += numel;
                    }
                    _ => runs.push((grad, grad, numel, before)),
                }
            }
            before += numel;
        }
        let blocks = |elements: usize| elements.div_ceil(4096).min(RUN_BLOCKS);
        let total = runs.iter().map(|run| blocks(run.2)).sum();
        let sizes: Vec<[usize; 1]> = runs.iter().map(|run| [2 * blocks(run.2)]).collect();
        let parts: Vec<&[usize]> = sizes.iter().map(|size| &size[..]).collect();
        let mut sums = doubles(gpu, total)?.partition(&parts)?;
        for ((first, _, elements, before), sums) in runs.into_iter().zip(&mut sums) {
            let launch = gpu.entry("optim", "optim_squares").read(first)?.write(sums)?;
            let launch = launch.write(&mut self.state)?.value(elements as u64).value(before as u64);
            // SAFETY: the arguments are those of the kernel; the run's gradients lie one after another, all of them
            // borrowed, and there is a sum a thread block.
            unsafe { launch.run(Grid::blocks(blocks(elements), 256)) }?;
        }
        let launch = gpu.entry("optim", "optim_decide").read_optional(sums.first())?.read(factors)?;
        let launch = launch.read_optional(loss)?.write(&mut self.state)?.value(total as u32);
        let launch = launch.value(limit).value(betas[0]).value(betas[1]);
        // SAFETY: the arguments are those of the kernel; the parts of the sums lie one after another.
        unsafe { launch.run(Grid::blocks(1, 256)) }
    }

    pub fn adamw(&self, adamw: AdamW, run: AdamWRun<'_>) -> Result<()> {
        let AdamW { lr, betas: [b1, b2], eps, weight_decay } = adamw;
        let AdamWRun { param, grad, state, numel } = run;
        let launch = self.gpu.entry("optim", "optim_adamw").read(grad)?.read(&self.state)?;
        let launch = launch.write(param)?.write(&mut state.m)?.write(&mut state.v)?.value(numel as u64);
        let launch = launch.value(lr).value(weight_decay).value(b1).value(b2).value(eps as f32);
        // SAFETY: the arguments are those of the kernel; the run's tensors hold `numel` elements one after another, and
        // the caller has borrowed all of them.
        unsafe { launch.run(Grid::strided(self.gpu, numel.div_ceil(4))) }
    }

    /// Newton–Schulz in `dtype`.
    pub fn muon(&self, muon: Muon, dtype: DType, run: MuonRun<'_>) -> Result<()> {
        let Muon { lr, momentum, weight_decay } = muon;
        let MuonRun { param, grad, buf, matrices, dims: [rows, cols] } = run;
        let (gpu, numel) = (self.gpu, rows * cols);
        let grid = batched(MATRIX_BLOCKS, matrices);
        let mut sums = doubles(gpu, matrices * MATRIX_BLOCKS)?;
        let launch = gpu.entry("optim", "optim_momentum").read(grad)?.read(&self.state)?.write(buf)?;
        let launch = launch.write(&mut sums)?.value(numel as u64).value(momentum as f32);
        // SAFETY: the arguments are those of the kernel; the run's tensors lie one after another, the caller has
        // borrowed all of them, and there is a sum a thread block.
        unsafe { launch.run(grid) }?;
        let mut x = Tensor::empty(&[matrices, rows, cols], dtype, &Device::Cuda(gpu))?;
        let launch = gpu.kernel("optim", "optim_start", dtype)?.read(grad)?.read(buf)?.read(&sums)?;
        let launch = launch.read(&self.state)?.write(&mut x)?.value(numel as u64);
        let launch = launch.value(MATRIX_BLOCKS as u32).value(momentum as f32);
        // SAFETY: as above; x holds as many matrices.
        unsafe { launch.run(grid) }?;
        let x = orthogonalized(gpu, x)?;
        let shape = (rows as f64 / cols as f64).max(1.0).sqrt();
        let launch = gpu.kernel("optim", "optim_muon", dtype)?.read(&x)?.read(&self.state)?.write(param)?;
        let launch = launch.value((matrices * numel) as u64).value(lr).value(weight_decay).value(shape);
        // SAFETY: as above.
        unsafe { launch.run(Grid::strided(gpu, (matrices * numel).div_ceil(4))) }
    }
}

/// As `clip::grad_norm`.
pub(super) fn grad_norm(gpu: Cuda, params: &Params, grads: &Gradients) -> Result<GradNorm> {
    let mut decided = Decided::new(gpu)?;
    let factors = Tensor::from_slice(&[1f32; 2], &[2], &Device::Cuda(gpu))?;
    decided.decide(params, grads, &factors, None, 0.0, [0.0; 2])?;
    let Outcome { norm, skipped, .. } = outcome(&decided.read_later()?.get::<u32>()?, params)?;
    let non_finite = match skipped {
        Some(Skipped::Gradient(name)) => Some(name),
        _ => None,
    };
    Ok(GradNorm { norm, non_finite })
}

fn batched(blocks: usize, matrices: usize) -> Grid {
    Grid { blocks: [blocks as u32, matrices as u32, 1], threads: 256, shared: 0 }
}

/// Newton–Schulz of one matrix, f32.
pub(super) fn newton_schulz(gpu: Cuda, u: &Tensor) -> Result<Tensor> {
    let [rows, cols] = u.dims_n("newton_schulz")?;
    let u = u.contiguous()?;
    let numel = u.numel();
    // u is the gradient of a momentum of 0 that has not begun.
    let decided = Decided::known(gpu, 1.0, 1.0, 1, [0.0; 2])?;
    let mut buf = Tensor::zeros(u.dims(), DType::F32, &u.device())?;
    let mut sums = doubles(gpu, MATRIX_BLOCKS)?;
    let launch = gpu.entry("optim", "optim_momentum").read(&u)?.read(&decided.state)?.write(&mut buf)?;
    let launch = launch.write(&mut sums)?.value(numel as u64).value(0f32);
    // SAFETY: the arguments are those of the kernel, for one matrix and a sum a thread block.
    unsafe { launch.run(batched(MATRIX_BLOCKS, 1)) }?;
    let mut x = Tensor::empty(&[1, rows, cols], DType::F32, &u.device())?;
    let launch = gpu.kernel("optim", "optim_start", DType::F32)?.read(&u)?.read(&buf)?.read(&sums)?;
    let launch = launch.read(&decided.state)?.write(&mut x)?.value(numel as u64);
    let launch = launch.value(MATRIX_BLOCKS as u32).value(0f32);
    // SAFETY: as above; x has the elements of u.
    unsafe { launch.run(batched(MATRIX_BLOCKS, 1)) }?;
    orthogonalized(gpu, x)?.reshape(&[rows, cols])
}

/// Five steps from x `[matrices, rows, cols]`: with `A = X·Xᵀ`, `X = (a·I + b·A + c·A²)·X`; of tall matrices the gram
/// matrix is `Xᵀ·X` and stands on the right, which is the same as transposing them.
fn orthogonalized(gpu: Cuda, mut x: Tensor) -> Result<Tensor> {
    let [matrices, rows, cols] = x.dims_n("newton_schulz")?;
    let (tall, n, dtype) = (rows > cols, rows.min(cols), x.dtype());
    if u32::try_from(n * n).is_err() {
        return Err(Error::shape("newton_schulz", format!("a side of {n} is too long for a GPU")));
    }
    let empty = |dims: &[usize]| Tensor::empty(dims, dtype, &Device::Cuda(gpu));
    let (mut gram, mut factor) = (empty(&[matrices, n, n])?, empty(&[matrices, n, n])?);
    let mut next = empty(&[matrices, rows, cols])?;
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..5 {
        let view = Mat::view(&x)?;
        let [left, right] = if tall { [view.t(), view] } else { [view, view.t()] };
        gpu.matmul(1.0, left, right, 0.0, &mut gram)?;
        gpu.matmul(c, Mat::view(&gram)?, Mat::view(&gram)?, 0.0, &mut factor)?;
        let launch = gpu.kernel("optim", "optim_polynomial", dtype)?.read(&gram)?.write(&mut factor)?;
        let launch = launch.value((n * n) as u64).value(n as u32).value(a).value(b);
        // SAFETY: the arguments are those of the kernel; both hold `matrices` matrices of n by n.
        unsafe { launch.run(batched((n * n).div_ceil(1024).clamp(1, MATRIX_BLOCKS), matrices)) }?;
        let [left, right] = if tall { [view, Mat::view(&factor)?] } else { [Mat::view(&factor)?, view] };
        gpu.matmul(1.0, left, right, 0.0, &mut next)?;
        std::mem::swap(&mut x, &mut next);
    }
    Ok(x)
}
