//! The core of the CUDA backend: memory, copies, products, capture. Operations are checked with those of the CPU.

use std::sync::{Mutex, MutexGuard};
use tensor::cuda::{Cuda, Mat};
use tensor::{DType, Device, Error, Stream, Tensor};

/// Tests share one device, and some count or bound what it does.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The first GPU and the right to use it, or `None` where there is none; with `DISTILLIX_REQUIRE_CUDA=1` that is a failure.
fn gpu() -> Option<(Cuda, MutexGuard<'static, ()>)> {
    match Device::cuda(0) {
        Ok(Device::Cuda(gpu)) => Some((gpu, ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner()))),
        Ok(other) => panic!("opened {other}"),
        Err(error) => {
            assert!(std::env::var("DISTILLIX_REQUIRE_CUDA").is_err(), "{error}");
            eprintln!("skipped: no CUDA device ({error})");
            None
        }
    }
}

fn normal(dims: &[usize], seed: u64) -> Tensor {
    Tensor::normal(0.0, 1.0, dims, DType::F32, &Device::Cpu, Stream::new(seed)).expect("it fits")
}

fn error(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_vec::<f32>().expect("f32"), b.to_vec::<f32>().expect("f32"));
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn copies_come_back() {
    let Some((gpu, _turn)) = gpu() else { return };
    let device = Device::Cuda(gpu);
    // More than the ring of pinned buffers holds.
    for n in [1, 1023, 9 << 20] {
        let x = normal(&[n], n as u64);
        let there = x.to_device(&device).expect("it fits");
        assert_eq!(there.device(), device);
        assert!(there.as_slice::<f32>().is_err());
        assert_eq!(there.to_vec::<f32>().expect("f32"), x.as_slice::<f32>().expect("f32"));
        let later = gpu.read_later(&there).expect("it is contiguous");
        drop(there);
        assert_eq!(later.get::<f32>().expect("f32"), x.as_slice::<f32>().expect("f32"));
    }
}

#[test]
fn products_equal_the_cpus() {
    let Some((gpu, _turn)) = gpu() else { return };
    let device = Device::Cuda(gpu);
    for (i, [m, k, n]) in
        [[1, 1, 1], [5, 97, 3], [64, 64, 64], [257, 129, 31], [33, 512, 1000]].into_iter().enumerate()
    {
        let (a, b) = (normal(&[m, k], i as u64), normal(&[k, n], 100 + i as u64));
        let want = a.matmul(&b).expect("they fit");
        let (at, bt) = (a.transpose(0, 1).and_then(|x| x.copy()), b.transpose(0, 1).and_then(|x| x.copy()));
        let there = |x: &Tensor| x.to_device(&device).expect("it fits");
        let (a, b, at, bt) = (there(&a), there(&b), there(&at.expect("2-d")), there(&bt.expect("2-d")));
        let view = |x| Mat::view(x).expect("a matrix");
        for (a, b) in [
            (view(&a), view(&b)),
            (view(&at).t(), view(&b)),
            (view(&a), view(&bt).t()),
            (view(&at).t(), view(&bt).t()),
        ] {
            let mut c = Tensor::empty(&[m, n], DType::F32, &device).expect("it fits");
            gpu.matmul(1.0, a, b, 0.0, &mut c).expect("they fit");
            assert!(error(&c, &want) < 1e-6, "{m} {k} {n}: {}", error(&c, &want));
            gpu.matmul(2.0, a, b, 1.0, &mut c).expect("they fit");
            let want = want.mul_scalar(3.0).expect("f32");
            assert!(error(&c, &want) < 1e-6, "{m} {k} {n}: {}", error(&c, &want));
        }
    }
}

#[test]
fn a_batch_of_products_equals_the_cpus() {
    let Some((gpu, _turn)) = gpu() else { return };
    let device = Device::Cuda(gpu);
    let (a, b) = (normal(&[3, 17, 40], 1), normal(&[3, 40, 9], 2));
    let want = a.matmul(&b).expect("they fit");
    let (a, b) = (a.to_device(&device).expect("it fits"), b.to_device(&device).expect("it fits"));
    let mut c = Tensor::empty(&[3, 17, 9], DType::F32, &device).expect("it fits");
    gpu.matmul(1.0, Mat::view(&a).expect("matrices"), Mat::view(&b).expect("matrices"), 0.0, &mut c)
        .expect("they fit");
    assert!(error(&c, &want) < 1e-6);
    // One matrix for the whole batch.
    let one = b
        .narrow(0, 1, 1)
        .and_then(|x| x.squeeze(0))
        .and_then(|x| x.broadcast_to(&[3, 40, 9]))
        .expect("it can");
    gpu.matmul(1.0, Mat::view(&a).expect("matrices"), Mat::view(&one).expect("matrices"), 0.0, &mut c)
        .expect("they fit");
    let (a, b) = (a.to_device(&Device::Cpu).expect("it fits"), b.to_device(&Device::Cpu).expect("it fits"));
    let want = a.matmul(&b.select(0, 1).expect("it has three")).expect("they fit");
    assert!(error(&c, &want) < 1e-6);
}

