// Attention forward on Hopper: warpgroup products, the next logits under way while the exponentials of these are taken
// (FlashAttention-3, Shah et al. 2024).
#include "attention_sm90.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && HEAD_DIM == 64

const int TEAMS = 2; // warpgroups, 64 rows each; two blocks fill a multiprocessor
const int BLOCK = TEAMS * 128;
const int BLOCK_ROWS = TEAMS * 64;
const int STAGES = 5, AHEAD = STAGES - 3; // steps whose copies are under way

struct Team {
    float out[1][8][4];
    QueryRows<1> rows;
    u32 q[4][4], p[4][4];
    u32 lowest_end, position; // largest first key, and position of the first row, of the warp
};

// Arguments as of attention_forward_bf16. Grid: tiles of BLOCK_ROWS of T·H/KV rows, KV, B. Shared memory:
// BLOCK_ROWS + 2 * STAGES * 64 rows of 128 bytes, and 1024 bytes to align them.
extern "C" __global__ void __launch_bounds__(BLOCK, 2)
attention_sm90_forward_bf16(const bf16* q, const bf16* k, const bf16* v, const u32* first_key, bf16* y, float* log_sum,
                            u32 t, u32 s, u32 heads, u32 kv_heads, float scale, float softcap) {
    const u32 group = heads / kv_heads, batch = blockIdx.z, head = blockIdx.y * group, offset = s - t;
    const u32 from = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS;
    const u32 y_tile = matrices(), stages = y_tile + BLOCK_ROWS * MATRIX_ROW;
    const Group queries(q, batch, t, heads, head, group);
    const Group keys(k, batch, s, kv_heads, blockIdx.y, 1), values(v, batch, s, kv_heads, blockIdx.y, 1);
    const u32 warp = warp_index(), lane = threadIdx.x % 32, own = from + warp * 16;

    Team team;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        // Rows past the last repeat it; they are not stored.
        const u32 r = min(own + half * 8 + lane / 4, queries.rows - 1), i = queries.query(r);
        const u32* x = (const u32*)queries.row(r) + lane % 4;
#pragma unroll
        for (int k = 0; k < 4; ++k) team.q[k][half] = x[k * 8], team.q[k][half + 2] = x[k * 8 + 4];
        team.rows.position[0][half] = offset + i;
        team.rows.first[0][half] = first_key ? min(first_key[(u64)batch * t + i], offset + i) : 0;
        team.rows.sum[0][half] = 0.f;
        team.rows.top[0][half] = -INFINITY_F;
    }
    u32 low;
    first_range(team.rows.first[0], low, team.lowest_end);
    low = first_key ? block_min<BLOCK / 32>(low) : 0;
    team.position = offset + queries.query(min(own, queries.rows - 1));
    const u32 begin = low / KEY_STEP;
    const u32 end = (offset + (min(from + BLOCK_ROWS, queries.rows) - 1) / group) / KEY_STEP + 1, steps = end - begin;
    const Logits logits(scale, softcap);

    const auto load = [&](u32 n) {
        if (n < steps) {
            const u32 to = stages + n % STAGES * 2 * STAGE, key = (begin + n) * KEY_STEP;
            load_group<KEY_STEP, BLOCK>(to, keys, values, key);
        }
        copy_commit();
    };
    const Arrivals<STAGES, BLOCK / 32> arrivals;
    for (u32 n = 0; n < AHEAD; ++n) load(n);
    copy_wait<AHEAD - 1>();
    arrivals.arrive(0);

    clear(team.out);
    clear(team.p);
    const auto stage = [&](u32 n) { return stages + n % STAGES * 2 * STAGE; };
    for (u32 n = 0; n < steps; ++n) {
        copy_wait<AHEAD - 2>();
        arrivals.arrive(n + 1);
        arrivals.wait(n); // all have arrived in step n - 1, and nobody reads step n - 3 any more
        load(n + AHEAD);
        // Products may not be under way where the loop returns: the last step's weights wait for this one's logits.
        float logit[1][8][4];
        const u32 values_before = stage(n == 0 ? 0 : n - 1) + STAGE;
        products_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k) product<false>(logit[0], team.q[k], describe(stage(n)) + k * 2, k > 0);
        products_commit();
#pragma unroll
        for (int k = 0; k < 4; ++k) product<true>(team.out[0], team.p[k], describe(values_before) + k * 128);
        products_commit();
        products_wait<RUNNING_MAX ? 0 : 1>();
        settle(logit[0]);
        if (RUNNING_MAX) settle(team.out[0]);
        const u32 key = (begin + n) * KEY_STEP;
        logits.apply(logit);
        if (key < team.lowest_end || key + KEY_STEP > team.position + 1)
            exponentials<true>(logit, team.out, team.rows, key);
        else
            exponentials<false>(logit, team.out, team.rows, key);
        products_wait<0>();
        settle(team.out[0]);
        settle(team.p);
#pragma unroll
        for (int k = 0; k < 4; ++k) pack_fragment(team.p[k], logit[0][2 * k], logit[0][2 * k + 1]);
    }
    products_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) product<true>(team.out[0], team.p[k], describe(stage(steps - 1) + STAGE) + k * 128);
    products_commit();
    products_wait<0>();
    settle(team.out[0]);
    settle(team.p);

    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = team.rows.sum[0][half];
        sum += __shfl_xor_sync(FULL_MASK, sum, 1);
        sum += __shfl_xor_sync(FULL_MASK, sum, 2);
        inverse[half] = 1.f / sum;
        const u32 row = own + half * 8 + lane / 4;
        if (lane % 4 == 0 && row < queries.rows) {
            const float top = RUNNING_MAX ? team.rows.top[0][half] * LN_2 : 0.f;
            log_sum[((u64)batch * t + queries.query(row)) * heads + head + row - queries.query(row) * group] = top + logf(sum);
        }
    }
    store_group(Group(y, batch, t, heads, head, group), own, y_tile + warp * 16 * MATRIX_ROW, team.out[0], inverse);
}

#endif
