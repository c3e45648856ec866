use super::*;
use half::bf16;

/// Reproducible values in -1..1.
pub(crate) struct Noise(pub u64);
impl Noise {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub(crate) fn fill(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
    fn code(&mut self) -> i8 {
        (self.next() * 128.0).round() as i8
    }
}

const SIZES: [usize; 16] = [1, 2, 3, 5, 7, 13, 14, 17, 31, 33, 63, 65, 100, 129, 257, 300];

/// Shapes that use every size in every place, and some that are cut into several tiles and blocks of K.
fn shapes() -> Vec<[usize; 3]> {
    let n = SIZES.len();
    let mut shapes: Vec<_> = (0..n)
        .flat_map(|i| [3, 7, 11].map(|s| [SIZES[i], SIZES[(i * s + 2) % n], SIZES[(i * 5 + s) % n]]))
        .collect();
    shapes.extend([[257, 530, 600], [113, 1100, 259], [500, 33, 513], [1, 700, 300], [230, 1, 130]]);
    shapes
}

fn oracle(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut sum, mut size) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for p in 0..k {
            let x = a(i, p);
            for j in 0..n {
                let v = x * b(p, j);
                sum[i * n + j] += v;
                size[i * n + j] += v.abs();
            }
        }
    }
    (sum, size)
}

/// `|got - want|` within the rounding that a sum of `size` in absolute value may collect over k steps.
fn assert_close(got: &[f32], want: &[f64], size: &[f64], k: usize, what: &str) {
    for (i, ((&g, &w), &s)) in got.iter().zip(want).zip(size).enumerate() {
        let tolerance = (s + 1.0) * f32::EPSILON as f64 * (2.0 + (k as f64).sqrt());
        assert!((g as f64 - w).abs() <= tolerance, "{what}: element {i} is {g}, expected {w}");
    }
}

/// Strides of the four forms: rows, columns, padded rows, neither contiguous.
fn strides(rows: usize, cols: usize) -> [(usize, usize); 4] {
    [(cols, 1), (1, rows), (cols + 3, 1), (2 * cols + 1, 2)]
}

#[test]
fn all_levels_strides_and_betas_match_f64() {
    let mut noise = Noise(1);
    for (s, [m, n, k]) in shapes().into_iter().enumerate() {
        for form in 0..16 {
            // Large shapes take a few forms each, small ones all.
            if m * n * k > 1 << 18 && form % 4 != s % 4 {
                continue;
            }
            let (ars, acs) = strides(m, k)[form % 4];
            let (brs, bcs) = strides(k, n)[form / 4];
            let a = noise.fill((m - 1) * ars + (k - 1) * acs + 1);
            let b = noise.fill((k - 1) * brs + (n - 1) * bcs + 1);
            let (mut want, size) =
                oracle([m, n, k], |i, p| a[i * ars + p * acs] as f64, |p, j| b[p * brs + j * bcs] as f64);
            let (alpha, beta) = [(1.0, 0.0), (0.5, 1.0), (-1.5, 0.25)][(s + form) % 3];
            let ldc = n + form % 3;
            let old = noise.fill(m * ldc);
            for i in 0..m {
                for j in 0..n {
                    want[i * n + j] = alpha as f64 * want[i * n + j] + beta as f64 * old[i * ldc + j] as f64;
                }
            }
            for level in Level::available() {
                let mut c = if beta == 0.0 { vec![f32::NAN; m * ldc] } else { old.clone() };
                let gap = c[n..ldc].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let ma = MatRef::new(&a, m, k, ars, acs);
                let mb = MatRef::new(&b, k, n, brs, bcs);
                sgemm_at(level, alpha, ma, mb, beta, MatMut::new(&mut c, m, n, ldc));
                assert_eq!(gap, c[n..ldc].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), "gap written");
                let got: Vec<f32> = (0..m * n).map(|i| c[i / n * ldc + i % n]).collect();
                assert_close(&got, &want, &size, k, &format!("{level:?} {m}x{n}x{k} form {form}"));
            }
        }
    }
}

