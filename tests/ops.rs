//! Every differentiable operation, one row each: see [`distillix_tests::check`] for what a row runs.
//!
//! To add an operation, add its row: name, shapes to draw, and the op with inputs of those shapes.

use autograd::{Gradients, Op, Tape};
use distillix_tests::check::{Case, Input, cuda_device, ids, normal, row, scaled};
use distillix_tests::oracle::{self, StraightThrough};
use nn::losses::{
    CrossEntropy, Focal, ForwardKl, Jsd, Loss, RelationKl, ReverseKl, SkewForwardKl, SkewReverseKl,
    TopKForwardKl, Tvd, Uld,
};
use nn::ops::{
    Add, Attention, BitLinear, Embedding, HeadLoss, IGNORE, Linear, Reshape, RmsNorm, Rope, RopeTables,
    SoftCap, SwiGlu, Teacher,
};
use nn::ternary::{QuantizedRows, Ternary};
use proptest::prelude::*;
use proptest::sample::select;
use smallvec::smallvec;
use std::sync::Arc;
use tensor::{DType, Device, Result, Stream, Tensor};

macro_rules! rows {
    ($($name:ident: $shapes:expr => $case:expr;)*) => {$(
        #[test]
        fn $name() {
            row(stringify!($name), $shapes, $case);
        }
    )*};
}

/// A few rows, and widths on both sides of the vector lengths.
fn few() -> std::ops::RangeInclusive<usize> {
    1..=4
}
fn width() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), 2..=20usize, select(vec![31usize, 33, 64, 97])]
}
/// The type of what stays f32 where activations are bf16.
fn wide(dtype: DType) -> DType {
    if dtype == DType::BF16 { DType::F32 } else { dtype }
}
fn head_dim() -> impl Strategy<Value = usize> {
    select(vec![6usize, 12, 16])
}

