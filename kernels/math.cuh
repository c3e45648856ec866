// The elementary functions of tensor/src/cpu/math.rs with the same bits: every operation is rounded by itself.
#pragma once
#include "common.cuh"

// An f32 whose arithmetic the compiler may not fuse.
struct exact {
    float value;
    __device__ __forceinline__ exact(float value) : value(value) {}
};
__device__ __forceinline__ exact operator+(exact a, exact b) { return __fadd_rn(a.value, b.value); }
__device__ __forceinline__ exact operator-(exact a, exact b) { return __fsub_rn(a.value, b.value); }
__device__ __forceinline__ exact operator*(exact a, exact b) { return __fmul_rn(a.value, b.value); }
__device__ __forceinline__ exact operator/(exact a, exact b) { return __fdiv_rn(a.value, b.value); }

#define LN2_HI exact(0.6933594f)
#define LN2_LO exact(-2.1219444e-4f)

// 2^e for an exponent of normal numbers.
__device__ __forceinline__ exact power_of_two(int e) { return __uint_as_float((u32)(e + 127) << 23); }

// e^x within 2 ulp.
__device__ __forceinline__ float exp_exact(float x) {
    const float round = 12582912.f;
    float clamped = x < -104.f ? -104.f : x;
    clamped = clamped > 89.f ? 89.f : clamped;
    exact c = clamped, shifted = c * 1.44269504088896341f + round, n = shifted - round;
    exact r = (c - n * LN2_HI) - n * LN2_LO;
    exact p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    exact y = p * (r * r) + r + 1.f;
    int e = (int)(__float_as_uint(shifted.value) - __float_as_uint(round)), half = e >> 1;
    return (y * power_of_two(half) * power_of_two(e - half)).value;
}

// ln(x·2^shift) of a positive, normal, finite x.
__device__ __forceinline__ exact ln_normal(float x, float shift) {
    u32 bits = __float_as_uint(x);
    int e = (int)(bits - 0x3f3504f3u) >> 23;
    exact f = exact(__uint_as_float(bits - ((u32)e << 23))) - 1.f;
    exact p = -7.634438e-2f;
    p = p * f + 1.2761563e-1f;
    p = p * f - 1.3160197e-1f;
    p = p * f + 1.420176e-1f;
    p = p * f - 1.6623355e-1f;
    p = p * f + 2.0001227e-1f;
    p = p * f - 2.5000823e-1f;
    p = p * f + 3.333333e-1f;
    exact exponent = exact((float)e) + shift, s = f * f;
    return (p * s * f + exponent * LN2_LO - exact(0.5f) * s + f) + exponent * LN2_HI;
}

// Natural logarithm within 2 ulp.
__device__ __forceinline__ float ln_exact(float x) {
    bool small = x < 1.17549435e-38f;
    float y = ln_normal(small ? __fmul_rn(x, 8388608.f) : x, small ? -23.f : 0.f).value;
    y = x == 0.f ? -INFINITY_F : y;
    y = x == INFINITY_F ? x : y;
    return x >= 0.f ? y : NAN_F;
}

// Hyperbolic tangent within 3 ulp.
__device__ __forceinline__ float tanh_exact(float x) {
    exact a = fabsf(x), s = a * a;
    exact p = -5.7049887e-3f;
    p = p * s + 2.0639087e-2f;
    p = p * s - 5.3739714e-2f;
    p = p * s + 1.3331442e-1f;
    p = p * s - 3.333328e-1f;
    exact small = p * s * a + a;
    exact large = exact(1.f) - exact(2.f) / (exact(exp_exact((exact(2.f) * a).value)) + 1.f);
    return copysignf(a.value < 0.625f ? small.value : large.value, x);
}
