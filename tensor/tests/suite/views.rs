use crate::support::*;
use proptest::prelude::*;
use tensor::{DType, Tensor};

/// The dimensions in another factorisation: prime factors dealt anew, with some ones in between.
fn refactor(dims: &[usize], seed: u64) -> Vec<usize> {
    let stream = tensor::Stream::new(seed);
    let mut n: usize = dims.iter().product();
    if n == 0 {
        return vec![3, 0, 2];
    }
    let mut out = vec![1; 1 + stream.below(0, 5) as usize];
    let mut axis = 0;
    for p in [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37] {
        while n.is_multiple_of(p) {
            n /= p;
            // Mostly in order, so that many results can be views.
            axis = (axis + stream.below((n + p) as u64, 2) as usize).min(out.len() - 1);
            out[axis] *= p;
        }
    }
    out
}

proptest! {
    #[test]
    fn contiguous_and_dtype_copies_hold_the_views_values(d in dims(0..=5), seed: u64) {
        poison();
        for (device, dtype) in places() {
            let x = draw(&d, dtype, &device, seed);
            check(&x.tensor.contiguous().unwrap(), &d, dtype, &x.values, 0.0);
            check(&x.tensor.copy().unwrap(), &d, dtype, &x.values, 0.0);
            let other = if device == CPU { DType::F64 } else { DType::F32 };
            check(&x.tensor.to_dtype(other).unwrap(), &d, other, &x.values, 0.0);
        }
    }

    #[test]
    fn reshape_keeps_the_order_of_elements(d in dims(0..=4), seed: u64) {
        poison();
        for device in devices() {
            let x = draw(&d, DType::F32, &device, seed);
            let to = refactor(&d, seed ^ 5);
            let y = x.tensor.reshape(&to).unwrap();
            check(&y, &to, DType::F32, &x.values, 0.0);
            // Back, and to the dimensions it has already: always a view.
            check(&y.reshape(&d).unwrap(), &d, DType::F32, &x.values, 0.0);
            let same = x.tensor.layout().reshape(&d).unwrap();
            prop_assert_eq!(same.dims(), x.tensor.dims());
            // A view must cover exactly the same positions.
            if let Ok(layout) = x.tensor.layout().reshape(&to) {
                prop_assert_eq!(layout.end(), x.tensor.layout().end());
            }
        }
    }

    #[test]
    fn split_and_cat_are_inverse(d in dims(1..=4), axis in 0usize..4, cuts in 1usize..4, seed: u64) {
        poison();
        let axis = axis % d.len();
        for device in devices() {
            let x = draw(&d, DType::F32, &device, seed);
            let mut lengths = vec![d[axis] / cuts; cuts];
            lengths[cuts - 1] += d[axis] % cuts;
            let parts = x.tensor.split(axis, &lengths).unwrap();
            for (part, &length) in parts.iter().zip(&lengths) {
                prop_assert_eq!(part.dims()[axis], length);
            }
            let joined = Tensor::cat(&parts.iter().collect::<Vec<_>>(), axis).unwrap();
            check(&joined, &d, DType::F32, &x.values, 0.0);
            let (mut written, mut start) = (Tensor::empty(&d, DType::F32, &device).unwrap(), 0);
            for part in &parts {
                written.overwrite(axis, start, part).unwrap();
                start += part.dims()[axis];
            }
            check(&written, &d, DType::F32, &x.values, 0.0);
            prop_assert!(written.overwrite(axis, 1, &x.tensor).is_err());
        }
    }

    #[test]
    fn stack_selects_back(d in dims(0..=3), axis in 0usize..4, seed: u64) {
        poison();
        let axis = axis % (d.len() + 1);
        for device in devices() {
            let parts: Vec<Drawn> = (0..3).map(|i| draw(&d, DType::F32, &device, seed ^ i)).collect();
            let stacked = Tensor::stack(&parts.iter().map(|p| &p.tensor).collect::<Vec<_>>(), axis).unwrap();
            for (i, part) in parts.iter().enumerate() {
                check(&stacked.select(axis, i).unwrap(), &d, DType::F32, &part.values, 0.0);
            }
        }
    }
}

#[test]
fn large_strided_copies_are_cut_right() {
    poison();
    let n = 70_000;
    let x: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
    for device in devices() {
        let x = Tensor::from_slice(&x, &[n, 2], &device).unwrap();
        large_strided_copies(&x);
    }
}

/// Copies of `[n, 2]` elements 0, 1, 2, …
fn large_strided_copies(x: &Tensor) {
    let n = x.dims()[0];
    let y = x.transpose(0, 1).unwrap().to_vec::<f32>().unwrap();
    assert!((0..n).all(|i| y[i] == 2.0 * i as f32 && y[n + i] == 2.0 * i as f32 + 1.0));
    let wide = x.reshape(&[350, 50, 8]).unwrap().permute(&[2, 1, 0]).unwrap().to_vec::<f32>().unwrap();
    assert!(
        wide.iter().enumerate().all(|(i, &x)| x == (i % 350 * 400 + i / 350 % 50 * 8 + i / 17_500) as f32)
    );
    let batch = x.reshape(&[350, 50, 8]).unwrap().transpose(1, 2).unwrap().to_vec::<f32>().unwrap();
    assert!(batch.iter().enumerate().all(|(i, &x)| x == (i / 400 * 400 + i % 50 * 8 + i / 50 % 8) as f32));
    let turned = x.reshape(&[350, 20, 20]).unwrap().transpose(1, 2).unwrap().to_vec::<f32>().unwrap();
    assert!(turned.iter().enumerate().all(|(i, &x)| x == (i / 400 * 400 + i % 20 * 20 + i / 20 % 20) as f32));
    let repeated = x.unsqueeze(1).unwrap().broadcast_to(&[n, 3, 2]).unwrap().to_vec::<f32>().unwrap();
    assert!(repeated.iter().enumerate().all(|(i, &x)| x == (i / 6 * 2 + i % 2) as f32));
}

#[test]
fn empty_views_at_the_end_of_memory_are_readable() {
    for device in devices() {
        let x = Tensor::zeros(&[3, 4], DType::F32, &device).unwrap().transpose(0, 1).unwrap();
        let empty = x.narrow(0, 4, 0).unwrap().narrow(1, 3, 0).unwrap();
        assert_eq!(empty.to_vec::<f32>().unwrap(), [0f32; 0]);
    }
    let x = Tensor::from_slice(&[1f32; 12], &[3, 4], &CPU).unwrap().transpose(0, 1).unwrap();
    let empty = x.narrow(0, 4, 0).unwrap().narrow(1, 3, 0).unwrap();
    assert_eq!(empty.as_slice::<f32>().unwrap(), &[0f32; 0]);
    let hidden = Tensor::zeros(&[0, usize::MAX, 5], DType::F32, &CPU).unwrap();
    assert_eq!((hidden.numel(), hidden.layout().end()), (0, 0));
    assert!(hidden.reshape(&[usize::MAX, 0, usize::MAX]).unwrap().to_vec::<f32>().unwrap().is_empty());
}