rows! {
    add: (few(), width()) => |(n, h)| Case::op(Add, [normal([n, h]), normal([n, h])]);
    reshape: (few(), few(), width()) => |(a, b, h)| {
        Case::op(Reshape { dims: [a * b, h].into_iter().collect() }, [normal([a, b, h])])
    };
    embedding: (1..=7u32, width(), few(), few()) => |(vocab, h, b, t)| {
        let run = |dtype, tape: &mut Tape<'_>, x: &[autograd::Var]| {
            Ok(vec![tape.apply(Embedding { dtype: Some(dtype) }, &[&x[0], &x[1]])?])
        };
        Case::new(run, [normal([vocab as usize, h]).parameter(), ids(vocab, [b, t])])
    };
    rms_norm: (few(), few(), 2..=97usize) => |(a, b, h)| {
        Case::op(RmsNorm { eps: 1e-6 }, [normal([a, b, h]), normal([h]).parameter()])
    };
    rms_norm_large_eps: (few(), few(), width()) => |(a, b, h)| {
        Case::op(RmsNorm { eps: 0.3 }, [normal([a, b, h]), normal([h]).parameter()])
    };
    rms_norm_many_rows: (2500..2600usize, 7..=9usize) => |(n, h)| {
        Case::op(RmsNorm { eps: 1e-3 }, [normal([n, h]), normal([h]).parameter()])
    };
    swiglu: (few(), width()) => |(n, h)| Case::op(SwiGlu, [scaled(3.0, [n, h]), normal([n, h])]);
    soft_cap: (few(), width()) => |(n, h)| Case::op(SoftCap { cap: 5.0 }, [scaled(10.0, [n, h])]);
    rope: (few(), few(), few(), head_dim(), 0..5000usize) => |(b, t, heads, d, start)| {
        let run = move |dtype, tape: &mut Tape<'_>, x: &[autograd::Var]| {
            let tables = RopeTables::new(start..start + t, d, 1e6, wide(dtype), &x[0].device())?;
            Ok(vec![tape.apply(Rope { tables: Arc::new(tables) }, &[&x[0]])?])
        };
        Case::new(run, [normal([b, t, heads, d])])
    };
    linear: (few(), few(), width(), width()) => |(a, b, k, n)| {
        Case::op(Linear, [normal([a, b, k]), normal([n, k]).parameter()]).sums(a * b)
    };
    linear_three: (1..=70usize, width(), few(), width()) => |(rows, k, n, m)| {
        let weights = [n, m, n].map(|n| normal([n, k]).parameter());
        Case::op(Linear, [normal([rows, k])].into_iter().chain(weights)).sums(rows)
    };
    bit_linear: (few(), few(), width(), width()) => |(a, b, k, n)| {
        Case::op(StraightThrough, [normal([a, b, k]), scaled(0.02, [n, k]).parameter()]).straight_through().sums(a * b)
    };
    bit_linear_three: (1..=70usize, width(), few(), width()) => |(rows, k, n, m)| {
        let weights = [n, m, n].map(|n| scaled(0.02, [n, k]).parameter());
        Case::op(StraightThrough, [normal([rows, k])].into_iter().chain(weights)).straight_through().sums(rows)
    };
    attention: (few(), 1..=7usize, 0..=5usize, few(), 1..=3usize, head_dim(), any::<(bool, bool)>()) =>
        |(b, t, more, kv, group, d, (cap, documents))| attention_case([b, t, t + more, kv * group, kv, d], if cap { 3.0 } else { 0.0 }, documents);
    attention_long: (
        select(vec![1usize, 63, 64, 65, 129, 200]), select(vec![0usize, 1, 63, 128]), 1..=2usize, 1..=3usize,
        head_dim(), any::<(bool, bool)>(),
    ) => |(t, more, kv, group, d, (cap, documents))| {
        attention_case([2, t, t + more, kv * group, kv, d], if cap { 3.0 } else { 0.0 }, documents)
    };
    attention_wide: (
        select(vec![1usize, 9, 65, 130]), select(vec![0usize, 1, 70]), 1..=2usize, 1..=3usize,
        select(vec![32usize, 64, 64, 96, 128, 192, 256]), select(vec![0.0, 3.0, 50.0, 100.0]), any::<bool>(),
    ) => |(t, more, kv, group, d, cap, documents)| {
        attention_case([2, t, t + more, kv * group, kv, d], cap, documents)
    };

    cross_entropy: head() => |s| s.case(CrossEntropy { label_smoothing: 0.0 }, Says::Nothing);
    cross_entropy_smoothed: head() => |s| s.case(CrossEntropy { label_smoothing: 0.1 }, Says::Nothing);
    focal: head() => |s| s.case(Focal { gamma: 2.0 }, Says::Nothing);
    focal_one: head() => |s| s.case(Focal { gamma: 1.0 }, Says::Nothing);
    focal_zero: head() => |s| s.case(Focal { gamma: 0.0 }, Says::Nothing);
    forward_kl: head() => |s| s.case(ForwardKl { temperature: 2.0 }, Says::Logits);
    reverse_kl: head() => |s| s.case(ReverseKl { temperature: 2.0 }, Says::Logits);
    jsd: head() => |s| s.case(Jsd { beta: 0.1, temperature: 2.0 }, Says::Logits);
    jsd_even: head() => |s| s.case(Jsd { beta: 0.5, temperature: 1.0 }, Says::Logits);
    skew_forward_kl: head() => |s| s.case(SkewForwardKl { alpha: 0.1, temperature: 2.0 }, Says::Logits);
    skew_reverse_kl: head() => |s| s.case(SkewReverseKl { alpha: 0.1, temperature: 2.0 }, Says::Logits);
    tvd: head() => |s| s.case(Tvd { temperature: 2.0 }, Says::Logits);
    uld: head() => |s| s.case(Uld { temperature: 2.0 }, Says::Logits);
    uld_larger_teacher: head() => |s| s.case(Uld { temperature: 1.0 }, Says::LogitsOf(7));
    top_k_forward_kl: head() => |s| s.case(TopKForwardKl { temperature: 2.0 }, Says::TopK);
    two_terms: head() => |s| s.cases(
        vec![(0.3, CrossEntropy { label_smoothing: 0.1 }.into()), (0.7, ForwardKl { temperature: 2.0 }.into())],
        Says::Logits,
    );
    relation_kl: (few(), 1..=6usize, select(vec![(2usize, 6usize), (3, 4), (1, 6)]), any::<bool>()) =>
        |(b, t, (heads, d), causal)| {
            let op = RelationKl { relation_heads: 2, causal, weights: [1.0, 0.5, 2.0] };
            let student = [heads, 2, 2].map(|n| normal([b, t, n, d]));
            let teacher = [4, 4, 2].map(|n| normal([b, t, n, 10]).constant());
            Case::op(op, student.into_iter().chain(teacher))
        };
}

