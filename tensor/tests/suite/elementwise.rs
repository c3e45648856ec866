use crate::support::*;
use proptest::prelude::*;
use tensor::{DType, Result, Tensor};

type Unary = (fn(&Tensor) -> Result<Tensor>, fn(f64) -> f64, f64);
type Binary = (fn(&Tensor, &Tensor) -> Result<Tensor>, fn(f64, f64) -> f64);

/// Drops leading axes and sets others to 1, as broadcasting would undo.
fn shrink(dims: &[usize], seed: u64) -> Vec<usize> {
    let stream = tensor::Stream::new(seed);
    let lead = stream.below(0, dims.len() as u64 + 1) as usize;
    let keep = |(i, &d): (usize, &usize)| if stream.below(i as u64 + 1, 3) == 0 { 1 } else { d };
    dims.iter().enumerate().skip(if stream.below(9, 2) == 0 { lead } else { 0 }).map(keep).collect()
}

/// The values of `dims` broadcast to `to`.
fn stretch(values: &[f64], dims: &[usize], to: &[usize]) -> Vec<f64> {
    let lead = to.len() - dims.len();
    let at = |index: &Vec<usize>| {
        let own: Vec<usize> =
            index[lead..].iter().zip(dims).map(|(&i, &d)| if d == 1 { 0 } else { i }).collect();
        values[position(&own, dims)]
    };
    indices(to).iter().map(at).collect()
}

proptest! {
    #[test]
    fn binary_operations_broadcast_and_round_once(d in dims(0..=4), seed: u64) {
        poison();
        let ops: [Binary; 6] = [
            (Tensor::add, |a, b| a + b),
            (Tensor::sub, |a, b| a - b),
            (Tensor::mul, |a, b| a * b),
            (Tensor::div, |a, b| a / b),
            (Tensor::maximum, f64::max),
            (Tensor::minimum, f64::min),
        ];
        let (mut da, mut db) = (d.clone(), shrink(&d, seed));
        if seed % 2 == 0 {
            std::mem::swap(&mut da, &mut db);
        }
        for (device, dtype) in places() {
            let (a, b) = (draw(&da, dtype, &device, seed), draw(&db, dtype, &device, seed ^ 1));
            let (av, bv) = (stretch(&a.values, &da, &d), stretch(&b.values, &db, &d));
            for (op, oracle) in ops {
                let expected: Vec<f64> = av.iter().zip(&bv).map(|(&a, &b)| oracle(a, b)).collect();
                check(&op(&a.tensor, &b.tensor).unwrap(), &d, dtype, &expected, 0.0);
            }
        }
    }

    #[test]
    fn unary_operations(d in dims(0..=4), seed: u64) {
        poison();
        let ops: [Unary; 9] = [
            (Tensor::neg, |x| -x, 0.0),
            (Tensor::exp, f64::exp, 2.0),
            (Tensor::ln, f64::ln, 2.0),
            (Tensor::sqrt, f64::sqrt, 0.0),
            (Tensor::square, |x| x * x, 0.0),
            (Tensor::abs, f64::abs, 0.0),
            (Tensor::tanh, f64::tanh, 3.0),
            (|x| x.add_scalar(0.75), |x| x + 0.75, 0.0),
            (|x| x.mul_scalar(-1.5), |x| x * -1.5, 0.0),
        ];
        for (device, dtype) in places() {
            let x = draw(&d, dtype, &device, seed);
            let ulp = match dtype {
                DType::F32 => f64::from(f32::EPSILON),
                DType::BF16 => tensor::half::bf16::EPSILON.to_f64(),
                _ => f64::EPSILON,
            };
            for (op, oracle, ulps) in ops {
                let expected: Vec<f64> = x.values.iter().map(|&x| oracle(x)).collect();
                check(&op(&x.tensor).unwrap(), &d, dtype, &expected, ulps * ulp);
            }
        }
    }

    #[test]
    fn in_place_operations(d in dims(0..=4), seed: u64) {
        poison();
        let db = shrink(&d, seed);
        for (device, dtype) in places() {
            let (a, b) = (draw(&d, dtype, &device, seed), draw(&db, dtype, &device, seed ^ 1));
            let bv = stretch(&b.values, &db, &d);
            // Products are rounded to the type that is computed in.
            let product = |x: f64| if dtype == DType::F64 { x } else { f64::from(x as f32) };
            let sum: Vec<f64> = a.values.iter().zip(&bv).map(|(a, b)| a + b).collect();
            let scaled: Vec<f64> = a.values.iter().zip(&bv).map(|(a, b)| a + product(0.3f32 as f64 * b)).collect();
            let mut x = a.tensor.copy().unwrap();
            x.add_assign(&b.tensor).unwrap();
            check(&x, &d, dtype, &sum, 0.0);
            let mut x = a.tensor.copy().unwrap();
            x.add_scaled(f64::from(0.3f32), &b.tensor).unwrap();
            check(&x, &d, dtype, &scaled, 0.0);
            x.scale_assign(-0.5).unwrap();
            check(&x, &d, dtype, &scaled.iter().map(|&x| rounded(x, dtype) * -0.5).collect::<Vec<_>>(), 0.0);
            x.fill(2.5).unwrap();
            check(&x, &d, dtype, &vec![2.5; sum.len()], 0.0);
        }
    }

    #[test]
    fn masked_fill_takes_any_mask_that_broadcasts(d in dims(0..=4), seed: u64) {
        poison();
        let dm = shrink(&d, seed);
        for (device, dtype) in places() {
            let x = draw(&d, dtype, &device, seed);
            let m = draw(&dm, DType::F32, &device, seed ^ 1);
            let mask = m.tensor.maximum(&m.tensor.neg().unwrap()).unwrap().to_dtype(DType::U8).unwrap();
            let mv = stretch(&m.values, &dm, &d);
            let expected: Vec<f64> =
                x.values.iter().zip(&mv).map(|(&x, m)| if m.abs() < 1.0 { x } else { f64::NEG_INFINITY }).collect();
            let filled = x.tensor.masked_fill(&mask, f64::NEG_INFINITY).unwrap();
            check(&filled, &d, dtype, &expected, 0.0);
        }
    }
}

#[test]
fn extremes_keep_nan_and_infinity() {
    for device in devices() {
        let x = Tensor::from_slice(&[f32::NAN, 1.0, f32::NEG_INFINITY], &[3], &device).unwrap();
        let y = Tensor::from_slice(&[1.0, f32::NAN, 2.0f32], &[3], &device).unwrap();
        for out in [x.maximum(&y).unwrap(), x.minimum(&y).unwrap()] {
            let out = out.to_vec::<f32>().unwrap();
            assert!(out[0].is_nan() && out[1].is_nan() && !out[2].is_nan());
        }
        assert_eq!(x.minimum(&y).unwrap().to_vec::<f32>().unwrap()[2], f32::NEG_INFINITY);
    }
}

#[test]
fn writing_leaves_what_shares_the_memory_alone() {
    for device in devices() {
        let mut x = Tensor::zeros(&[4], DType::F32, &device).unwrap();
        let reader = x.clone();
        assert!(matches!(x.add_scaled(1.0, &reader), Err(tensor::Error::Shared { op: "add_scaled" })));
        assert!(matches!(x.fill(1.0), Err(tensor::Error::Shared { op: "fill" })));
        drop(reader);
        x.fill(1.0).unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [1.0; 4]);
    }
}
