// Attention without tensor cores, in f32 arithmetic: the verification mode, and bf16 on cards before sm_80.
// Groups of threads own a row of a tile (a query, or a key in dK, dV) and share its dot products and its output.
#include "common.cuh"

#ifndef HEAD_DIM // even, at most 256
#define HEAD_DIM 64
#endif

const int TILE = HEAD_DIM <= 64 ? 32 : HEAD_DIM <= 192 ? 16 : 8; // rows of a tile of queries or keys
const int THREADS = 256;
const int LANES = THREADS / TILE;                // threads of a row
const int PAIRS = (TILE + LANES - 1) / LANES;    // columns of the tile of a thread: lane, lane + LANES, …
const int PARTS = (HEAD_DIM + LANES - 1) / LANES; // elements of the row's output of a thread, likewise
const int ROW = HEAD_DIM + 1;

typedef float Tile[TILE][ROW];
typedef float Square[TILE][TILE + 1];

// Reads rows from..from + TILE of a head whose rows are `stride` apart; zeros past the last.
template <class T> __device__ void load_rows(Tile& to, const T* head, u32 stride, u32 from, u32 rows) {
    for (u32 at = threadIdx.x; at < TILE * HEAD_DIM; at += THREADS) {
        const u32 row = at / HEAD_DIM, column = at % HEAD_DIM;
        to[row][column] = from + row < rows ? to_float(head[(u64)(from + row) * stride + column]) : 0.f;
    }
}

// Dot products of a row with the rows lane, lane + LANES, … of a tile.
__device__ __forceinline__ void dots(float (&x)[PAIRS], const float* row, const Tile& tile, u32 lane) {
#pragma unroll
    for (int n = 0; n < PAIRS; ++n) x[n] = 0.f;
    const u32 at = LANES > TILE ? min(lane, TILE - 1) : lane;
#pragma unroll 8
    for (int c = 0; c < HEAD_DIM; ++c)
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) x[n] = fmaf(row[c], tile[at + n * LANES][c], x[n]);
}

// out += weights · tile.
__device__ __forceinline__ void add_rows(float (&out)[PARTS], const float* weights, const Tile& tile, u32 lane) {
#pragma unroll 4
    for (int j = 0; j < TILE; ++j)
#pragma unroll
        for (int n = 0; n < PARTS; ++n)
            if (HEAD_DIM % LANES == 0 || lane + n * LANES < HEAD_DIM)
                out[n] = fmaf(weights[j], tile[j][lane + n * LANES], out[n]);
}

template <class T>
__device__ __forceinline__ void store_row(T* row, const float (&x)[PARTS], float factor, u32 lane) {
#pragma unroll
    for (int n = 0; n < PARTS; ++n)
        if (HEAD_DIM % LANES == 0 || lane + n * LANES < HEAD_DIM) row[lane + n * LANES] = from_float<T>(x[n] * factor);
}

// Over the threads of a row.
template <class F> __device__ __forceinline__ float row_reduce(float x, F f) {
#pragma unroll
    for (int n = LANES / 2; n > 0; n /= 2) x = f(x, __shfl_xor_sync(FULL_MASK, x, n));
    return x;
}

// The least of a block's values, for all its threads.
__device__ __forceinline__ u32 block_min(u32 x) {
    __shared__ u32 parts[THREADS / 32];
    for (int n = 16; n > 0; n /= 2) x = min(x, __shfl_xor_sync(FULL_MASK, x, n));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; ++w) x = min(x, parts[w]);
    return x;
}

__device__ __forceinline__ float capped(float x, float softcap) {
    return softcap > 0.f ? softcap * tanhf(x / softcap) : x;
}
__device__ __forceinline__ float slope(float logit, float softcap) {
    const float u = logit / softcap;
    return softcap > 0.f ? 1.f - u * u : 1.f;
}

