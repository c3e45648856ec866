// Attention backward on tensor cores: P is computed again from the log-sums, as FlashAttention-2 does (Dao 2023), in two
// kernels without atomics. dL = P·(dY·Vᵀ - delta)·(1 - tanh²) with delta = Σ dY·Y a query.
#include "attention.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

const int M = DIM <= 64 ? 2 : 1; // 16-row tiles of a warp
const int TILE = WARPS * M * 16; // queries of a dQ block; keys of a dK, dV block
const int STAGES = DIM <= 128 ? 2 : 1;
const int STREAM = DIM <= 64 ? 64 : DIM <= 128 ? 32 : 16; // rows of a stage of what streams past the block's tile

// Left fragment at step k: kept in registers or read from the tile.
template <bool KEEP>
__device__ __forceinline__ void fragment(u32 (&a)[M][4], const u32 (&kept)[M][KEEP ? STEPS : 1][4], u32 tile, int k) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
        if (KEEP) {
#pragma unroll
            for (int e = 0; e < 4; ++e) a[m][e] = kept[m][KEEP ? k : 0][e];
        } else {
            load_matrices(a[m], tile + m * 16 * ROW * 2 + k * 32);
        }
    }
}

const bool KEEP_QUERIES = DIM <= 64;
const int PART = 16; // keys at a time

struct Rows {
    float log_sum[M][2], delta[M][2]; // log_sum in units of ln 2
    u32 first[M][2], position[M][2];
};

template <bool MASKED>
__device__ __forceinline__ void add_dq(float (&dq)[M][DIM / 8][4], const Rows& rows,
                                       const u32 (&q)[M][KEEP_QUERIES ? STEPS : 1][4],
                                       const u32 (&dy)[M][KEEP_QUERIES ? STEPS : 1][4], u32 q_tile, u32 dy_tile,
                                       u32 k_tile, u32 v_tile, u32 key, u32 low, u32 high, const Logits& logits) {
#pragma unroll 1 // unrolled it spills registers
    for (int part = 0; part < STREAM; part += PART) {
        if (MASKED && (key + part >= high || key + part + PART <= low)) continue;
        float p[M][PART / 8][4], dp[M][PART / 8][4];
        clear(p);
        clear(dp);
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            u32 a[M][4];
            fragment<KEEP_QUERIES>(a, q, q_tile, k);
            multiply_rows(p, a, k_tile + lane_across<ROW>() + part * ROW * 2 + k * 32);
        }
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            u32 a[M][4];
            fragment<KEEP_QUERIES>(a, dy, dy_tile, k);
            multiply_rows(dp, a, v_tile + lane_across<ROW>() + part * ROW * 2 + k * 32);
        }
        logits.apply(p);
        const u32 column = threadIdx.x % 4 * 2;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const u32 first = rows.first[m][half] - key - part - column;
                const u32 count = rows.position[m][half] - rows.first[m][half];
#pragma unroll
                for (int n = 0; n < PART / 8; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float logit = p[m][n][half * 2 + e];
                        float weight = exp2_approx(logit - rows.log_sum[m][half]);
                        if (MASKED && n * 8 + e - first > count) weight = 0.f;
                        float& x = dp[m][n][half * 2 + e];
                        x = weight * (x - rows.delta[m][half]) * logits.derivative(logit);
                    }
            }
#pragma unroll
        for (int k = 0; k < PART / 16; ++k) {
            u32 a[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) pack_fragment(a[m], dp[m][2 * k], dp[m][2 * k + 1]);
            multiply_columns(dq, a, k_tile + lane_down<ROW>() + (part + k * 16) * ROW * 2);
        }
    }
}

