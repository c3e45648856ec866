// A stable radix sort's inner step: 8 bits of the keys a pass.
#pragma once
#include "common.cuh"

#define DIGITS 256

// Moves keys first..end, and their values, to where `start` [DIGITS], in shared memory, sends each digit; equal digits
// keep their order, and `start` moves on. Without `values` the value of a key is its index. All THREADS threads of a
// block, at least DIGITS, call it; `warps` [THREADS / 32][DIGITS] is scratch in shared memory.
template <u32 THREADS>
__device__ __forceinline__ void stable_scatter(
    const u32* keys, const u32* values, u32* keys_out, u32* values_out, u64 first, u64 end, u32 shift, u32* start,
    u32 (*warps)[DIGITS]) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u64 base = first; base < end; base += THREADS) {
        for (u32 i = threadIdx.x; i < THREADS / 32 * DIGITS; i += THREADS) warps[i / DIGITS][i % DIGITS] = 0;
        __syncthreads();
        u64 i = base + threadIdx.x;
        bool live = i < end;
        u32 key = live ? keys[i] : 0, digit = key >> shift & (DIGITS - 1);
        // Lanes past the end match only each other.
        u32 same = __match_any_sync(FULL_MASK, live ? digit : DIGITS);
        u32 rank = __popc(same & ((1u << lane) - 1));
        if (live && rank == 0) warps[warp][digit] = __popc(same);
        __syncthreads();
        if (threadIdx.x < DIGITS) {
            u32 next = start[threadIdx.x];
#pragma unroll 8
            for (u32 w = 0; w < THREADS / 32; w++) {
                u32 here = warps[w][threadIdx.x];
                warps[w][threadIdx.x] = next;
                next += here;
            }
            start[threadIdx.x] = next;
        }
        __syncthreads();
        if (live) {
            u32 to = warps[warp][digit] + rank;
            keys_out[to] = key;
            values_out[to] = values ? values[i] : (u32)i;
        }
        __syncthreads();
    }
}

// The sum of the values of the lanes before this one, and its own.
__device__ __forceinline__ u32 warp_scan(u32 x) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        u32 other = __shfl_up_sync(FULL_MASK, x, step);
        if (lane >= step) x += other;
    }
    return x;
}
