//! The CUDA side of attention: which kernel runs, in blocks of which shape. The numbers are those of the kernel files.

use super::{Attention, Saved, Shape};
use tensor::cuda::{Cuda, Grid, Launch};
use tensor::{DType, Device, Error, Result, Tensor};

/// Caps up to this bound the exponentials well enough to do without a running maximum: e^60 times any number of keys
/// fits in f32.
const BOUNDING_CAP: f64 = 60.0;

/// Queries at most for which the keys are shared out among blocks.
const FEW_QUERIES: usize = 8;

/// An attention on a GPU: its sizes and its kernels.
pub(super) struct Attending<'a> {
    gpu: Cuda,
    op: &'a Attention,
    shape: Shape,
    batch: usize,
    dtype: DType,
}

/// The families of kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// f32 arithmetic: attention_plain.cu.
    Plain,
    /// bf16 on tensor cores, sm_80 and later: attention.cu, attention_backward.cu.
    TensorCores,
    /// bf16 on Hopper, heads of 64: attention_sm90.cu, attention_sm90_backward.cu.
    Hopper,
}

/// A kernel and the blocks that run it.
struct Kernel {
    file: &'static str,
    entry: String,
    grid: Grid,
}

/// Rows of a tile of attention_plain.cu.
fn plain_tile(d: usize) -> usize {
    match d {
        ..=64 => 32,
        65..=192 => 16,
        _ => 8,
    }
}

/// Blocks of the tensor-core kernels (attention.cuh).
struct Blocks {
    /// Bytes of a row in shared memory.
    row: usize,
    /// Queries of a forward block.
    queries: usize,
    /// Queries or keys of a backward block.
    rows: usize,
    /// Rows of a stage of what streams past.
    stream: usize,
    /// Stages of the backward pass.
    stages: usize,
    /// Parts of the columns of dK and dV.
    slices: usize,
}

impl Blocks {
    fn of(d: usize) -> Self {
        let d = d.next_multiple_of(16);
        Blocks {
            row: (d + 8) * 2,
            queries: if d <= 128 { 128 } else { 64 },
            rows: if d <= 64 { 128 } else { 64 },
            stream: match d {
                ..=64 => 64,
                65..=128 => 32,
                _ => 16,
            },
            stages: if d <= 128 { 2 } else { 1 },
            slices: d.div_ceil(128),
        }
    }
}

impl<'a> Attending<'a> {
    /// # Errors
    /// If the inputs differ in type, or the head dimension is odd or above 256.
    pub fn new(
        op: &'a Attention,
        gpu: Cuda,
        (batch, shape): (usize, Shape),
        inputs: [&Tensor; 3],
    ) -> Result<Self> {
        let dtype = inputs[0].dtype();
        for x in inputs {
            if !matches!(x.dtype(), DType::F32 | DType::BF16) || x.dtype() != dtype {
                let expected = "q, k and v all f32 or all bf16 on a GPU";
                return Err(Error::dtype("attention", expected, x.dtype()));
            }
        }
        if shape.d == 0 || shape.d % 2 != 0 || shape.d > 256 {
            let message = format!("head dimension {} on a GPU; it must be even and at most 256", shape.d);
            return Err(Error::shape("attention", message));
        }
        if batch > 65535 || shape.heads > 65535 {
            let message =
                format!("{batch} sequences of {} heads; a GPU takes at most 65535 of each", shape.heads);
            return Err(Error::shape("attention", message));
        }
        Ok(Attending { gpu, op, shape, batch, dtype })
    }

    fn form(&self) -> Form {
        match (self.dtype, self.gpu.arch()) {
            (DType::BF16, 90) if self.shape.d == 64 => Form::Hopper,
            (DType::BF16, 80..) => Form::TensorCores,
            _ => Form::Plain,
        }
    }

    fn forward_kernel(&self) -> Kernel {
        let Shape { t, heads, kv_heads, d, .. } = self.shape;
        match self.form() {
            Form::Plain => {
                let tile = plain_tile(d);
                let shared = (3 * tile * (d + 1) + tile * (tile + 1)) * 4;
                let grid = self.grid(t.div_ceil(tile), heads, 256, shared);
                Kernel::new("attention_plain", format!("attention_plain_forward_{}", self.dtype), grid)
            }
            Form::TensorCores => {
                let Blocks { row, queries, stream, .. } = Blocks::of(d);
                let grid = self.grid(t.div_ceil(queries), heads, 128, (queries + 4 * stream) * row);
                Kernel::new("attention", "attention_forward_bf16", grid)
            }
            Form::Hopper => {
                let grid = self.hopper_grid(t * heads / kv_heads, 2, 12);
                Kernel::new("attention_sm90", "attention_sm90_forward_bf16", grid)
            }
        }
    }

