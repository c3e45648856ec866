// What the bf16 attention kernels share: tiles of one head in shared memory, the capped logits, the masks.
// Query i of T stands at position S - T + i and sees keys first_key[i]..=its own position.
#pragma once
#include "mma.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

#ifndef HEAD_DIM // even, at most 256
#define HEAD_DIM 64
#endif
#ifndef SOFTCAP // whether logits are capped
#define SOFTCAP 1
#endif
#ifndef RUNNING_MAX // whether exponentials need a running maximum: not when a cap of at most 60 bounds them
#define RUNNING_MAX !SOFTCAP
#endif

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

const int DIM = (HEAD_DIM + 15) / 16 * 16; // padded with zeros for the tensor cores
const int STEPS = DIM / 16;
const int ROW = DIM + 8; // a row in shared memory; an odd multiple of 16 bytes keeps eight rows in different banks
const int WARPS = 4;
const int THREADS = 32 * WARPS;

// Elements of one copy: rows of a head start at multiples of HEAD_DIM elements.
const int CHUNK = HEAD_DIM % 8 == 0 ? 8 : HEAD_DIM % 4 == 0 ? 4 : 2;

// One head of one sequence: row i starts at data + i * stride.
struct Head {
    const bf16* data;
    u32 stride;
    u32 rows;

    __device__ __forceinline__ Head(const bf16* x, u32 batch, u32 rows, u32 heads, u32 head)
        : data(x + ((u64)batch * rows * heads + head) * HEAD_DIM), stride(heads * HEAD_DIM), rows(rows) {}
};

// Starts the copy of rows from..from + ROWS of a head; what lies outside of it becomes zero.
template <int ROWS> __device__ __forceinline__ void load_rows(bf16* to, const Head& head, u32 from) {
    const int chunks = DIM / CHUNK;
#pragma unroll
    for (int n = 0; n < ROWS * chunks; n += THREADS) {
        const u32 at = n + threadIdx.x;
        if (ROWS * chunks % THREADS && at >= ROWS * chunks) break;
        const u32 row = at / chunks, column = at % chunks * CHUNK;
        const bool valid = from + row < head.rows && (HEAD_DIM == DIM || column < HEAD_DIM);
        const bf16* source = valid ? head.data + (u64)(from + row) * head.stride + column : head.data;
        copy_async<CHUNK * 2>(to + row * ROW + column, source, valid);
    }
}

// Writes `ROWS` rows of a warp's tile in shared memory to rows from.. of a head: its columns shift..shift + COLUMNS, which
// are the first of the tile.
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void store_rows(const Head& head, u32 from, const bf16* tile, u32 shift) {
    const int chunks = (COLUMNS < HEAD_DIM ? COLUMNS : HEAD_DIM) / CHUNK;
    bf16* to = (bf16*)head.data;
    for (int at = threadIdx.x & 31; at < ROWS * chunks; at += 32) {
        const u32 row = at / chunks, column = at % chunks * CHUNK;
        if (from + row >= head.rows) break;
        if (shift + column >= HEAD_DIM) continue;
        bf16* target = to + (u64)(from + row) * head.stride + shift + column;
        const bf16* source = tile + row * ROW + column;
        if (CHUNK == 8) *(uint4*)target = *(const uint4*)source;
        else if (CHUNK == 4) *(uint2*)target = *(const uint2*)source;
        else *(u32*)target = *(const u32*)source;
    }
}

// Writes a warp's result times `factor` to its rows of a tile.
template <int M, int N>
__device__ __forceinline__ void stage_rows(bf16* tile, const float (&x)[M][N][4], const float (&factor)[M][2]) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < N; ++n)
                *(u32*)(tile + (m * 16 + half * 8 + lane / 4) * ROW + n * 8 + lane % 4 * 2) =
                    pack_bf16(x[m][n][half * 2] * factor[m][half], x[m][n][half * 2 + 1] * factor[m][half]);
}
template <int M, int N>
__device__ __forceinline__ void stage_rows(bf16* tile, const float (&x)[M][N][4], float factor) {
    float factors[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m) factors[m][0] = factors[m][1] = factor;
    stage_rows(tile, x, factors);
}

// The least of a block's values, for all its threads.
template <int WARPS> __device__ __forceinline__ u32 block_min(u32 x) {
    __shared__ u32 parts[WARPS];
    x = __reduce_min_sync(FULL_MASK, x);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WARPS; ++w) x = min(x, parts[w]);
    return x;
}

