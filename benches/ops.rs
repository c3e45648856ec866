//! Each op of a training step, forward alone and with its backward, at the shape of `distillix bench train`.

use autograd::{Gradients, Op, Tape, Var};
use divan::Bencher;
use nn::losses::{CrossEntropy, ForwardKl};
use nn::ops::{
    Add, Attention, BitLinear, Embedding, HeadLoss, Linear, RmsNorm, Rope, RopeTables, SwiGlu, Teacher,
};
use nn::ternary::Ternary;
use std::hint::black_box;
use std::sync::Arc;
use tensor::{DType, Device, Stream, Tensor};

const B: usize = 8;
const T: usize = 256;
const H: usize = 256;
const MLP: usize = 704;
const VOCAB: usize = 4096;

fn main() {
    divan::main();
}

fn normal(dims: &[usize], site: u32) -> Tensor {
    let stream = Stream { site, ..Stream::new(1) };
    Tensor::normal(0.0, 1.0, dims, DType::F32, &Device::Cpu, stream).expect("it fits")
}

/// Times an op on leaves: its forward, or forward and backward.
fn run<O: Op + Clone + 'static>(bencher: Bencher, op: O, inputs: &[Tensor], backward: bool) {
    bencher.bench_local(|| {
        let mut tape = if backward { Tape::new() } else { Tape::inference() };
        let leaf = |tape: &mut Tape, x: &Tensor| match x.dtype() {
            DType::F32 => tape.leaf(x.clone()),
            _ => tape.constant(x.clone()),
        };
        let inputs: Vec<Var> = inputs.iter().map(|x| leaf(&mut tape, x)).collect();
        let outputs = tape.apply_n(op.clone(), &inputs.iter().collect::<Vec<_>>()).expect("the shapes fit");
        if backward {
            let outputs: Vec<&Var> = outputs.iter().filter(|y| y.dims().len() != 1).collect();
            let dy: Vec<Tensor> = outputs.iter().map(|y| y.detach()).collect();
            let grads = tape.backward_from(&outputs, dy, &mut Gradients::default()).expect("the shapes fit");
            black_box(grads);
        }
        black_box(inputs);
    });
}

const BOTH: [bool; 2] = [false, true];

#[divan::bench(args = BOTH)]
fn rms_norm(bencher: Bencher, backward: bool) {
    run(bencher, RmsNorm { eps: 1e-6 }, &[normal(&[B * T, H], 0), normal(&[H], 1)], backward);
}

#[divan::bench(args = BOTH)]
fn add(bencher: Bencher, backward: bool) {
    run(bencher, Add, &[normal(&[B * T, H], 0), normal(&[B * T, H], 1)], backward);
}

#[divan::bench(args = BOTH)]
fn swiglu(bencher: Bencher, backward: bool) {
    run(bencher, SwiGlu, &[normal(&[B * T, MLP], 0), normal(&[B * T, MLP], 1)], backward);
}

#[divan::bench(args = BOTH)]
fn rope(bencher: Bencher, backward: bool) {
    let tables = RopeTables::new(0..T, 64, 1e4, DType::F32, &Device::Cpu).expect("it fits");
    run(bencher, Rope { tables: Arc::new(tables) }, &[normal(&[B, T, 4, 64], 0)], backward);
}

#[divan::bench(args = BOTH)]
fn embedding(bencher: Bencher, backward: bool) {
    let ids: Vec<u32> = (0..B * T).map(|i| (i * 37 % VOCAB) as u32).collect();
    let ids = Tensor::from_slice(&ids, &[B, T], &Device::Cpu).expect("it fits");
    run(bencher, Embedding::default(), &[normal(&[VOCAB, H], 0), ids], backward);
}

#[divan::bench(args = BOTH, consts = [0, 50])]
fn attention<const CAP: usize>(bencher: Bencher, backward: bool) {
    let kv = |site| normal(&[B, T, 2, 64], site);
    let op = Attention { softcap: CAP as f64, first_key: None };
    run(bencher, op, &[normal(&[B, T, 4, 64], 0), kv(1), kv(2)], backward);
}

#[divan::bench(args = BOTH)]
fn linear_gate_up(bencher: Bencher, backward: bool) {
    run(bencher, Linear, &[normal(&[B * T, H], 0), normal(&[MLP, H], 1), normal(&[MLP, H], 2)], backward);
}

#[divan::bench(args = BOTH)]
fn bit_linear_gate_up(bencher: Bencher, backward: bool) {
    let weights = [normal(&[MLP, H], 1), normal(&[MLP, H], 2)];
    let codes: Vec<&'static Ternary> =
        weights.iter().map(|w| &*Box::leak(Box::new(Ternary::new(w).expect("a matrix")))).collect();
    let [a, b] = weights;
    run(
        bencher,
        BitLinear { weights: codes.into_iter().collect() },
        &[normal(&[B * T, H], 0), a, b],
        backward,
    );
}

/// Forward here includes the gradient, which the op computes in the same pass when it is recorded.
#[divan::bench(args = BOTH, consts = [false, true])]
fn head_loss<const TEACHER: bool>(bencher: Bencher, backward: bool) {
    let targets: Vec<i32> = (0..B * T).map(|i| (i * 11 % VOCAB) as i32).collect();
    let (hidden, table) = (normal(&[B * T, H], 3), normal(&[VOCAB, H], 4));
    let mut terms = vec![(0.5, CrossEntropy::default().into())];
    if TEACHER {
        terms.push((0.5, ForwardKl { temperature: 2.0 }.into()));
    }
    let op = HeadLoss {
        terms,
        targets: Tensor::from_slice(&targets, &[B * T], &Device::Cpu).expect("it fits"),
        denominator: (B * T) as f64,
        softcap: 0.0,
        vocab: VOCAB,
        teacher: TEACHER.then_some(Teacher::Hidden { hidden, table, softcap: 0.0, vocab: VOCAB }),
    };
    run(bencher, op, &[normal(&[B * T, H], 0), normal(&[VOCAB, H], 1)], backward);
}