    /// The kernels of dQ, then of dK and dV.
    fn backward_kernels(&self) -> [Kernel; 2] {
        let Shape { t, s, heads, kv_heads, d } = self.shape;
        match self.form() {
            Form::Plain => {
                let tile = plain_tile(d);
                let (tiles, square) = (4 * tile * (d + 1), tile * (tile + 1));
                let dq = self.grid(t.div_ceil(tile), heads, 256, (tiles + square) * 4);
                let dkv = self.grid(s.div_ceil(tile), kv_heads, 256, (tiles + 2 * square) * 4);
                [("dq", dq), ("dkv", dkv)].map(|(what, grid)| {
                    Kernel::new("attention_plain", format!("attention_plain_{what}_{}", self.dtype), grid)
                })
            }
            Form::TensorCores => {
                let Blocks { row, rows, stream, stages, slices, .. } = Blocks::of(d);
                let shared = 2 * (rows + stages * stream) * row;
                let dq = self.grid(t.div_ceil(rows), heads, 128, shared);
                let dkv = self.grid(s.div_ceil(rows) * slices, kv_heads, 128, shared + stages * stream * 12);
                [("attention_dq_bf16", dq), ("attention_dkv_bf16", dkv)]
                    .map(|(entry, grid)| Kernel::new("attention_backward", entry, grid))
            }
            Form::Hopper => {
                let dq = self.hopper_grid(t * heads / kv_heads, 3, 18);
                let dkv = self.hopper_grid(s, 2, 16);
                [("attention_sm90_dq_bf16", dq), ("attention_sm90_dkv_bf16", dkv)]
                    .map(|(entry, grid)| Kernel::new("attention_sm90_backward", entry, grid))
            }
        }
    }