// Shapes as in attention_forward_bf16; y, dy, dq like q; row_sums [B, T, H, 2] for attention_dkv_bf16: the log-sum in
// units of ln 2, and delta.
// Grid: tiles of TILE queries, H, B. Shared memory: 2 * TILE + 2 * STAGES * STREAM rows of ROW bf16.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_dq_bf16(const bf16* q, const bf16* k, const bf16* v, const u32* first_key, const bf16* y, const float* log_sum,
                  const bf16* dy, bf16* dq, float2* row_sums, u32 t, u32 s, u32 heads, u32 kv_heads, float scale,
                  float softcap) {
    extern __shared__ __align__(16) unsigned char shared[];
    bf16* q_tile = (bf16*)shared;
    bf16* dy_tile = q_tile + TILE * ROW;
    bf16* k_tile = dy_tile + TILE * ROW;
    bf16* v_tile = k_tile + STAGES * STREAM * ROW;
    const QueryTile tile(TILE, heads, kv_heads);
    const Head queries(q, tile.batch, t, heads, tile.head), outputs(y, tile.batch, t, heads, tile.head),
        gradients(dy, tile.batch, t, heads, tile.head);
    const Head keys(k, tile.batch, s, kv_heads, tile.kv_head), values(v, tile.batch, s, kv_heads, tile.kv_head);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, offset = s - t;
    const u32 own = tile.from + warp * M * 16;

    load_rows<TILE>(q_tile, queries, tile.from);
    load_rows<TILE>(dy_tile, gradients, tile.from);

    Rows rows;
    u32 low = 0xffffffffu, lowest_end = 0;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const u32 row = own + m * 16 + half * 8 + lane / 4;
            // Rows past the last repeat it; they are not stored.
            const u32 i = min(row, t - 1);
            const u64 at = (u64)tile.batch * t + i;
            rows.position[m][half] = offset + i;
            rows.first[m][half] = first_key ? min(first_key[at], offset + i) : 0;
            rows.log_sum[m][half] = log_sum[at * heads + tile.head] * LOG2_E;
            const float dot = row_dot(outputs.data + (u64)i * outputs.stride, gradients.data + (u64)i * gradients.stride);
            rows.delta[m][half] = dot;
            if (lane % 4 == 0 && row < t) row_sums[at * heads + tile.head] = make_float2(rows.log_sum[m][half], dot);
            low = min(low, rows.first[m][half]);
            lowest_end = max(lowest_end, rows.first[m][half]);
        }
#pragma unroll
    for (int n = 4; n < 32; n *= 2) {
        low = min(low, __shfl_xor_sync(FULL_MASK, low, n));
        lowest_end = max(lowest_end, __shfl_xor_sync(FULL_MASK, lowest_end, n));
    }
    const u32 block_low = first_key ? block_min<WARPS>(low) : 0;
    const u32 position = offset + min(own, t - 1), high = offset + min(own + M * 16, t);
    const u32 begin = block_low / STREAM, end = (offset + min(tile.from + TILE, t) + STREAM - 1) / STREAM;
    const Logits logits(scale, softcap);

    load_rows<STREAM>(k_tile, keys, begin * STREAM);
    load_rows<STREAM>(v_tile, values, begin * STREAM);
    copy_commit();

    const u32 q_address = shared_address(q_tile + warp * M * 16 * ROW) + lane_down<ROW>();
    const u32 dy_address = shared_address(dy_tile + warp * M * 16 * ROW) + lane_down<ROW>();
    u32 q_kept[M][KEEP_QUERIES ? STEPS : 1][4], dy_kept[M][KEEP_QUERIES ? STEPS : 1][4];
    float sum[M][DIM / 8][4];
    clear(sum);
    for (u32 n = begin; n < end; ++n) {
        const u32 stage = STAGES == 1 ? 0 : (n - begin) % 2;
        copy_wait<0>();
        __syncthreads();
        if (STAGES == 2 && n + 1 < end) {
            load_rows<STREAM>(k_tile + (stage ^ 1) * STREAM * ROW, keys, (n + 1) * STREAM);
            load_rows<STREAM>(v_tile + (stage ^ 1) * STREAM * ROW, values, (n + 1) * STREAM);
            copy_commit();
        }
        if (KEEP_QUERIES && n == begin) {
            load_fragments(q_kept, q_address);
            load_fragments(dy_kept, dy_address);
        }
        const u32 key = n * STREAM, k_address = shared_address(k_tile + stage * STREAM * ROW),
                  v_address = shared_address(v_tile + stage * STREAM * ROW);
        if (key < lowest_end || key + STREAM > position + 1)
            add_dq<true>(sum, rows, q_kept, dy_kept, q_address, dy_address, k_address, v_address, key, low, high, logits);
        else
            add_dq<false>(sum, rows, q_kept, dy_kept, q_address, dy_address, k_address, v_address, key, low, high, logits);
        if (STAGES == 1 && n + 1 < end) {
            __syncthreads();
            load_rows<STREAM>(k_tile, keys, (n + 1) * STREAM);
            load_rows<STREAM>(v_tile, values, (n + 1) * STREAM);
            copy_commit();
        }
    }

    bf16* own_tile = q_tile + warp * M * 16 * ROW;
    stage_rows(own_tile, sum, scale);
    __syncwarp();
    store_rows<M * 16, DIM>(Head(dq, tile.batch, t, heads, tile.head), own, own_tile, 0);
}

