// Activations in 8 bits with a scale a row: s = 127/max(absmax, 1e-5), code = clamp(round(x·s), -128, 127), half to even.
// Single IEEE operations, so that the bits are the CPU's.
#pragma once
#include "common.cuh"

#define SCALE_EPSILON 1e-5f

// The bits of |x| order like integers, with NaN above infinity, so that a NaN survives the maximum.
__device__ __forceinline__ u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// s of a row from the largest magnitude in it.
__device__ __forceinline__ float row_scale(u32 most) {
    float absmax = __uint_as_float(most);
    return __fdiv_rn(127.f, absmax < SCALE_EPSILON ? SCALE_EPSILON : absmax);
}

__device__ __forceinline__ u32 code(float x, float s) {
    // Clamping before rounding gives the same integers.
    return (u32)__float2int_rn(fminf(fmaxf(__fmul_rn(x, s), -128.f), 127.f)) & 0xffu;
}

__device__ __forceinline__ u32 four_codes(const float* v, float s) {
    return code(v[0], s) | code(v[1], s) << 8 | code(v[2], s) << 16 | code(v[3], s) << 24;
}

// Writes the codes of values i.. of the n at p, N of them, none beyond. `wide` says that p + i is a multiple of N bytes.
template <u32 N>
__device__ __forceinline__ void store_codes(i8* p, u32 i, u32 n, bool wide, const float* v, float s) {
    if (wide && i + N <= n) {
        if constexpr (N == 8) *(uint2*)(p + i) = make_uint2(four_codes(v, s), four_codes(v + 4, s));
        else *(u32*)(p + i) = four_codes(v, s);
        return;
    }
#pragma unroll
    for (u32 k = 0; k < N; k++)
        if (i + k < n) p[i + k] = (i8)code(v[k], s);
}
