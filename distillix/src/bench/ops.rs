//! Time of each op of a training step, forward and backward, against what the machine can move and multiply.

use super::random_ids;
use crate::smelter::plan::Precision;
use anyhow::{Context, Result};
use autograd::{ParamId, Tape, Var};
use nn::losses::CrossEntropy;
use nn::model::{LinearKind, ModelConfig, Student};
use nn::ops::{Attention, Embedding, NormRope, RmsNorm, Rope, RopeTables};
use nn::params::{Params, Role};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use tensor::{DType, Device, Stream, Tensor};

/// What is timed.
#[derive(Clone, Debug)]
pub struct OpsBench {
    /// Shape of the model, of which one block is computed.
    pub model: ModelConfig,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Type of the activations.
    pub precision: Precision,
    /// Passes of each op that are timed, after [`WARMUP`] that are not.
    pub repeats: usize,
}

/// Passes that are not timed: they take memory and, on a GPU, choose algorithms.
pub const WARMUP: usize = 3;

/// What the machine does at best.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes a second read and written by the copy of a large tensor.
    pub bytes_per_second: f64,
    /// Operations a second of a large matrix product: in f32 on the CPU, in the type of the activations on a GPU.
    pub flops_per_second: f64,
}

/// One op in one direction.
#[derive(Clone, Debug, Serialize)]
pub struct OpTime {
    /// Name, as the parts of a block are called.
    pub op: &'static str,
    /// `forward` or `backward`.
    pub pass: &'static str,
    /// Milliseconds of the median pass; on a GPU the time on the device, without gaps between launches.
    pub milliseconds: f64,
    /// Distance of the quartiles, as a share of the median.
    pub spread: f64,
    /// Least bytes to move: each input, saved value and result once, weights as they are kept (codes: a byte).
    pub bytes: f64,
    /// Multiplications and additions of its products.
    pub flops: f64,
    /// Least time by the ceilings, as a share of the median. A product in 8 bits can be faster than the ceiling of f32.
    pub share: f64,
}

/// An op of a block: what it reads, and how it is computed.
struct Case<'m> {
    name: &'static str,
    /// Activations, whose gradients are asked for.
    inputs: Vec<Tensor>,
    /// Elements of its weights.
    weights: usize,
    /// Bytes of them that are read.
    weight_bytes: usize,
    /// Forward and backward.
    flops: [f64; 2],
    run: Box<Run<'m>>,
}

/// Computes an op of the inputs, given as variables.
type Run<'m> = dyn Fn(&mut Tape<'m>, &[Var]) -> tensor::Result<Vec<Var>> + 'm;

/// Times every op; `on_time` is called as soon as one is known.
pub fn time(
    bench: &OpsBench,
    device: &Device,
    on_time: &mut dyn FnMut(&OpTime) -> Result<()>,
) -> Result<Ceilings> {
    let ceilings = ceilings(device, bench.precision.dtype())?;
    let model = ModelConfig { layers: 1, ..bench.model.clone() };
    let mut student = Student::random(model, bench.model.vocab_size, device, 0)?;
    student.set_compute(bench.precision.dtype())?;
    for case in cases(bench, &student, device)? {
        for time in measure(&case, student.params(), device, bench.repeats, ceilings)? {
            on_time(&time)?;
        }
    }
    Ok(ceilings)
}

/// The fastest of ten copies of 256 MiB, and of ten products, 1024 wide on the CPU and 8192 on a GPU.
fn ceilings(device: &Device, dtype: DType) -> Result<Ceilings> {
    let (wide, dtype) = if *device == Device::Cpu { (1024, DType::F32) } else { (8192, dtype) };
    let from = Tensor::full(1.0, &[64 << 20], DType::F32, device)?;
    let mut to = Tensor::empty(from.dims(), DType::F32, device)?;
    let copy = fastest(device, || to.copy_from(&from))?;
    // Of random numbers: those of ones take less power, and a card runs faster.
    let a = normal(&[wide, wide], dtype, device, 0)?;
    let product = fastest(device, || a.matmul(&a))?;
    Ok(Ceilings {
        bytes_per_second: 2.0 * 4.0 * from.numel() as f64 / copy,
        flops_per_second: 2.0 * (wide as f64).powi(3) / product,
    })
}

