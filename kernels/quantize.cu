// Quantization: activations to 8 bits with a scale a row, weights to {-1, 0, 1} with a scale a matrix, and back.
// Bit-equal with the CPU from equal inputs: single IEEE operations, no contraction, sums in a fixed order.
#include "quantize.cuh"

// Weights summed by one f64 accumulator, part of γ's definition.
#define SUM_BLOCK 4096u
// Weights of a block that are in flight at a time.
#define SUM_COLUMNS 64u

// Eight neighbouring values as they lie in memory.
template <class T> struct Eight;
template <> struct Eight<float> {
    float4 low, high;
    __device__ __forceinline__ void load(const float* p) { low = load4(p), high = load4(p + 4); }
    __device__ __forceinline__ void unpack(float (&v)[8]) const {
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    }
};
template <> struct Eight<bf16> {
    uint4 pairs;
    __device__ __forceinline__ void load(const bf16* p) { pairs = *(const uint4*)p; }
    __device__ __forceinline__ void unpack(float (&v)[8]) const {
        v[0] = low_bf16(pairs.x), v[1] = high_bf16(pairs.x), v[2] = low_bf16(pairs.y), v[3] = high_bf16(pairs.y);
        v[4] = low_bf16(pairs.z), v[5] = high_bf16(pairs.z), v[6] = low_bf16(pairs.w), v[7] = high_bf16(pairs.w);
    }
};

template <class T> __device__ __forceinline__ u32 magnitude(const Eight<T>& x) {
    float v[8];
    x.unpack(v);
    u32 most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) most = max(most, magnitude(v[i]));
    return most;
}

template <class T> __device__ __forceinline__ void store_codes(i8* codes, const Eight<T>& x, float s) {
    float v[8];
    x.unpack(v);
    *(uint2*)codes = make_uint2(four_codes(v, s), four_codes(v + 4, s));
}

// The largest of a warp's, in all lanes.
__device__ __forceinline__ u32 warp_largest(u32 x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = max(x, __shfl_xor_sync(FULL_MASK, x, step));
    return x;
}

// Rows of at most 256·HELD values stay in registers.
template <u32 HELD, class T> __device__ __forceinline__ float quantize_held(const T* x, i8* codes, u32 k) {
    u32 first = threadIdx.x % 32 * 8, most = 0;
    Eight<T> held[HELD];
#pragma unroll
    for (u32 j = 0; j < HELD; j++)
        if (first + 256 * j < k) held[j].load(x + first + 256 * j);
#pragma unroll
    for (u32 j = 0; j < HELD; j++)
        if (first + 256 * j < k) most = max(most, magnitude(held[j]));
    float s = row_scale(warp_largest(most));
#pragma unroll
    for (u32 j = 0; j < HELD; j++)
        if (first + 256 * j < k) store_codes(codes + first + 256 * j, held[j], s);
    return s;
}

// Rows of any length: the second pass finds in the cache what the first has read.
template <class T> __device__ __forceinline__ float quantize_any(const T* x, i8* codes, u32 k) {
    u32 lane = threadIdx.x % 32, most = 0;
    for (u32 i = lane; i < k; i += 32) most = max(most, magnitude(to_float(x[i])));
    float s = row_scale(warp_largest(most));
    for (u32 i = lane; i < k; i += 32) codes[i] = (i8)code(to_float(x[i]), s);
    return s;
}

// s = 127/max(absmax, 1e-5), codes = clamp(round(x·s), -128, 127), half to even. A warp a row of x [rows, k].
template <class T> __device__ __forceinline__ void quantize_rows(const T* x, i8* codes, float* scales, u32 rows, u32 k) {
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += (u64)row * k;
    codes += (u64)row * k;
    bool wide = k % 8 == 0 && k <= 2048 && (((u64)x & 15) | ((u64)codes & 7)) == 0;
    float s;
    if (!wide) s = quantize_any(x, codes, k);
    else if (k <= 768) s = quantize_held<3>(x, codes, k);
    else s = quantize_held<8>(x, codes, k);
    if (threadIdx.x % 32 == 0) scales[row] = s;
}

extern "C" __global__ __launch_bounds__(256) void quantize_rows_f32(const float* x, i8* codes, float* scales, u32 rows,
                                                                   u32 k) {
    quantize_rows(x, codes, scales, rows, k);
}
extern "C" __global__ __launch_bounds__(256) void quantize_rows_bf16(const bf16* x, i8* codes, float* scales, u32 rows,
                                                                    u32 k) {
    quantize_rows(x, codes, scales, rows, k);
}

