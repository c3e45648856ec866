// y = f32(acc)·(γ/s) with acc = Xq·Wqᵀ exact in i32: activation codes x [m, k], scales s [m], one to four weights of
// codes [nᵢ, k] with a γ each, outputs [m, nᵢ]. Unused weights have n = 0. IEEE division, rounding to bf16 at the end.
#include "common.cuh"

struct Segment {
    u32 index;
    u32 column;
};

// Which weight a tile of columns belongs to, and the tile's first column there.
__device__ __forceinline__ Segment segment_of(u32 tile, u32 width, u32 n0, u32 n1, u32 n2) {
    u32 t0 = (n0 + width - 1) / width, t1 = (n1 + width - 1) / width, t2 = (n2 + width - 1) / width;
    Segment found = {0, tile};
    if (tile >= t0) found.index = 1, found.column = tile - t0;
    if (tile >= t0 + t1) found.index = 2, found.column = tile - t0 - t1;
    if (tile >= t0 + t1 + t2) found.index = 3, found.column = tile - t0 - t1 - t2;
    found.column *= width;
    return found;
}

template <class P> __device__ __forceinline__ P choose(u32 i, P a, P b, P c, P d) {
    return i == 0 ? a : i == 1 ? b : i == 2 ? c : d;
}

// ---- Any card, any size: mma.sync on tiles of 128 by 128, eight warps of 64 by 32.

#define TILE 128u
#define DEPTH 64u
// Bytes from row to row in shared memory: the four-byte reads of a fragment then fall into 32 different banks.
#define PITCH 80u

// d += a·bᵀ for a [16, 32] and b [8, 32].
__device__ __forceinline__ void mma(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // The same fragments, as two halves of rows by two halves of k.
#pragma unroll
    for (int half = 0; half < 4; half++)
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+r"(d[half % 2 * 2]), "+r"(d[half % 2 * 2 + 1])
            : "r"(a[half]), "r"(b[half / 2]));
#endif
}

// Sixteen codes of a row from column `k0`; zeros outside of the matrix.
__device__ __forceinline__ uint4 fetch(const i8* matrix, u32 row, u32 rows, u32 k0, u32 k, bool aligned) {
    uint4 codes = make_uint4(0, 0, 0, 0);
    if (row >= rows || k0 >= k) return codes;
    const i8* p = matrix + (u64)row * k + k0;
    if (aligned) return *(const uint4*)p;
    u32 word[4] = {0, 0, 0, 0};
#pragma unroll
    for (u32 i = 0; i < 16; i++)
        if (k0 + i < k) word[i / 4] |= (u32)(u8)p[i] << (8 * (i % 4));
    return make_uint4(word[0], word[1], word[2], word[3]);
}

__device__ __forceinline__ void store_pair(float* y, float a, float b) { *(float2*)y = make_float2(a, b); }
__device__ __forceinline__ void store_pair(bf16* y, float a, float b) { *(u32*)y = pack_bf16(a, b); }