// c += a·bᵀ at one step of 16 along the head's dimension; b is N * 8 rows of a tile, `b` the lane's address there.
template <int M, int N>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], const u32 (&a)[M][4], u32 b) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        u32 f[4];
        load_matrices(f, b + n * 8 * ROW * 2);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            mma(c[m][n], a[m], f[0], f[1]);
            mma(c[m][n + 1], a[m], f[2], f[3]);
        }
    }
}

// c += a·b where b is 16 rows of a tile and N * 8 of its columns.
template <int M, int N>
__device__ __forceinline__ void multiply_columns(float (&c)[M][N][4], const u32 (&a)[M][4], u32 b) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        u32 f[4];
        load_matrices_transposed(f, b + n * 8 * 2);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            mma(c[m][n], a[m], f[0], f[1]);
            mma(c[m][n + 1], a[m], f[2], f[3]);
        }
    }
}

template <int M, int N> __device__ __forceinline__ void clear(float (&c)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) c[m][n][e] = 0.f;
}

// Left fragments of rows of a tile, K steps along the head's dimension.
template <int M, int K> __device__ __forceinline__ void load_fragments(u32 (&a)[M][K][4], u32 tile) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int k = 0; k < K; ++k) load_matrices(a[m][k], tile + m * 16 * ROW * 2 + k * 32);
}

template <bool VALUE> struct Is { static const bool value = VALUE; };

// Logits from products q·k, in units of ln 2: cap·log2(e)·tanh(x·scale/cap), or x·scale·log2(e) without a cap.
//
// Where every |x·scale/cap| ≤ 1/2 in a warp's tile, tanh is a polynomial interpolated there at Chebyshev nodes (relative
// error 2.3e-5, far below bf16's), since two special-function results a logit would bound the speed.
struct Logits {
    float c1, c3, c5, d2, d4, limit, ratio, bound, slope;

    __device__ __forceinline__ Logits(float scale, float softcap) {
#if SOFTCAP
        ratio = scale / softcap;
        bound = softcap * LOG2_E;
        slope = -1.f / (bound * bound);
        limit = 0.5f / ratio;
        c1 = 0.99997724f * bound * ratio;
        c3 = -0.33168533f * bound * ratio * ratio * ratio;
        c5 = 0.11518520f * bound * ratio * ratio * ratio * ratio * ratio;
        d2 = -0.98891127f * ratio * ratio;
        d4 = 0.54341555f * ratio * ratio * ratio * ratio;
#else
        c1 = scale * LOG2_E;
#endif
    }

    // Replaces products by logits.
    template <int M, int N> __device__ __forceinline__ void apply(float (&x)[M][N][4]) const {
#if SOFTCAP
        float top = 0.f;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) top = fmaxf(top, fabsf(x[m][n][e]));
        if (!__any_sync(FULL_MASK, top > limit)) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < N; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const float s = x[m][n][e], t = s * s;
                        x[m][n][e] = s * fmaf(t, fmaf(t, c5, c3), c1);
                    }
        } else {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < N; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        // tanh u = 1 - 2/(e^2u + 1)
                        const float power = exp2_approx(x[m][n][e] * ratio * (2.f * LOG2_E));
                        x[m][n][e] = fmaf(-2.f * bound, __fdividef(1.f, power + 1.f), bound);
                    }
        }
#else
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) x[m][n][e] *= c1;
#endif
    }

    // Derivative of the cap where the logit is x, both in units of ln 2.
    __device__ __forceinline__ float derivative(float x) const {
#if SOFTCAP
        return fmaf(x * x, slope, 1.f);
#else
        return 1.f;
#endif
    }

    // Whether the polynomials serve for all products x of the warp.
    template <int M, int N> __device__ __forceinline__ bool bounded(const float (&x)[M][N][4]) const {
#if SOFTCAP
        float top = 0.f;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) top = fmaxf(top, fabsf(x[m][n][e]));
        return !__any_sync(FULL_MASK, top > limit);
#else
        return true;
