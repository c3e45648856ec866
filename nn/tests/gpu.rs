//! What a GPU must do bit for bit as the CPU (ternary weights), and whole optimizer updates on it.

use autograd::{Gradients, Op, ParamId, Tape};
use nn::ops::BitLinear;
use nn::optim::{AdamW, MatrixOptimizer, Muon, Optimizer, OptimizerConfig, Outcome, Skipped};
use nn::params::{Params, Role, Specs};
use nn::ternary::{QuantizedRows, Ternary};
use std::error::Error;
use std::sync::{Mutex, MutexGuard};
use tensor::{DType, Device, Stream, Tensor};

type Done = Result<(), Box<dyn Error>>;

/// One test at a time uses the device: while one captures its stream, the work of another would be captured too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The first GPU and the right to use it; without one, a skip or, if `DISTILLIX_REQUIRE_CUDA=1`, a failure.
fn cuda_device(name: &str) -> Option<(Device, MutexGuard<'static, ()>)> {
    let found = Device::cuda(0);
    let required = std::env::var("DISTILLIX_REQUIRE_CUDA").as_deref() == Ok("1");
    if let (Err(error), true) = (&found, required) {
        panic!("{name}: DISTILLIX_REQUIRE_CUDA=1, but {error}");
    }
    let device = found.inspect_err(|error| eprintln!("{name}: skipped: {error}")).ok()?;
    Some((device, ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner())))
}

fn normal(std: f64, dims: &[usize], site: u32) -> tensor::Result<Tensor> {
    Tensor::normal(0.0, std, dims, DType::F32, &Device::Cpu, Stream { site, ..Stream::new(5) })
}

fn bits(x: &Tensor) -> tensor::Result<Vec<u32>> {
    Ok(x.to_device(&Device::Cpu)?.to_vec::<f32>()?.into_iter().map(f32::to_bits).collect())
}

fn codes(x: &Tensor) -> tensor::Result<Vec<i8>> {
    x.to_device(&Device::Cpu)?.to_vec()
}

/// Relative L2 distance.
fn distance(got: &Tensor, want: &Tensor) -> tensor::Result<f64> {
    let numbers = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>();
    let (got, want) = (numbers(got)?, numbers(want)?);
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut got.iter().zip(&want).map(|(a, b)| a - b));
    Ok(difference / square(&mut want.iter().copied()).max(1e-30))
}

#[test]
fn ternary_weights_and_their_products_have_the_bits_of_the_cpu() -> Done {
    let Some((gpu, _turn)) = cuda_device("ternary") else { return Ok(()) };
    tensor::storage::set_poison(true);
    // Rows, inputs, outputs: some that Hopper's own kernel takes in bf16, some that nothing divides.
    let shapes = [
        (1, 1, [1, 1, 1]),
        (3, 7, [5, 1, 9]),
        (130, 96, [64, 8, 264]),
        (300, 144, [256, 72, 128]),
        (257, 2048, [768, 8, 16]),
        (65, 333, [130, 31, 77]),
        (40, 2056, [24, 16, 8]),
    ];
    for (i, (rows, k, ns)) in shapes.into_iter().enumerate() {
        let site = 10 * i as u32;
        let x = normal(3.0, &[rows, k], site)?;
        let weights: Vec<Tensor> =
            ns.iter().zip(1..).map(|(&n, j)| normal(0.02, &[n, k], site + j)).collect::<Result<_, _>>()?;
        let moved: Vec<Tensor> = weights.iter().map(|w| w.to_device(&gpu)).collect::<Result<_, _>>()?;
        let (here, there) = (QuantizedRows::new(&x)?, QuantizedRows::new(&x.to_device(&gpu)?)?);
        assert_eq!(codes(there.codes())?, codes(here.codes())?, "{rows} {k}");
        assert_eq!(bits(there.scales())?, bits(here.scales())?, "{rows} {k}");
        let mut cpu: Vec<Ternary> = weights.iter().map(Ternary::new).collect::<Result<_, _>>()?;
        let mut cuda: Vec<Ternary> = moved.iter().map(Ternary::new).collect::<Result<_, _>>()?;
        for (j, (here, there)) in cpu.iter_mut().zip(&mut cuda).enumerate() {
            assert_eq!(there.stats()?, here.stats()?);
            let other = normal(0.03, &[ns[j], k], site + 5)?;
            here.refresh(&other)?;
            there.refresh(&other.to_device(&gpu)?)?;
            assert_eq!(codes(there.codes())?, codes(here.codes())?, "{} {k}", ns[j]);
            assert_eq!(there.gamma()?.to_bits(), here.gamma()?.to_bits());
            assert_eq!(there.stats()?, here.stats()?);
        }
        // In bf16: from the same inputs, the f32 output rounded once.
        let half = x.to_dtype(DType::BF16)?;
        for x in [x, half] {
            let exact = x.to_dtype(DType::F32)?;
            let inputs: Vec<&Tensor> = std::iter::once(&exact).chain(&weights).collect();
            let (want, _) = BitLinear { weights: cpu.iter().collect() }.forward(&inputs, false)?;
            let x = x.to_device(&gpu)?;
            let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&moved).collect();
            let (got, _) = BitLinear { weights: cuda.iter().collect() }.forward(&inputs, false)?;
            for (got, want) in got.iter().zip(&want) {
                let got = got.to_device(&Device::Cpu)?;
                let want = want.to_dtype(got.dtype())?.to_dtype(DType::F32)?;
                let same = bits(&got.to_dtype(DType::F32)?)? == bits(&want)?;
                assert!(same, "{rows} {k} {:?} {}", want.dims(), got.dtype());
            }
        }
    }
    Ok(())
}