/// `[B, T, S, query heads, key heads, d]`.
fn attention_case([b, t, s, heads, kv_heads, d]: [usize; 6], softcap: f64, documents: bool) -> Case {
    let inputs = [scaled(1.5, [b, t, heads, d]), normal([b, s, kv_heads, d]), normal([b, s, kv_heads, d])];
    let run = move |_, tape: &mut Tape<'_>, x: &[autograd::Var]| {
        let first_key = if documents { Some(first_keys(b, t, s)?.to_device(&x[0].device())?) } else { None };
        let op = Attention { softcap, first_key };
        Ok(vec![tape.apply(op, &[&x[0], &x[1], &x[2]])?])
    };
    // Where a query sees hardly more than one key, its gradient cancels, dP against dO·O, to the rounding of a product over
    // the head: about u·√d (in bf16 that of the rounded output), of which the scale 1/√d leaves u whatever the head. For
    // two keys and queries of 1.5 that is up to 0.006 in bf16, 1% of a floor of 0.6. The floor must not grow with d or the
    // group: gradients do not, since probabilities sum to 1, and an all-zero one would pass below it.
    Case::new(run, inputs).sums(20)
}

/// Documents that begin at irregular places: `first_key[i] ≤` the query's position, never falling.
fn first_keys(b: usize, t: usize, s: usize) -> Result<Tensor> {
    let mut keys = Vec::new();
    for row in 0..b {
        for i in 0..t {
            let position = s - t + i;
            let length = [70, 5, 3][row % 3];
            keys.push((position - position % length) as u32);
        }
    }
    Tensor::from_slice(&keys, &[b, t], &Device::Cpu)
}

/// What the teacher gives.
#[derive(Clone, Copy, Debug)]
enum Says {
    Nothing,
    Logits,
    /// Logits over so many tokens more than the student's.
    LogitsOf(usize),
    TopK,
}

/// Shapes of an output head.
#[derive(Clone, Copy, Debug)]
struct Head {
    rows: usize,
    hidden: usize,
    vocab: usize,
    /// Rows of the table past the vocabulary.
    unused: usize,
    cap: f64,
    /// Every so many rows one does not count.
    ignore_every: usize,
}

fn head() -> impl Strategy<Value = Head> {
    (1..=12usize, 1..=5usize, 2..=19usize, 0..=2usize, select(vec![0.0, 3.0]), 2..=4usize).prop_map(
        |(rows, hidden, vocab, unused, cap, ignore_every)| Head {
            rows,
            hidden,
            vocab,
            unused,
            cap,
            ignore_every,
        },
    )
}

impl Head {
    fn case(self, loss: impl Into<Loss>, says: Says) -> Case {
        self.cases(vec![(0.7, loss.into())], says)
    }

