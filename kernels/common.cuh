// Pieces that the kernels share. Self-contained: NVRTC finds no system headers on a machine with a driver alone.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define INFINITY_F __int_as_float(0x7f800000)
#define NAN_F __int_as_float(0x7fffffff)
#define FULL_MASK 0xffffffffu

// The upper half of an f32.
struct bf16 {
    u16 bits;
};

template <class T> struct is_bf16 { static const bool value = false; };
template <> struct is_bf16<bf16> { static const bool value = true; };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    u32 b = __float_as_uint(x);
    y.bits = x != x ? (u16)0x7fff : (u16)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
#endif
    return y;
}

// Two values rounded and packed, the first in the lower half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
#else
    return (u32)to_bf16(low).bits | ((u32)to_bf16(high).bits << 16);
#endif
}

__device__ __forceinline__ float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return to_bf16(x); }

// Four neighbouring values in one access; the address is a multiple of their size.
__device__ __forceinline__ float4 load4(const float* p) { return *(const float4*)p; }
__device__ __forceinline__ float4 load4(const bf16* p) {
    uint2 v = *(const uint2*)p;
    return make_float4(low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y));
}
__device__ __forceinline__ void store4(float* p, float4 v) { *(float4*)p = v; }
__device__ __forceinline__ void store4(bf16* p, float4 v) {
    *(uint2*)p = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

struct Add {
    static __device__ __forceinline__ float identity() { return 0.f; }
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
    static __device__ __forceinline__ float identity() { return -INFINITY_F; }
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// All lanes of a warp get the result. The order of the additions is fixed.
template <class F> __device__ __forceinline__ float warp_reduce(float x, F f) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x = f(x, __shfl_xor_sync(FULL_MASK, x, lane));
    return x;
}

// All threads of a one-dimensional block, a multiple of 32, get the result; `scratch` holds 32 floats and may be used
// again after the call.
template <class F> __device__ __forceinline__ float block_reduce(float x, F f, float* scratch) {
    x = warp_reduce(x, f);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : F::identity();
    x = warp_reduce(x, f);
    __syncthreads();
    return x;
}
__device__ __forceinline__ float block_sum(float x, float* scratch) { return block_reduce(x, Add(), scratch); }
__device__ __forceinline__ float block_max(float x, float* scratch) { return block_reduce(x, Max(), scratch); }

// Sum in f64, for long reductions whose error must stay below f32's.
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(FULL_MASK, x, lane);
    return x;
}

// Index of this thread among all of a one-dimensional grid, and their number, for grid-stride loops.
__device__ __forceinline__ u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 thread_count() { return (u64)gridDim.x * blockDim.x; }