#[test]
fn codes_and_bf16_equal_the_product_of_their_f32_values() {
    let mut noise = Noise(2);
    for [m, n, k] in [[1, 1, 1], [5, 33, 17], [65, 100, 129], [40, 31, 300], [130, 257, 65]] {
        let a = noise.fill(m * k);
        let codes: Vec<i8> = (0..k * n).map(|_| noise.code()).collect();
        let halves: Vec<bf16> = noise.fill(k * n).into_iter().map(bf16::from_f32).collect();
        let by_k: Vec<f32> = (0..k).map(|_| noise.next().abs() + 0.1).collect();
        let by_n: Vec<f32> = (0..n).map(|_| noise.next().abs() + 0.1).collect();
        let gamma = 0.037f32;
        let ma = MatRef::row_major(&a, m, k);
        for level in Level::available() {
            let product = |b: &[f32], form: (usize, usize)| {
                let mut c = vec![0.0; m * n];
                let b = MatRef::new(b, k, n, form.0, form.1);
                sgemm_at(level, 1.0, ma, b, 0.0, MatMut::row_major(&mut c, m, n));
                c
            };
            let check = |want: Vec<f32>, b: &dyn Fn(&mut [f32])| {
                let mut c = vec![0.0; m * n];
                b(&mut c);
                assert_eq!(want, c, "{level:?} {m}x{n}x{k}");
            };
            for form in [(n, 1), (1, k)] {
                let at = |x: usize| if form.1 == 1 { (x / n, x % n) } else { (x % k, x / k) };
                let view = MatRef::new(&codes, k, n, form.0, form.1);
                let plain: Vec<f32> = codes.iter().map(|&q| q as f32).collect();
                let times: Vec<f32> = codes.iter().map(|&q| q as f32 * gamma).collect();
                let rows: Vec<f32> = (0..k * n).map(|x| codes[x] as f32 / by_k[at(x).0]).collect();
                let cols: Vec<f32> = (0..k * n).map(|x| codes[x] as f32 / by_n[at(x).1]).collect();
                let wide: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
                check(product(&plain, form), &|c| {
                    sgemm_at(level, 1.0, ma, view, 0.0, MatMut::row_major(c, m, n))
                });
                check(product(&times, form), &|c| {
                    sgemm_at(level, 1.0, ma, view.times(gamma), 0.0, MatMut::row_major(c, m, n))
                });
                check(product(&rows, form), &|c| {
                    sgemm_at(level, 1.0, ma, view.div_rows(&by_k), 0.0, MatMut::row_major(c, m, n))
                });
                check(product(&cols, form), &|c| {
                    let b = view.t().div_rows(&by_n).t();
                    sgemm_at(level, 1.0, ma, b, 0.0, MatMut::row_major(c, m, n))
                });
                check(product(&wide, form), &|c| {
                    let b = MatRef::new(&halves, k, n, form.0, form.1);
                    sgemm_at(level, 1.0, ma, b, 0.0, MatMut::row_major(c, m, n))
                });
                // The converted operand on the left: (AB)ᵀ = BᵀAᵀ, with the same order of sums.
                let want = product(&rows, form);
                let mut c = vec![0.0; n * m];
                let left = view.div_rows(&by_k).t();
                sgemm_at(level, 1.0, left, ma.t(), 0.0, MatMut::row_major(&mut c, n, m));
                assert!((0..m * n).all(|i| c[i % n * m + i / n] == want[i]), "{level:?} {m}x{n}x{k} left");
            }
        }
    }
}

#[test]
fn threads_and_blocks_do_not_change_bits() {
    let mut noise = Noise(3);
    for [m, n, k] in [[64, 64, 64], [300, 700, 600], [257, 129, 2000], [33, 1100, 257], [900, 40, 300]] {
        let (a, b, old) = (noise.fill(m * k), noise.fill(k * n), noise.fill(m * n));
        for (ars, acs, brs, bcs) in [(k, 1, n, 1), (k, 1, 1, k), (1, m, n, 1), (1, m, 1, k)] {
            let ma = MatRef::new(&a, m, k, ars, acs);
            let mb = MatRef::new(&b, k, n, brs, bcs);
            let mut want = old.clone();
            sgemm_block(0.7, ma, mb, 1.0, MatMut::row_major(&mut want, m, n));
            for threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut c = old.clone();
                pool.install(|| sgemm(0.7, ma, mb, 1.0, MatMut::row_major(&mut c, m, n)));
                assert!(c.iter().zip(&want).all(|(x, y)| x.to_bits() == y.to_bits()), "{threads} threads");
            }
        }
    }
}