template <class T>
__device__ __forceinline__ void forward(const T* q, const T* k, const T* v, const u32* first_key, T* y, float* log_sum,
                                        u32 t, u32 s, u32 heads, u32 kv_heads, float scale, float softcap) {
    extern __shared__ float shared[];
    Tile& queries = *(Tile*)shared;
    Tile& keys = *(&queries + 1);
    Tile& values = *(&queries + 2);
    Square& weights = *(Square*)(&queries + 3);
    const u32 from = (gridDim.x - 1 - blockIdx.x) * TILE, head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const u32 row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 i = min(from + row, t - 1), position = s - t + i; // rows past the last repeat it
    const u64 query = ((u64)blockIdx.z * t + i) * heads + head;
    const u32 first = first_key ? min(first_key[(u64)blockIdx.z * t + i], position) : 0;
    const u32 low = first_key ? block_min(first) : 0, high = s - t + min(from + TILE, t);
    const u64 kv = ((u64)blockIdx.z * s * kv_heads + kv_head) * HEAD_DIM;
    load_rows(queries, q + ((u64)blockIdx.z * t * heads + head) * HEAD_DIM, heads * HEAD_DIM, from, t);
    float out[PARTS] = {}, sum = 0.f, top = -INFINITY_F;
    for (u32 key = low / TILE * TILE; key < high; key += TILE) {
        __syncthreads();
        load_rows(keys, k + kv, kv_heads * HEAD_DIM, key, s);
        load_rows(values, v + kv, kv_heads * HEAD_DIM, key, s);
        __syncthreads();
        float x[PAIRS], now = top;
        dots(x, queries[row], keys, lane);
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const u32 at = key + lane + n * LANES;
            const bool seen = (LANES <= TILE || lane < TILE) && at >= first && at <= position;
            x[n] = seen ? capped(x[n] * scale, softcap) : -INFINITY_F;
            now = fmaxf(now, x[n]);
        }
        now = row_reduce(now, Max());
        // Before the first key that it sees, a row has no maximum.
        const float shift = now == -INFINITY_F ? 0.f : now, shrink = expf(top - shift);
        top = now;
        sum *= shrink;
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const float weight = expf(x[n] - shift);
            sum += weight;
            if (LANES <= TILE || lane < TILE) weights[row][lane + n * LANES] = weight;
        }
#pragma unroll
        for (int n = 0; n < PARTS; ++n) out[n] *= shrink;
        __syncwarp();
        add_rows(out, weights[row], values, lane);
    }
    sum = row_reduce(sum, Add());
    if (from + row < t) {
        store_row(y + query * HEAD_DIM, out, 1.f / sum, lane);
        if (lane == 0) log_sum[query] = top + logf(sum);
    }
}

template <class T>
__device__ __forceinline__ void query_gradient(const T* q, const T* k, const T* v, const u32* first_key, const T* y,
                                               const float* log_sum, const T* dy, T* dq, float2* row_sums, u32 t, u32 s,
                                               u32 heads, u32 kv_heads, float scale, float softcap) {
    extern __shared__ float shared[];
    Tile& queries = *(Tile*)shared;
    Tile& gradients = *(&queries + 1);
    Tile& keys = *(&queries + 2);
    Tile& values = *(&queries + 3);
    Square& weights = *(Square*)(&queries + 4);
    const u32 from = (gridDim.x - 1 - blockIdx.x) * TILE, head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const u32 row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 i = min(from + row, t - 1), position = s - t + i;
    const u64 query = ((u64)blockIdx.z * t + i) * heads + head;
    const u32 first = first_key ? min(first_key[(u64)blockIdx.z * t + i], position) : 0;
    const u32 low = first_key ? block_min(first) : 0, high = s - t + min(from + TILE, t);
    const u64 kv = ((u64)blockIdx.z * s * kv_heads + kv_head) * HEAD_DIM;
    const u64 start = ((u64)blockIdx.z * t * heads + head) * HEAD_DIM;
    load_rows(queries, q + start, heads * HEAD_DIM, from, t);
    load_rows(gradients, dy + start, heads * HEAD_DIM, from, t);
    float dot = 0.f;
    for (u32 c = lane; c < HEAD_DIM; c += LANES)
        dot = fmaf(to_float(dy[query * HEAD_DIM + c]), to_float(y[query * HEAD_DIM + c]), dot);
    dot = row_reduce(dot, Add());
    const float total = log_sum[query];
    if (from + row < t && lane == 0) row_sums[query] = make_float2(total, dot);
    float out[PARTS] = {};
    for (u32 key = low / TILE * TILE; key < high; key += TILE) {
        __syncthreads();
        load_rows(keys, k + kv, kv_heads * HEAD_DIM, key, s);
        load_rows(values, v + kv, kv_heads * HEAD_DIM, key, s);
        __syncthreads();
        float x[PAIRS], dp[PAIRS];
        dots(x, queries[row], keys, lane);
        dots(dp, gradients[row], values, lane);
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const u32 at = key + lane + n * LANES;
            const float logit = capped(x[n] * scale, softcap);
            const float weight = at >= first && at <= position ? expf(logit - total) : 0.f;
            if (LANES <= TILE || lane < TILE)
                weights[row][lane + n * LANES] = weight * (dp[n] - dot) * slope(logit, softcap);
        }
        __syncwarp();
        add_rows(out, weights[row], keys, lane);
    }
    if (from + row < t) store_row(dq + query * HEAD_DIM, out, scale, lane);
}

