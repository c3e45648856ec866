// Attention forward in one pass over the keys, on tensor cores (FlashAttention-2, Dao 2023): a warp owns 16 or 32
// queries; logits, weights and the output stay in registers.
#include "attention.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

const int M = DIM <= 128 ? 2 : 1;                      // 16-query tiles of a warp
const int QUERIES = WARPS * M * 16;                    // of a block
const int KEYS = DIM <= 64 ? 64 : DIM <= 128 ? 32 : 16; // of a stage in shared memory
const int PART = 16;                                   // keys whose logits are in registers at a time
const bool KEEP_Q = DIM <= 64;                         // whether q's fragments stay in registers

// One stage of keys. MASKED: some query of the warp does not see some key of it.
template <bool MASKED>
__device__ __forceinline__ void attend(float (&out)[M][DIM / 8][4], QueryRows<M>& rows, const u32 (&q)[M][KEEP_Q ? STEPS : 1][4],
                                       u32 q_tile, u32 k_tile, u32 v_tile, u32 key, u32 low, u32 high,
                                       const Logits& logits) {
#pragma unroll
    for (int part = 0; part < KEYS; part += PART) {
        // No query of the warp sees these.
        if (MASKED && (key + part >= high || key + part + PART <= low)) continue;
        float s[M][PART / 8][4];
        clear(s);
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            u32 a[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) {
                if (KEEP_Q) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) a[m][e] = q[m][KEEP_Q ? k : 0][e];
                } else {
                    load_matrices(a[m], q_tile + m * 16 * ROW * 2 + k * 32);
                }
            }
            multiply_rows(s, a, k_tile + lane_across<ROW>() + part * ROW * 2 + k * 32);
        }
        logits.apply(s);
        exponentials<MASKED>(s, out, rows, key + part);
#pragma unroll
        for (int k = 0; k < PART / 16; ++k) {
            u32 p[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) pack_fragment(p[m], s[m][2 * k], s[m][2 * k + 1]);
            multiply_columns(out, p, v_tile + lane_down<ROW>() + (part + k * 16) * ROW * 2);
        }
    }
}

// q [B, T, H, d]; k, v [B, S, KV, d]; first_key [B, T] or null; y [B, T, H, d]; log_sum [B, T, H].
// Grid: query tiles, H, B. Shared memory: QUERIES + 4 * KEYS rows of ROW bf16.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_forward_bf16(const bf16* q, const bf16* k, const bf16* v, const u32* first_key, bf16* y, float* log_sum, u32 t,
                       u32 s, u32 heads, u32 kv_heads, float scale, float softcap) {
    extern __shared__ __align__(16) unsigned char shared[];
    bf16* q_tile = (bf16*)shared;
    bf16* k_tile = q_tile + QUERIES * ROW; // two stages
    bf16* v_tile = k_tile + 2 * KEYS * ROW;
    const QueryTile tile(QUERIES, heads, kv_heads);
    const Head queries(q, tile.batch, t, heads, tile.head);
    const Head keys(k, tile.batch, s, kv_heads, tile.kv_head), values(v, tile.batch, s, kv_heads, tile.kv_head);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, offset = s - t;
    const u32 own = tile.from + warp * M * 16; // first query of the warp

    load_rows<QUERIES>(q_tile, queries, tile.from);

    QueryRows<M> rows;
    u32 low = 0xffffffffu, lowest_end = 0; // smallest and largest first key of the warp's queries
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            // Rows past the last repeat it; they are not stored.
            const u32 i = min(own + m * 16 + half * 8 + lane / 4, t - 1);
            rows.position[m][half] = offset + i;
            rows.first[m][half] = first_key ? min(first_key[(u64)tile.batch * t + i], offset + i) : 0;
            rows.sum[m][half] = 0.f;
            rows.top[m][half] = -INFINITY_F;
            low = min(low, rows.first[m][half]);
            lowest_end = max(lowest_end, rows.first[m][half]);
        }
#pragma unroll
    for (int n = 4; n < 32; n *= 2) {
        low = min(low, __shfl_xor_sync(FULL_MASK, low, n));
        lowest_end = max(lowest_end, __shfl_xor_sync(FULL_MASK, lowest_end, n));
    }
    const u32 block_low = first_key ? block_min<WARPS>(low) : 0;
    const u32 position = offset + min(own, t - 1);                              // of the warp's first query
    const u32 high = offset + min(own + M * 16, t);                            // past its last
    const u32 begin = block_low / KEYS, end = (offset + min(tile.from + QUERIES, t) + KEYS - 1) / KEYS;
    const Logits logits(scale, softcap);

    load_rows<KEYS>(k_tile, keys, begin * KEYS);
    load_rows<KEYS>(v_tile, values, begin * KEYS);
    copy_commit();

    const u32 q_address = shared_address(q_tile + warp * M * 16 * ROW) + lane_down<ROW>();
    u32 fragments[M][KEEP_Q ? STEPS : 1][4];
    float out[M][DIM / 8][4];
    clear(out);
    for (u32 n = begin; n < end; ++n) {
        const u32 stage = (n - begin) % 2;
        copy_wait<0>();
        __syncthreads();
        if (n + 1 < end) {
            load_rows<KEYS>(k_tile + (stage ^ 1) * KEYS * ROW, keys, (n + 1) * KEYS);
            load_rows<KEYS>(v_tile + (stage ^ 1) * KEYS * ROW, values, (n + 1) * KEYS);
            copy_commit();
        }
        if (KEEP_Q && n == begin) load_fragments(fragments, q_address);
        const u32 key = n * KEYS, k_address = shared_address(k_tile + stage * KEYS * ROW),
                  v_address = shared_address(v_tile + stage * KEYS * ROW);
        if (key < lowest_end || key + KEYS > position + 1)
            attend<true>(out, rows, fragments, q_address, k_address, v_address, key, low, high, logits);
        else
            attend<false>(out, rows, fragments, q_address, k_address, v_address, key, low, high, logits);
    }

    float inverse[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = rows.sum[m][half];
            sum += __shfl_xor_sync(FULL_MASK, sum, 1);
            sum += __shfl_xor_sync(FULL_MASK, sum, 2);
            inverse[m][half] = 1.f / sum;
            const u32 row = own + m * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && row < t) {
                const float top = RUNNING_MAX ? rows.top[m][half] * LN_2 : 0.f;
                log_sum[((u64)tile.batch * t + row) * heads + tile.head] = top + logf(sum);
            }
        }
    // The warp's own rows of q, which nobody reads any more, collect its output.
    bf16* own_tile = q_tile + warp * M * 16 * ROW;
    stage_rows(own_tile, out, inverse);
    __syncwarp();
    store_rows<M * 16, DIM>(Head(y, tile.batch, t, heads, tile.head), own, own_tile, 0);
}

#endif
