//! What ops do on a GPU alone: in one pass, or with logits in bf16.

use autograd::{Gradients, Tape, Var};
use nn::losses::{CrossEntropy, Focal, ForwardKl, Jsd, Loss, ReverseKl, SkewForwardKl, TopKForwardKl};
use nn::ops::{
    Add, Before, BitLinear, FusedBitLinear, HeadLoss, IGNORE, NormRope, RmsNorm, Rope, RopeTables, SwiGlu,
    Teacher,
};
use nn::ternary::Ternary;
use std::sync::Arc;
use tensor::{DType, Device, Result, Stream, Tensor};

/// The GPU, or a word that there is none.
fn gpu(test: &str) -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => {
            tensor::storage::set_poison(true);
            Some(device)
        }
        Err(error) => {
            let required = std::env::var("DISTILLIX_REQUIRE_CUDA").as_deref() == Ok("1");
            assert!(!required, "DISTILLIX_REQUIRE_CUDA=1, but: {error}");
            eprintln!("{test} skipped: {error}");
            None
        }
    }
}

/// Normal numbers that bf16 holds, as `dtype`.
fn draw(site: u32, dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let stream = Stream { site, ..Stream::new(61) };
    let numbers = Tensor::normal(0.0, 1.0, dims, DType::F32, &Device::Cpu, stream)?.to_dtype(DType::BF16)?;
    numbers.to_dtype(dtype)?.to_device(device)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec()
}

/// Values of the outputs of `forward`, then the gradients of its leaves, from random gradients of the outputs.
fn run<'m>(
    leaves: Vec<Tensor>,
    forward: impl FnOnce(&mut Tape<'m>, &[Var]) -> Result<Vec<Var>>,
) -> Result<Vec<Vec<f32>>> {
    let mut tape = Tape::new();
    let leaves: Vec<Var> = leaves.into_iter().map(|leaf| tape.leaf(leaf)).collect();
    let outputs = forward(&mut tape, &leaves)?;
    let mut all = outputs.iter().map(|y| numbers(&y.detach())).collect::<Result<Vec<_>>>()?;
    let dy = outputs.iter().enumerate().map(|(i, y)| draw(50 + i as u32, y.dims(), y.dtype(), &y.device()));
    let dy = dy.collect::<Result<Vec<_>>>()?;
    let mut grads = tape.backward_from(&outputs.iter().collect::<Vec<_>>(), dy, &mut Gradients::default())?;
    for leaf in &leaves {
        all.push(numbers(&grads.take(leaf).expect("every leaf gets a gradient"))?);
    }
    Ok(all)
}

fn assert_near(what: &str, got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let difference: f64 = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let norm: f64 = want.iter().map(|x| f64::from(*x).powi(2)).sum();
        let error = (difference / norm.max(1e-30)).sqrt();
        assert!(error <= tolerance, "{what}: result {i} is off by {error:.1e}");
    }
}

#[test]
fn fused_products() -> Result<()> {
    let Some(device) = gpu("fused_products") else { return Ok(()) };
    for (rows, k, n) in [(1, 3, 2), (5, 33, 17), (33, 65, 4), (70, 768, 96), (9, 1000, 31), (130, 2048, 64)] {
        for before in [Before::Norm(1e-6), Before::AddNorm(1e-6), Before::SwiGlu] {
            let what = format!("{before:?} of {rows} rows, {k} to {n}");
            let weights =
                [draw(10, &[n, k], DType::F32, &device)?, draw(11, &[n + 1, k], DType::F32, &device)?];
            let codes: Vec<Ternary> = weights.iter().map(Ternary::new).collect::<Result<_>>()?;
            let (gain, fused) = (
                draw(9, &[k], DType::F32, &device)?,
                FusedBitLinear { before, weights: codes.iter().collect() },
            );
            let leaves = |dtype| -> Result<Vec<Tensor>> {
                let mut leaves = vec![draw(0, &[rows, k], dtype, &device)?];
                if before != Before::Norm(1e-6) {
                    leaves.push(draw(1, &[rows, k], dtype, &device)?);
                }
                if before != Before::SwiGlu {
                    leaves.push(gain.clone());
                }
                leaves.extend(weights.iter().cloned());
                Ok(leaves)
            };
            let plain = run(leaves(DType::F32)?, |tape, x| {
                let (before_x, w) = x.split_at(x.len() - 2);
                let mut sum = None;
                let y = match before {
                    Before::Norm(eps) => tape.apply(RmsNorm { eps }, &[&before_x[0], &before_x[1]])?,
                    Before::AddNorm(eps) => {
                        let added = tape.apply(Add, &[&before_x[0], &before_x[1]])?;
                        tape.apply(RmsNorm { eps }, &[sum.insert(added), &before_x[2]])?
                    }
                    Before::SwiGlu => tape.apply(SwiGlu, &[&before_x[0], &before_x[1]])?,
                };
                let op = BitLinear { weights: codes.iter().collect() };
                let outputs = tape.apply_n(op, &[&y, &w[0], &w[1]])?;
                Ok(sum.into_iter().chain(outputs).collect())
            })?;
            let one = |dtype| {
                run(leaves(dtype)?, |tape, x| {
                    Ok(tape.apply_n(fused.clone(), &x.iter().collect::<Vec<_>>())?.into_vec())
                })
            };
            // A code that differs shows as an error of 1e-3.
            assert_near(&what, &one(DType::F32)?, &plain, 1e-6);
            let half = one(DType::BF16)?;
            // A sum in bf16 turns some codes, which averages out over many.
            if rows * k > 2000 {
                assert_near(&what, &half, &plain, 1e-2);
            }
            assert_eq!(half, one(DType::BF16)?, "{what}: a second run");
        }
    }
    Ok(())
}

