use super::*;
use crate::cpu::gemm::MatMut;
use crate::cpu::gemm::tests::Noise;
use crate::cpu::simd::Level;

fn codes(noise: &mut Noise, n: usize) -> Vec<i8> {
    (0..n).map(|_| (noise.next() * 1.5).round() as i8).collect()
}

fn activations(noise: &mut Noise, n: usize) -> Vec<i8> {
    (0..n).map(|_| (noise.next() * 130.0).round() as i8).collect()
}

/// The formula in i64 and single f32 operations.
fn oracle(x: &[i8], s: &[f32], w: &[i8], [n, k]: [usize; 2], gamma: f32) -> Vec<f32> {
    let mut y = Vec::new();
    for (i, s) in s.iter().enumerate() {
        for j in 0..n {
            let acc: i64 = (0..k).map(|p| x[i * k + p] as i64 * w[j * k + p] as i64).sum();
            y.push(acc as f32 * (gamma / s));
        }
    }
    y
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

const SIZES: [usize; 12] = [1, 2, 3, 5, 13, 17, 31, 33, 63, 65, 129, 257];

#[test]
fn every_level_equals_the_i64_oracle() {
    let mut noise = Noise(1);
    let mut shapes: Vec<[usize; 3]> = Vec::new();
    for (i, &a) in SIZES.iter().enumerate() {
        for s in [1, 5, 7] {
            shapes.push([a, SIZES[(i * s + 3) % 12], SIZES[(i * 5 + s) % 12]]);
        }
    }
    shapes.extend([[1, 700, 2048], [3, 40, 4096], [250, 600, 36], [15, 33, 1023], [2, 5, 0]]);
    for [m, n, k] in shapes {
        let (x, w) = (activations(&mut noise, m * k), codes(&mut noise, n * k));
        let s: Vec<f32> = (0..m).map(|_| noise.next().abs() * 50.0 + 0.1).collect();
        let packed = PackedTernary::new(&w, n, k);
        let want = bits(&oracle(&x, &s, &w, [n, k], 0.0371));
        for level in Level::available() {
            let mut y = vec![f32::NAN; m * (n + 2)];
            ternary_gemm_at(level, &x, &s, &packed, 0.0371, MatMut::new(&mut y, m, n, n + 2));
            let got: Vec<f32> = (0..m * n).map(|i| y[i / n * (n + 2) + i % n]).collect();
            assert_eq!(bits(&got), want, "{level:?} {m}x{n}x{k}");
            assert!((0..m).all(|i| y[i * (n + 2) + n..(i + 1) * (n + 2)].iter().all(|v| v.is_nan())));
        }
    }
}

#[test]
fn extreme_sums_do_not_saturate() {
    let (m, n, k) = (2, 32, 4000);
    for (code, weight) in [(-128, 1), (-128, -1), (127, 1), (127, -1)] {
        let (x, w, s) = (vec![code; m * k], vec![weight; n * k], vec![1.0; m]);
        let packed = PackedTernary::new(&w, n, k);
        for level in Level::available() {
            let mut y = vec![0.0; m * n];
            ternary_gemm_at(level, &x, &s, &packed, 1.0, MatMut::row_major(&mut y, m, n));
            assert!(y.iter().all(|&v| v == (code as i32 * weight as i32 * k as i32) as f32), "{level:?}");
        }
    }
}

#[test]
fn threads_and_repacking_do_not_change_bits() {
    let mut noise = Noise(2);
    let (m, n, k) = (300, 1100, 130);
    let x = activations(&mut noise, m * k);
    let s: Vec<f32> = (0..m).map(|_| noise.next().abs() + 1.0).collect();
    let mut packed = PackedTernary::new(&codes(&mut noise, n * k), n, k);
    let w = codes(&mut noise, n * k);
    packed.repack(&w);
    let want = bits(&oracle(&x, &s, &w, [n, k], 1.5));
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut y = vec![0.0; m * n];
        pool.install(|| ternary_gemm(&x, &s, &packed, 1.5, MatMut::row_major(&mut y, m, n)));
        assert_eq!(bits(&y), want, "{threads} threads");
    }
}