// The value of a code: exact division in f32; bf16 takes the reciprocal, whose error is far below its rounding.
template <class T> struct Value;
template <> struct Value<float> {
    float s;
    __device__ __forceinline__ explicit Value(float scale) : s(scale) {}
    __device__ __forceinline__ float operator()(i8 c) const { return __fdiv_rn((float)c, s); }
};
template <> struct Value<bf16> {
    float inverse;
    __device__ __forceinline__ explicit Value(float scale) : inverse(__fdiv_rn(1.f, scale)) {}
    __device__ __forceinline__ float operator()(i8 c) const { return (float)c * inverse; }
};

template <class T, class F> __device__ __forceinline__ void store_eight(T* y, uint2 codes, F value) {
    const i8* c = (const i8*)&codes;
    store4(y, make_float4(value(c[0]), value(c[1]), value(c[2]), value(c[3])));
    store4(y + 4, make_float4(value(c[4]), value(c[5]), value(c[6]), value(c[7])));
}
template <class F> __device__ __forceinline__ void store_eight(bf16* y, uint2 codes, F value) {
    const i8* c = (const i8*)&codes;
    *(uint4*)y = make_uint4(pack_bf16(value(c[0]), value(c[1])), pack_bf16(value(c[2]), value(c[3])),
                            pack_bf16(value(c[4]), value(c[5])), pack_bf16(value(c[6]), value(c[7])));
}

// y = codes / s of the row, [rows, k]. A warp a row.
template <class T>
__device__ __forceinline__ void dequantize_rows(const i8* codes, const float* scales, T* y, u32 rows, u32 k) {
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    codes += (u64)row * k;
    y += (u64)row * k;
    Value<T> value(scales[row]);
    if (k % 8 == 0 && (((u64)y & 15) | ((u64)codes & 7)) == 0) {
#pragma unroll 4
        for (u32 i = lane * 8; i < k; i += 256) store_eight(y + i, *(const uint2*)(codes + i), value);
    } else {
        for (u32 i = lane; i < k; i += 32) y[i] = from_float<T>(value(codes[i]));
    }
}

extern "C" __global__ __launch_bounds__(256) void dequantize_rows_f32(const i8* codes, const float* scales, float* y,
                                                                     u32 rows, u32 k) {
    dequantize_rows(codes, scales, y, rows, k);
}
extern "C" __global__ __launch_bounds__(256) void dequantize_rows_bf16(const i8* codes, const float* scales, bf16* y,
                                                                      u32 rows, u32 k) {
    dequantize_rows(codes, scales, y, rows, k);
}

// y = γ·codes.
template <class T> __device__ __forceinline__ void dequantize_weight(const i8* codes, const float* gamma, T* y, u64 numel) {
    float g = *gamma;
    auto value = [g](i8 c) { return (float)c * g; };
    bool wide = (((u64)y & 15) | ((u64)codes & 7)) == 0;
    u64 whole = wide ? numel / 8 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count())
        store_eight(y + 8 * i, *(const uint2*)(codes + 8 * i), value);
    for (u64 i = 8 * whole + thread_index(); i < numel; i += thread_count()) y[i] = from_float<T>(value(codes[i]));
}

extern "C" __global__ void dequantize_weight_f32(const i8* codes, const float* gamma, float* y, u64 numel) {
    dequantize_weight(codes, gamma, y, numel);
}
extern "C" __global__ void dequantize_weight_bf16(const i8* codes, const float* gamma, bf16* y, u64 numel) {
    dequantize_weight(codes, gamma, y, numel);
}

// The kernels below take `gridDim.y` matrices of `numel` weights that lie one after another.

