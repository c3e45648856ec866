// Rows that are shared by some lanes of a warp or by a whole block.
#pragma once
#include "pack.cuh"

// Threads of a block, and of a row that no warp holds.
#define BLOCK 256

// Every one of the LANES threads of a row gets the result. `scratch` is block_reduce's.
template <u32 LANES, class F> __device__ __forceinline__ float lanes_reduce(float x, F f, float* scratch) {
    if constexpr (LANES == BLOCK) {
        return block_reduce(x, f, scratch);
    } else {
#pragma unroll
        for (u32 lane = LANES / 2; lane > 0; lane >>= 1) x = f(x, __shfl_xor_sync(FULL_MASK, x, lane));
        return x;
    }
}
template <u32 LANES> __device__ __forceinline__ float lanes_sum(float x, float* scratch) {
    return lanes_reduce<LANES>(x, Add(), scratch);
}
// The largest of magnitudes: bits of non-negative floats, which order like integers.
template <u32 LANES> __device__ __forceinline__ u32 lanes_max(u32 x, float* scratch) {
    if constexpr (LANES == BLOCK) {
        u32* words = (u32*)scratch;
        x = lanes_max<32>(x, scratch);
        if (threadIdx.x % 32 == 0) words[threadIdx.x / 32] = x;
        __syncthreads();
        x = lanes_max<32>(threadIdx.x % 32 < BLOCK / 32 ? words[threadIdx.x % 32] : 0, scratch);
        __syncthreads();
        return x;
    } else {
#pragma unroll
        for (u32 lane = LANES / 2; lane > 0; lane >>= 1) x = max(x, __shfl_xor_sync(FULL_MASK, x, lane));
        return x;
    }
}

// The LANES threads of a row hold sums of columns (j·LANES + lane)·N + k. Adds those of the block's rows up in order and
// writes them to `out` [columns].
template <u32 LANES, u32 KEPT, u32 N>
__device__ __forceinline__ void write_columns(const float (&sums)[KEPT][N], float* part, float* out, u32 columns) {
    u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    if constexpr (LANES == BLOCK) {
#pragma unroll
        for (u32 j = 0; j < KEPT; j++)
#pragma unroll
            for (u32 k = 0; k < N; k++) {
                u32 i = (j * LANES + lane) * N + k;
                if (i < columns) out[i] = sums[j][k];
            }
    } else {
        for (u32 turn = 0; turn < BLOCK / LANES; turn++) {
            if (group == turn) {
#pragma unroll
                for (u32 j = 0; j < KEPT; j++)
#pragma unroll
                    for (u32 k = 0; k < N; k++) {
                        u32 i = (j * LANES + lane) * N + k;
                        part[i] = turn == 0 ? sums[j][k] : part[i] + sums[j][k];
                    }
            }
            __syncthreads();
        }
        for (u32 i = threadIdx.x; i < columns; i += BLOCK) out[i] = part[i];
    }
}