#[test]
fn norm_rope() -> Result<()> {
    let Some(device) = gpu("norm_rope") else { return Ok(()) };
    for [b, t, heads, d] in
        [[1, 1, 1, 2], [2, 5, 3, 6], [2, 7, 2, 12], [1, 33, 4, 64], [2, 9, 3, 128], [3, 65, 2, 256]]
    {
        let what = format!("{:?}", [b, t, heads, d]);
        let tables = Arc::new(RopeTables::new(0..t, d, 1e6, DType::F32, &device)?);
        let leaves = |dtype| -> Result<Vec<Tensor>> {
            Ok(vec![draw(0, &[b, t, heads, d], dtype, &device)?, draw(1, &[d], DType::F32, &device)?])
        };
        let plain = run(leaves(DType::F32)?, |tape, x| {
            let normed = tape.apply(RmsNorm { eps: 1e-6 }, &[&x[0], &x[1]])?;
            Ok(vec![tape.apply(Rope { tables: Arc::clone(&tables) }, &[&normed])?])
        })?;
        let one = |dtype| {
            let op = NormRope { eps: 1e-6, tables: Arc::clone(&tables) };
            run(leaves(dtype)?, |tape, x| Ok(vec![tape.apply(op, &[&x[0], &x[1]])?]))
        };
        assert_near(&what, &one(DType::F32)?, &plain, 5e-6);
        let half = one(DType::BF16)?;
        assert_near(&what, &half, &plain, 1e-2);
        assert_eq!(half, one(DType::BF16)?, "{what}: a second run");
    }
    Ok(())
}

/// What the teacher gives.
#[derive(Clone, Copy)]
enum Says {
    Nothing,
    Logits,
    TopK,
}

/// Few logits are f32 on a GPU too; these are many.
#[test]
fn head_loss_in_bf16() -> Result<()> {
    let Some(device) = gpu("head_loss_in_bf16") else { return Ok(()) };
    let (rows, h, vocab, unused) = (96, 32, 1000, 24);
    let targets: Vec<i32> =
        (0..rows).map(|i| if i % 7 == 3 { IGNORE } else { (i * 37 % vocab) as i32 }).collect();
    let smoothed: Loss = CrossEntropy { label_smoothing: 0.1 }.into();
    let cases: [(Vec<(f64, Loss)>, Says); 7] = [
        (vec![(1.0, smoothed)], Says::Nothing),
        (vec![(1.0, Focal { gamma: 2.0 }.into())], Says::Nothing),
        (vec![(0.5, smoothed), (0.5, ForwardKl { temperature: 2.0 }.into())], Says::Logits),
        (vec![(1.0, ReverseKl { temperature: 1.0 }.into())], Says::Logits),
        (vec![(1.0, Jsd { beta: 0.5, temperature: 1.0 }.into())], Says::Logits),
        (vec![(1.0, SkewForwardKl { alpha: 0.1, temperature: 2.0 }.into())], Says::Logits),
        (vec![(0.5, smoothed), (0.5, TopKForwardKl { temperature: 1.0 }.into())], Says::TopK),
    ];
    for (terms, says) in cases {
        let one = |device: &Device, dtype| {
            let table = |site| draw(site, &[vocab + unused, h], DType::F32, device)?.mul_scalar(0.25);
            let hidden = draw(2, &[rows, h], dtype, device)?;
            let teacher = match says {
                Says::Nothing => None,
                Says::Logits => Some(Teacher::Hidden { hidden, table: table(3)?, softcap: 0.0, vocab }),
                Says::TopK => {
                    let numbers = draw(4, &[rows, vocab], DType::F32, &Device::Cpu)?.log_softmax()?;
                    let (log_probs, ids) = numbers.topk(9)?;
                    Some(Teacher::TopK {
                        ids: ids.to_device(device)?,
                        log_probs: log_probs.to_device(device)?,
                    })
                }
            };
            let targets = Tensor::from_slice(&targets, &[rows], device)?;
            let op =
                HeadLoss { terms: terms.clone(), targets, denominator: 80.0, softcap: 30.0, vocab, teacher };
            run(vec![draw(0, &[rows, h], dtype, device)?, table(1)?], |tape, x| {
                Ok(vec![tape.apply_n(op, &[&x[0], &x[1]])?.remove(0)])
            })
        };
        let (want, got) = (one(&Device::Cpu, DType::F32)?, one(&device, DType::BF16)?);
        let what = format!("{terms:?}");
        assert_near(&what, &got[..1], &want[..1], 5e-3);
        assert_near(&what, &got[1..], &want[1..], 1e-2);
        assert_eq!(got, one(&device, DType::BF16)?, "{what}: a second run");
    }
    Ok(())
}
