//! Rows of a table by token id.

use super::{count, expect_dtype, packs};
use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::smallvec;
use tensor::cuda::{Cuda, Grid};
use tensor::{DType, Device, Error, Result, Tensor, with_float};

/// `y[i] = table[ids[i]]`. Inputs: table `[V, H]`; ids of any shape, u32; y `[ids…, H]`.
///
/// On the CPU an id beyond the table is an error; on a GPU, which cannot refuse it without being waited for, its row is
/// NaN and it gets no gradient. Who reads tokens from outside checks them before they go there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedding {
    /// Type of the output, if not the table's: bf16 on a GPU, whose table is f32. The table's gradient has its type.
    pub dtype: Option<DType>,
}

/// The ids, and the number of rows of the table.
pub struct Saved {
    ids: Tensor,
    vocab: usize,
}

impl Op for Embedding {
    const NAME: &'static str = "embedding";
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Saved>)> {
        let (table, ids) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
        let [vocab, h] = table.dims_n(Self::NAME)?;
        let mut dims: tensor::Dims = ids.dims().into();
        dims.push(h);
        let dtype = self.dtype.unwrap_or(table.dtype());
        let mut y = Tensor::empty(&dims, dtype, &table.device())?;
        if let Device::Cuda(gpu) = table.device() {
            gather(gpu, &table, &ids, &mut y)?;
            return Ok((smallvec![y], keep.then_some(Saved { ids, vocab })));
        }
        expect_dtype(Self::NAME, &table, dtype)?;
        let rows = ids.as_slice::<u32>()?;
        if let Some(id) = rows.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::argument(Self::NAME, format!("token id {id} in a vocabulary of {vocab}")));
        }
        with_float!(Self::NAME, table.dtype(), T => {
            let table = table.as_slice::<T>()?;
            for (y, &id) in y.as_mut_slice::<T>()?.chunks_exact_mut(h.max(1)).zip(rows) {
                y.copy_from_slice(&table[id as usize * h..][..h]);
            }
            Ok(())
        })?;
        Ok((smallvec![y], keep.then_some(Saved { ids, vocab })))
    }

    fn backward(
        &self,
        Saved { ids, vocab }: Saved,
        mut dy: Grads,
        dx: &mut [Option<GradSink<'_>>],
    ) -> Result<()> {
        let (Some(dy), Some(sink)) = (dy.pop().flatten(), dx[0].as_mut()) else { return Ok(()) };
        let dy = dy.contiguous()?;
        let h = dy.last_dim();
        sink.accumulate(|table, beta| {
            if let Device::Cuda(gpu) = dy.device() {
                if beta == 0.0 {
                    table.fill(0.0)?;
                }
                return scatter_add(gpu, &dy, &ids, table, vocab);
            }
            with_float!(Self::NAME, dy.dtype(), T => {
                let table = table.as_mut_slice::<T>()?;
                if beta == 0.0 {
                    table.fill(0.0 as T);
                }
                // One thread, in order: an id that comes twice must give the same bits every time.
                for (&id, dy) in ids.as_slice::<u32>()?.iter().zip(dy.as_slice::<T>()?.chunks_exact(h.max(1))) {
                    for (sum, &dy) in table[id as usize * h..][..h].iter_mut().zip(dy) {
                        *sum += dy;
                    }
                }
                Ok(())
            })
        })
    }
}

fn gather(gpu: Cuda, table: &Tensor, ids: &Tensor, y: &mut Tensor) -> Result<()> {
    const OP: &str = Embedding::NAME;
    expect_dtype(OP, table, DType::F32)?;
    expect_dtype(OP, ids, DType::U32)?;
    let ([vocab, h], n) = (table.dims_n(OP)?, ids.numel());
    let launch = gpu.kernel("embedding", "embedding_gather", y.dtype())?.read(table)?.read(ids)?.write(y)?;
    let launch = launch.value(count(OP, n)?).value(count(OP, h)?).value(count(OP, vocab)?);
    let dtype = y.dtype();
    // SAFETY: these are the arguments of embedding_gather; it reads n ids and rows of the table below vocab, and writes
    // n·h elements.
    unsafe { launch.run(Grid::strided(gpu, n * packs(h, dtype))) }
}

