// Attention of a few new queries over many keys, as decoding with a cache does: blocks share out the keys, each reads
// its part once for a few rows (query and head of a group), and a second kernel joins the parts in order
// (flash-decoding, Dao et al. 2023).
#include "common.cuh"

#ifndef HEAD_DIM // even, at most 256
#define HEAD_DIM 64
#endif

const int LANES = HEAD_DIM <= 8 ? 1 : HEAD_DIM <= 16 ? 2 : HEAD_DIM <= 32 ? 4 : HEAD_DIM <= 64 ? 8 : HEAD_DIM <= 128 ? 16 : 32;
const int VECTOR = 8; // elements of a row a lane has
const int THREADS = 128;
const int GROUPS = THREADS / LANES; // keys at a time
const int ROWS = 4;                 // rows of a block

// This lane's part of a row of HEAD_DIM elements.
template <class T> __device__ __forceinline__ void load_part(float (&x)[VECTOR], const T* row, u32 lane) {
    if (HEAD_DIM % VECTOR == 0) {
        if (HEAD_DIM == LANES * VECTOR || lane * VECTOR < HEAD_DIM) {
            if constexpr (is_bf16<T>::value) {
                const uint4 u = *(const uint4*)(row + lane * VECTOR);
                x[0] = low_bf16(u.x), x[1] = high_bf16(u.x), x[2] = low_bf16(u.y), x[3] = high_bf16(u.y);
                x[4] = low_bf16(u.z), x[5] = high_bf16(u.z), x[6] = low_bf16(u.w), x[7] = high_bf16(u.w);
            } else {
                const float4 a = load4(row + lane * VECTOR), b = load4(row + lane * VECTOR + 4);
                x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
            }
        }
    } else {
#pragma unroll
        for (int n = 0; n < VECTOR; ++n)
            if (lane * VECTOR + n < HEAD_DIM) x[n] = to_float(row[lane * VECTOR + n]);
    }
}

// What one reader of keys has of a row: output [HEAD_DIM] before division, maximum, sum.
struct Part {
    float out[LANES * VECTOR];
    float top, sum;
};

// q [B, T, H, d]; k, v [B, S, KV, d]; first_key [B, T] or null; y [B, T, H, d]; log_sum [B, T, H]; parts
// [splits, B·T·H, d + 2] f32, null for one split. Split n reads keys n·chunk..(n + 1)·chunk.
// Grid: splits, KV · ceil(T·H/KV / ROWS), B.
template <class T>
__device__ __forceinline__ void decode(const T* q, const T* k, const T* v, const u32* first_key, T* y, float* log_sum,
                                       float* parts, u32 t, u32 s, u32 heads, u32 kv_heads, u32 chunk, float scale,
                                       float softcap) {
    __shared__ Part collected[ROWS][GROUPS];
    const u32 group = heads / kv_heads, rows = t * group, tiles = (rows + ROWS - 1) / ROWS;
    const u32 kv_head = blockIdx.y / tiles, from = blockIdx.y % tiles * ROWS;
    const u32 lane = threadIdx.x % LANES, reader = threadIdx.x / LANES;
    const u32 begin = blockIdx.x * chunk, end = min(begin + chunk, s);
    const auto place = [&](u32 row) { // of a row of the group among B·T·H
        return ((u64)blockIdx.z * t + row / group) * heads + kv_head * group + row % group;
    };

    float query[ROWS][VECTOR] = {}, out[ROWS][VECTOR] = {}, top[ROWS], sum[ROWS];
    u32 first[ROWS], position[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const u32 row = min(from + r, rows - 1), i = row / group;
        load_part(query[r], q + place(row) * HEAD_DIM, lane);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) query[r][c] *= scale;
        position[r] = s - t + i;
        first[r] = first_key ? min(first_key[(u64)blockIdx.z * t + i], position[r]) : 0;
        top[r] = -INFINITY_F;
        sum[r] = 0.f;
    }
    const u64 stride = (u64)kv_heads * HEAD_DIM, base = ((u64)blockIdx.z * s * kv_heads + kv_head) * HEAD_DIM;