template <class T>
__device__ __forceinline__ void gemm(const i8* x, const float* s, const i8* w, float gamma, T* y, u32 m, u32 n, u32 k,
                                     u32 row0, u32 column0) {
    __shared__ __align__(16) u8 xs[2][TILE * PITCH];
    __shared__ __align__(16) u8 ws[2][TILE * PITCH];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 warp_row = warp / 4 * 64, warp_column = warp % 4 * 32, group = lane / 4, quad = lane % 4;
    bool aligned = k % 16 == 0 && (((u64)x | (u64)w) & 15) == 0;
    u32 line = threadIdx.x / 4, part = threadIdx.x % 4 * 16;
    uint4 next[4];
    auto fetch_all = [&](u32 k0) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            next[i] = fetch(x, row0 + line + 64 * i, m, k0 + part, k, aligned);
            next[2 + i] = fetch(w, column0 + line + 64 * i, n, k0 + part, k, aligned);
        }
    };
    auto put = [&](u32 buffer) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            *(uint4*)&xs[buffer][(line + 64 * i) * PITCH + part] = next[i];
            *(uint4*)&ws[buffer][(line + 64 * i) * PITCH + part] = next[2 + i];
        }
    };
    i32 acc[4][4][4] = {};
    fetch_all(0);
    put(0);
    __syncthreads();
    u32 steps = (k + DEPTH - 1) / DEPTH;
    for (u32 step = 0; step < steps; step++) {
        if (step + 1 < steps) fetch_all((step + 1) * DEPTH);
        const u8* xt = xs[step & 1] + (warp_row + group) * PITCH + quad * 4;
        const u8* wt = ws[step & 1] + (warp_column + group) * PITCH + quad * 4;
#pragma unroll
        for (u32 at = 0; at < DEPTH; at += 32) {
            u32 b[4][2];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                b[j][0] = *(const u32*)(wt + j * 8 * PITCH + at);
                b[j][1] = *(const u32*)(wt + j * 8 * PITCH + at + 16);
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u8* p = xt + i * 16 * PITCH + at;
                u32 a[4] = {*(const u32*)p, *(const u32*)(p + 8 * PITCH), *(const u32*)(p + 16),
                            *(const u32*)(p + 8 * PITCH + 16)};
#pragma unroll
                for (u32 j = 0; j < 4; j++) mma(acc[i][j], a, b[j]);
            }
        }
        if (step + 1 < steps) put((step + 1) & 1);
        __syncthreads();
    }
    bool pairs = n % 2 == 0 && ((u64)y & (2 * sizeof(T) - 1)) == 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = row0 + warp_row + i * 16 + half * 8 + group;
            if (row >= m) continue;
            float scale = __fdiv_rn(gamma, s[row]);
            T* line_of_y = y + (u64)row * n;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                u32 column = column0 + warp_column + j * 8 + quad * 2;
                float a = __fmul_rn((float)acc[i][j][half * 2], scale);
                float b = __fmul_rn((float)acc[i][j][half * 2 + 1], scale);
                if (pairs && column < n) {
                    store_pair(line_of_y + column, a, b);
                } else {
                    if (column < n) line_of_y[column] = from_float<T>(a);
                    if (column + 1 < n) line_of_y[column + 1] = from_float<T>(b);
                }
            }
        }
}

// A thread block a tile, the tiles of a row of tiles one after another.
template <class T>
__device__ __forceinline__ void ternary_gemm(const i8* x, const float* s, const i8* w0, const i8* w1, const i8* w2,
                                             const i8* w3, const float* g0, const float* g1, const float* g2,
                                             const float* g3, T* y0, T* y1, T* y2, T* y3, u32 m, u32 k, u32 n0, u32 n1,
                                             u32 n2, u32 n3, u32 tiles) {
    Segment at = segment_of(blockIdx.x % tiles, TILE, n0, n1, n2);
    float gamma = *choose(at.index, g0, g1, g2, g3);
    gemm(x, s, choose(at.index, w0, w1, w2, w3), gamma, choose(at.index, y0, y1, y2, y3), m,
         choose(at.index, n0, n1, n2, n3), k, blockIdx.x / tiles * TILE, at.column);
}

#define TERNARY_GEMM(name, T)                                                                                           \
    extern "C" __global__ __launch_bounds__(256) void name(                                                             \
        const i8* x, const float* s, const i8* w0, const i8* w1, const i8* w2, const i8* w3, const float* g0,           \
        const float* g1, const float* g2, const float* g3, T* y0, T* y1, T* y2, T* y3, u32 m, u32 k, u32 n0, u32 n1,    \
        u32 n2, u32 n3, u32 tiles) {                                                                                    \
        ternary_gemm(x, s, w0, w1, w2, w3, g0, g1, g2, g3, y0, y1, y2, y3, m, k, n0, n1, n2, n3, tiles);                \
    }
TERNARY_GEMM(ternary_gemm_f32, float)
TERNARY_GEMM(ternary_gemm_bf16, bf16)