#[test]
fn rows_that_are_not_finite_keep_saying_so() -> Done {
    let Some((gpu, _turn)) = cuda_device("ternary") else { return Ok(()) };
    for k in [40, 41, 3000] {
        let mut x = normal(1.0, &[3, k], 0)?;
        let values = x.as_mut_slice::<f32>()?;
        (values[k - 1], values[k]) = (f32::NAN, f32::NEG_INFINITY);
        let scales = QuantizedRows::new(&x.to_device(&gpu)?)?.scales().to_device(&Device::Cpu)?;
        let scales = scales.to_vec::<f32>()?;
        assert!(scales[0].is_nan() && scales[1] == 0.0 && scales[2] > 0.0, "{scales:?}");
    }
    Ok(())
}

/// Two matrices of most shapes, wide, tall and odd, an embedding and norms.
fn params(device: &Device, ternary: bool) -> tensor::Result<Params> {
    let mut specs = Specs::default();
    for (i, dims) in [[64, 64], [96, 33], [64, 64], [33, 96], [16, 64], [96, 33], [8, 8]].iter().enumerate() {
        specs.add(format!("matrix.{i}"), Role::Matrix, dims);
        specs.add(format!("norm.{i}"), Role::Norm, &[64 - (i % 2) * 31]);
    }
    specs.add("embedding".into(), Role::Embedding, &[101, 33]);
    specs.build(ternary, device, |id, spec, value| value.copy_from(&normal(0.02, &spec.dims, id.0 as u32)?))
}

/// Gradients that a step might find, not finite in step 2.
fn gradients(params: &Params, step: u32, device: &Device) -> tensor::Result<Gradients> {
    let mut grads = params.gradients()?;
    let mut tape = Tape::new();
    let outputs: Vec<_> = params.iter().map(|param| tape.param(&param.parameter)).collect();
    let mut dy = Vec::new();
    for (i, param) in params.iter().enumerate() {
        let mut grad = normal(0.1, param.parameter.value.dims(), 1000 * (step + 1) + i as u32)?;
        if step == 2 && param.name == "norm.3" {
            grad.as_mut_slice::<f32>()?[5] = f32::NAN;
        }
        dy.push(grad.to_device(device)?);
    }
    tape.backward_from(&outputs.iter().collect::<Vec<_>>(), dy, &mut grads)?;
    Ok(grads)
}

fn config(matrices: MatrixOptimizer) -> OptimizerConfig {
    OptimizerConfig {
        matrices,
        muon: Muon { lr: 0.02, momentum: 0.95, weight_decay: 0.01 },
        adamw: AdamW { lr: 3e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 },
    }
}

/// One optimizer and what it updates.
struct Side {
    params: Params,
    optimizer: Optimizer,
    device: Device,
}

impl Side {
    fn new(device: &Device, matrices: MatrixOptimizer, ternary: bool) -> tensor::Result<Self> {
        let params = params(device, ternary)?;
        let optimizer = Optimizer::new(config(matrices), &params)?;
        Ok(Side { params, optimizer, device: device.clone() })
    }

    fn update(&mut self, step: u32) -> tensor::Result<Outcome> {
        let grads = gradients(&self.params, step, &self.device)?;
        let loss = if step == 3 { f32::INFINITY } else { 1.0 };
        let loss = Tensor::from_slice(&[loss], &[1], &self.device)?;
        self.optimizer.set_factors(1.0 / f64::from(step + 1), 0.5)?;
        self.optimizer.update(&mut self.params, &grads, Some(&loss), 1.0)?;
        self.optimizer.outcome()?.get(&self.params)
    }

    fn weights(&self) -> tensor::Result<Vec<Vec<u32>>> {
        self.params.iter().map(|param| bits(&param.parameter.value)).collect()
    }
}

