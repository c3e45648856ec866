//! The same on a GPU: kernels `quantize` and `ternary_gemm`.

use super::{Found, QuantizedRows, Ternary};
use autograd::ParamId;
use tensor::cuda::{Cuda, Grid, Pending, TensorMap};
use tensor::{DType, Device, Error, Result, Tensor};

/// Weights summed by one f64 accumulator, part of γ's definition.
const SUM_BLOCK: usize = 4096;
/// Rows of a thread block that takes a warp a row.
const ROWS: usize = 8;
/// Tile of the portable product, and of Hopper's with its shared memory.
const TILE: usize = 128;
const HOPPER_TILE: [usize; 2] = [128, 256];
const HOPPER_SHARED: usize = 3 * 49152 + 2 * 32768 + 1024;

pub(super) fn quantize_rows(gpu: Cuda, x: &Tensor, codes: &mut Tensor, scales: &mut Tensor) -> Result<()> {
    let rows = scales.numel();
    let launch = gpu.kernel("quantize", "quantize_rows", x.dtype())?.read(x)?.write(codes)?.write(scales)?;
    let launch = launch.value(rows as u32).value(x.last_dim() as u32);
    // SAFETY: the arguments are those of quantize_rows; codes are shaped like x, and there is a scale a row.
    unsafe { launch.run(Grid::rows(rows.div_ceil(ROWS), 256)) }
}

/// X̃ = Xq/s in `dtype`, shaped like the activations.
pub(crate) fn dequantized_rows(gpu: Cuda, x: &QuantizedRows, dtype: DType) -> Result<Tensor> {
    let rows = x.scales.numel();
    let mut y = Tensor::empty(x.codes.dims(), dtype, &x.codes.device())?;
    let launch = gpu.kernel("quantize", "dequantize_rows", dtype)?;
    let launch = launch.read(&x.codes)?.read(&x.scales)?.write(&mut y)?;
    let launch = launch.value(rows as u32).value(x.codes.last_dim() as u32);
    // SAFETY: the arguments are those of dequantize_rows; y is shaped like the codes.
    unsafe { launch.run(Grid::rows(rows.div_ceil(ROWS), 256)) }?;
    Ok(y)
}

/// W̃ = γ·Wq in `dtype`, `[N, K]`.
pub(crate) fn dequantized_weight(gpu: Cuda, weight: &Ternary, dtype: DType) -> Result<Tensor> {
    let numel = weight.codes.numel();
    let mut y = Tensor::empty(weight.codes.dims(), dtype, &weight.codes.device())?;
    let launch = gpu.kernel("quantize", "dequantize_weight", dtype)?;
    let launch = launch.read(&weight.codes)?.read(gamma(weight)?)?.write(&mut y)?.value(numel as u64);
    // SAFETY: the arguments are those of dequantize_weight; y is shaped like the codes.
    unsafe { launch.run(Grid::strided(gpu, numel.div_ceil(8))) }?;
    Ok(y)
}

fn gamma(weight: &Ternary) -> Result<&Tensor> {
    match &weight.found {
        Found::Cuda { gamma, .. } => Ok(gamma),
        Found::Cpu { .. } => Err(Error::device("cuda", "the weight's codes are on the CPU")),
    }
}

pub(super) fn blank(shapes: &[&[usize]], device: &Device) -> Result<Vec<Ternary>> {
    let count = shapes.len();
    let total = shapes.iter().map(|dims| dims.iter().product::<usize>()).sum();
    let codes = Tensor::zeros(&[total], DType::I8, device)?.partition(shapes)?;
    let gammas = Tensor::zeros(&[count], DType::F32, device)?.partition(&vec![&[1][..]; count])?;
    let counts = Tensor::zeros(&[3 * count], DType::U32, device)?.partition(&vec![&[3][..]; count])?;
    let found = gammas.into_iter().zip(counts).map(|(gamma, counts)| Found::Cuda { gamma, counts });
    Ok(codes.into_iter().zip(found).map(|(codes, found)| Ternary { codes, found }).collect())
}

/// Whether γ and counts of `b` lie after those of `a`.
fn found_follows(a: &Ternary, b: &Ternary) -> bool {
    match (&a.found, &b.found) {
        (Found::Cuda { gamma, counts }, Found::Cuda { gamma: gamma_b, counts: counts_b }) => {
            gamma_b.follows(gamma) && counts_b.follows(counts)
        }
        _ => false,
    }
}

pub(super) fn refresh_all(gpu: Cuda, weights: &mut [(&Tensor, &mut Ternary)]) -> Result<()> {
    let run = |a: &(&Tensor, &mut Ternary), b: &(&Tensor, &mut Ternary)| {
        a.0.dims() == b.0.dims()
            && b.0.follows(a.0)
            && b.1.codes.follows(&a.1.codes)
            && found_follows(a.1, b.1)
    };
    weights.chunk_by_mut(run).try_for_each(|run| refresh_run(gpu, run))
}