template <class T>
__device__ __forceinline__ void key_gradient(const T* q, const T* k, const T* v, const u32* first_key,
                                             const float2* row_sums, const T* dy, T* dk, T* dv, u32 t,
                                             u32 s, u32 heads, u32 kv_heads, float scale, float softcap) {
    extern __shared__ float shared[];
    Tile& keys = *(Tile*)shared;
    Tile& values = *(&keys + 1);
    Tile& queries = *(&keys + 2);
    Tile& gradients = *(&keys + 3);
    Square& weights = *(Square*)(&keys + 4);
    Square& slopes = *(&weights + 1);
    const u32 from = blockIdx.x * TILE, kv_head = blockIdx.y, group = heads / kv_heads, offset = s - t;
    const u32 row = threadIdx.x / LANES, lane = threadIdx.x % LANES, key = from + row;
    const u64 kv = ((u64)blockIdx.z * s * kv_heads + kv_head) * HEAD_DIM;
    load_rows(keys, k + kv, kv_heads * HEAD_DIM, from, s);
    load_rows(values, v + kv, kv_heads * HEAD_DIM, from, s);
    const u32 begin = (from > offset ? from - offset : 0) / TILE * TILE;
    u32 end = t; // past the last query that sees any of the keys
    if (first_key) {
        end = 0;
        for (u32 i = begin + threadIdx.x; i < t; i += THREADS)
            if (min(first_key[(u64)blockIdx.z * t + i], offset + i) < from + TILE) end = i + 1;
        end = ~block_min(~end);
    }
    float dk_sum[PARTS] = {}, dv_sum[PARTS] = {};
    for (u32 head = kv_head * group; head < (kv_head + 1) * group; ++head)
        for (u32 query = begin; query < end; query += TILE) {
            const u64 start = ((u64)blockIdx.z * t * heads + head) * HEAD_DIM;
            __syncthreads();
            load_rows(queries, q + start, heads * HEAD_DIM, query, t);
            load_rows(gradients, dy + start, heads * HEAD_DIM, query, t);
            __syncthreads();
            float x[PAIRS], dp[PAIRS];
            dots(x, keys[row], queries, lane);
            dots(dp, values[row], gradients, lane);
#pragma unroll
            for (int n = 0; n < PAIRS; ++n) {
                const u32 column = lane + n * LANES, i = query + column;
                if (LANES > TILE && lane >= TILE) break;
                const bool seen =
                    i < t && key <= offset + i &&
                    (!first_key || key >= min(first_key[(u64)blockIdx.z * t + i], offset + i));
                float weight = 0.f, d = 0.f;
                if (seen) {
                    const float2 sums = row_sums[((u64)blockIdx.z * t + i) * heads + head];
                    const float logit = capped(x[n] * scale, softcap);
                    weight = expf(logit - sums.x);
                    d = weight * (dp[n] - sums.y) * slope(logit, softcap);
                }
                weights[row][column] = weight;
                slopes[row][column] = d;
            }
            __syncwarp();
            add_rows(dv_sum, weights[row], gradients, lane);
            add_rows(dk_sum, slopes[row], queries, lane);
        }
    if (key < s) {
        store_row(dk + kv + (u64)key * kv_heads * HEAD_DIM, dk_sum, scale, lane);
        store_row(dv + kv + (u64)key * kv_heads * HEAD_DIM, dv_sum, 1.f, lane);
    }
}

// Arguments as of attention.cu and attention_backward.cu, but row_sums has the log-sums as they are. Grid: tiles of TILE queries, H, B; for dkv tiles of TILE keys,
// KV, B. Shared memory in floats: tiles of TILE·ROW, 3 forward and 4 backward, then squares of TILE·(TILE + 1), 1, and 2
// for dkv.
#define ATTENTION(T, NAME)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_plain_forward_##NAME(                              \
        const T* q, const T* k, const T* v, const u32* first_key, T* y, float* log_sum, u32 t, u32 s, u32 heads,       \
        u32 kv_heads, float scale, float softcap) {                                                                    \
        forward<T>(q, k, v, first_key, y, log_sum, t, s, heads, kv_heads, scale, softcap);                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_plain_dq_##NAME(                                   \
        const T* q, const T* k, const T* v, const u32* first_key, const T* y, const float* log_sum, const T* dy,       \
        T* dq, float2* row_sums, u32 t, u32 s, u32 heads, u32 kv_heads, float scale, float softcap) {                      \
        query_gradient<T>(q, k, v, first_key, y, log_sum, dy, dq, row_sums, t, s, heads, kv_heads, scale, softcap);       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_plain_dkv_##NAME(                                  \
        const T* q, const T* k, const T* v, const u32* first_key, const float2* row_sums, const T* dy,                 \
        T* dk, T* dv, u32 t, u32 s, u32 heads, u32 kv_heads, float scale, float softcap) {                \
        key_gradient<T>(q, k, v, first_key, row_sums, dy, dk, dv, t, s, heads, kv_heads, scale, softcap);        \
    }

ATTENTION(float, f32)
ATTENTION(bf16, bf16)
