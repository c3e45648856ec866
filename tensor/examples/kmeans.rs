//! k-means on three clouds of points: `cargo run -p tensor --example kmeans`.

use tensor::{DType, Device, Result, Stream, Tensor};

fn main() -> Result<()> {
    let cpu = Device::Cpu;
    let truth = Tensor::from_slice(&[-4.0f32, 0.0, 3.0, 3.0, 2.0, -4.0], &[3, 2], &cpu)?;
    // Each point is a cloud's centre, drawn by lot, plus noise.
    let lot = Tensor::uniform(0.0, 3.0, &[3000], DType::F32, &cpu, Stream::new(1))?.to_dtype(DType::U32)?;
    let noise = Tensor::normal(0.0, 0.7, &[3000, 2], DType::F32, &cpu, Stream::new(2))?;
    let points = truth.index_select(0, &lot)?.add(&noise)?;

    // Start from the first point, then twice the point farthest from all centres so far.
    let mut centres = points.narrow(0, 0, 1)?;
    while centres.dims()[0] < 3 {
        let farthest = distances(&points, &centres)?.min(1, false)?.argmax(0, true)?;
        centres = Tensor::cat(&[&centres, &points.index_select(0, &farthest)?], 0)?;
    }
    let ones = Tensor::full(1.0, &[3000, 1], DType::F32, &cpu)?;
    for round in 1.. {
        let nearest = distances(&points, &centres)?.neg()?.argmax(1, false)?;
        let mut sums = Tensor::zeros(&[3, 2], DType::F32, &cpu)?;
        let mut counts = Tensor::zeros(&[3, 1], DType::F32, &cpu)?;
        sums.scatter_add(&nearest, &points)?;
        counts.scatter_add(&nearest, &ones)?;
        let moved = sums.div(&counts)?;
        let shift = moved.sub(&centres)?.norm()?.item::<f32>()?;
        centres = moved;
        println!("round {round}: centres moved by {shift:.4}");
        if shift < 1e-4 {
            break;
        }
    }
    println!("centres {:.2?}", centres.to_vec::<f32>()?);
    println!("truth   {:.2?} (in some order)", truth.to_vec::<f32>()?);
    Ok(())
}

/// Squared distances [n, k] of points [n, d] to centres [k, d], as |x|² - 2x·c + |c|².
fn distances(points: &Tensor, centres: &Tensor) -> Result<Tensor> {
    let x2 = points.square()?.sum(1, true)?;
    let c2 = centres.square()?.sum(1, false)?;
    points.matmul(&centres.transpose(0, 1)?)?.mul_scalar(-2.0)?.add(&x2)?.add(&c2)
}
