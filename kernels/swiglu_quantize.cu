// gate·σ(gate)·up in 8 bits: the input of a ternary product in one pass. The product itself never goes to memory: the
// backward pass needs gate and up alone.
#include "lanes.cuh"
#include "quantize.cuh"

template <class T, u32 LANES, u32 KEPT>
__device__ __forceinline__ void rows_of_block(
    const T* gate, const T* up, i8* codes, float* scales, u32 rows, u32 width) {
    const u32 N = Pack<T>::N;
    __shared__ float scratch[32];
    u64 row = (u64)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    u32 lane = threadIdx.x % LANES;
    bool wide = width % N == 0 && aligned(gate) && aligned(up) && aligned(codes);
    gate += row * width, up += row * width, codes += row * width;
    width = row < rows ? width : 0;
    auto gated = [&](const Pack<T>& g, const Pack<T>& u, float (&y)[N]) {
#pragma unroll
        for (u32 k = 0; k < N; k++) y[k] = g[k] * Math<T>::sigmoid(g[k]) * u[k];
    };
    auto again = [&](u32 i, float (&y)[N]) { gated(load_pack(gate, i, width, wide), load_pack(up, i, width, wide), y); };
    Pack<T> g[KEPT], u[KEPT];
    float kept[KEPT][N];
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) g[j] = load_pack(gate, i, width, wide), u[j] = load_pack(up, i, width, wide);
    }
    u32 most = 0;
    auto largest = [&](const float (&y)[N]) {
#pragma unroll
        for (u32 k = 0; k < N; k++) most = max(most, magnitude(y[k]));
    };
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        if ((j * LANES + lane) * N >= width) continue;
        gated(g[j], u[j], kept[j]);
        largest(kept[j]);
    }
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) {
        float y[N];
        again(i, y);
        largest(y);
    }
    float s = row_scale(lanes_max<LANES>(most, scratch));
    if (width && lane == 0) scales[row] = s;
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) store_codes<N>(codes, i, width, wide, kept[j], s);
    }
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) {
        float y[N];
        again(i, y);
        store_codes<N>(codes, i, width, wide, y, s);
    }
}

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK) swiglu_quantize_##SUFFIX(                                      \
        const T* gate, const T* up, i8* codes, float* scales, u32 rows, u32 width, u32 lanes) {                        \
        if (lanes == 32) rows_of_block<T, 32, 2>(gate, up, codes, scales, rows, width);                                \
        else rows_of_block<T, BLOCK, 2>(gate, up, codes, scales, rows, width);                                         \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