#[test]
fn updates_follow_the_cpu_and_skip_what_is_not_finite() -> Done {
    let Some((gpu, _turn)) = cuda_device("optimizer") else { return Ok(()) };
    tensor::storage::set_poison(true);
    for matrices in [MatrixOptimizer::Muon, MatrixOptimizer::AdamW] {
        let mut here = Side::new(&Device::Cpu, matrices, false)?;
        let mut there = Side::new(&gpu, matrices, false)?;
        for step in 0..6 {
            let before = there.weights()?;
            let (want, got) = (here.update(step)?, there.update(step)?);
            let why = match step {
                2 => Some(Skipped::Gradient("norm.3".into())),
                3 => Some(Skipped::Loss),
                _ => None,
            };
            assert_eq!((&got.skipped, got.updates), (&why, want.updates), "{step}");
            assert_eq!(want.skipped, why, "{step}");
            assert_eq!(there.weights()? == before, why.is_some(), "{step}");
            if step != 2 {
                assert!((got.norm - want.norm).abs() <= 1e-12 * want.norm, "{step}: {got:?} {want:?}");
            }
            for (got, want) in there.params.iter().zip(here.params.iter()) {
                let error = distance(&got.parameter.value, &want.parameter.value)?;
                assert!(error < 1e-5, "step {step}, {}: {error}", got.name);
            }
            let pairs = there.optimizer.state(&there.params).zip(here.optimizer.state(&here.params));
            for ((name, got), (_, want)) in pairs {
                let error = distance(got, want)?;
                assert!(error < 1e-6, "step {step}, {name}: {error}");
            }
        }
    }
    Ok(())
}

#[test]
fn updates_refresh_the_codes_and_report_them_together() -> Done {
    let Some((gpu, _turn)) = cuda_device("optimizer") else { return Ok(()) };
    let mut there = Side::new(&gpu, MatrixOptimizer::Muon, true)?;
    let start = there.params.code_report()?.get()?;
    assert_eq!(start.len(), 7);
    assert!(start.iter().all(|(_, gamma, stats)| *gamma > 0.0 && stats.flips == 0));
    there.update(0)?;
    let mut flips = 0;
    for (id, gamma, stats) in there.params.code_report()?.get()? {
        let param = there.params.get(id);
        let ternary = param.ternary.as_ref().ok_or("a matrix without codes")?;
        let want = Ternary::new(&param.parameter.value.to_device(&Device::Cpu)?)?;
        assert_eq!(codes(ternary.codes())?, codes(want.codes())?, "{}", param.name);
        assert_eq!(gamma.to_bits(), want.gamma()?.to_bits(), "{}", param.name);
        assert_eq!(stats.counts, want.stats()?.counts, "{}", param.name);
        assert_eq!(stats, ternary.stats()?, "{}", param.name);
        flips += stats.flips;
    }
    assert!(flips > 0);
    there.update(2)?;
    assert!(there.params.code_report()?.get()?.iter().all(|(.., stats)| stats.flips == 0));
    Ok(())
}

#[test]
fn a_captured_update_goes_on_where_it_is_replayed() -> Done {
    let Some((device, _turn)) = cuda_device("optimizer") else { return Ok(()) };
    let Device::Cuda(gpu) = device else { return Ok(()) };
    for dtype in [DType::F32, DType::BF16] {
        let (mut eager, mut replayed) = (
            Side::new(&device, MatrixOptimizer::Muon, true)?,
            Side::new(&device, MatrixOptimizer::Muon, true)?,
        );
        eager.optimizer.set_newton_schulz(dtype);
        replayed.optimizer.set_newton_schulz(dtype);
        let grads = gradients(&eager.params, 0, &device)?;
        let arena = gpu.arena();
        let step = |side: &mut Side| side.optimizer.update(&mut side.params, &grads, None, 1.0);
        // Chooses algorithms and takes memory.
        gpu.within(arena, || step(&mut replayed))?;
        step(&mut eager)?;
        let (graph, ()) = gpu.capture(arena, || step(&mut replayed))?;
        for i in 1..4 {
            let factor = 1.0 / f64::from(i);
            eager.optimizer.set_factors(factor, 1.0)?;
            replayed.optimizer.set_factors(factor, 1.0)?;
            let waits = gpu.waits();
            step(&mut eager)?;
            graph.launch()?;
            assert_eq!(gpu.waits(), waits);
        }
        assert_eq!(replayed.weights()?, eager.weights()?, "{dtype}");
        let norm = |side: &Side| side.optimizer.outcome()?.get(&side.params);
        assert_eq!(norm(&replayed)?, norm(&eager)?);
    }
    Ok(())
}

#[test]
fn newton_schulz_in_bf16_stays_close() -> Done {
    let Some((gpu, _turn)) = cuda_device("optimizer") else { return Ok(()) };
    let (mut single, mut half) =
        (Side::new(&gpu, MatrixOptimizer::Muon, false)?, Side::new(&gpu, MatrixOptimizer::Muon, false)?);
    half.optimizer.set_newton_schulz(DType::BF16);
    let start = params(&gpu, false)?;
    single.update(0)?;
    half.update(0)?;
    for id in (0..14).map(ParamId) {
        let [start, single, half] =
            [&start, &single.params, &half.params].map(|params| &params.get(id).parameter.value);
        let change = |x: &Tensor| -> tensor::Result<Tensor> {
            let mut x = x.to_device(&Device::Cpu)?.copy()?;
            x.add_scaled(-1.0, &start.to_device(&Device::Cpu)?)?;
            Ok(x)
        };
        let error = distance(&change(half)?, &change(single)?)?;
        assert!(error < 4e-2, "{id:?}: {error}");
    }
    Ok(())
}
