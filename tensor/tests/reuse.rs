//! A loop takes no new memory from the system after its first rounds. Alone in its process: the pool is global.

use tensor::storage::pool_stats;
use tensor::{DType, Device, Result, Stream, Tensor};

fn step(weights: &mut Tensor, x: &Tensor, ids: &Tensor) -> Result<()> {
    let h = x.matmul(weights)?.tanh()?;
    let p = h.softmax()?.mul(&h)?;
    let (top, _) = p.topk(3)?;
    let mut gradient = Tensor::zeros(weights.dims(), DType::F32, &Device::Cpu)?;
    gradient.scatter_add(ids, &p.narrow(0, 0, ids.numel())?)?;
    gradient.add_assign(&Tensor::cat(&[&p, &p], 1)?.sum(0, true)?.narrow(1, 0, weights.dims()[1])?)?;
    weights.add_scaled(-1e-3 * f64::from(top.norm()?.item::<f32>()?), &gradient)
}

#[test]
fn a_loop_allocates_nothing_after_its_second_round() -> Result<()> {
    let normal = |dims: &[usize]| Tensor::normal(0.0, 1.0, dims, DType::F32, &Device::Cpu, Stream::new(1));
    let (mut weights, x) = (normal(&[96, 64])?, normal(&[200, 96])?);
    let ids = Tensor::from_slice(&[0u32, 5, 5, 95], &[4], &Device::Cpu)?;
    step(&mut weights, &x, &ids)?;
    step(&mut weights, &x, &ids)?;
    let before = pool_stats();
    for _ in 0..5 {
        step(&mut weights, &x, &ids)?;
    }
    assert_eq!(pool_stats(), before);
    Ok(())
}
