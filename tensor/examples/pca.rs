//! The leading principal axes of data by power iteration: `cargo run -p tensor --example pca`.

use tensor::{DType, Device, Result, Stream, Tensor};

fn main() -> Result<()> {
    let (n, d, k) = (2000, 16, 3);
    let normal = |dims: &[usize], site| {
        Tensor::normal(0.0, 1.0, dims, DType::F64, &Device::Cpu, Stream { site, ..Stream::new(7) })
    };
    // Noise of variance 0.01 around three hidden directions of variance 25, 9 and 1 times their squared lengths.
    let scale = Tensor::from_slice(&[5.0f64, 3.0, 1.0], &[3], &Device::Cpu)?;
    let hidden = normal(&[n, k], 0)?.mul(&scale)?.matmul(&normal(&[k, d], 1)?)?;
    let data = hidden.add(&normal(&[n, d], 2)?.mul_scalar(0.1)?)?;

    let centred = data.sub(&data.mean(0, true)?)?;
    let mut covariance = centred.transpose(0, 1)?.matmul(&centred)?.mul_scalar(1.0 / (n - 1) as f64)?;
    let total: f64 =
        (0..d).map(|i| covariance.select(0, i)?.select(0, i)?.item::<f64>()).sum::<Result<_>>()?;
    for axis in 1..=k {
        let mut v = normal(&[d, 1], 3)?;
        for _ in 0..200 {
            let next = covariance.matmul(&v)?;
            v = next.div(&next.norm()?)?;
        }
        let vt = v.transpose(0, 1)?;
        let variance = vt.matmul(&covariance)?.matmul(&v)?.item::<f64>()?;
        println!("axis {axis}: variance {variance:8.3}, {:5.1}% of the total", 100.0 * variance / total);
        // What is left after this axis.
        covariance.add_scaled(-variance, &v.matmul(&vt)?)?;
    }
    Ok(())
}