#pragma unroll 2
    for (u32 key = begin + reader; key - reader < end; key += GROUPS) {
        float a[VECTOR] = {}, b[VECTOR] = {};
        if (key < end) {
            load_part(a, k + base + key * stride, lane);
            load_part(b, v + base + key * stride, lane);
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            if (from + r >= rows) break;
            float x = 0.f;
#pragma unroll
            for (int c = 0; c < VECTOR; ++c) x = fmaf(query[r][c], a[c], x);
#pragma unroll
            for (int n = LANES / 2; n > 0; n /= 2) x += __shfl_xor_sync(FULL_MASK, x, n);
            if (softcap > 0.f) x = softcap * tanhf(x / softcap);
            if (key >= end || key < first[r] || key > position[r]) continue;
            const float now = fmaxf(top[r], x), shrink = expf(top[r] - now), weight = expf(x - now);
            top[r] = now;
            sum[r] = fmaf(sum[r], shrink, weight);
#pragma unroll
            for (int c = 0; c < VECTOR; ++c) out[r][c] = fmaf(out[r][c], shrink, weight * b[c]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        Part& part = collected[r][reader];
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) part.out[lane * VECTOR + c] = out[r][c];
        if (lane == 0) part.top = top[r], part.sum = sum[r];
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < ROWS * HEAD_DIM; at += THREADS) {
        const u32 r = at / HEAD_DIM, c = at % HEAD_DIM;
        if (from + r >= rows) break;
        float most = -INFINITY_F, total = 0.f, joined = 0.f;
        for (int n = 0; n < GROUPS; ++n) most = fmaxf(most, collected[r][n].top);
        for (int n = 0; n < GROUPS; ++n) {
            const Part& part = collected[r][n];
            const float weight = part.sum > 0.f ? expf(part.top - most) : 0.f;
            total = fmaf(part.sum, weight, total);
            joined = fmaf(part.out[c], weight, joined);
        }
        const u64 row = place(from + r);
        if (gridDim.x == 1) {
            y[row * HEAD_DIM + c] = from_float<T>(joined / total);
            if (c == 0) log_sum[row] = most + logf(total);
        } else {
            float* to = parts + ((u64)blockIdx.x * gridDim.z * t * heads + row) * (HEAD_DIM + 2);
            to[c] = joined;
            if (c == 0) to[HEAD_DIM] = most, to[HEAD_DIM + 1] = total;
        }
    }
}

// One row of y a block.
template <class T>
__device__ __forceinline__ void join(const float* parts, T* y, float* log_sum, u32 splits) {
    const u64 row = blockIdx.x, step = (u64)gridDim.x * (HEAD_DIM + 2);
    const float* part = parts + row * (HEAD_DIM + 2);
    float most = -INFINITY_F;
    for (u32 n = 0; n < splits; ++n) most = fmaxf(most, part[n * step + HEAD_DIM]);
    for (u32 c = threadIdx.x; c < HEAD_DIM; c += blockDim.x) {
        float total = 0.f, joined = 0.f;
        for (u32 n = 0; n < splits; ++n) {
            const float sum = part[n * step + HEAD_DIM + 1];
            const float weight = sum > 0.f ? expf(part[n * step + HEAD_DIM] - most) : 0.f;
            total = fmaf(sum, weight, total);
            joined = fmaf(part[n * step + c], weight, joined);
        }
        y[row * HEAD_DIM + c] = from_float<T>(joined / total);
        if (c == 0) log_sum[row] = most + logf(total);
    }
}

#define DECODE(T, NAME)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_decode_##NAME(const T* q, const T* k, const T* v, const u32* first_key, T* y, float* log_sum,        \
                                float* parts, u32 t, u32 s, u32 heads, u32 kv_heads, u32 chunk, float scale,           \
                                float softcap) {                                                                       \
        decode<T>(q, k, v, first_key, y, log_sum, parts, t, s, heads, kv_heads, chunk, scale, softcap);                \
    }                                                                                                                  \
    extern "C" __global__ void attention_join_##NAME(const float* parts, T* y, float* log_sum, u32 splits) {           \
        join<T>(parts, y, log_sum, splits);                                                                            \
    }

DECODE(float, f32)
DECODE(bf16, bf16)