#endif
    }

    // The weight exp(logit - total) of a product x, total in units of ln 2; x becomes the weight times the cap's slope.
    template <bool BOUNDED> __device__ __forceinline__ float weight(float& x, float total) const {
#if SOFTCAP
        float w;
        if (BOUNDED) {
            const float t = x * x;
            w = exp2_approx(fmaf(x, fmaf(t, fmaf(t, c5, c3), c1), -total));
            x = w * fmaf(t, fmaf(t, d4, d2), 0.99984711f);
        } else {
            const float power = exp2_approx(x * ratio * (2.f * LOG2_E));
            const float tanh = fmaf(-2.f, __fdividef(1.f, power + 1.f), 1.f);
            w = exp2_approx(fmaf(tanh, bound, -total));
            x = w * fmaf(-tanh, tanh, 1.f);
        }
        return w;
#else
        return x = exp2_approx(fmaf(x, c1, -total));
#endif
    }
};

// Σ dy·y of rows lane/4 and lane/4 + 8 of each 16, for all four lanes of a row.
__device__ __forceinline__ float row_dot(const bf16* a, const bf16* b) {
    float sum = 0.f;
#pragma unroll
    for (int column = 0; column < HEAD_DIM; column += 4 * CHUNK) {
        const u32 at = column + threadIdx.x % 4 * CHUNK;
        if (HEAD_DIM % (4 * CHUNK) && at >= HEAD_DIM) break;
        u32 x[CHUNK / 2], y[CHUNK / 2];
        if constexpr (CHUNK == 8) {
            const uint4 u = *(const uint4*)(a + at), w = *(const uint4*)(b + at);
            x[0] = u.x, x[1] = u.y, x[2] = u.z, x[3] = u.w, y[0] = w.x, y[1] = w.y, y[2] = w.z, y[3] = w.w;
        } else {
#pragma unroll
            for (int n = 0; n < CHUNK / 2; ++n) x[n] = ((const u32*)(a + at))[n], y[n] = ((const u32*)(b + at))[n];
        }
#pragma unroll
        for (int n = 0; n < CHUNK / 2; ++n)
            sum = fmaf(low_bf16(x[n]), low_bf16(y[n]), fmaf(high_bf16(x[n]), high_bf16(y[n]), sum));
    }
    sum += __shfl_xor_sync(FULL_MASK, sum, 1);
    return sum + __shfl_xor_sync(FULL_MASK, sum, 2);
}

// What a thread knows of its rows of queries: rows lane/4 and lane/4 + 8 of M fragments.
template <int M> struct QueryRows {
    float sum[M][2], top[M][2]; // of the exponentials; of the logits, if a running maximum is kept
    u32 first[M][2], position[M][2];
};

// Replaces logits of keys key.. by exponentials and adds them to the rows' sums; where the maximum of a row grows, its
// sum and output shrink. MASKED: some query does not see some key.
template <bool MASKED, int M, int N, int C>
__device__ __forceinline__ void exponentials(float (&x)[M][N][4], float (&out)[M][C][4], QueryRows<M>& rows, u32 key) {
    const u32 column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const u32 first = rows.first[m][half] - key - column;
            const u32 count = rows.position[m][half] - rows.first[m][half];
#if RUNNING_MAX
            float top = rows.top[m][half];
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& y = x[m][n][half * 2 + e];
                    if (MASKED && n * 8 + e - first > count) y = -INFINITY_F;
                    top = fmaxf(top, y);
                }
            top = fmaxf(top, __shfl_xor_sync(FULL_MASK, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL_MASK, top, 2));
            // A row that has seen no key has no maximum yet.
            const float shift = fmaxf(top, -1e30f);
            if (__any_sync(FULL_MASK, top > rows.top[m][half])) {
                const float shrink = exp2_approx(rows.top[m][half] - shift);
                rows.top[m][half] = top;
                rows.sum[m][half] *= shrink;
#pragma unroll
                for (int n = 0; n < C; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) out[m][n][half * 2 + e] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& y = x[m][n][half * 2 + e];
                    y = exp2_approx(y - shift);
                    rows.sum[m][half] += y;
                }
#else
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& y = x[m][n][half * 2 + e];
                    y = exp2_approx(y);
                    if (MASKED && n * 8 + e - first > count) y = 0.f;
                    rows.sum[m][half] += y;
                }
#endif
        }
}

// Which query tile, sequence and head a block of the forward or dQ kernel has. The heaviest tiles, the last, go first.
struct QueryTile {
    u32 batch, head, kv_head, from;

    __device__ __forceinline__ QueryTile(u32 queries, u32 heads, u32 kv_heads)
        : batch(blockIdx.z), head(blockIdx.y), kv_head(blockIdx.y / (heads / kv_heads)),
          from((gridDim.x - 1 - blockIdx.x) * queries) {}
};

#endif
