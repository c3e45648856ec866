//! Rows of a table by token id.

use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::smallvec;
use tensor::{DType, Error, Result, Tensor, with_float};

/// `y[i] = table[ids[i]]`. Inputs: table `[V, H]`; ids of any shape, u32; y `[ids…, H]`.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Type of y; `None` for the table's. On the CPU it is the table's.
    pub dtype: Option<DType>,
}

impl Op for Embedding {
    const NAME: &'static str = "embedding";
    type Saved = Tensor;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Tensor>)> {
        let (table, ids) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
        let [vocab, h] = table.dims_n(Self::NAME)?;
        let mut dims: tensor::Dims = ids.dims().into();
        dims.push(h);
        let mut y = Tensor::empty(&dims, table.dtype(), &table.device())?;
        if let Some(dtype) = self.dtype.filter(|&dtype| dtype != table.dtype()) {
            return Err(Error::dtype(Self::NAME, table.dtype().name(), dtype));
        }
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
        Ok((smallvec![y], keep.then_some(ids)))
    }

    fn backward(&self, ids: Tensor, mut dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let (Some(dy), Some(sink)) = (dy.pop().flatten(), dx[0].as_mut()) else { return Ok(()) };
        let dy = dy.contiguous()?;
        let h = dy.last_dim();
        debug_assert_eq!(ids.dtype(), DType::U32);
        sink.accumulate(|table, beta| {
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