#if __CUDA_ARCH_FEAT_SM90_ALL
// ---- Hopper: tiles of 128 by 256 in a persistent grid. One warpgroup keeps three stages of both operands coming through
// the copy engine (128 bytes of k a stage, swizzled), two warpgroups multiply 64 rows each, and hand their part of the
// output to the copy engine, which writes it while the next tile is multiplied.

#define STAGES 3u
#define ROWS 128u
#define COLUMNS 256u
#define STAGE_K 128u
#define X_BYTES (ROWS * STAGE_K)
#define STAGE_BYTES ((ROWS + COLUMNS) * STAGE_K)
// A warpgroup's part of an output tile, in boxes of 64 rows by 64 columns, and one box.
#define OUT_BYTES (64u * COLUMNS * 2)
#define BOX_BYTES 8192u

// As `cuTensorMapEncodeTiled` writes it.
struct alignas(64) TensorMap {
    u8 bytes[128];
};

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}
// Copies a box of the map at (column, row) to shared memory; what lies outside of the matrix becomes 0.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}
// Rows of 128 bytes in the 128-byte swizzle: eight rows are 1,024 bytes.
__device__ __forceinline__ u64 operand(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#define OPERANDS_8(i)                                                                                                   \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]),         \
        "+r"(d[i + 7])
#define OPERANDS_32(i) OPERANDS_8(i), OPERANDS_8(i + 8), OPERANDS_8(i + 16), OPERANDS_8(i + 24)

// d = a·bᵀ + (keep ? d : 0) for a [64, 32] and b [256, 32].
__device__ __forceinline__ void wgmma(i32 (&d)[128], u64 a, u64 b, u32 keep) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"
                 "%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,"
                 "%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,"
                 "%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,"
                 "%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,"
                 "%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, %128, %129, p; }"
                 : OPERANDS_32(0), OPERANDS_32(32), OPERANDS_32(64), OPERANDS_32(96)
                 : "l"(a), "l"(b), "r"(keep));
}

// Stores four 8x8 matrices of bf16, as the accumulators hold them, to rows of 16 bytes: lane l names row l%8 of matrix l/8.
__device__ __forceinline__ void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c),
                 "r"(d)
                 : "memory");
}
// Copies a box from shared memory to the map at (column, row); what lies outside of the matrix is dropped.
__device__ __forceinline__ void store_box(const TensorMap* map, u32 column, u32 row, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(column),
                 "r"(row), "r"(from)
                 : "memory");
}