    /// Blocks of `teams` warpgroups with 64 rows each; in shared memory `tiles` of 64 rows of 128 bytes, and 1024 bytes
    /// to align them.
    fn hopper_grid(&self, rows: usize, teams: usize, tiles: usize) -> Grid {
        let shared = tiles * 64 * 128 + 1024;
        self.grid(rows.div_ceil(64 * teams), self.shape.kv_heads, 128 * teams as u32, shared)
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.shape.d as f64).sqrt()) as f32
    }

    /// `-D` options of a kernel file; none for the form that is loaded when the device is opened.
    fn defines(&self, file: &str) -> Vec<String> {
        let mut defines = Vec::new();
        if self.shape.d != 64 {
            defines.push(format!("HEAD_DIM={}", self.shape.d));
        }
        if matches!(file, "attention_plain" | "attention_decode") {
            return defines; // these read the cap at run time
        }
        if self.op.softcap <= 0.0 {
            defines.push("SOFTCAP=0".to_owned());
        } else if self.op.softcap > BOUNDING_CAP {
            defines.push("RUNNING_MAX=1".to_owned());
        }
        defines
    }

    /// The last arguments of every kernel.
    fn sizes<'b>(&self, launch: Launch<'b>) -> Launch<'b> {
        let Shape { t, s, heads, kv_heads, .. } = self.shape;
        launch.value(t as u32).value(s as u32).value(heads as u32).value(kv_heads as u32)
    }

    fn scales<'b>(&self, launch: Launch<'b>) -> Launch<'b> {
        launch.value(self.scale()).value(self.op.softcap as f32)
    }

    fn grid(&self, tiles: usize, heads: usize, threads: u32, shared: usize) -> Grid {
        Grid { blocks: [tiles as u32, heads as u32, self.batch as u32], threads, shared: shared as u32 }
    }

    /// The output and the log-sums, f32 `[B, T, Hq]`.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let Shape { t, s, heads, .. } = self.shape;
        let device = Device::Cuda(self.gpu);
        let mut y = Tensor::empty(q.dims(), self.dtype, &device)?;
        let mut log_sum = Tensor::empty(&[self.batch, t, heads], DType::F32, &device)?;
        if t <= FEW_QUERIES && s > t {
            self.decode(q, k, v, &mut y, &mut log_sum)?;
            return Ok((y, log_sum));
        }
        let kernel = self.forward_kernel();
        let defines = self.defines(kernel.file);
        let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
        let launch = (self.gpu.entry_with(kernel.file, &defines, kernel.entry))
            .read(q)?
            .read(k)?
            .read(v)?
            .read_optional(self.op.first_key.as_ref())?
            .write(&mut y)?
            .write(&mut log_sum)?;
        // SAFETY: every forward kernel takes these arguments and stays within tensors of this shape.
        unsafe { self.scales(self.sizes(launch)).run(kernel.grid) }?;
        Ok((y, log_sum))
    }

    /// Shares the keys out among so many blocks that they fill the card.
    fn decode(&self, q: &Tensor, k: &Tensor, v: &Tensor, y: &mut Tensor, log_sum: &mut Tensor) -> Result<()> {
        let Shape { t, s, heads, kv_heads, d } = self.shape;
        let (rows, threads, least) = (4, 128, 128); // rows of a block, its threads, fewest keys of a part
        let tiles = kv_heads * (t * heads / kv_heads).div_ceil(rows);
        let wanted = (4 * self.gpu.multiprocessors() as usize).div_ceil(tiles * self.batch);
        let chunk = s.div_ceil(wanted).next_multiple_of(least);
        let splits = s.div_ceil(chunk);
        let device = Device::Cuda(self.gpu);
        let outputs = self.batch * t * heads;
        let mut parts = match splits {
            1 => None,
            _ => Some(Tensor::empty(&[splits, outputs, d + 2], DType::F32, &device)?),
        };
        let defines = self.defines("attention_decode");
        let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
        let entry = |what: &str| format!("attention_{what}_{}", self.dtype);
        let launch = (self.gpu.entry_with("attention_decode", &defines, entry("decode")))
            .read(q)?
            .read(k)?
            .read(v)?
            .read_optional(self.op.first_key.as_ref())?
            .write(y)?
            .write(log_sum)?
            .write_optional(parts.as_mut())?;
        let launch = self.scales(self.sizes(launch).value(chunk as u32));
        // SAFETY: the arguments are attention_decode's; `parts` holds a part for each block along x.
        unsafe { launch.run(self.grid(splits, tiles, threads, 0)) }?;
        let Some(parts) = parts else { return Ok(()) };
        let launch = (self.gpu.entry_with("attention_decode", &defines, entry("join")))
            .read(&parts)?
            .write(y)?
            .write(log_sum)?
            .value(splits as u32);
        // SAFETY: the arguments are attention_join's, one block an output row.
        unsafe { launch.run(Grid::rows(outputs, 64)) }
    }

    /// Gradients of q, k and v.
    pub fn backward(&self, x: &Saved, dy: &Tensor) -> Result<[Tensor; 3]> {
        let device = Device::Cuda(self.gpu);
        let mut dq = Tensor::empty(x.q.dims(), self.dtype, &device)?;
        let mut dk = Tensor::empty(x.k.dims(), self.dtype, &device)?;
        let mut dv = Tensor::empty(x.v.dims(), self.dtype, &device)?;
        // What both kernels need of each query: its log-sum and Σ dy·y.
        let mut row_sums =
            Tensor::empty(&[self.batch, self.shape.t, self.shape.heads, 2], DType::F32, &device)?;
        let [of_q, of_kv] = self.backward_kernels();
        let defines = self.defines(of_q.file);
        let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
        let start = |kernel: &Kernel| {
            let launch = self.gpu.entry_with(kernel.file, &defines, kernel.entry.clone());
            launch.read(&x.q)?.read(&x.k)?.read(&x.v)?.read_optional(self.op.first_key.as_ref())
        };
        let launch =
            start(&of_q)?.read(&x.y)?.read(&x.log_sum)?.read(dy)?.write(&mut dq)?.write(&mut row_sums)?;
        // SAFETY: the arguments are those of every dq kernel, which writes dq and row_sums, of this shape.
        unsafe { self.scales(self.sizes(launch)).run(of_q.grid) }?;
        let launch = start(&of_kv)?.read(&row_sums)?.read(dy)?.write(&mut dk)?.write(&mut dv)?;
        // SAFETY: the arguments are those of every dkv kernel, which writes dk and dv, of this shape.
        unsafe { self.scales(self.sizes(launch)).run(of_kv.grid) }?;
        Ok([dq, dk, dv])
    }
}

impl Kernel {
    fn new(file: &'static str, entry: impl Into<String>, grid: Grid) -> Self {
        Kernel { file, entry: entry.into(), grid }
    }
}

/// A contiguous tensor whose rows can be read 16 bytes at a time.
pub(super) fn aligned(x: Tensor) -> Result<Tensor> {
    let offset = x.layout().offset() * x.dtype().size();
    if offset.is_multiple_of(16) { Ok(x) } else { x.copy() }
}
