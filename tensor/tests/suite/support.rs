//! Drawn tensors and comparisons.

use proptest::collection::vec;
use proptest::prelude::*;
use std::io::Write;
use std::sync::LazyLock;
use tensor::half::bf16;
use tensor::{DType, Device, Stream, Tensor};

pub const CPU: Device = Device::Cpu;

/// The first GPU. Without one the tests are said to be skipped there, unless `DISTILLIX_REQUIRE_CUDA=1`.
pub fn cuda() -> Option<Device> {
    static CUDA: LazyLock<Option<Device>> = LazyLock::new(|| match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("DISTILLIX_REQUIRE_CUDA").as_deref() == Ok("1");
            assert!(!required, "DISTILLIX_REQUIRE_CUDA=1, but {error}");
            let _ = writeln!(std::io::stderr(), "skipped: no CUDA device ({error})");
            None
        }
    });
    CUDA.clone()
}

/// Every device that tests run on.
pub fn devices() -> impl Iterator<Item = Device> {
    [CPU].into_iter().chain(cuda())
}

/// Every device with the types that it computes in.
pub fn places() -> impl Iterator<Item = (Device, DType)> {
    devices().flat_map(|device| {
        let other = if device == CPU { DType::F64 } else { DType::BF16 };
        [DType::F32, other].map(|dtype| (device.clone(), dtype))
    })
}

/// The nearest number of a type, by way of f32 where the type is narrower.
pub fn rounded(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::BF16 => bf16::from_f32(x as f32).to_f64(),
        _ => x,
    }
}

/// A tensor and what its elements are, row-major.
#[derive(Debug)]
pub struct Drawn {
    pub tensor: Tensor,
    pub values: Vec<f64>,
}

/// Dimensions of rank `ranks`, small, odd, and sometimes empty.
pub fn dims(ranks: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1 => Just(0usize), 4 => Just(1), 20 => 2usize..8, 3 => 8usize..40], ranks)
}

/// Row-major steps through `dims`, without the crate's help.
pub fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    let n: usize = dims.iter().product();
    let index = |mut i: usize| {
        let mut at = vec![0; dims.len()];
        for axis in (0..dims.len()).rev() {
            at[axis] = i % dims[axis];
            i /= dims[axis];
        }
        at
    };
    (0..n).map(index).collect()
}

/// Row-major position of `index` in `dims`.
pub fn position(index: &[usize], dims: &[usize]) -> usize {
    index.iter().zip(dims).fold(0, |p, (i, d)| p * d + i)
}

/// A tensor of the given dimensions whose memory order, gaps and repeated axes `seed` decides; normal values rounded
/// to f32, or to bf16. Every third one is contiguous.
pub fn draw(dims: &[usize], dtype: DType, device: &Device, seed: u64) -> Drawn {
    let stream = Stream::new(seed);
    let plain = stream.below(0, 3) == 0;
    let rank = dims.len() as u64;
    let choice = |i: u64, n: u64| if plain { 0 } else { stream.below(i, n) as usize };
    let order = if plain { (0..dims.len()).collect() } else { stream.permutation(dims.len()) };
    let repeat: Vec<bool> = (0..rank).map(|a| choice(100 + a, 6) == 1).collect();
    let before: Vec<usize> = (0..rank).map(|a| choice(200 + a, 3)).collect();
    let after: Vec<usize> = (0..rank).map(|a| choice(300 + a, 3)).collect();
    let own = |a: usize| if repeat[a] { 1 } else { dims[a] };
    let base_dims: Vec<usize> = order.iter().map(|&a| before[a] + own(a) + after[a]).collect();
    let base = Tensor::normal(0.0, 1.0, &base_dims, DType::F32, &CPU, Stream::new(seed ^ 99)).unwrap();
    let numbers = base.to_vec::<f32>().unwrap();
    let values = indices(dims)
        .iter()
        .map(|index| {
            let at: Vec<usize> =
                order.iter().map(|&a| before[a] + if repeat[a] { 0 } else { index[a] }).collect();
            let x = f64::from(numbers[position(&at, &base_dims)]);
            if dtype == DType::BF16 { rounded(x, dtype) } else { x }
        })
        .collect();
    let mut view = base.to_dtype(dtype).unwrap().to_device(device).unwrap();
    for (axis, &a) in order.iter().enumerate() {
        view = view.narrow(axis, before[a], own(a)).unwrap();
    }
    let mut back = vec![0; dims.len()];
    order.iter().enumerate().for_each(|(axis, &a)| back[a] = axis);
    let tensor = view.permute(&back).unwrap().broadcast_to(dims).unwrap();
    Drawn { tensor, values }
}

/// The elements as f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_device(&CPU).unwrap().to_dtype(DType::F64).unwrap().to_vec().unwrap()
}

/// Asserts dimensions, type and elements, within `tolerance` of each expected value or of 1, whichever is larger;
/// NaN equals NaN. Tolerance 0 is exact after rounding to the tensor's type.
pub fn check(got: &Tensor, dims: &[usize], dtype: DType, expected: &[f64], tolerance: f64) {
    assert_eq!((got.dims(), got.dtype()), (dims, dtype));
    let device = got.device();
    let got = values(got);
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let same = got == rounded(expected, dtype) || got.is_nan() && expected.is_nan();
        let error = (got - expected).abs();
        assert!(
            same || error <= tolerance * expected.abs().max(1.0),
            "[{i}] of {dtype} {dims:?} on {device}: {got} for {expected}"
        );
    }
}

/// Tolerance of a type for operations with a few roundings.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-6,
        DType::BF16 => 4e-3,
        _ => 1e-14,
    }
}

/// The bits of the elements.
pub fn bits(tensor: &Tensor) -> Vec<u64> {
    match tensor.dtype() {
        DType::F32 => tensor.to_vec::<f32>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::F64 => tensor.to_vec::<f64>().unwrap().iter().map(|x| x.to_bits()).collect(),
        DType::U32 => tensor.to_vec::<u32>().unwrap().iter().map(|&x| u64::from(x)).collect(),
        DType::BF16 => {
            tensor.to_vec::<tensor::half::bf16>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect()
        }
        other => panic!("bits of {other}"),
    }
}

/// Makes what an operation forgets to write show up as NaN.
pub fn poison() {
    tensor::storage::set_poison(true);
}