    fn cases(self, terms: Vec<(f64, Loss)>, says: Says) -> Case {
        let inputs: [Input; 2] =
            [normal([self.rows, self.hidden]), normal([self.vocab + self.unused, self.hidden]).parameter()];
        Case::new(
            move |dtype, tape, x| {
                let device = x[0].device();
                let op = HeadLoss {
                    terms: terms.clone(),
                    targets: self.targets()?.to_device(&device)?,
                    denominator: 3.0,
                    softcap: self.cap,
                    vocab: self.vocab,
                    teacher: self.teacher(says, dtype, &device)?,
                };
                // The second output only reports the terms.
                Ok(vec![tape.apply_n(op, &[&x[0], &x[1]])?.remove(0)])
            },
            inputs,
        )
    }

    fn targets(self) -> Result<Tensor> {
        let stream = Stream::new(31);
        let target = |i: usize| match i % self.ignore_every {
            1 => IGNORE,
            _ => stream.below(i as u64, self.vocab as u64) as i32,
        };
        let targets: Vec<i32> = (0..self.rows).map(target).collect();
        Tensor::from_slice(&targets, &[self.rows], &Device::Cpu)
    }

    fn teacher(self, says: Says, dtype: DType, device: &Device) -> Result<Option<Teacher>> {
        let draw = |site, dims: [usize; 2]| {
            let stream = Stream { site, ..Stream::new(32) };
            // The same numbers in every type.
            Tensor::normal(0.0, 1.0, &dims, DType::BF16, &Device::Cpu, stream)
        };
        let width = self.hidden + 2;
        Ok(match says {
            Says::Nothing => None,
            Says::Logits | Says::LogitsOf(_) => {
                let vocab = self.vocab + if let Says::LogitsOf(more) = says { more } else { 0 };
                Some(Teacher::Hidden {
                    hidden: draw(0, [self.rows, width])?.to_dtype(dtype)?.to_device(device)?,
                    table: draw(1, [vocab + self.unused, width])?.to_dtype(wide(dtype))?.to_device(device)?,
                    softcap: self.cap,
                    vocab,
                })
            }
            Says::TopK => {
                let logits = draw(2, [self.rows, self.vocab])?.to_dtype(wide(dtype))?;
                let (log_probs, ids) = logits.log_softmax()?.topk(self.vocab.min(4) - 1)?;
                Some(Teacher::TopK { ids: ids.to_device(device)?, log_probs: log_probs.to_device(device)? })
            }
        })
    }
}

/// Production's codes, scales and product against the plain form, bit by bit; weights of several blocks of γ's sum, all
/// zero, tiny, at rounding ties; rows of zeros and of 1e30.
#[test]
fn bit_linear_is_exact() {
    tensor::storage::set_poison(true);
    let draw = |std: f64, dims: [usize; 2], site| {
        let stream = Stream { site, ..Stream::new(33) };
        Tensor::normal(0.0, std, &dims, DType::F32, &Device::Cpu, stream).unwrap().to_vec::<f32>().unwrap()
    };
    for (i, [rows, n, k]) in
        [[1, 1, 1], [3, 5, 7], [2, 33, 64], [5, 96, 97], [65, 17, 256], [4, 9, 1000]].into_iter().enumerate()
    {
        let ties = |i: usize| [0.5f32, 1.5, -0.5, 1.0, -2.5, 127.0, -1.5][i % 7];
        let weights: [Vec<f32>; 4] = [
            draw(0.02, [n, k], i as u32),
            vec![0.0; n * k],
            draw(1e-7, [n, k], i as u32),
            (0..n * k).map(ties).collect(),
        ];
        let mut x = draw(1.0, [rows, k], 100 + i as u32);
        x[..k].fill(0.0);
        if rows > 2 {
            x[k] = 1e30;
            x[2 * k..3 * k].iter_mut().enumerate().for_each(|(i, x)| *x = ties(i));
        }
        let devices = [Device::Cpu].into_iter().chain(cuda_device("bit_linear_is_exact"));
        for (device, w) in devices.flat_map(|device| weights.each_ref().map(|w| (device.clone(), w))) {
            let tensor = |v: &[f32], dims| Tensor::from_slice(v, dims, &device).unwrap();
            let (weight, input) = (tensor(w, &[n, k]), tensor(&x, &[rows, k]));
            let (ternary, quantized) = (Ternary::new(&weight).unwrap(), QuantizedRows::new(&input).unwrap());
            let (codes, gamma) = oracle::quantize_weight(w);
            assert_eq!(ternary.gamma().unwrap().to_bits(), gamma.to_bits());
            assert_eq!(ternary.codes().to_vec::<i8>().unwrap(), codes);
            let counts = [-1, 0, 1].map(|code| codes.iter().filter(|&&c| c == code).count());
            assert_eq!(ternary.stats().unwrap().counts, counts);
            let plain: Vec<_> = x.chunks_exact(k).map(oracle::quantize_row).collect();
            let codes: Vec<i8> = plain.iter().flat_map(|(codes, _)| codes.clone()).collect();
            let scales: Vec<f32> = plain.iter().map(|(_, s)| *s).collect();
            assert_eq!(quantized.codes().to_vec::<i8>().unwrap(), codes);
            assert_eq!(quantized.scales().to_vec::<f32>().unwrap(), scales);
            let op = BitLinear { weights: smallvec![&ternary] };
            let (y, _) = op.forward(&[&input, &weight], false).unwrap();
            let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(
                bits(y[0].to_vec().unwrap()),
                bits(oracle::product(&x, w, k)),
                "{rows} {n} {k} on {device}"
            );
        }
    }
}

