use crate::support::*;
use proptest::prelude::*;
use tensor::{DType, Stream, Tensor};

/// The elements of each line along `axis`, in the order of the reduced result.
fn lines(values: &[f64], dims: &[usize], axis: usize) -> Vec<Vec<f64>> {
    let mut rest = dims.to_vec();
    rest.remove(axis);
    let line = |index: &Vec<usize>| {
        let mut index = index.clone();
        index.insert(axis, 0);
        let mut at = |i| {
            index[axis] = i;
            values[position(&index, dims)]
        };
        (0..dims[axis]).map(&mut at).collect()
    };
    indices(&rest).iter().map(line).collect()
}

fn first_max(line: &[f64]) -> f64 {
    let mut best = 0;
    for i in 0..line.len() {
        if line[i] > line[best] {
            best = i;
        }
    }
    best as f64
}

proptest! {
    #[test]
    fn reductions_along_an_axis(d in dims(1..=4), axis in 0usize..4, keepdim: bool, seed: u64) {
        poison();
        let axis = axis % d.len();
        let mut to = d.clone();
        if keepdim { to[axis] = 1 } else { to.remove(axis); }
        for (device, dtype) in places() {
            let x = draw(&d, dtype, &device, seed);
            let lines = lines(&x.values, &d, axis);
            let over = |f: &dyn Fn(&[f64]) -> f64| lines.iter().map(|l| f(l)).collect::<Vec<_>>();
            let close = tolerance(dtype);
            check(&x.tensor.sum(axis, keepdim).unwrap(), &to, dtype, &over(&|l| l.iter().sum()), close);
            let mean = over(&|l| l.iter().sum::<f64>() / l.len() as f64);
            check(&x.tensor.mean(axis, keepdim).unwrap(), &to, dtype, &mean, close);
            if d[axis] > 0 {
                let max = over(&|l| l.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                check(&x.tensor.max(axis, keepdim).unwrap(), &to, dtype, &max, 0.0);
                let min = over(&|l| l.iter().copied().fold(f64::INFINITY, f64::min));
                check(&x.tensor.min(axis, keepdim).unwrap(), &to, dtype, &min, 0.0);
                let argmax = over(&|l| first_max(l));
                check(&x.tensor.argmax(axis, keepdim).unwrap(), &to, DType::U32, &argmax, 0.0);
            }
        }
    }

    #[test]
    fn reductions_of_everything(d in dims(0..=4), seed: u64) {
        poison();
        for (device, dtype) in places() {
            let x = draw(&d, dtype, &device, seed);
            let v = &x.values;
            let sum: f64 = v.iter().sum();
            // In f32 only the result is rounded; in f64 the oracle's own error grows with the size of the terms.
            let size = v.iter().map(|x| x.abs()).sum::<f64>().max(1.0);
            let close = match dtype {
                DType::F64 => 1e-15 * size,
                DType::F32 => 1e-7,
                _ => tolerance(dtype),
            };
            check(&x.tensor.sum_all().unwrap(), &[], dtype, &[sum], close);
            check(&x.tensor.mean_all().unwrap(), &[], dtype, &[sum / v.len() as f64], close);
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            check(&x.tensor.norm().unwrap(), &[], dtype, &[norm], close);
            if !v.is_empty() {
                let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                check(&x.tensor.max_all().unwrap(), &[], dtype, &[max], 0.0);
                let min = v.iter().copied().fold(f64::INFINITY, f64::min);
                check(&x.tensor.min_all().unwrap(), &[], dtype, &[min], 0.0);
            }
        }
    }

    #[test]
    fn softmax_and_its_logarithm(d in dims(1..=3), seed: u64, scale in 0.1f64..60.0) {
        poison();
        for (device, dtype) in places() {
            let x = draw(&d, dtype, &device, seed);
            let x = Drawn { tensor: x.tensor.mul_scalar(f64::from(scale as f32)).unwrap(), ..x };
            let v = values(&x.tensor);
            let lines = lines(&v, &d, d.len() - 1);
            let (mut soft, mut log) = (Vec::new(), Vec::new());
            for line in lines {
                let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = line.iter().map(|x| (x - max).exp()).sum();
                soft.extend(line.iter().map(|x| (x - max).exp() / sum));
                log.extend(line.iter().map(|x| x - max - sum.ln()));
            }
            check(&x.tensor.softmax().unwrap(), &d, dtype, &soft, tolerance(dtype));
            check(&x.tensor.log_softmax().unwrap(), &d, dtype, &log, tolerance(dtype));
        }
    }
}

/// Sizes past the blocks, tiles and tasks that work is cut into.
#[test]
fn long_and_wide_reductions() {
    poison();
    let sizes = [[1, 150_001], [3, 70_000], [150_001, 1], [70_000, 3], [300, 1027], [2000, 65]];
    for (device, d) in devices().flat_map(|device| sizes.map(|d| (device.clone(), d))) {
        let x = Tensor::normal(0.5, 1.0, &d, DType::F32, &device, Stream::new(d[0] as u64)).unwrap();
        let v = values(&x);
        for axis in 0..2 {
            let lines = lines(&v, &d, axis);
            let rest = [d[1 - axis]];
            let sums: Vec<f64> = lines.iter().map(|l| l.iter().sum()).collect();
            check(&x.sum(axis, false).unwrap(), &rest, DType::F32, &sums, 1e-7);
            let max: Vec<f64> =
                lines.iter().map(|l| l.iter().copied().fold(f64::NEG_INFINITY, f64::max)).collect();
            check(&x.max(axis, false).unwrap(), &rest, DType::F32, &max, 0.0);
            let argmax: Vec<f64> = lines.iter().map(|l| first_max(l)).collect();
            check(&x.argmax(axis, false).unwrap(), &rest, DType::U32, &argmax, 0.0);
        }
        check(&x.sum_all().unwrap(), &[], DType::F32, &[v.iter().sum()], 1e-7);
    }
}

#[test]
fn nan_is_never_lost() {
    for (device, at) in devices().flat_map(|device| [0, 5, 40].map(|at| (device.clone(), at))) {
        let mut x = vec![1f32; 50];
        x[at] = f32::NAN;
        x[45] = f32::NAN;
        let x = Tensor::from_slice(&x, &[50], &device).unwrap();
        assert!(x.max_all().unwrap().item::<f32>().unwrap().is_nan());
        assert!(x.min_all().unwrap().item::<f32>().unwrap().is_nan());
        assert!(x.sum_all().unwrap().item::<f32>().unwrap().is_nan());
        assert_eq!(x.argmax(0, false).unwrap().item::<u32>().unwrap(), at as u32);
        let columns = x.unsqueeze(1).unwrap().broadcast_to(&[50, 3]).unwrap().contiguous().unwrap();
        assert!(columns.max(0, false).unwrap().to_vec::<f32>().unwrap().iter().all(|x| x.is_nan()));
    }
}

#[test]
fn sums_of_f32_do_not_lose_small_terms() {
    // 1e8 and a hundred thousand ones: f32 alone could not count them.
    let mut x = vec![1f32; 100_001];
    x[0] = 1e8;
    for device in devices() {
        let x = Tensor::from_slice(&x, &[100_001], &device).unwrap();
        assert_eq!(x.sum_all().unwrap().item::<f32>().unwrap(), 100_100_000.0);
        let column = x.reshape(&[100_001, 1]).unwrap();
        assert_eq!(column.sum(0, false).unwrap().to_vec::<f32>().unwrap(), [100_100_000.0]);
    }
}

#[test]
fn softmax_of_extreme_rows() {
    let inf = f32::INFINITY;
    for device in devices() {
        let x = Tensor::from_slice(&[1e30, -1e30, -inf, 0.0, -inf, 0.0], &[2, 3], &device).unwrap();
        assert_eq!(x.softmax().unwrap().to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.5, 0.0, 0.5]);
        let log = x.log_softmax().unwrap().to_vec::<f32>().unwrap();
        assert_eq!((log[0], log[2]), (0.0, -inf));
        let none = Tensor::full(f64::NEG_INFINITY, &[1, 4], DType::F32, &device).unwrap();
        assert!(none.softmax().unwrap().to_vec::<f32>().unwrap().iter().all(|x| x.is_nan()));
    }
}

#[test]
fn softmax_of_rows_longer_than_a_block() {
    poison();
    for (device, n) in devices().flat_map(|device| [1024, 1025, 32_064].map(|n| (device.clone(), n))) {
        let x = Tensor::normal(0.0, 3.0, &[3, n], DType::F32, &device, Stream::new(n as u64)).unwrap();
        let (soft, log) = (values(&x.softmax().unwrap()), values(&x.log_softmax().unwrap()));
        for (row, x) in values(&x).chunks_exact(n).enumerate() {
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            for (i, x) in x.iter().enumerate() {
                let (soft, log) = (soft[row * n + i], log[row * n + i]);
                // The difference to the maximum, up to 30, is rounded before the exponential.
                assert!((soft - x.exp() / sum).abs() < 3e-6 * x.exp() / sum, "{device} {n} {i}: {soft}");
                assert!((log - (x - sum.ln())).abs() < 1e-6 * log.abs(), "{device} {n} {i}: {log}");
            }
        }
    }
}
