// Folds of many values into one, in an order fixed by shape.
#pragma once
#include "common.cuh"

#define FOLD_THREADS 256

// Sum in f64, divided at the end.
struct Sum {
    typedef double Acc;
    static __device__ __forceinline__ Acc start() { return 0.0; }
    static __device__ __forceinline__ Acc step(Acc acc, float x, u64) { return acc + (double)x; }
    static __device__ __forceinline__ Acc merge(Acc a, Acc b) { return a + b; }
    static __device__ __forceinline__ float finish(Acc acc, double divisor) { return (float)(acc / divisor); }
};

// Square root of the sum of squares.
struct Norm {
    typedef double Acc;
    static __device__ __forceinline__ Acc start() { return 0.0; }
    static __device__ __forceinline__ Acc step(Acc acc, float x, u64) { return acc + (double)x * (double)x; }
    static __device__ __forceinline__ Acc merge(Acc a, Acc b) { return a + b; }
    static __device__ __forceinline__ float finish(Acc acc, double) { return (float)sqrt(acc); }
};

// Largest and smallest value, NaN if any is.
struct Maximum {
    typedef float Acc;
    static __device__ __forceinline__ Acc start() { return -INFINITY_F; }
    static __device__ __forceinline__ Acc merge(Acc a, Acc b) { return a >= b || a != a ? a : b; }
    static __device__ __forceinline__ Acc step(Acc acc, float x, u64) { return merge(acc, x); }
    static __device__ __forceinline__ float finish(Acc acc, double) { return acc; }
};
struct Minimum {
    typedef float Acc;
    static __device__ __forceinline__ Acc start() { return INFINITY_F; }
    static __device__ __forceinline__ Acc merge(Acc a, Acc b) { return a <= b || a != a ? a : b; }
    static __device__ __forceinline__ Acc step(Acc acc, float x, u64) { return merge(acc, x); }
    static __device__ __forceinline__ float finish(Acc acc, double) { return acc; }
};

// Position of the first largest value; NaN counts as larger than everything.
struct ArgMax {
    struct Acc {
        float value;
        u32 position;
    };
    static __device__ __forceinline__ Acc start() { return {-INFINITY_F, 0xffffffffu}; }
    static __device__ __forceinline__ Acc merge(Acc a, Acc b) {
        bool nan_a = a.value != a.value, nan_b = b.value != b.value;
        bool first = a.position < b.position;
        bool take_a = nan_a || nan_b ? nan_a && (!nan_b || first) : a.value > b.value || (a.value == b.value && first);
        return take_a ? a : b;
    }
    static __device__ __forceinline__ Acc step(Acc acc, float x, u64 i) { return merge(acc, {x, (u32)i}); }
    static __device__ __forceinline__ u32 finish(Acc acc, double) { return acc.position; }
};

// The accumulators of neighbouring threads, `group` of them (a power of two), combined: all get the result. Every thread
// of the block takes part; `scratch` holds FOLD_THREADS accumulators and may be used again after the call.
template <class Fold>
__device__ __forceinline__ typename Fold::Acc group_fold(typename Fold::Acc acc, u32 group, typename Fold::Acc* scratch) {
    u32 lane = threadIdx.x & (group - 1);
    scratch[threadIdx.x] = acc;
    for (u32 half = group / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half) scratch[threadIdx.x] = Fold::merge(scratch[threadIdx.x], scratch[threadIdx.x + half]);
    }
    __syncthreads();
    acc = scratch[threadIdx.x - lane];
    __syncthreads();
    return acc;
}

// Elements `from..to` of a row folded by the `group` threads that share it; each gets a part.
template <class Fold, class T>
__device__ __forceinline__ typename Fold::Acc lane_fold(const T* row, u64 from, u64 to, u32 group) {
    typename Fold::Acc acc = Fold::start();
    u32 lane = threadIdx.x & (group - 1);
    const T* x = row + from;
    u64 n = to > from ? to - from : 0, done = 0;
    if ((u64)x % (4 * sizeof(T)) == 0) {
        done = n / 4 * 4;
        for (u64 i = 4 * lane; i < done; i += 4 * group) {
            float4 v = load4(x + i);
            acc = Fold::step(acc, v.x, from + i);
            acc = Fold::step(acc, v.y, from + i + 1);
            acc = Fold::step(acc, v.z, from + i + 2);
            acc = Fold::step(acc, v.w, from + i + 3);
        }
    }
    for (u64 i = done + lane; i < n; i += group) acc = Fold::step(acc, to_float(x[i]), from + i);
    return acc;
}
