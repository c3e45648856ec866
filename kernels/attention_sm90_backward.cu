// Attention backward on Hopper, as attention_backward.cu: dQ over the keys, then dK and dV over the rows of a group.
#include "attention_sm90.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && HEAD_DIM == 64

const int TEAMS = 3; // warpgroups, 64 rows of dQ each
const int BLOCK = TEAMS * 128;
const int BLOCK_ROWS = TEAMS * 64;
const int STAGES = 6, AHEAD = STAGES - 3; // steps whose copies are under way

// Arguments as of attention_dq_bf16. Grid: tiles of BLOCK_ROWS of T·H/KV rows, KV, B. Shared memory:
// 2 * BLOCK_ROWS + 2 * STAGES * 64 rows of 128 bytes, and 1024 bytes to align them.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
attention_sm90_dq_bf16(const bf16* q, const bf16* k, const bf16* v, const u32* first_key, const bf16* y,
                       const float* log_sum, const bf16* dy, bf16* dq, float2* row_sums, u32 t, u32 s, u32 heads, u32 kv_heads,
                       float scale, float softcap) {
    const u32 group = heads / kv_heads, batch = blockIdx.z, head = blockIdx.y * group, offset = s - t;
    const u32 from = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS;
    const u32 q_tile = matrices(), dy_tile = q_tile + BLOCK_ROWS * MATRIX_ROW, stages = dy_tile + BLOCK_ROWS * MATRIX_ROW;
    const Group queries(q, batch, t, heads, head, group), gradients(dy, batch, t, heads, head, group),
        outputs(y, batch, t, heads, head, group);
    const Group keys(k, batch, s, kv_heads, blockIdx.y, 1), values(v, batch, s, kv_heads, blockIdx.y, 1);
    const u32 warp = warp_index(), lane = threadIdx.x % 32, own = from + warp * 16;
    load_group<BLOCK_ROWS, BLOCK>(q_tile, queries, gradients, from);

    u32 first[2], position[2];
    float total[2], dot[2]; // log-sum in units of ln 2, delta
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const u32 row = own + half * 8 + lane / 4, r = min(row, queries.rows - 1), i = queries.query(r);
        const u64 at = ((u64)batch * t + i) * heads + head + r - i * group;
        position[half] = offset + i;
        first[half] = first_key ? min(first_key[(u64)batch * t + i], offset + i) : 0;
        total[half] = log_sum[at] * LOG2_E;
        dot[half] = row_dot(outputs.row(r), gradients.row(r));
        if (lane % 4 == 0 && row < queries.rows) row_sums[at] = make_float2(total[half], dot[half]);
    }
    u32 low, lowest_end;
    first_range(first, low, lowest_end);
    low = first_key ? block_min<BLOCK / 32>(low) : 0;
    const u32 own_position = offset + queries.query(min(own, queries.rows - 1)), begin = low / KEY_STEP;
    const u32 end = (offset + (min(from + BLOCK_ROWS, queries.rows) - 1) / group) / KEY_STEP + 1;
    const Logits logits(scale, softcap);

    const auto load = [&](u32 n) {
        if (n < end) {
            const u32 to = stages + n % STAGES * 2 * STAGE;
            load_group<KEY_STEP, BLOCK>(to, keys, values, n * KEY_STEP);
        }
        copy_commit();
    };
    const Arrivals<STAGES, BLOCK / 32> arrivals;
    for (u32 n = begin; n < begin + AHEAD; ++n) load(n);
    copy_wait<AHEAD - 1>();
    arrivals.arrive(0);

    const u32 q_own = q_tile + warp / 4 * 64 * MATRIX_ROW, dy_own = dy_tile + warp / 4 * 64 * MATRIX_ROW;
    u32 ds[4][4];
    float sum[1][8][4];
    clear(sum);
    clear(ds);
    const u32 column = lane % 4 * 2;
    for (u32 n = begin; n < end; ++n) {
        copy_wait<AHEAD - 2>();
        arrivals.arrive(n + 1 - begin);
        arrivals.wait(n - begin); // all have arrived in step n - 1, and nobody reads step n - 3 any more
        load(n + AHEAD);
        const u32 k_stage = stages + n % STAGES * 2 * STAGE, v_stage = k_stage + STAGE;
        // Products may not be under way where the loop returns: the last step's wait for this one's.
        float p[1][8][4], dp[8][4];
        const u32 k_before = stages + (n == begin ? n : n - 1) % STAGES * 2 * STAGE;
        products_begin();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<false>(p[0], describe(q_own) + i * 2, describe(k_stage) + i * 2, i > 0);
        products_commit();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<false>(dp, describe(dy_own) + i * 2, describe(v_stage) + i * 2, i > 0);
        products_commit();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<true>(sum[0], ds[i], describe(k_before) + i * 128);
        products_commit();
        products_wait<2>();
        settle(p[0]);
        const u32 key = n * KEY_STEP;
        const bool masked = key < lowest_end || key + KEY_STEP > own_position + 1;
        const auto weigh = [&](auto bounded) {
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int j = 0; j < 8; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) logits.weight<decltype(bounded)::value>(p[0][j][half * 2 + e], total[half]);
        };
        if (logits.bounded(p)) weigh(Is<true>());
        else weigh(Is<false>());
        if (masked) {
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int j = 0; j < 8; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        if (key + j * 8 + column + e - first[half] > position[half] - first[half])
                            p[0][j][half * 2 + e] = 0.f;
        }
        products_wait<0>();
        settle(dp);
        settle(sum[0]);
        settle(ds);
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) p[0][j][e] *= dp[j][e] - dot[e / 2];
#pragma unroll
        for (int i = 0; i < 4; ++i) pack_fragment(ds[i], p[0][2 * i], p[0][2 * i + 1]);
    }
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) product<true>(sum[0], ds[i], describe(stages + (end - 1) % STAGES * 2 * STAGE) + i * 128);
    products_commit();
    products_wait<0>();
    settle(sum[0]);
    settle(ds);
    __syncthreads(); // nobody reads q any more
    const float factor[2] = {scale, scale};
    store_group(Group(dq, batch, t, heads, head, group), own, q_tile + warp * 16 * MATRIX_ROW, sum[0], factor);
}

