// x + delta, its root-mean-square norm times a gain, and that in 8 bits: the input of a ternary product in one pass. The
// norm itself never goes to memory: the backward pass needs the sum and 1/rms alone.
#include "lanes.cuh"
#include "quantize.cuh"

// n = x·r·w of one pack.
template <class T, u32 N>
__device__ __forceinline__ void normed(
    const Pack<T>& x, float r, const float* w, u32 i, u32 h, bool wide, float (&n)[N]) {
    load_floats(w, i, h, wide, n);
#pragma unroll
    for (u32 k = 0; k < N; k++) n[k] = x[k] * r * n[k];
}

template <class T, u32 LANES, u32 KEPT>
__device__ __forceinline__ void rows_of_block(
    const T* x, const T* delta, const float* w, T* sum, i8* codes, float* scales, float* inverse, u32 rows, u32 h,
    float eps) {
    const u32 N = Pack<T>::N;
    __shared__ float scratch[32];
    u64 row = (u64)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    u32 lane = threadIdx.x % LANES, width = row < rows ? h : 0;
    bool wide = h % N == 0 && aligned(x) && aligned(w) && aligned(delta) && aligned(sum) && aligned(codes);
    x += row * h, codes += row * h;
    if (delta) delta += row * h, sum += row * h;
    // The sum is rounded before it is used, as it will be read again.
    auto load = [&](u32 i) {
        Pack<T> a = load_pack(x, i, width, wide);
        if (!delta) return a;
        Pack<T> b = load_pack(delta, i, width, wide);
        float v[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) v[k] = a[k] + b[k];
        return Pack<T>::of(v);
    };
    auto first_pass = [&](const Pack<T>& p, u32 i) {
        float squares = 0.f, v[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) v[k] = p[k], squares += v[k] * v[k];
        if (delta) store_pack(sum, i, width, wide, v);
        return squares;
    };
    Pack<T> kept[KEPT];
    float squares = 0.f;
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) kept[j] = load(i);
    }
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) squares += first_pass(kept[j], i);
    }
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) squares += first_pass(load(i), i);
    float r = 1.f / sqrtf(lanes_sum<LANES>(squares, scratch) / (float)h + eps);
    u32 most = 0;
    auto second_pass = [&](const Pack<T>& p, u32 i) {
        float n[N];
        normed(p, r, w, i, width, wide, n);
#pragma unroll
        for (u32 k = 0; k < N; k++) most = max(most, magnitude(n[k]));
    };
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) second_pass(kept[j], i);
    }
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) second_pass(load(i), i);
    float s = row_scale(lanes_max<LANES>(most, scratch));
    if (width && lane == 0) inverse[row] = r, scales[row] = s;
    auto third_pass = [&](const Pack<T>& p, u32 i) {
        float n[N];
        normed(p, r, w, i, width, wide, n);
        store_codes<N>(codes, i, width, wide, n, s);
    };
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) third_pass(kept[j], i);
    }
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) third_pass(load(i), i);
}

// Without delta nothing is added, and `sum` is not written.
#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK, 3) norm_quantize_##SUFFIX(                                     \
        const T* x, const T* delta, const float* w, T* sum, i8* codes, float* scales, float* inverse, u32 rows, u32 h, \
        u32 lanes, float eps) {                                                                                        \
        if (lanes == 32) rows_of_block<T, 32, 3>(x, delta, w, sum, codes, scales, inverse, rows, h, eps);              \
        else rows_of_block<T, BLOCK, 4>(x, delta, w, sum, codes, scales, inverse, rows, h, eps);                       \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
