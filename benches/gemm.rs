//! Matrix products: ours against `matrixmultiply`, and the integer product of ternary layers.
//!
//! Items are multiply-adds: 1 G items/s is 2 GFLOP/s. Choose threads with `RAYON_NUM_THREADS`; `matrixmultiply` runs
//! on one.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use tensor::cpu::gemm::{MatMut, MatRef, sgemm, sgemm_block};
use tensor::cpu::ternary::{PackedTernary, quantize_activations, quantize_weights, ternary_gemm};

fn main() {
    divan::main();
}

/// Tokens, outputs and inputs of a layer: a square one, and those of a small model.
const LAYERS: [[usize; 3]; 5] =
    [[1024, 1024, 1024], [2048, 256, 256], [2048, 704, 256], [2048, 256, 704], [2048, 4096, 256]];

const FORMS: [&str; 3] = ["forward NT", "dX NN", "dW TN"];

struct Case {
    name: String,
    m: usize,
    n: usize,
    k: usize,
    a_strides: [usize; 2],
    b_strides: [usize; 2],
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(&self.name)
    }
}

/// The three products of every layer.
fn cases() -> Vec<Case> {
    let layer = |[t, o, i]: [usize; 3]| {
        FORMS.map(|form| {
            let ([m, n, k], a_strides, b_strides) = match form {
                "forward NT" => ([t, o, i], [i, 1], [1, i]),
                "dX NN" => ([t, i, o], [o, 1], [i, 1]),
                _ => ([o, i, t], [1, o], [i, 1]),
            };
            Case { name: format!("{t}x{o}x{i} {form}"), m, n, k, a_strides, b_strides }
        })
    };
    LAYERS.into_iter().flat_map(layer).collect()
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

fn codes(n: usize) -> Vec<i8> {
    (0..n).map(|i| (i * 7 % 3) as i8 - 1).collect()
}

#[divan::bench(args = cases())]
fn f32_ours(bencher: Bencher, case: &Case) {
    let Case { m, n, k, a_strides: [ars, acs], b_strides: [brs, bcs], .. } = *case;
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0.0; m * n]);
    bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| {
        let (a, b) = (MatRef::new(&a, m, k, ars, acs), MatRef::new(&b, k, n, brs, bcs));
        sgemm(1.0, a, b, 0.0, MatMut::row_major(&mut c, m, n));
    });
}

#[divan::bench(args = cases())]
fn f32_matrixmultiply(bencher: Bencher, case: &Case) {
    let Case { m, n, k, a_strides, b_strides, .. } = *case;
    let ([ars, acs], [brs, bcs]) = (a_strides.map(|s| s as isize), b_strides.map(|s| s as isize));
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0f32; m * n]);
    bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: the buffers hold m x k, k x n and m x n elements in these strides.
        unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a, ars, acs, b, brs, bcs, 0.0, c, n as isize, 1) }
    });
}

/// One tile of attention, 64 queries by 64 keys of 64 channels in rows of 256.
#[divan::bench(args = ["NN", "NT", "TN"])]
fn f32_block_64(bencher: Bencher, form: &str) {
    let (a, b, mut c) = (values(64 * 256), values(64 * 256), vec![0.0; 64 * 64]);
    bencher.counter(ItemsCount::new(64usize * 64 * 64)).bench_local(|| {
        let (mut a, mut b) = (MatRef::new(&a, 64, 64, 256, 1), MatRef::new(&b, 64, 64, 256, 1));
        if form == "TN" {
            a = a.t();
        }
        if form == "NT" {
            b = b.t();
        }
        sgemm_block(1.0, black_box(a), black_box(b), 0.0, MatMut::row_major(&mut c, 64, 64));
    });
}

fn ternary_shapes() -> impl Iterator<Item = [usize; 3]> {
    LAYERS.into_iter().chain([[1, 256, 256], [1, 768, 768], [1, 2048, 768]])
}

#[divan::bench(args = ternary_shapes().map(|[m, n, k]| format!("{m}x{n}x{k}")))]
fn ternary(bencher: Bencher, shape: &str) {
    let mut sizes = shape.split('x').map(|s| s.parse::<usize>().expect("made by ternary_shapes"));
    let [m, n, k] = std::array::from_fn(|_| sizes.next().expect("three sizes"));
    let x: Vec<i8> = (0..m * k).map(|i| (i * 91 % 255) as i8).collect();
    let (w, s, mut y) = (PackedTernary::new(&codes(n * k), n, k), vec![8.0; m], vec![0.0; m * n]);
    bencher
        .counter(ItemsCount::new(m * n * k))
        .bench_local(|| ternary_gemm(&x, &s, &w, 0.02, MatMut::row_major(&mut y, m, n)));
}

/// dX and dW of a ternary layer, from codes: `dY·(γ·Wq)` and `dYᵀ·(Xq/s)`.
#[divan::bench(args = ["dX", "dW"])]
fn ternary_backward(bencher: Bencher, form: &str) {
    let (tokens, outputs, inputs) = (2048, 704, 256);
    let (dy, wq, xq) = (values(tokens * outputs), codes(outputs * inputs), codes(tokens * inputs));
    let (s, mut dx, mut dw) = (vec![8.0; tokens], vec![0.0; tokens * inputs], vec![0.0; outputs * inputs]);
    bencher.counter(ItemsCount::new(tokens * outputs * inputs)).bench_local(|| {
        let dy = MatRef::row_major(&dy, tokens, outputs);
        if form == "dX" {
            let w = MatRef::row_major(&wq, outputs, inputs);
            sgemm(0.02, dy, w, 0.0, MatMut::row_major(&mut dx, tokens, inputs));
        } else {
            let x = MatRef::row_major(&xq, tokens, inputs).div_rows(&s);
            sgemm(1.0, dy.t(), x, 0.0, MatMut::row_major(&mut dw, outputs, inputs));
        }
    });
}

const WEIGHTS: usize = 1 << 20;

#[divan::bench]
fn quantize_weight(bencher: Bencher) {
    let (w, mut q) = (values(WEIGHTS), vec![0; WEIGHTS]);
    bencher.counter(ItemsCount::new(WEIGHTS)).bench_local(|| quantize_weights(&w, &mut q));
}

#[divan::bench]
fn quantize_activation(bencher: Bencher) {
    let (x, mut q, mut s) = (values(WEIGHTS), vec![0; WEIGHTS], vec![0.0; WEIGHTS / 256]);
    bencher.counter(ItemsCount::new(WEIGHTS)).bench_local(|| quantize_activations(&x, &mut q, &mut s));
}

#[divan::bench]
fn repack(bencher: Bencher) {
    let w = codes(WEIGHTS);
    let mut packed = PackedTernary::new(&w, 1024, 1024);
    bencher.counter(ItemsCount::new(WEIGHTS)).bench_local(|| packed.repack(&w));
}
