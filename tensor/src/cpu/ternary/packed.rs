//! Ternary weights in the order the integer kernels read them.

use rayon::prelude::*;

/// Output columns of a panel.
pub(super) const NR: usize = 32;
/// Consecutive inputs of one column, which one 32-bit lane holds.
pub(super) const GROUP: usize = 4;
/// Bytes of a panel's step: [`GROUP`] inputs of [`NR`] columns.
pub(super) const STEP: usize = NR * GROUP;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Step([u8; STEP]);

/// Ternary weights `[out, in]` packed for [`super::ternary_gemm`], one byte a weight.
///
/// Panels of 32 outputs, in each the inputs in groups of 4, in each group the 32 outputs. The bytes hold `w + 1`, and
/// 0 past the last input: an unsigned factor for the byte dot products, which are corrected by the sum of the
/// activations since `Σ w·x = Σ (w + 1)·x - Σ x`.
#[derive(Clone, Debug)]
pub struct PackedTernary {
    steps: Vec<Step>,
    out_features: usize,
    in_features: usize,
}

impl PackedTernary {
    /// Packs row-major codes `[out, in]`, each -1, 0 or 1.
    ///
    /// # Panics
    /// If the number of codes is not `out_features * in_features`.
    pub fn new(codes: &[i8], out_features: usize, in_features: usize) -> Self {
        let steps = out_features.div_ceil(NR) * in_features.div_ceil(GROUP);
        let mut packed = Self { steps: vec![Step([0; STEP]); steps], out_features, in_features };
        packed.repack(codes);
        packed
    }

    /// Replaces the weights by other codes of the same shape, in place and in parallel.
    ///
    /// # Panics
    /// If the number of codes is not `out_features * in_features`.
    pub fn repack(&mut self, codes: &[i8]) {
        let (n, k) = (self.out_features, self.in_features);
        assert_eq!(codes.len(), n * k, "codes of a ternary weight [{n}, {k}]");
        debug_assert!(codes.iter().all(|c| (-1..=1).contains(c)), "ternary codes are -1, 0 or 1");
        if codes.is_empty() {
            return;
        }
        self.steps.par_chunks_mut(k.div_ceil(GROUP)).zip(codes.par_chunks(NR * k)).for_each(
            |(panel, rows)| {
                // A cache line of every row at a time, so that the panel's steps stay in the L1 cache.
                for (block, steps) in panel.chunks_mut(64 / GROUP).enumerate() {
                    for (j, row) in rows.chunks_exact(k).enumerate() {
                        let line = &row[block * 64..k.min((block + 1) * 64)];
                        let (groups, tail) = line.as_chunks::<GROUP>();
                        for (step, group) in steps.iter_mut().zip(groups) {
                            step.0[j * GROUP..][..GROUP]
                                .copy_from_slice(&group.map(|c| c.wrapping_add(1) as u8));
                        }
                        for (i, &c) in tail.iter().enumerate() {
                            steps[groups.len()].0[j * GROUP + i] = c.wrapping_add(1) as u8;
                        }
                    }
                }
            },
        );
    }

    /// Rows of the weight.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Columns of the weight.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The bytes of panel `i`, step after step.
    pub(super) fn panel(&self, i: usize) -> *const u8 {
        let steps = self.in_features.div_ceil(GROUP);
        self.steps[i * steps..(i + 1) * steps].as_ptr().cast()
    }
}