#[test]
fn symmetric_products_are_the_upper_half_of_whole_ones() {
    for (n, k) in [(1, 3), (5, 2), (33, 40), (130, 17), (300, 700), (513, 96)] {
        let mut noise = Noise(n as u64);
        let x = noise.fill(n * k);
        let x = MatRef::row_major(&x, n, k);
        let mut whole = vec![f32::NAN; n * n];
        sgemm(1.0, x, x.t(), 0.0, MatMut::row_major(&mut whole, n, n));
        let mut half = vec![f32::NAN; n * n];
        sgemm_symmetric(1.0, x, x.t(), 0.0, MatMut::row_major(&mut half, n, n));
        for i in 0..n {
            for j in i..n {
                assert_eq!(half[i * n + j].to_bits(), whole[i * n + j].to_bits(), "{n} {k}: {i} {j}");
                assert_eq!(half[j * n + i].to_bits(), half[i * n + j].to_bits(), "{n} {k}: {j} {i}");
            }
        }
        let mut sum = half.clone();
        sgemm_symmetric(1.0, x, x.t(), 1.0, MatMut::row_major(&mut sum, n, n));
        assert!(
            sum.iter().zip(&half).all(|(sum, half)| (sum - 2.0 * half).abs() <= 1e-5 * half.abs() + 1e-5)
        );
    }
}

#[test]
fn nan_reaches_its_row_and_column_only() {
    let (m, n, k) = (20, 40, 30);
    let mut noise = Noise(4);
    let (mut a, mut b) = (noise.fill(m * k), noise.fill(k * n));
    a[7 * k + 3] = f32::NAN;
    b[5 * n + 33] = f32::INFINITY;
    b[6 * n + 33] = f32::NEG_INFINITY;
    for level in Level::available() {
        let mut c = vec![0.0; m * n];
        let (ma, mb) = (MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n));
        sgemm_at(level, 1.0, ma, mb, 0.0, MatMut::row_major(&mut c, m, n));
        for i in 0..m {
            for j in 0..n {
                assert_eq!(c[i * n + j].is_finite(), i != 7 && j != 33, "{level:?} ({i}, {j})");
            }
            assert!(i != 7 || c[i * n..(i + 1) * n].iter().all(|v| v.is_nan()));
        }
    }
}

#[test]
fn empty_sums_scale_the_output() {
    let mut c = vec![f32::NAN; 6];
    let none: [f32; 0] = [];
    let (a, b) = (MatRef::row_major(&none, 2, 0), MatRef::row_major(&none, 0, 3));
    sgemm(1.0f32, a, b, 0.0, MatMut::row_major(&mut c, 2, 3));
    assert_eq!(c, [0.0; 6]);
    let mut c = vec![2.0; 6];
    sgemm(1.0f32, a, b, 0.5, MatMut::row_major(&mut c, 2, 3));
    assert_eq!(c, [1.0; 6]);
}

#[test]
#[should_panic(expected = "does not fit")]
fn shapes_are_checked() {
    let x = [0f32; 12];
    let mut c = [0f32; 12];
    sgemm(
        1.0,
        MatRef::row_major(&x, 3, 4),
        MatRef::row_major(&x, 3, 4),
        0.0,
        MatMut::row_major(&mut c, 3, 4),
    );
}

#[test]
fn f64_and_batches_match_single_products() {
    let mut noise = Noise(5);
    let (batch, m, n, k) = (3, 150, 140, 70);
    let a: Vec<f64> = noise.fill(batch * m * k).into_iter().map(f64::from).collect();
    let b: Vec<f64> = noise.fill(k * n).into_iter().map(f64::from).collect();
    let mut c = vec![f64::NAN; batch * m * n];
    let (ma, mb) = (MatRef::row_major(&a[..m * k], m, k), MatRef::new(&b, k, n, 1, k));
    // SAFETY: the offsets stay inside a, b and c, and the outputs lie one after another.
    unsafe {
        let first = MatMut::from_raw(c.as_mut_ptr(), m, n, n);
        gemm_batched(batch, |i| [i * m * k, 0, i * m * n], 1.0, ma, mb, 0.0, first);
    }
    for q in 0..batch {
        let (want, _) = oracle([m, n, k], |i, p| a[q * m * k + i * k + p], |p, j| b[j * k + p]);
        let got = &c[q * m * n..(q + 1) * m * n];
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-12));
    }
    let single: Vec<f32> = a.iter().map(|&v| v as f32).collect();
    let right: Vec<f32> = b.iter().map(|&v| v as f32).collect();
    let mut c = vec![0f32; batch * m * n];
    let mut want = c.clone();
    let mb = MatRef::new(&right, k, n, 1, k);
    for q in 0..batch {
        let ma = MatRef::row_major(&single[q * m * k..], m, k);
        gemm(1.0, ma, mb, 0.0, MatMut::row_major(&mut want[q * m * n..], m, n));
    }
    // SAFETY: as above.
    unsafe {
        let ma = MatRef::row_major(&single, m, k);
        let first = MatMut::from_raw(c.as_mut_ptr(), m, n, n);
        gemm_batched(batch, |i| [i * m * k, 0, i * m * n], 1.0, ma, mb, 0.0, first);
    }
    assert_eq!(c, want);
}