#[test]
fn activations_follow_the_formula() {
    let mut noise = Noise(3);
    for (m, k) in [(1, 1), (3, 7), (40, 257), (130, 1000)] {
        let mut x: Vec<f32> = noise.fill(m * k).iter().map(|v| v * v * v * 9.0).collect();
        x[..k].fill(0.0);
        // Scale 2 makes halves: ties go to the even code.
        if let [a, b, c, d, ..] = &mut x[(m - 1) * k..] {
            (*a, *b, *c, *d) = (63.5, 0.25, -0.75, 1.25);
        }
        let (mut q, mut s) = (vec![0; m * k], vec![0.0; m]);
        quantize_activations(&x, &mut q, &mut s);
        for i in 0..m {
            let row = &x[i * k..(i + 1) * k];
            let scale = 127.0 / row.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-5);
            assert_eq!(s[i].to_bits(), scale.to_bits());
            for (x, q) in row.iter().zip(&q[i * k..]) {
                assert_eq!(*q, (x * scale).round_ties_even().clamp(-128.0, 127.0) as i8);
            }
        }
    }
    let (mut q, mut s) = ([0; 8], [0.0; 2]);
    let x = [63.5, 0.25, -0.75, 1.25, 0.75, -0.25, 60.0, 1.0];
    quantize_activations(&x[..4], &mut q[..4], &mut s[..1]);
    assert_eq!((&q[..4], s[0]), (&[127, 0, -2, 2][..], 2.0));
    quantize_activations(&[1.0, f32::NAN, -2.0, 0.0, 1.0, f32::NEG_INFINITY, 3.0, 0.0], &mut q, &mut s);
    assert!(s[0].is_nan() && s[1] == 0.0);
}

#[test]
fn weights_follow_the_formula() {
    let mut noise = Noise(4);
    for n in [1, 5, 4096, 4097, 8 * 4096 + 3, 20 * 4096 + 100] {
        let w: Vec<f32> = noise.fill(n).iter().map(|v| v * v * v * 0.1).collect();
        let mut total = 0f64;
        for block in w.chunks(4096) {
            let mut sum = 0f64;
            for v in block {
                sum += v.abs() as f64;
            }
            total += sum;
        }
        let gamma = ((total / n as f64) as f32).max(1e-5);
        let mut codes = codes(&mut noise, n);
        let before = codes.clone();
        let stats = quantize_weights(&w, &mut codes);
        assert_eq!(stats.gamma.to_bits(), gamma.to_bits());
        let want: Vec<i8> = w.iter().map(|v| (v / gamma).round_ties_even().clamp(-1.0, 1.0) as i8).collect();
        assert_eq!(codes, want);
        let count = |c| want.iter().filter(|&&v| v == c).count();
        assert_eq!([stats.minus, stats.zero, stats.plus], [count(-1), count(0), count(1)]);
        assert_eq!(stats.flips, before.iter().zip(&want).filter(|(a, b)| a != b).count());
        assert_eq!(quantize_weights(&w, &mut codes).flips, 0);
    }
    assert_eq!(absmean(&[0.0; 10]), 1e-5);
    assert!(quantize_weights(&[1.0, f32::NAN], &mut [0; 2]).gamma.is_nan());
}

#[test]
fn thresholds_equal_the_division_next_to_the_half() {
    let mut noise = Noise(5);
    for _ in 0..2000 {
        // A matrix of one repeated magnitude has that magnitude as γ; its neighbours of γ/2 are tested by hand.
        let gamma = (noise.next().abs() + 1e-3) * (10.0 * noise.next()).exp2();
        let half = gamma * 0.5;
        for w in [half, half.next_up(), half.next_down(), -half, -half.next_up(), -half.next_down()] {
            let mut code = [0i8];
            super::quantize::quantize_chunk(&[w], &mut code, half);
            assert_eq!(code[0], (w / gamma).round_ties_even().clamp(-1.0, 1.0) as i8, "{w} {gamma}");
        }
    }
}
