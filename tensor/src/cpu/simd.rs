//! SIMD level of the running machine, and loops compiled for it.
//!
//! One binary serves every x86-64: the level is detected once at run time. Kernels with intrinsics ask [`level`];
//! plain loops go through [`dispatch`], which compiles the same closure for each level and lets LLVM vectorise it.

use std::sync::LazyLock;

/// Instruction sets the kernels are written for, from least to most capable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Baseline of the target (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// AVX2 with FMA and F16C (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, CD, DQ and VL (x86-64-v4).
    Avx512,
}

impl Level {
    /// Every level this machine can run, lowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|&l| l <= detected())
    }
}

#[cfg(target_arch = "x86_64")]
fn probe() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn probe() -> Level {
    Level::Portable
}

/// Highest level of this machine, whatever the environment asks for.
pub fn detected() -> Level {
    static DETECTED: LazyLock<Level> = LazyLock::new(probe);
    *DETECTED
}

/// Level the kernels use: the detected one, or a lower one asked for by the environment variable
/// `DISTILLIX_SIMD=portable|avx2|avx512`, which is read once. Other values, and levels the machine lacks, select
/// the detected level.
pub fn level() -> Level {
    static LEVEL: LazyLock<Level> = LazyLock::new(|| {
        let asked = match std::env::var("DISTILLIX_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        asked.min(detected())
    });
    *LEVEL
}

/// Whether the byte dot product `vpdpbusd` (AVX-512 VNNI) can be used at [`Level::Avx512`] on this machine.
pub fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static VNNI: LazyLock<bool> =
            LazyLock::new(|| detected() == Level::Avx512 && is_x86_feature_detected!("avx512vnni"));
        *VNNI
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs `f` compiled for [`level`], so that the plain loops in it are vectorised with the machine's widest registers.
///
/// Only code inlined into the closure profits. Mark the closure and the functions it calls, or LLVM calls a large
/// one as it is, compiled for the baseline: `dispatch(#[inline(always)] || ..)`. Floating
/// point results do not change with the level, since Rust never fuses or reorders float operations by itself; a loop
/// that calls `f32::mul_add` should not be used at [`Level::Portable`] on x86-64, where it is a library call.
#[inline(always)]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    dispatch_at(level(), f)
}

/// [`dispatch`] at a given level, lowered to what the machine has.
#[inline(always)]
pub fn dispatch_at<R>(level: Level, f: impl FnOnce() -> R) -> R {
    match level.min(detected()) {
        // SAFETY: `detected` confirmed every feature the function enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(f) },
        _ => f(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,movbe")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,movbe")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}