// Sums of |w| in f64 over blocks of 4,096 weights, in index order: a lane a block, which it reads from a tile that the
// warp has loaded a line a row. One warp a thread block; `blocks` sums a matrix.
extern "C" __global__ __launch_bounds__(32) void quantize_block_sums(const float* w, double* sums, u64 numel, u32 blocks) {
    __shared__ float tile[32][SUM_COLUMNS + 1];
    w += blockIdx.y * numel;
    u32 lane = threadIdx.x, first = blockIdx.x * 32;
    float next[SUM_COLUMNS];
    auto fetch = [&](u32 column) {
#pragma unroll
        for (u32 i = 0; i < SUM_COLUMNS; i++) {
            u64 at = (u64)(first + i / (SUM_COLUMNS / 32)) * SUM_BLOCK + column + i % (SUM_COLUMNS / 32) * 32 + lane;
            next[i] = at < numel ? w[at] : 0.f;
        }
    };
    fetch(0);
    double sum = 0.;
    for (u32 column = 0; column < SUM_BLOCK; column += SUM_COLUMNS) {
#pragma unroll
        for (u32 i = 0; i < SUM_COLUMNS; i++)
            tile[i / (SUM_COLUMNS / 32)][i % (SUM_COLUMNS / 32) * 32 + lane] = fabsf(next[i]);
        __syncwarp();
        if (column + SUM_COLUMNS < SUM_BLOCK) fetch(column + SUM_COLUMNS);
#pragma unroll 16
        for (u32 i = 0; i < SUM_COLUMNS; i++) sum += (double)tile[lane][i];
        __syncwarp();
    }
    if (first + lane < blocks) sums[(u64)blockIdx.y * blocks + first + lane] = sum;
}

// γ = max(mean|W|, 1e-5) from the block sums, added in order; clears the counters. One warp a matrix.
extern "C" __global__ __launch_bounds__(32) void quantize_gamma(const double* sums, float* gamma, u32* counts, u64 numel,
                                                               u32 blocks) {
    u32 lane = threadIdx.x;
    sums += (u64)blockIdx.y * blocks;
    double total = 0.;
    for (u32 first = 0; first < blocks; first += 32) {
        double mine = first + lane < blocks ? sums[first + lane] : 0.;
#pragma unroll
        for (int i = 0; i < 32; i++) total += __shfl_sync(FULL_MASK, mine, i);
    }
    if (lane < 3) counts[blockIdx.y * 3 + lane] = 0;
    if (lane == 0) {
        float mean = (float)__ddiv_rn(total, (double)numel);
        gamma[blockIdx.y] = mean < SCALE_EPSILON ? SCALE_EPSILON : mean;
    }
}

// codes = clamp(round(w/γ), -1, 1), half to even; counts of -1, of +1 and of codes
// that changed.
extern "C" __global__ __launch_bounds__(256) void quantize_codes(const float* w, const float* gamma, i8* codes, u32* counts,
                                                                u64 numel) {
    __shared__ u32 block_counts[3];
    w += blockIdx.y * numel;
    codes += blockIdx.y * numel;
    // round(w/γ) is at least 1 exactly if w > γ/2: halving is exact, and the first float above γ/2 divided by γ does
    // not round down to 0.5.
    float half = gamma[blockIdx.y] * 0.5f;
    u32 minus = 0, plus = 0, flips = 0;
    auto quantize = [&](float x, i8 old) {
        bool p = x > half, m = x < -half;
        i8 now = (i8)((int)p - (int)m);
        plus += p;
        minus += m;
        flips += now != old;
        return now;
    };
    u64 whole = (((u64)w & 15) | ((u64)codes & 3)) == 0 ? numel / 4 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count()) {
        float4 x = load4(w + 4 * i);
        char4 c = *(const char4*)(codes + 4 * i);
        c.x = quantize(x.x, c.x), c.y = quantize(x.y, c.y), c.z = quantize(x.z, c.z), c.w = quantize(x.w, c.w);
        *(char4*)(codes + 4 * i) = c;
    }
    for (u64 i = 4 * whole + thread_index(); i < numel; i += thread_count()) codes[i] = quantize(w[i], codes[i]);
    if (threadIdx.x < 3) block_counts[threadIdx.x] = 0;
    __syncthreads();
    // Integer sums: their order does not matter.
    atomicAdd(&block_counts[0], minus);
    atomicAdd(&block_counts[1], plus);
    atomicAdd(&block_counts[2], flips);
    __syncthreads();
    if (threadIdx.x < 3) atomicAdd(&counts[blockIdx.y * 3 + threadIdx.x], block_counts[threadIdx.x]);
}

// A row a matrix: the bits of γ, then its three counts; rows `first` and after.
extern "C" __global__ void quantize_report(const float* gamma, const u32* counts, u32* rows, u32 first, u32 matrices) {
    u32 i = (u32)thread_index();
    if (i >= matrices) return;
    rows += 4 * (first + i);
    rows[0] = __float_as_uint(gamma[i]);
    for (u32 j = 0; j < 3; j++) rows[1 + j] = counts[3 * i + j];
}
