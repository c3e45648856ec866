//! Launches of `kernels/random.cu`.

use super::{Cuda, Grid};
use crate::{Result, Tensor};

/// `shift + scale·f(word)` of the stream whose hash is `key` and `high`, in order, where `f` is `uniform` or `normal`.
pub(crate) fn fill(
    gpu: Cuda,
    f: &str,
    [key, high]: [[u32; 2]; 2],
    [shift, scale]: [f32; 2],
    out: &mut Tensor,
) -> Result<()> {
    let count = out.numel();
    let mut launch = gpu.entry("random", format!("random_{f}_f32")).write(out)?.value(count as u64);
    for word in [key[0], key[1], high[0], high[1]] {
        launch = launch.value(word);
    }
    // SAFETY: the kernel writes `count` f32 elements, four a thread.
    unsafe { launch.value(shift).value(scale).run(Grid::strided(gpu, count.div_ceil(4))) }
}