/// Keys that one block of the sort takes.
const TILE: usize = 2048;
/// Sorted positions that one block of the sum takes.
const RUN: usize = 32;

/// Adds the rows of `dy` to those of the table that `ids` name, in a fixed order: the ids are sorted, and the rows of
/// equal ones summed together.
fn scatter_add(gpu: Cuda, dy: &Tensor, ids: &Tensor, table: &mut Tensor, vocab: usize) -> Result<()> {
    const OP: &str = Embedding::NAME;
    let (h, n, device) = (dy.last_dim(), ids.numel(), dy.device());
    expect_dtype(OP, table, DType::F32)?;
    let (n32, h32, vocab32) = (count(OP, n)?, count(OP, h)?, count(OP, vocab)?);
    let (keys, order) = sort(gpu, ids, vocab)?;
    let blocks = n.div_ceil(RUN);
    let mut edges = Tensor::empty(&[blocks, 2, h], DType::F32, &device)?;
    let launch = gpu.kernel("embedding", "embedding_scatter", dy.dtype())?;
    let launch = launch.read(dy)?.read(&keys)?.read(&order)?.write(table)?.write(&mut edges)?;
    let launch = launch.value(n32).value(h32).value(vocab32);
    let threads = packs(h, dy.dtype()).next_multiple_of(32).clamp(32, 256) as u32;
    // SAFETY: these are the arguments of embedding_scatter; it reads n keys and rows of dy, and writes rows of the table
    // below vocab and the block's part of the edges.
    unsafe { launch.run(Grid::blocks(blocks, threads)) }?;
    let launch = gpu.entry("embedding", "embedding_edges").read(&keys)?.read(&edges)?.write(table)?;
    let launch = launch.value(n32).value(h32).value(vocab32);
    // SAFETY: these are the arguments of embedding_edges; it reads n keys and the edges, and writes rows of the table
    // below vocab.
    unsafe { launch.run(Grid::blocks(blocks, 256)) }
}

/// The ids in ascending order and the positions they come from; equal ids keep their order.
fn sort(gpu: Cuda, ids: &Tensor, vocab: usize) -> Result<(Tensor, Tensor)> {
    let bits = usize::BITS - vocab.saturating_sub(1).leading_zeros();
    let (mut keys, mut order) = sort_pass(gpu, ids, None, 0)?;
    for shift in (8..bits).step_by(8) {
        (keys, order) = sort_pass(gpu, &keys, Some(&order), shift)?;
    }
    Ok((keys, order))
}

/// Keys and values ordered by the keys' 8 bits from `shift`; without values, those are the indices.
fn sort_pass(gpu: Cuda, keys: &Tensor, values: Option<&Tensor>, shift: u32) -> Result<(Tensor, Tensor)> {
    let (n, device) = (keys.numel(), keys.device());
    let (n32, tiles) = (count(Embedding::NAME, n)?, n.div_ceil(TILE));
    let mut counts = Tensor::empty(&[256, tiles], DType::U32, &device)?;
    let launch = gpu.entry("embedding", "embedding_sort_count").read(keys)?.write(&mut counts)?;
    // SAFETY: these are the arguments of embedding_sort_count; it reads n keys and writes 256 counts a tile.
    unsafe { launch.value(n32).value(shift).run(Grid::blocks(tiles, 256)) }?;
    let launch = gpu.entry("embedding", "embedding_sort_scan").write(&mut counts)?;
    // SAFETY: these are the arguments of embedding_sort_scan; one block changes the counts in place.
    unsafe { launch.value(256 * tiles as u32).run(Grid::blocks(1, 1024)) }?;
    let mut sorted = Tensor::empty(&[n], DType::U32, &device)?;
    let mut order = Tensor::empty(&[n], DType::U32, &device)?;
    let launch = gpu.entry("embedding", "embedding_sort_scatter").read(keys)?.read_optional(values)?;
    let launch = launch.read(&counts)?.write(&mut sorted)?.write(&mut order)?;
    // SAFETY: these are the arguments of embedding_sort_scatter; it reads n keys and values and writes as many, to the
    // places that the counts give.
    unsafe { launch.value(n32).value(shift).run(Grid::blocks(tiles, 256)) }?;
    Ok((sorted, order))
}