/// Quantizes neighbours of one shape.
fn refresh_run(gpu: Cuda, run: &mut [(&Tensor, &mut Ternary)]) -> Result<()> {
    let count = run.len();
    let Some((weight, ternary)) = run.first_mut() else { return Ok(()) };
    let numel = weight.numel();
    let blocks = numel.div_ceil(SUM_BLOCK);
    let grid = |x: usize, threads| Grid { blocks: [x as u32, count as u32, 1], threads, shared: 0 };
    let Found::Cuda { gamma, counts } = &mut ternary.found else {
        return Err(Error::device(gpu.to_string(), "the weight's codes are on the CPU"));
    };
    // f64, which is no type of a GPU's tensors.
    let mut sums = Tensor::empty(&[2 * count * blocks], DType::U32, &Device::Cuda(gpu))?;
    let launch = gpu.entry("quantize", "quantize_block_sums").read(weight)?.write(&mut sums)?;
    let launch = launch.value(numel as u64).value(blocks as u32);
    // SAFETY: the arguments are those of the kernel. The run's weights lie one after another, all of them borrowed,
    // and there is a sum a block.
    unsafe { launch.run(grid(blocks.div_ceil(32), 32)) }?;
    let launch = gpu.entry("quantize", "quantize_gamma").read(&sums)?.write(gamma)?.write(counts)?;
    let launch = launch.value(numel as u64).value(blocks as u32);
    // SAFETY: as above; the run's γ and counts lie one after another too, and are borrowed for writing.
    unsafe { launch.run(grid(1, 32)) }?;
    let launch = gpu.entry("quantize", "quantize_codes").read(weight)?.read(gamma)?;
    let launch = launch.write(&mut ternary.codes)?.write(counts)?.value(numel as u64);
    // SAFETY: as above, and so do the codes.
    unsafe { launch.run(grid(numel.div_ceil(1024).min(512), 256)) }
}

/// γ's bits and the three counts of each weight, u32 `[weights, 4]`, asked for.
pub(super) fn report(gpu: Cuda, weights: &[(ParamId, &Ternary)]) -> Result<Pending> {
    let mut rows = Tensor::empty(&[weights.len(), 4], DType::U32, &Device::Cuda(gpu))?;
    let mut first = 0;
    for run in weights.chunk_by(|(_, a), (_, b)| found_follows(a, b)) {
        let Some(Found::Cuda { gamma, counts }) = run.first().map(|(_, weight)| &weight.found) else {
            continue;
        };
        let launch = gpu.entry("quantize", "quantize_report").read(gamma)?.read(counts)?.write(&mut rows)?;
        let launch = launch.value(first as u32).value(run.len() as u32);
        // SAFETY: the arguments are those of the kernel; the run's γ and counts lie one after another, and its rows are
        // within the tensor.
        unsafe { launch.run(Grid::blocks(run.len().div_ceil(256), 256)) }?;
        first += run.len();
    }
    gpu.read_later(&rows)
}

/// All products in one launch: Hopper's own form for bf16 where sizes allow, else the portable one.
pub(super) fn products(gpu: Cuda, weights: &[&Ternary], x: &QuantizedRows, ys: &mut [Tensor]) -> Result<()> {
    let (m, k) = (x.scales.numel(), x.codes.last_dim());
    let Some(dtype) = ys.first().map(Tensor::dtype).filter(|_| m > 0) else { return Ok(()) };
    let hopper = gpu.arch() == 90 && dtype == DType::BF16 && k > 0;
    let maps = if hopper { Maps::new(gpu, weights, x, ys)? } else { None };
    let mut launch = match maps {
        Some(_) => gpu.entry("ternary_gemm", "ternary_gemm_wgmma_bf16").read(&x.scales)?,
        None => gpu.kernel("ternary_gemm", "ternary_gemm", dtype)?.read(&x.codes)?.read(&x.scales)?,
    };
    for i in (0..4).filter(|_| maps.is_none()) {
        launch = launch.read_optional(weights.get(i).map(|weight| &weight.codes))?;
    }
    for i in 0..4 {
        launch = launch.read_optional(weights.get(i).map(|weight| gamma(weight)).transpose()?)?;
    }
    match &maps {
        Some(Maps { x, weights, ys }) => {
            launch = weights.iter().chain(ys).fold(launch.map(x), |launch, map| launch.map(map));
        }
        None => {
            for i in 0..4 {
                launch = launch.write_optional(ys.get_mut(i))?;
            }
        }
    }
    let [height, width] = if maps.is_some() { HOPPER_TILE } else { [TILE; 2] };
    let ns = [0, 1, 2, 3].map(|i| weights.get(i).map_or(0, |weight| weight.codes.dims()[0]));
    let across: usize = ns.iter().map(|n| n.div_ceil(width)).sum();
    let tiles = m.div_ceil(height) * across;
    launch = launch.value(m as u32).value(k as u32);
    launch = ns.iter().fold(launch, |launch, &n| launch.value(n as u32)).value(across as u32);
    let grid = match maps {
        Some(_) => Grid::blocks(tiles.min(gpu.multiprocessors() as usize), 384).with_shared(HOPPER_SHARED),
        None => Grid::blocks(tiles, 256),
    };
    // SAFETY: the arguments are those of the kernel; `products` in the module above checked that shapes fit.
    unsafe { launch.run(grid) }
}

/// What the copy engine moves. Weights and outputs that are missing are never looked at.
struct Maps {
    x: TensorMap,
    weights: [TensorMap; 4],
    ys: [TensorMap; 4],
}

impl Maps {
    /// `None` if the copy engine cannot: sizes or addresses that are no multiples of 16 bytes.
    fn new(gpu: Cuda, weights: &[&Ternary], x: &QuantizedRows, ys: &mut [Tensor]) -> Result<Option<Self>> {
        let [rows, columns] = HOPPER_TILE.map(|n| n as u32);
        let Some(x) = gpu.tensor_map(&x.codes, rows)? else { return Ok(None) };
        let mut maps = Maps { x, weights: [x; 4], ys: [x; 4] };
        for (i, (weight, y)) in weights.iter().zip(ys).enumerate() {
            let (weight, y) = (gpu.tensor_map(&weight.codes, columns)?, gpu.tensor_map_mut(y, rows / 2)?);
            let (Some(weight), Some(y)) = (weight, y) else { return Ok(None) };
            (maps.weights[i], maps.ys[i]) = (weight, y);
        }
        Ok(Some(maps))
    }
}