const int KEY_TEAMS = 2; // warpgroups, 64 keys of dK and dV each
const int KEY_BLOCK = KEY_TEAMS * 128;
const int KEY_ROWS = KEY_TEAMS * 64;

// What a stage of rows holds beside q and dy.
struct RowValues {
    float2 sums[KEY_STEP];
    u32 first[KEY_STEP];
};

// Arguments as of attention_dkv_bf16. Grid: tiles of KEY_ROWS keys, KV, B. Shared memory: 2 * KEY_ROWS +
// 2 * STAGES * 64 rows of 128 bytes, and 1024 bytes to align them.
extern "C" __global__ void __launch_bounds__(KEY_BLOCK, 1)
attention_sm90_dkv_bf16(const bf16* q, const bf16* k, const bf16* v, const u32* first_key, const float2* row_sums,
                        const bf16* dy, bf16* dk, bf16* dv, u32 t, u32 s, u32 heads, u32 kv_heads,
                        float scale, float softcap) {
    const u32 group = heads / kv_heads, batch = blockIdx.z, head = blockIdx.y * group, offset = s - t;
    const u32 from = blockIdx.x * KEY_ROWS;
    const u32 k_tile = matrices(), v_tile = k_tile + KEY_ROWS * MATRIX_ROW, stages = v_tile + KEY_ROWS * MATRIX_ROW;
    __shared__ RowValues row_values[STAGES];
    const Group queries(q, batch, t, heads, head, group), gradients(dy, batch, t, heads, head, group);
    const Group keys(k, batch, s, kv_heads, blockIdx.y, 1), values(v, batch, s, kv_heads, blockIdx.y, 1);
    const u32 warp = warp_index(), lane = threadIdx.x % 32, own = from + warp * 16;
    load_group<KEY_ROWS, KEY_BLOCK>(k_tile, keys, values, from);

    // Rows that see any of the keys: those from the first key on, and of these up to the last whose first key is not
    // past the tile.
    u32 seen = t;
    const u32 from_query = from > offset ? from - offset : 0;
    if (first_key) {
        seen = 0;
        for (u32 i = from_query + threadIdx.x; i < t; i += KEY_BLOCK)
            if (min(first_key[(u64)batch * t + i], offset + i) < from + KEY_ROWS) seen = i + 1;
        seen = ~block_min<KEY_BLOCK / 32>(~seen);
    }
    const u32 begin = from_query * group / KEY_STEP, end = (seen * group + KEY_STEP - 1) / KEY_STEP;
    const Logits logits(scale, softcap);

    const auto load = [&](u32 n) {
        if (n < end) {
            const u32 to = stages + n % STAGES * 2 * STAGE, row = n * KEY_STEP + threadIdx.x;
            load_group<KEY_STEP, KEY_BLOCK>(to, queries, gradients, n * KEY_STEP);
            if (threadIdx.x < KEY_STEP) {
                // Rows past the last are zeros in q and dy: with any finite log-sum they add nothing.
                const bool valid = row < queries.rows;
                const u32 i = queries.query(valid ? row : 0);
                const u64 at = (u64)batch * t + i;
                RowValues& to = row_values[n % STAGES];
                copy_async<8>(&to.sums[threadIdx.x], row_sums + at * heads + head + (valid ? row - i * group : 0), valid);
                if (first_key) copy_async<4>(&to.first[threadIdx.x], first_key + at, valid);
            }
        }
        copy_commit();
    };
    const Arrivals<STAGES, KEY_BLOCK / 32> arrivals;
    for (u32 n = begin; n < begin + AHEAD; ++n) load(n);
    copy_wait<AHEAD - 1>();
    arrivals.arrive(0);

    const u32 k_own = k_tile + warp / 4 * 64 * MATRIX_ROW, v_own = v_tile + warp / 4 * 64 * MATRIX_ROW;
    u32 weights[4][4], ds[4][4];
    float dk_sum[1][8][4], dv_sum[1][8][4];
    clear(dk_sum);
    clear(dv_sum);
    clear(ds);
    const u32 column = lane % 4 * 2;
    for (u32 n = begin; n < end; ++n) {
        copy_wait<AHEAD - 2>();
        arrivals.arrive(n + 1 - begin);
        arrivals.wait(n - begin); // all have arrived in step n - 1, and nobody reads step n - 3 any more
        load(n + AHEAD);
        const u32 q_stage = stages + n % STAGES * 2 * STAGE, dy_stage = q_stage + STAGE;
        const RowValues& rows = row_values[n % STAGES];
        // Products may not be under way where the loop returns: the last step's dK waits for this one's.
        float p[1][8][4], dp[8][4];
        const u32 q_before = stages + (n == begin ? n : n - 1) % STAGES * 2 * STAGE;
        products_begin();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<false>(p[0], describe(k_own) + i * 2, describe(q_stage) + i * 2, i > 0);
        products_commit();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<false>(dp, describe(v_own) + i * 2, describe(dy_stage) + i * 2, i > 0);
        products_commit();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<true>(dk_sum[0], ds[i], describe(q_before) + i * 128);
        products_commit();
        bool masked = offset + queries.query(n * KEY_STEP) < own + 15;
        if (first_key) {
            const uint2 first = ((const uint2*)rows.first)[lane];
            masked = __any_sync(FULL_MASK, masked || max(first.x, first.y) > own);
        }
        products_wait<2>();
        settle(p[0]);
        const auto weigh = [&](auto bounded) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float4 sums = *(const float4*)&rows.sums[j * 8 + column];
                float w[4];
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    w[e] = logits.weight<decltype(bounded)::value>(p[0][j][e], e % 2 ? sums.z : sums.x);
                weights[j / 2][j % 2 * 2] = pack_bf16(w[0], w[1]);
                weights[j / 2][j % 2 * 2 + 1] = pack_bf16(w[2], w[3]);
            }
        };
        if (logits.bounded(p)) weigh(Is<true>());
        else weigh(Is<false>());
        if (masked) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                u32 first[2], last[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    last[e] = offset + queries.query(n * KEY_STEP + j * 8 + column + e);
                    first[e] = first_key ? min(rows.first[j * 8 + column + e], last[e]) : 0;
                }
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const u32 key = own + e / 2 * 8 + lane / 4;
                    if (key - first[e % 2] > last[e % 2] - first[e % 2]) {
                        p[0][j][e] = 0.f;
                        weights[j / 2][j % 2 * 2 + e / 2] &= e % 2 ? 0x0000ffffu : 0xffff0000u;
                    }
                }
            }
        }
        products_begin();
