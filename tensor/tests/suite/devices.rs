//! What has the same bits on every device.

use crate::support::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tensor::io::{SafeTensors, save};
use tensor::{DType, Stream, Tensor};

const TYPES: [DType; 8] =
    [DType::F32, DType::BF16, DType::F16, DType::I8, DType::U8, DType::U32, DType::I32, DType::I64];

proptest! {
    #[test]
    fn random_numbers(n in 0usize..5000, seed: u64, step: u64, micro_batch: u32, site: u32, std in 0.0f64..3.0) {
        poison();
        let stream = Stream { seed, step, micro_batch, site };
        for device in devices().skip(1) {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let both = [&CPU, &device].map(|device| {
                    let normal = Tensor::normal(0.5, std, &[n], dtype, device, stream).unwrap();
                    let uniform = Tensor::uniform(-1.0, std, &[n], dtype, device, stream).unwrap();
                    [values(&normal), values(&uniform)]
                });
                prop_assert_eq!(&both[0], &both[1]);
            }
        }
    }

    #[test]
    fn elementary_functions(seed: u64, exponent in -20i32..8) {
        poison();
        let scale = 2f64.powi(exponent);
        let x = Tensor::normal(0.0, scale, &[4099], DType::F32, &CPU, Stream::new(seed)).unwrap();
        for device in devices().skip(1) {
            let y = x.to_device(&device).unwrap();
            let ops = [Tensor::exp, Tensor::ln, Tensor::tanh, Tensor::sqrt, Tensor::square];
            for (i, op) in ops.into_iter().enumerate() {
                // Of NaN the sign may differ.
                let of = |x: &Tensor| values(&op(x).unwrap()).into_iter().map(|x| if x.is_nan() { 0.5 } else { x });
                prop_assert!(of(&x).eq(of(&y)), "function {} at {}", i, scale);
            }
        }
    }
}

/// Numbers at the ends of the types, halfway between neighbours, and not numbers.
#[test]
fn conversions() {
    poison();
    let numbers = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        127.9,
        128.0,
        -128.9,
        -129.0,
        255.5,
        256.0,
        257.0,
        258.5,
        300.7,
        2049.0,
        2051.0,
        65504.0,
        65519.9,
        65520.0,
        6e-8,
        1e-8,
        3e-40,
        1e9,
        -1e9,
        3e9,
        5e9,
        -5e9,
        1e19,
        -1e19,
        16_777_217.0,
        1e38,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let x = Tensor::from_slice(&numbers.repeat(9), &[9 * numbers.len()], &CPU).unwrap();
    for device in devices().skip(1) {
        for from in TYPES {
            let x = x.to_dtype(from).unwrap();
            let y = x.to_device(&device).unwrap();
            for to in TYPES {
                let expected = values(&x.to_dtype(to).unwrap());
                // The odd length leaves the vectors, the first element their alignment.
                check(&y.to_dtype(to).unwrap(), x.dims(), to, &expected, 0.0);
                let (cut, expected) = (y.narrow(0, 1, x.numel() - 1).unwrap(), &expected[1..]);
                check(&cut.to_dtype(to).unwrap(), &[expected.len()], to, expected, 0.0);
            }
        }
    }
}

#[test]
fn files_of_tensors_from_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<Vec<u8>> = devices()
        .map(|device| {
            let x = draw(&[5, 7], DType::F32, &device, 3).tensor;
            let path = folder.path().join("x.safetensors");
            save(&path, [("x", &x)], &BTreeMap::new()).unwrap();
            let back = SafeTensors::open(&path).unwrap().tensor("x").unwrap().to_device(&device).unwrap();
            assert_eq!(bits(&back), bits(&x));
            std::fs::read(&path).unwrap()
        })
        .collect();
    assert!(files.iter().all(|file| *file == files[0]));
}

/// A tensor is never copied between devices unasked.
#[test]
fn devices_do_not_mix() {
    for device in devices().skip(1) {
        let here = Tensor::zeros(&[3], DType::F32, &CPU).unwrap();
        let there = here.to_device(&device).unwrap();
        assert!(there.as_slice::<f32>().is_err());
        for error in [here.add(&there).unwrap_err(), there.add(&here).unwrap_err()] {
            assert!(error.to_string().contains("to_device"), "{error}");
        }
        assert!(there.copy().unwrap().copy_from(&here).is_err());
        assert!(there.to_dtype(DType::F64).unwrap_err().to_string().contains("f64"));
    }
}
