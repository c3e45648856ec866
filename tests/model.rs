//! The whole decoder: the ways to compute one thing agree.

use autograd::{Gradients, Tape};
use nn::losses::CrossEntropy;
use nn::model::{Input, LinearKind, ModelConfig, Student};
use nn::ops::IGNORE;
use tensor::{Device, Result, Stream, Tensor};

const VOCAB: usize = 50;

fn student(linear: LinearKind, sub_norm: bool) -> Result<Student> {
    tensor::storage::set_poison(true);
    let config = ModelConfig {
        vocab_size: 64,
        hidden: 26,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        mlp: 37,
        max_seq: 40,
        sub_norm,
        linear,
        init_std: 0.3,
        ..ModelConfig::default()
    };
    Student::random(config, VOCAB, &Device::Cpu, 5)
}

fn tokens(b: usize, t: usize, seed: u64) -> Vec<u32> {
    let stream = Stream::new(seed);
    (0..(b * t) as u64).map(|i| stream.below(i, VOCAB as u64) as u32).collect()
}

fn input(ids: &[u32], b: usize) -> Result<Input> {
    let ids = Tensor::from_slice(ids, &[b, ids.len() / b], &Device::Cpu)?;
    Ok(Input { ids, first_key: None })
}

/// The next token as target, and none after a sequence's last.
fn targets(ids: &[u32], t: usize) -> Vec<i32> {
    (0..ids.len()).map(|i| if i % t == t - 1 { IGNORE } else { ids[i + 1] as i32 }).collect()
}

/// Loss; its gradients are added to `grads`.
fn backward(
    student: &Student,
    input: &Input,
    targets: &[i32],
    denominator: f64,
    recompute: bool,
    grads: &mut Gradients,
) -> Result<f32> {
    let mut tape = Tape::new();
    let (hidden, _) = student.hidden(&mut tape, input, recompute, None)?;
    let targets = Tensor::from_slice(targets, &[targets.len()], &Device::Cpu)?;
    let terms = vec![(1.0, CrossEntropy { label_smoothing: 0.1 }.into())];
    let (loss, _) = student.loss(&mut tape, &hidden, targets, terms, denominator, None)?;
    tape.backward(&loss, grads)?;
    loss.detach().item()
}

fn all_grads(student: &Student, grads: &Gradients) -> Result<Vec<(String, Vec<f32>)>> {
    let grad = |p: &nn::params::Param| {
        Ok((p.name.clone(), grads.get(p.parameter.id).expect("every parameter gets a gradient").to_vec()?))
    };
    student.params().iter().map(grad).collect()
}

fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(want).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    (difference / want.iter().map(|&b| square(f64::from(b))).sum::<f64>()).sqrt()
}

#[test]
fn recomputing_blocks_changes_no_bit() -> Result<()> {
    for (linear, sub_norm) in [(LinearKind::Dense, true), (LinearKind::Ternary, false)] {
        let student = student(linear, sub_norm)?;
        let ids = tokens(3, 11, 1);
        let mut input = input(&ids, 3)?;
        let first: Vec<u32> = (0..33).map(|i| if i % 11 < 4 { 0 } else { 4 }).collect();
        input.first_key = Some(Tensor::from_slice(&first, &[3, 11], &Device::Cpu)?);
        let run = |recompute| -> Result<_> {
            let mut grads = student.params().gradients()?;
            let loss = backward(&student, &input, &targets(&ids, 11), 30.0, recompute, &mut grads)?;
            Ok((loss.to_bits(), all_grads(&student, &grads)?))
        };
        assert_eq!(run(false)?, run(true)?, "{linear:?}");
    }
    Ok(())
}

#[test]
fn the_number_of_threads_changes_no_bit() -> Result<()> {
    let student = student(LinearKind::Ternary, true)?;
    let ids = tokens(4, 37, 2);
    let input = input(&ids, 4)?;
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        pool.install(|| -> Result<_> {
            let mut grads = student.params().gradients()?;
            let loss = backward(&student, &input, &targets(&ids, 37), 144.0, false, &mut grads)?;
            Ok((loss.to_bits(), all_grads(&student, &grads)?))
        })
    };
    let one = run(1)?;
    assert_eq!(one, run(2)?);
    assert_eq!(one, run(4)?);
    Ok(())
}

