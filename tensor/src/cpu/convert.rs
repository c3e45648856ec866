//! Conversions between element types.

use super::parallel::{self, CHUNK};
use super::simd;
use crate::Element;
use bytemuck::cast_slice;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Converts each element: floats round to nearest even, integers truncate toward zero and saturate.
pub(crate) fn convert<S: Element, D: Element>(from: &[S], to: &mut [D]) {
    use crate::DType::{BF16, F16, F32};
    parallel::chunks(to, CHUNK, |start, to| {
        let from = &from[start..start + to.len()];
        // The pairs that checkpoints and half-precision weights go through have loops that vectorise.
        match (S::DTYPE, D::DTYPE) {
            (F32, BF16) => bf16_from_f32(cast_slice(from), bytemuck::cast_slice_mut(to)),
            (BF16, F32) => f32_from_bf16(cast_slice(from), bytemuck::cast_slice_mut(to)),
            (F32, F16) => bytemuck::cast_slice_mut::<D, f16>(to).convert_from_f32_slice(cast_slice(from)),
            (F16, F32) => cast_slice::<S, f16>(from).convert_to_f32_slice(bytemuck::cast_slice_mut(to)),
            _ => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = D::from_f64(from.to_f64());
                }
            }
        }
    });
}

fn f32_from_bf16(from: &[bf16], to: &mut [f32]) {
    simd::dispatch(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to = f32::from_bits(u32::from(from.to_bits()) << 16);
            }
        },
    );
}

fn bf16_from_f32(from: &[f32], to: &mut [bf16]) {
    simd::dispatch(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                let bits = from.to_bits();
                let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
                // Rounding could carry a NaN's payload into infinity; a NaN is cut off and kept quiet instead.
                let nan = bits >> 16 | 0x40;
                *to = bf16::from_bits(if from.is_nan() { nan } else { rounded } as u16);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even_for_every_exponent() {
        let all: Vec<f32> = (0..=u16::MAX)
            .flat_map(|high| [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| u32::from(high) << 16 | low))
            .map(f32::from_bits)
            .collect();
        let mut ours = vec![bf16::ZERO; all.len()];
        convert(&all, &mut ours);
        for (x, ours) in all.iter().zip(&ours) {
            let expected = bf16::from_f32(*x);
            assert_eq!(ours.to_bits(), expected.to_bits(), "{:x}", x.to_bits());
        }
        let mut back = vec![0f32; all.len()];
        convert(&ours, &mut back);
        assert!(back.iter().zip(&ours).all(|(b, o)| b.to_bits() == o.to_f32().to_bits()));
    }

    #[test]
    fn f16_and_integers_agree_with_the_scalar_conversion() {
        let xs = [0.0f32, -1.5, 65504.0, 1e9, -1e9, 6e-8, f32::INFINITY, 300.7, -129.9];
        let mut half = [f16::ZERO; 9];
        convert(&xs, &mut half);
        assert_eq!(half, xs.map(f16::from_f32));
        let mut bytes = [0i8; 9];
        convert(&xs, &mut bytes);
        assert_eq!(bytes, [0, -1, 127, 127, -128, 0, 127, 127, -128]);
    }
}