const int SLICES = (DIM + 127) / 128;                        // of the columns of dK and dV, each a block's
const int SLICE = (DIM / SLICES + 15) / 16 * 16;             // columns of a slice
const int QUERY_PART = DIM <= 64 || DIM > 128 ? 16 : 32; // queries at a time; more registers would spill

// What a stage of queries holds beside q and dy.
struct Stage {
    float2 sums[STREAM];
    u32 first[STREAM];
};

// One stage of queries. Rows are keys, columns are queries. MASKED: some query does not see some key of the warp.
template <bool MASKED>
__device__ __forceinline__ void add_dkv(float (&dk)[M][SLICE / 8][4], float (&dv)[M][SLICE / 8][4], u32 k_tile, u32 v_tile,
                                        u32 q_tile, u32 dy_tile, const Stage& stage, u32 position, u32 key, u32 slice,
                                        const Logits& logits) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll 1 // unrolled it spills registers
    for (int part = 0; part < STREAM; part += QUERY_PART) {
        // The part's last query stands before the warp's first key.
        if (MASKED && position + part + QUERY_PART <= key) continue;
        float p[M][QUERY_PART / 8][4], dp[M][QUERY_PART / 8][4];
        clear(p);
        clear(dp);
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            u32 a[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) load_matrices(a[m], k_tile + m * 16 * ROW * 2 + k * 32);
            multiply_rows(p, a, q_tile + lane_across<ROW>() + part * ROW * 2 + k * 32);
        }
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            u32 a[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) load_matrices(a[m], v_tile + m * 16 * ROW * 2 + k * 32);
            multiply_rows(dp, a, dy_tile + lane_across<ROW>() + part * ROW * 2 + k * 32);
        }
        logits.apply(p);
#pragma unroll
        for (int n = 0; n < QUERY_PART / 8; ++n) {
            const u32 column = part + n * 8 + lane % 4 * 2;
            const float4 sums = *(const float4*)(stage.sums + column);
            uint2 firsts = make_uint2(0, 0);
            if (MASKED) firsts = *(const uint2*)(stage.first + column);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float logit = p[m][n][e];
                    float weight = exp2_approx(logit - (e % 2 ? sums.z : sums.x));
                    if (MASKED) {
                        const u32 row = key + m * 16 + e / 2 * 8 + lane / 4, last = position + column + e % 2;
                        const u32 first_seen = min(e % 2 ? firsts.y : firsts.x, last);
                        if (row - first_seen > last - first_seen) weight = 0.f;
                    }
                    p[m][n][e] = weight;
                    dp[m][n][e] = weight * (dp[m][n][e] - (e % 2 ? sums.w : sums.y)) * logits.derivative(logit);
                }
        }
#pragma unroll
        for (int k = 0; k < QUERY_PART / 16; ++k) {
            u32 a[M][4], b[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) {
                pack_fragment(a[m], p[m][2 * k], p[m][2 * k + 1]);
                pack_fragment(b[m], dp[m][2 * k], dp[m][2 * k + 1]);
            }
            const u32 down = lane_down<ROW>() + (part + k * 16) * ROW * 2 + slice * 2;
#pragma unroll
            for (int n = 0; n < SLICE / 8; n += 2) {
                if (SLICES > 1 && slice + n * 8 >= DIM) break;
                u32 f[4];
                load_matrices_transposed(f, dy_tile + down + n * 16);
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    mma(dv[m][n], a[m], f[0], f[1]);
                    mma(dv[m][n + 1], a[m], f[2], f[3]);
                }
                load_matrices_transposed(f, q_tile + down + n * 16);
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    mma(dk[m][n], b[m], f[0], f[1]);
                    mma(dk[m][n + 1], b[m], f[2], f[3]);
                }
            }
        }
    }
}