/// A vocabulary so large that few rows of logits fit a chunk gives what row-by-row losses add up to.
#[test]
fn head_loss_adds_chunks() {
    tensor::storage::set_poison(true);
    let (rows, vocab) = (21usize, 1usize << 20);
    let draw = |site, dims: [usize; 2]| {
        let stream = Stream { site, ..Stream::new(34) };
        Tensor::normal(0.0, 1.0, &dims, DType::F32, &Device::Cpu, stream).unwrap()
    };
    let (x, table) = (draw(0, [rows, 2]), draw(1, [vocab, 2]));
    let targets: Vec<i32> = (0..rows as i32).map(|i| if i % 5 == 3 { IGNORE } else { i * 40_000 }).collect();
    let run = |from: usize, n: usize| {
        let op = HeadLoss {
            terms: vec![(1.0, CrossEntropy { label_smoothing: 0.1 }.into())],
            targets: Tensor::from_slice(&targets[from..][..n], &[n], &Device::Cpu).unwrap(),
            denominator: 7.0,
            softcap: 30.0,
            vocab,
            teacher: None,
        };
        let mut tape = Tape::new();
        let (x, table) = (tape.leaf(x.narrow(0, from, n).unwrap()), tape.leaf(table.clone()));
        let loss = tape.apply_n(op, &[&x, &table]).unwrap().remove(0);
        let mut grads = tape.backward(&loss, &mut Gradients::default()).unwrap();
        let value = loss.detach().item::<f32>().unwrap();
        let mut take = |v| grads.take(v).unwrap().to_vec::<f32>().unwrap();
        (f64::from(value), take(&x), take(&table))
    };
    let (whole, whole_dx, whole_de) = run(0, rows);
    let (mut sum, mut dx, mut de) = (0.0, Vec::new(), vec![0f64; vocab * 2]);
    for row in 0..rows {
        let (value, row_dx, row_de) = run(row, 1);
        sum += value;
        dx.extend(row_dx);
        de.iter_mut().zip(row_de).for_each(|(sum, x)| *sum += f64::from(x));
    }
    assert!((whole - sum).abs() < 1e-6 * sum, "{whole} {sum}");
    let error = |got: &[f32], want: &[f64]| {
        let difference: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        (difference / want.iter().map(|b| b * b).sum::<f64>()).sqrt()
    };
    let dx: Vec<f64> = dx.into_iter().map(f64::from).collect();
    assert!(error(&whole_dx, &dx) < 1e-6, "{:e}", error(&whole_dx, &dx));
    assert!(error(&whole_de, &de) < 1e-6, "{:e}", error(&whole_de, &de));
}