#pragma unroll
        for (int i = 0; i < 4; ++i) product<true>(dv_sum[0], weights[i], describe(dy_stage) + i * 128);
        products_commit();
        products_wait<1>();
        settle(dp);
        settle(dk_sum[0]);
        settle(ds);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float4 sums = *(const float4*)&rows.sums[j * 8 + column];
            float x[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) x[e] = p[0][j][e] * (dp[j][e] - (e % 2 ? sums.w : sums.y));
            ds[j / 2][j % 2 * 2] = pack_bf16(x[0], x[1]);
            ds[j / 2][j % 2 * 2 + 1] = pack_bf16(x[2], x[3]);
        }
        products_wait<0>();
        settle(dv_sum[0]);
        settle(weights);
    }
    if (begin < end) {
        products_begin();
#pragma unroll
        for (int i = 0; i < 4; ++i)
            product<true>(dk_sum[0], ds[i], describe(stages + (end - 1) % STAGES * 2 * STAGE) + i * 128);
        products_commit();
        products_wait<0>();
        settle(dk_sum[0]);
        settle(ds);
    }
    copy_wait<0>();
    __syncthreads(); // nobody reads the tiles of k and v any more: they collect the results
    const float one[2] = {1.f, 1.f}, factor[2] = {scale, scale};
    store_group(Group(dk, batch, s, kv_heads, blockIdx.y, 1), own, k_tile + warp * 16 * MATRIX_ROW, dk_sum[0], factor);
    store_group(Group(dv, batch, s, kv_heads, blockIdx.y, 1), own, v_tile + warp * 16 * MATRIX_ROW, dv_sum[0], one);
}

#endif