// dk, dv like k; the query heads of a group are summed in order.
// Grid: SLICES for each tile of TILE keys, KV, B. Shared memory: 2 * TILE + 2 * STAGES * STREAM rows of ROW bf16, then
// 3 * STAGES * STREAM values of 4 bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_dkv_bf16(const bf16* q, const bf16* k, const bf16* v, const u32* first_key, const float2* row_sums,
                   const bf16* dy, bf16* dk, bf16* dv, u32 t, u32 s, u32 heads, u32 kv_heads,
                   float scale, float softcap) {
    extern __shared__ __align__(16) unsigned char shared[];
    bf16* k_tile = (bf16*)shared;
    bf16* v_tile = k_tile + TILE * ROW;
    bf16* q_tile = v_tile + TILE * ROW;
    bf16* dy_tile = q_tile + STAGES * STREAM * ROW;
    Stage* stages = (Stage*)(dy_tile + STAGES * STREAM * ROW);
    const u32 batch = blockIdx.z, kv_head = blockIdx.y, group = heads / kv_heads;
    const u32 from = blockIdx.x / SLICES * TILE, slice = blockIdx.x % SLICES * SLICE;
    const Head keys(k, batch, s, kv_heads, kv_head), values(v, batch, s, kv_heads, kv_head);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, offset = s - t;
    const u32 own = from + warp * M * 16;

    load_rows<TILE>(k_tile, keys, from);
    load_rows<TILE>(v_tile, values, from);

    // Stages of queries that see any of the keys: those from the first key on, and of these up to the last whose
    // first key is not past the tile.
    const u32 begin = (from > offset ? from - offset : 0) / STREAM;
    u32 seen = t;
    if (first_key) {
        seen = 0;
        for (u32 i = begin * STREAM + threadIdx.x; i < t; i += THREADS)
            if (min(first_key[(u64)batch * t + i], offset + i) < from + TILE) seen = i + 1;
        seen = ~block_min<WARPS>(~seen);
    }
    const u32 end = (seen + STREAM - 1) / STREAM, count = end > begin ? end - begin : 0;
    const Logits logits(scale, softcap);

    const auto load = [&](u32 n) {
        const u32 stage = n % STAGES, head = kv_head * group + n / count, query = (begin + n % count) * STREAM;
        load_rows<STREAM>(q_tile + stage * STREAM * ROW, Head(q, batch, t, heads, head), query);
        load_rows<STREAM>(dy_tile + stage * STREAM * ROW, Head(dy, batch, t, heads, head), query);
        Stage& to = stages[stage];
        for (u32 i = threadIdx.x; i < STREAM; i += THREADS) {
            const u64 at = (u64)batch * t + query + i;
            const bool valid = query + i < t;
            // Rows past the last are zeros in q and dy: with any finite log-sum they add nothing.
            copy_async<8>(&to.sums[i], row_sums + (valid ? at * heads + head : 0), valid);
            if (first_key) copy_async<4>(&to.first[i], first_key + (valid ? at : 0), valid);
            else to.first[i] = 0;
        }
        copy_commit();
    };
    const u32 total = count * group;
    if (total > 0) load(0);
    else copy_commit();

    const u32 k_address = shared_address(k_tile + warp * M * 16 * ROW) + lane_down<ROW>();
    const u32 v_address = shared_address(v_tile + warp * M * 16 * ROW) + lane_down<ROW>();
    float dk_sum[M][SLICE / 8][4], dv_sum[M][SLICE / 8][4];
    clear(dk_sum);
    clear(dv_sum);
    for (u32 n = 0; n < total; ++n) {
        const u32 stage = n % STAGES;
        copy_wait<0>();
        __syncthreads();
        if (STAGES == 2 && n + 1 < total) load(n + 1);
        const u32 position = offset + (begin + n % count) * STREAM;
        const u32 q_address = shared_address(q_tile + stage * STREAM * ROW);
        const u32 dy_address = shared_address(dy_tile + stage * STREAM * ROW);
        const Stage& x = stages[stage];
        bool masked = position < own + M * 16 - 1;
        if (first_key) {
            u32 first = 0;
            for (u32 i = lane; i < STREAM; i += 32) first = max(first, x.first[i]);
            masked = __any_sync(FULL_MASK, masked || first > own);
        }
        if (masked)
            add_dkv<true>(dk_sum, dv_sum, k_address, v_address, q_address, dy_address, x, position, own, slice, logits);
        else
            add_dkv<false>(dk_sum, dv_sum, k_address, v_address, q_address, dy_address, x, position, own, slice, logits);
        if (STAGES == 1 && n + 1 < total) {
            __syncthreads();
            load(n + 1);
        }
    }

    copy_wait<0>();
    __syncthreads();
    bf16* k_own = k_tile + warp * M * 16 * ROW;
    bf16* v_own = v_tile + warp * M * 16 * ROW;
    stage_rows(k_own, dk_sum, scale);
    stage_rows(v_own, dv_sum, 1.f);
    __syncwarp();
    const Head dk_head(dk, batch, s, kv_heads, kv_head), dv_head(dv, batch, s, kv_heads, kv_head);
    store_rows<M * 16, SLICE>(dk_head, own, k_own, slice);
    store_rows<M * 16, SLICE>(dv_head, own, v_own, slice);
}

#endif