#[test]
fn bf16_products_repeat_bit_by_bit_and_keep_their_choice() {
    let Some((gpu, _turn)) = gpu() else { return };
    let device = Device::Cuda(gpu);
    let bits = |x: &Tensor| {
        let x: Vec<tensor::half::bf16> =
            x.to_vec::<f32>().expect("f32").into_iter().map(tensor::half::bf16::from_f32).collect();
        Tensor::from_slice(&x, &[512, 768], &device).expect("it fits")
    };
    let (a, b) = (bits(&normal(&[512, 768], 1)), bits(&normal(&[512, 768], 2)));
    let run = || {
        let mut c = Tensor::empty(&[512, 512], DType::F32, &device).expect("it fits");
        gpu.matmul(1.0, Mat::rows(&a).expect("rows"), Mat::rows(&b).expect("rows").t(), 0.0, &mut c)
            .expect("they fit");
        c.to_vec::<f32>().expect("f32")
    };
    let first = run();
    let choices = gpu.blas_choices();
    assert!(!choices.is_empty());
    gpu.set_blas_choices(choices.clone());
    assert_eq!(run(), first);
    assert_eq!(gpu.blas_choices(), choices);
}

#[test]
fn a_captured_step_is_replayed_on_new_values() {
    let Some((gpu, _turn)) = gpu() else { return };
    let device = Device::Cuda(gpu);
    let arena = gpu.arena();
    let mut x = normal(&[64, 64], 1).to_device(&device).expect("it fits");
    let mut out = Tensor::empty(&[64, 64], DType::F32, &device).expect("it fits");
    let step = |x: &Tensor, out: &mut Tensor| {
        let mut square = Tensor::empty(&[64, 64], DType::F32, &device)?;
        gpu.matmul(1.0, Mat::rows(x)?, Mat::rows(x)?, 0.0, &mut square)?;
        gpu.matmul(1.0, Mat::rows(&square)?, Mat::rows(x)?, 0.0, out)
    };
    gpu.within(arena, || step(&x, &mut out)).expect("it runs");
    let (graph, ()) = gpu.capture(arena, || step(&x, &mut out)).expect("it can be captured");
    let new = normal(&[64, 64], 2);
    x.copy_from_slice(new.as_slice::<f32>().expect("f32")).expect("it fits");
    let waits = gpu.waits();
    graph.launch().expect("it runs");
    assert_eq!(gpu.waits(), waits);
    let want = new.matmul(&new).and_then(|x| x.matmul(&new)).expect("they fit");
    assert!(error(&out, &want) < 1e-6);
    // What waits for the device cannot be captured, and leaves the stream usable.
    assert!(gpu.capture(arena, || out.to_vec::<f32>()).is_err());
    assert!(error(&out, &want) < 1e-6);
    // So does a panic.
    let panics = || gpu.capture(arena, || -> tensor::Result<()> { panic!("within a capture") });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert!(error(&out, &want) < 1e-6);
    // The graph writes to memory in which no tensor is left, so it must not be freed.
    gpu.trim_memory().expect("it can be freed");
    out.fill(0.0).expect("it fits");
    graph.launch().expect("it runs");
    assert!(error(&out, &want) < 1e-6);
    // Without the graph it can be.
    let reserved = gpu.memory_stats().reserved;
    drop(graph);
    gpu.trim_memory().expect("it can be freed");
    assert!(gpu.memory_stats().reserved < reserved);
}

#[test]
fn memory_has_a_limit_and_is_given_back() {
    let Some((gpu, _turn)) = gpu() else { return };
    let device = Device::Cuda(gpu);
    let before = gpu.memory_stats();
    gpu.set_memory_limit(Some(before.reserved + (64 << 20)));
    let small = Tensor::empty(&[8 << 20], DType::F32, &device).expect("it fits");
    let large = Tensor::empty(&[256 << 20], DType::F32, &device);
    gpu.set_memory_limit(None);
    assert!(matches!(large, Err(Error::OutOfMemory { requested, .. }) if requested == 1 << 30), "{large:?}");
    assert!(large.expect_err("just seen").to_string().contains("no memory for f32 [268435456] (1024 MiB)"));
    let stats = gpu.memory_stats();
    assert!(stats.in_use >= before.in_use + (32 << 20) && stats.reserved <= before.reserved + (64 << 20));
    drop(small);
    gpu.trim_memory().expect("it can be freed");
    assert!(gpu.memory_stats().reserved <= before.reserved);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_in_words() {
    let error = Device::cuda(999).expect_err("nobody has so many").to_string();
    assert!(error.contains("GPU") || error.contains("driver"), "{error}");
}