#[test]
fn micro_batches_add_up_to_the_batch() -> Result<()> {
    let student = student(LinearKind::Dense, false)?;
    let (b, t) = (8, 13);
    let ids = tokens(b, t, 3);
    let mut targets = targets(&ids, t);
    // Sequences of unequal weight: a mean of means would differ.
    targets[..9].fill(IGNORE);
    let counted = targets.iter().filter(|&&x| x != IGNORE).count() as f64;
    let mut whole = student.params().gradients()?;
    let loss = backward(&student, &input(&ids, b)?, &targets, counted, false, &mut whole)?;
    let mut parts = student.params().gradients()?;
    let mut sum = 0.0;
    for (ids, targets) in ids.chunks(t).zip(targets.chunks(t)) {
        sum += backward(&student, &input(ids, 1)?, targets, counted, false, &mut parts)?;
    }
    assert!((loss - sum).abs() < 1e-6 * loss, "{loss} {sum}");
    for ((name, whole), (_, parts)) in all_grads(&student, &whole)?.iter().zip(all_grads(&student, &parts)?) {
        let error = distance(&parts, whole);
        assert!(error < 1e-6, "{name}: {error:e}");
    }
    Ok(())
}

#[test]
fn decoding_with_a_cache_gives_the_logits_of_full_passes() -> Result<()> {
    for sub_norm in [false, true] {
        let student = student(LinearKind::Dense, sub_norm)?;
        let ids = tokens(1, 40, 4);
        let full = student.logits(&input(&ids, 1)?)?;
        let mut cache = student.kv_cache(40)?;
        let mut read = 0;
        for step in [7, 1, 1, 1, 12, 1, 17] {
            let logits = student.decode(&input(&ids[read..read + step], 1)?.ids, &mut cache)?;
            read += step;
            let error = distance(&logits.to_vec()?, &full.narrow(0, read - 1, 1)?.to_vec()?);
            assert!(error < 1e-5, "after {read} tokens: {error:e}");
        }
        assert_eq!(cache.len(), ids.len());
        // Going back forgets what was read after.
        cache.truncate(9);
        let logits = student.decode(&input(&ids[9..10], 1)?.ids, &mut cache)?;
        assert!(distance(&logits.to_vec()?, &full.narrow(0, 9, 1)?.to_vec()?) < 1e-5);
        cache.truncate(40);
        assert_eq!(cache.len(), 10);
        assert!(student.decode(&input(&ids[..31], 1)?.ids, &mut cache).is_err(), "past the capacity");
    }
    Ok(())
}

/// The greedy continuation through the cache, and through a full pass a token.
#[test]
fn greedy_tokens_do_not_depend_on_the_cache() -> Result<()> {
    let student = student(LinearKind::Dense, false)?;
    let likeliest = |logits: &Tensor| -> Result<u32> { logits.argmax(1, false)?.item() };
    let prompt = tokens(1, 5, 6);
    let mut cache = student.kv_cache(40)?;
    let mut logits = student.decode(&input(&prompt, 1)?.ids, &mut cache)?;
    let mut read = prompt;
    while read.len() < 40 {
        let full = student.logits(&input(&read, 1)?)?.narrow(0, read.len() - 1, 1)?;
        assert!(distance(&logits.to_vec()?, &full.to_vec()?) < 1e-5);
        let token = likeliest(&logits)?;
        assert_eq!(token, likeliest(&full)?);
        assert!((token as usize) < VOCAB);
        read.push(token);
        logits = student.decode(&input(&[token], 1)?.ids, &mut cache)?;
    }
    Ok(())
}

/// A document behind another in one sequence, which it cannot see, is computed as if alone: only distances between
/// positions matter.
#[test]
fn documents_in_a_sequence_do_not_see_each_other() -> Result<()> {
    let student = student(LinearKind::Dense, false)?;
    let (first, second) = (tokens(1, 9, 7), tokens(1, 14, 8));
    let mut packed = input(&[&first[..], &second[..]].concat(), 1)?;
    let first_key: Vec<u32> = (0..23).map(|i| if i < 9 { 0 } else { 9 }).collect();
    packed.first_key = Some(Tensor::from_slice(&first_key, &[1, 23], &Device::Cpu)?);
    let logits = student.logits(&packed)?;
    for (from, alone) in [(0, &first), (9, &second)] {
        let want = student.logits(&input(alone, 1)?)?;
        let error = distance(&logits.narrow(0, from, alone.len())?.to_vec()?, &want.to_vec()?);
        assert!(error < 1e-5, "document at {from}: {error:e}");
    }
    Ok(())
}