/// Seconds of the fastest of ten calls, after [`WARMUP`] others, by the host's clock.
fn fastest<T>(device: &Device, mut f: impl FnMut() -> tensor::Result<T>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for i in 0..WARMUP + 10 {
        let start = Instant::now();
        let _result = f()?;
        if let Device::Cuda(gpu) = device {
            gpu.synchronize()?;
        }
        if i >= WARMUP {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

/// The median, and the distance of the quartiles as a share of it.
fn median(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    (at(0.5), (at(0.75) - at(0.25)) / at(0.5))
}

/// What `f` gives, and its seconds: on a GPU those of its launches there.
fn timed<T>(device: &Device, f: impl FnOnce() -> tensor::Result<T>) -> tensor::Result<(T, f64)> {
    if let Device::Cuda(gpu) = device {
        let (result, times) = gpu.profile(f)?;
        return Ok((result, times.iter().map(|time| 1e-3 * f64::from(time.milliseconds)).sum()));
    }
    let start = Instant::now();
    let result = f()?;
    Ok((result, start.elapsed().as_secs_f64()))
}

fn measure(
    case: &Case<'_>,
    params: &Params,
    device: &Device,
    repeats: usize,
    ceilings: Ceilings,
) -> Result<[OpTime; 2]> {
    let mut grads = params.gradients()?;
    let mut times = [Vec::new(), Vec::new()];
    let (mut given, mut taken) = (0, 0);
    let mut drawn: Vec<Tensor> = Vec::new();
    for i in 0..WARMUP + repeats {
        let mut tape = Tape::new();
        let vars: Vec<Var> = case.inputs.iter().map(|x| tape.leaf(x.clone())).collect();
        let (outputs, forward) = timed(device, || (case.run)(&mut tape, &vars))?;
        let outputs: Vec<&Var> = outputs.iter().collect();
        if drawn.is_empty() {
            let draw = outputs.iter().map(|y| normal(y.dims(), y.dtype(), device, 9));
            drawn = draw.collect::<tensor::Result<_>>()?;
        }
        // Gradients that nobody else holds, as in training.
        let dy = drawn.iter().map(Tensor::copy).collect::<tensor::Result<Vec<_>>>()?;
        given = outputs.iter().map(|y| y.dims().iter().product::<usize>() * y.dtype().size()).sum();
        taken = case.inputs.iter().map(|x| x.numel() * x.dtype().size()).sum();
        grads.clear();
        let (_, backward) = timed(device, || tape.backward_from(&outputs, dy, &mut grads))?;
        if i >= WARMUP {
            times[0].push(forward);
            times[1].push(backward);
        }
    }
    // Backward: what was read and what came, and the gradients of both kinds of input.
    let bytes = [taken + case.weight_bytes + given, 2 * taken + case.weight_bytes + given + 4 * case.weights];
    let time = |i: usize, pass| {
        let (median, spread) = median(&mut times[i].clone());
        let (bytes, flops) = (bytes[i] as f64, case.flops[i]);
        let least = (bytes / ceilings.bytes_per_second).max(flops / ceilings.flops_per_second);
        let (milliseconds, share) = (1e3 * median, least / median);
        OpTime { op: case.name, pass, milliseconds, spread, bytes, flops, share }
    };
    Ok([time(0, "forward"), time(1, "backward")])
}

fn normal(dims: &[usize], dtype: DType, device: &Device, site: u32) -> tensor::Result<Tensor> {
    let stream = Stream { site, ..Stream::new(1) };
    Tensor::normal(0.0, 1.0, dims, DType::F32, device, stream)?.to_dtype(dtype)
}

/// The ops of a block, the embedding before and the head after it, in order.
fn cases<'m>(bench: &OpsBench, student: &'m Student, device: &Device) -> Result<Vec<Case<'m>>> {
    let (config, params, dtype) = (student.config().clone(), student.params(), student.compute());
    let (b, t, h) = (bench.batch, bench.seq_len, config.hidden);
    let (heads, kv_heads, d, eps) = (config.heads, config.kv_heads, config.head_dim, config.norm_eps);
    let place = |name: &str| -> Result<ParamId> {
        let path = format!("model.layers.0.{name}.weight");
        Ok(params.find(&path).with_context(|| format!("the model has no {path}"))?.parameter.id)
    };
    let places = |names: &[&str]| names.iter().map(|name| place(name)).collect::<Result<Vec<_>>>();
    let numel = |ids: &[ParamId]| ids.iter().map(|id| params.get(*id).parameter.value.numel()).sum::<usize>();
    let draw = |dims: &[usize], site| normal(dims, dtype, device, site);
    let width = if config.linear == LinearKind::Ternary { 1 } else { 4 };
    let product = |ids: &[ParamId]| {
        let flops = 2.0 * (b * t) as f64 * numel(ids) as f64;
        (numel(ids), width * numel(ids), [flops, 2.0 * flops])
    };
    let rows = [b, t, h];
    let mut cases: Vec<Case<'m>> = Vec::new();

    let ids = Tensor::from_slice(&random_ids(config.vocab_size, b * t, 0), &[b, t], device)?;
    let tables = params.iter().filter(|p| p.role == Role::Embedding).map(|p| p.parameter.id);
    let tables: Vec<ParamId> = tables.collect();
    let (table, head) = (tables[0], tables[tables.len() - 1]);
    cases.push(Case {
        name: "embedding",
        inputs: Vec::new(),
        weights: numel(&[table]),
        weight_bytes: 4 * b * t * h,
        flops: [0.0; 2],
        run: Box::new(move |tape, _| {
            let (table, ids) = (tape.param(&params.get(table).parameter), tape.constant(ids.clone()));
            Ok(vec![tape.apply(Embedding { dtype: Some(dtype) }, &[&table, &ids])?])
        }),
    });
    let normed = |name, norm: &str, matrices: &[&str]| -> Result<Case<'m>> {
        let (norm, ids) = (place(norm)?, places(matrices)?);
        let (weights, weight_bytes, flops) = product(&ids);
        let run = move |tape: &mut Tape<'m>, x: &[Var]| {
            let (sum, ys) = params.project_normed(tape, &x[0], Some(&x[1]), (norm, eps), &ids)?;
            Ok(std::iter::once(sum).chain(ys).collect())
        };
        let inputs = vec![draw(&rows, 1)?, draw(&rows, 2)?];
        Ok(Case { name, inputs, weights, weight_bytes, flops, run: Box::new(run) })
    };
    let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    cases.push(normed("add, norm, q, k, v", "input_layernorm", &qkv)?);

    let tables = Arc::new(RopeTables::new(0..t, d, config.rope_theta, DType::F32, device)?);
    let norms = if config.qk_norm { Some(places(&["self_attn.q_norm", "self_attn.k_norm"])?) } else { None };
    let fused = *device != Device::Cpu && d <= NormRope::MAX_HEAD_DIM;
    let q_and_k = [draw(&[b, t, heads, d], 3)?, draw(&[b, t, kv_heads, d], 4)?];
    cases.push(Case {
        name: "head norm, rope",
        inputs: q_and_k.to_vec(),
        weights: 0,
        weight_bytes: 0,
        flops: [0.0; 2],
        run: Box::new(move |tape, x| {
            let one = |(i, x): (usize, &Var)| {
                let gain = norms.as_ref().map(|norms| tape.param(&params.get(norms[i]).parameter));
                let tables = Arc::clone(&tables);
                match (gain, fused) {
                    (Some(gain), true) => tape.apply(NormRope { eps, tables }, &[x, &gain]),
                    (Some(gain), false) => {
                        let normed = tape.apply(RmsNorm { eps }, &[x, &gain])?;
                        tape.apply(Rope { tables }, &[&normed])
                    }
                    (None, _) => tape.apply(Rope { tables }, &[x]),
                }
            };
            x.iter().enumerate().map(one).collect()
        }),
    });
    // Causal: half of the pairs; two products forward, five backward.
    let pairs = (b * heads * d) as f64 * (t as f64).powi(2);
    let softcap = config.attn_softcap;
    cases.push(Case {
        name: "attention",
        inputs: q_and_k.into_iter().chain([draw(&[b, t, kv_heads, d], 5)?]).collect(),
        weights: 0,
        weight_bytes: 0,
        flops: [2.0 * pairs, 5.0 * pairs],
        run: Box::new(move |tape, x| {
            Ok(vec![tape.apply(Attention { softcap, first_key: None }, &[&x[0], &x[1], &x[2]])?])
        }),
    });
    let o_proj = places(&["self_attn.o_proj"])?;
    let (weights, weight_bytes, flops) = product(&o_proj);
    cases.push(Case {
        name: "o",
        inputs: vec![draw(&[b, t, heads * d], 6)?],
        weights,
        weight_bytes,
        flops,
        run: Box::new(move |tape, x| Ok(params.project(tape, &x[0], &o_proj)?.into_vec())),
    });
    let gate_up = ["mlp.gate_proj", "mlp.up_proj"];
    cases.push(normed("add, norm, gate, up", "post_attention_layernorm", &gate_up)?);

    let down_proj = places(&["mlp.down_proj"])?;
    let (weights, weight_bytes, flops) = product(&down_proj);
    cases.push(Case {
        name: "swiglu, down",
        inputs: vec![draw(&[b, t, config.mlp], 7)?, draw(&[b, t, config.mlp], 8)?],
        weights,
        weight_bytes,
        flops,
        run: Box::new(move |tape, x| Ok(params.project_gated(tape, [&x[0], &x[1]], &down_proj)?.into_vec())),
    });

    let targets = random_ids(config.vocab_size, b * t, 1).into_iter().map(|id| id as i32);
    let targets = Tensor::from_slice(&targets.collect::<Vec<_>>(), &[b * t], device)?;
    let weights = numel(&[head]);
    cases.push(Case {
        // The gradient of a loss is computed with it.
        name: "head, loss",
        inputs: vec![draw(&[b * t, h], 1)?],
        weights,
        weight_bytes: 4 * weights,
        flops: [6.0 * (b * t) as f64 * weights as f64, 0.0],
        run: Box::new(move |tape, x| {
            let terms = vec![(1.0, CrossEntropy::default().into())];
            let (loss, _) = student.loss(tape, &x[0], targets.clone(), terms, (b * t) as f64, None)?;
            Ok(vec![loss])
        }),
    });
    Ok(cases)
}
