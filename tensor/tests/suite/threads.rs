use crate::support::*;
use tensor::{DType, Result, Stream, Tensor};

/// One result of every operation, on sizes that are cut into many tasks.
fn everything() -> Result<Vec<Tensor>> {
    let normal = |dims: &[usize], site| {
        Tensor::normal(0.1, 1.0, dims, DType::F32, &CPU, Stream { site, ..Stream::new(8) })
    };
    let x = normal(&[301, 517], 1)?;
    let y = normal(&[301, 517], 2)?;
    let row = normal(&[517], 3)?;
    let long = normal(&[3, 200_003], 4)?;
    let ids = Tensor::uniform(0.0, 300.9, &[4000], DType::F32, &CPU, Stream::new(5))?.to_dtype(DType::I32)?;
    let mut sum = x.copy()?;
    sum.add_scaled(0.3, &y.transpose(0, 1)?.contiguous()?.transpose(0, 1)?)?;
    let mut table = x.copy()?;
    table.scatter_add(&ids, &y.index_select(0, &ids)?)?;
    let (values, places) = x.sort(false)?;
    let mut out = vec![
        x.mul(&row)?,
        x.transpose(0, 1)?.add(&y.transpose(0, 1)?)?,
        x.tanh()?,
        x.to_dtype(DType::BF16)?,
        x.sum(0, false)?,
        x.sum(1, false)?,
        long.mean(1, false)?,
        long.sum_all()?,
        long.norm()?,
        x.max(0, true)?,
        x.argmax(0, false)?,
        x.softmax()?,
        x.log_softmax()?,
        x.matmul(&y.transpose(0, 1)?)?,
        x.to_dtype(DType::F64)?.matmul(&y.transpose(0, 1)?.to_dtype(DType::F64)?)?,
        Tensor::stack(&[&x, &y, &x], 1)?,
        Tensor::uniform(-1.0, 1.0, &[70_001], DType::F64, &CPU, Stream::new(6))?,
    ];
    out.extend([sum, table, values, places, x]);
    Ok(out)
}

#[test]
fn one_two_and_four_threads_give_the_same_bits() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| everything().unwrap().iter().map(bits).collect::<Vec<_>>())
    };
    let one = on(1);
    for threads in [2, 4] {
        for (i, (a, b)) in one.iter().zip(on(threads)).enumerate() {
            assert!(*a == b, "result {i} differs on {threads} threads");
        }
    }
}