// Every n a multiple of 8, k a multiple of 16, pointers of 16 bytes. Maps, 128-byte swizzle: boxes of 128 rows of x and of
// 256 of a weight, 128 codes wide, and of 64 rows of y, 64 columns wide. Dynamic shared memory: the stages, both parts of
// the output, and 1,024 bytes for alignment.
extern "C" __global__ __launch_bounds__(384, 1) void ternary_gemm_wgmma_bf16(
    const float* s, const float* g0, const float* g1, const float* g2, const float* g3,
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w0, const __grid_constant__ TensorMap w1,
    const __grid_constant__ TensorMap w2, const __grid_constant__ TensorMap w3, const __grid_constant__ TensorMap y0,
    const __grid_constant__ TensorMap y1, const __grid_constant__ TensorMap y2, const __grid_constant__ TensorMap y3, u32 m,
    u32 k, u32 n0, u32 n1, u32 n2, u32 n3, u32 tiles) {
    extern __shared__ u8 memory[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
    u32 base = (shared_address(memory) + 1023) & ~1023u, warpgroup = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < STAGES; i++) {
            barrier_init(shared_address(full + i), 1);
            barrier_init(shared_address(empty + i), 2);
        }
        asm volatile("fence.mbarrier_init.release.cluster;");
        asm volatile("fence.proxy.async;");
    }
    __syncthreads();
    u32 steps = (k + STAGE_K - 1) / STAGE_K, all = (m + ROWS - 1) / ROWS * tiles, turn = 0;
    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        for (u32 tile = blockIdx.x; tile < all; tile += gridDim.x) {
            Segment at = segment_of(tile % tiles, COLUMNS, n0, n1, n2);
            const TensorMap* w = choose(at.index, &w0, &w1, &w2, &w3);
            for (u32 step = 0; step < steps; step++, turn++) {
                u32 stage = turn % STAGES, to = base + stage * STAGE_BYTES, barrier = shared_address(full + stage);
                barrier_wait(shared_address(empty + stage), (turn / STAGES & 1) ^ 1);
                barrier_expect(barrier, STAGE_BYTES);
                copy_box(to, &x, step * STAGE_K, tile / tiles * ROWS, barrier);
                copy_box(to + X_BYTES, w, step * STAGE_K, at.column, barrier);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        u32 lane = threadIdx.x % 32, half = warpgroup - 1;
        u32 warp_row = threadIdx.x % 128 / 32 * 16, out = base + STAGES * STAGE_BYTES + half * OUT_BYTES;
        bool leader = threadIdx.x % 128 == 0;
        // Where this lane's row of an output matrix lies: rows of 128 bytes, 64 columns, in boxes of 64 rows.
        u32 out_row = out + (warp_row + lane % 16) * 128, swizzle = lane % 8;
        for (u32 tile = blockIdx.x; tile < all; tile += gridDim.x) {
            Segment at = segment_of(tile % tiles, COLUMNS, n0, n1, n2);
            u32 row = tile / tiles * ROWS + half * 64, own = row + warp_row + lane / 4;
            float gamma = *choose(at.index, g0, g1, g2, g3);
            float upper = own < m ? s[own] : 1.f, lower = own + 8 < m ? s[own + 8] : 1.f;
            i32 d[128];
            for (u32 step = 0; step < steps; step++, turn++) {
                u32 stage = turn % STAGES, from = base + stage * STAGE_BYTES;
                barrier_wait(shared_address(full + stage), turn / STAGES & 1);
                u64 a = operand(from + half * 64 * STAGE_K), b = operand(from + X_BYTES);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
                wgmma(d, a, b, step > 0);
                // Two units of 16 bytes are the next 32 codes of k.
                wgmma(d, a + 2, b + 2, 1);
                wgmma(d, a + 4, b + 4, 1);
                wgmma(d, a + 6, b + 6, 1);
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (step > 0 && leader) barrier_arrive(shared_address(empty + (turn - 1) % STAGES));
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (leader) {
                barrier_arrive(shared_address(empty + (turn - 1) % STAGES));
                // The boxes of the last tile have been read.
                asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
            }
            asm volatile("bar.sync %0, 128;" ::"r"(half + 1) : "memory");
            upper = __fdiv_rn(gamma, upper);
            lower = __fdiv_rn(gamma, lower);
#pragma unroll
            for (u32 j = 0; j < 32; j += 2) {
                // Blocks j and j + 1 of eight columns, rows lane/4 and lane/4 + 8.
                const i32* v = d + 4 * j;
                auto pair = [](const i32* p, float scale) {
                    return pack_bf16(__fmul_rn((float)p[0], scale), __fmul_rn((float)p[1], scale));
                };
                u32 chunk = (j + lane / 16) % 8;
                store_matrices(out_row + j / 8 * BOX_BYTES + ((chunk ^ swizzle) << 4), pair(v, upper), pair(v + 2, lower),
                               pair(v + 4, upper), pair(v + 6, lower));
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            asm volatile("bar.sync %0, 128;" ::"r"(half + 1) : "memory");
            if (leader) {
                const TensorMap* y = choose(at.index, &y0, &y1, &y2, &y3);
                u32 n = choose(at.index, n0, n1, n2, n3);
                for (u32 box = 0; box < COLUMNS / 64; box++) {
                    u32 column = at.column + box * 64;
                    if (row < m && column < n) store_box(y, column, row, out + box * BOX_BYTES);
                }
                asm volatile("cp.async.bulk.commit_group;" ::: "memory");
            }
        }
        if (leader) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
#endif
