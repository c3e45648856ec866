//! Launches of `kernels/elementwise.cu`. Names of kernels are those of the operations.

use super::{Cuda, Grid, walk};
use crate::{Element, Result, Tensor, with_element};

/// `op(a)`, with a number if the operation takes one.
pub(crate) fn unary(gpu: Cuda, op: &'static str, a: &Tensor, value: Option<f64>) -> Result<Tensor> {
    let mut out = Tensor::empty(a.dims(), a.dtype(), &a.device())?;
    let count = a.numel();
    let mut launch = gpu.operation("elementwise", op, a.dtype())?;
    launch = launch.strided(a)?.write(&mut out)?.value(walk::one(op, a.layout())?).value(count as u64);
    if let Some(value) = value {
        launch = launch.value(value as f32);
    }
    // SAFETY: the kernel reads the elements of `a` that its layout selects, and writes `count` elements of `out`.
    unsafe { launch.run(Grid::strided(gpu, count)) }?;
    Ok(out)
}

/// `op(a, b)` of two views of equal dimensions.
pub(crate) fn binary(gpu: Cuda, op: &'static str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut out = Tensor::empty(a.dims(), a.dtype(), &a.device())?;
    let count = out.numel();
    let views = walk::two(op, a.layout(), b.layout())?;
    let launch = gpu.operation("elementwise", op, a.dtype())?.strided(a)?.strided(b)?;
    let launch = launch.write(&mut out)?.value(views).value(count as u64);
    // SAFETY: the kernel reads what the layouts select, and writes `count` elements of `out`.
    unsafe { launch.run(Grid::strided(gpu, count)) }?;
    Ok(out)
}

/// `masked_fill` of a mask of the dimensions of `x`.
pub(crate) fn masked_fill(gpu: Cuda, x: &Tensor, mask: &Tensor, value: f64) -> Result<Tensor> {
    const OP: &str = "masked_fill";
    let mut out = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
    let count = x.numel();
    let launch = gpu.operation("elementwise", OP, x.dtype())?.strided(x)?.strided(mask)?.write(&mut out)?;
    let launch = launch.value(walk::two(OP, x.layout(), mask.layout())?).value(count as u64);
    // SAFETY: as in `binary`.
    unsafe { launch.value(value as f32).run(Grid::strided(gpu, count)) }?;
    Ok(out)
}

/// `to = op(to, from)` in place, of a view of the dimensions of `to`, with a number if the operation takes one.
pub(crate) fn update(
    gpu: Cuda,
    op: &'static str,
    to: &mut Tensor,
    from: &Tensor,
    value: Option<f64>,
) -> Result<()> {
    let count = to.numel();
    let views = walk::two(op, to.layout(), from.layout())?;
    let address = to.device_address_mut(gpu, op)?;
    let mut launch = gpu.operation("elementwise", op, to.dtype())?.strided(from)?;
    launch = launch.value(address).value(views).value(count as u64);
    if let Some(value) = value {
        launch = launch.value(value as f32);
    }
    // SAFETY: as in `binary`; nobody else sees what is written.
    unsafe { launch.run(Grid::strided(gpu, count)) }
}

/// `to = to·factor` in place.
pub(crate) fn scale_assign(gpu: Cuda, to: &mut Tensor, factor: f64) -> Result<()> {
    const OP: &str = "scale_assign";
    let (count, view) = (to.numel(), walk::one(OP, to.layout())?);
    let address = to.device_address_mut(gpu, OP)?;
    let launch = gpu.operation("elementwise", OP, to.dtype())?.value(address).value(view);
    // SAFETY: the kernel reads and writes `count` elements of `to`.
    unsafe { launch.value(count as u64).value(factor as f32).run(Grid::strided(gpu, count)) }
}

/// Every element of `to` set to `value`, rounded to its type.
pub(crate) fn fill(gpu: Cuda, to: &mut Tensor, value: f64) -> Result<()> {
    let (count, size) = (to.numel(), to.dtype().size());
    let mut bits = [0; 8];
    with_element!(to.dtype(), T => {
        let value = T::from_f64(value);
        bits.chunks_exact_mut(size).for_each(|part| part.copy_from_slice(bytemuck::bytes_of(&value)));
    });
    let address = to.device_address_mut(gpu, "fill")?;
    let launch = gpu.entry("elementwise", format!("elementwise_fill_{size}")).value(address);
    // SAFETY: the kernel writes `count` elements of `size` bytes.
    unsafe { launch.value(count as u64).value(u64::from_ne_bytes(bits)).run(Grid::strided(gpu, count)) }
}
