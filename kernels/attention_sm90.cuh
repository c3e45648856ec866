// What the Hopper attention kernels share, for heads of 64. A row is a query of one head: the heads of a group stand
// side by side, so that they share the keys' tiles.
#pragma once
#include "attention.cuh"
#include "wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && HEAD_DIM == 64

const int KEY_STEP = 64; // keys, or rows, of a stage
const int STAGE = KEY_STEP * MATRIX_ROW;

// The rows of one group, row r being query r / group of its head r % group; or the keys of a head, in a group of one.
struct Group {
    bf16* data;
    u32 rows, skip, inverse; // skip: elements between the last head of a query and the first of the next

    __device__ __forceinline__ Group(const bf16* x, u32 batch, u32 t, u32 heads, u32 head, u32 group)
        : data((bf16*)x + ((u64)batch * t * heads + head) * HEAD_DIM), rows(t * group), skip((heads - group) * HEAD_DIM),
          inverse(0xffffffffu / group + 1) {}

    // r / group, exact while r · group < 2^32. The inverse of 1, 2^32, is kept as 0.
    __device__ __forceinline__ u32 query(u32 r) const { return inverse ? __umulhi(r, inverse) : r; }

    __device__ __forceinline__ u64 offset(u32 r) const { return (u64)r * HEAD_DIM + (u64)query(r) * skip; }
    __device__ __forceinline__ bf16* row(u32 r) const { return data + offset(r); }
};

// Starts the copy of rows from..from + ROWS of a, and of b of the same shape, to shared memory, b's ROWS rows after a's;
// zeros past the last.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_group(u32 to, const Group& a, const Group& b, u32 from) {
    const u32 row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    to += chunk_offset(row, chunk);
#pragma unroll
    for (int n = 0; n < ROWS; n += THREADS / 8) {
        if (ROWS % (THREADS / 8) && n + row >= ROWS) break;
        const u32 r = from + n + row;
        const u32 size = r < a.rows ? 16 : 0;
        const u64 offset = a.offset(r < a.rows ? r : 0) + chunk * 8;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + n * MATRIX_ROW), "l"(a.data + offset), "r"(size)
                     : "memory");
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + (n + ROWS) * MATRIX_ROW),
                     "l"(b.data + offset), "r"(size)
                     : "memory");
    }
}

// Writes a warp's result times `factor` to its 16 rows at `tile`, then these to rows from.. of a group.
__device__ __forceinline__ void store_group(const Group& x, u32 from, u32 tile, const float (&c)[8][4],
                                            const float (&factor)[2]) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const u32 pair = pack_bf16(c[n][half * 2] * factor[half], c[n][half * 2 + 1] * factor[half]);
            const u32 address = tile + chunk_offset(half * 8 + lane / 4, n) + lane % 4 * 4;
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(pair) : "memory");
        }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const u32 row = n * 4 + lane / 8, chunk = lane % 8;
        uint4 v;
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "r"(tile + chunk_offset(row, chunk)));
        if (from + row < x.rows) *(uint4*)(x.row(from + row) + chunk * 8) = v;
    }
}

__device__ __forceinline__ void clear(u32 (&a)[4][4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int e = 0; e < 4; ++e) a[k][e] = 0;
}

// The same for all lanes of a warp, which the compiler then knows.
__device__ __forceinline__ u32 warp_index() { return __shfl_sync(FULL_MASK, threadIdx.x / 32, 0); }

// Which steps' copies are there, told by a barrier a stage. A warpgroup that goes ahead waits only for the others to have
// begun the step before, not to stand where it stands.
template <int STAGES, int WARPS> struct Arrivals {
    u32 barriers;

    __device__ __forceinline__ Arrivals() {
        __shared__ u64 memory[STAGES];
        barriers = shared_address(memory);
        if (threadIdx.x == 0)
            for (int n = 0; n < STAGES; ++n)
                asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barriers + n * 8), "r"(WARPS) : "memory");
        __syncthreads();
    }
    // Every thread of a warp, when its own copies of step n are there.
    __device__ __forceinline__ void arrive(u32 n) const {
        fence_for_products();
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barriers + n % STAGES * 8) : "memory");
    }
    __device__ __forceinline__ void wait(u32 n) const {
        asm volatile("{ .reg .pred p;\n"
                     "$again%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                     "@!p bra $again%=; }" ::"r"(barriers + n % STAGES * 8),
                     "r"(n / STAGES & 1)
                     : "memory");
    }
};

// The shared memory of a block from the first multiple of 1024.
__device__ __forceinline__ u32 matrices() {
    extern __shared__ __align__(1024) unsigned char shared[];
    return (shared_address(shared) + 1023) & ~1023u;
}

// Smallest and largest of the first keys of a warp's rows.
__device__ __forceinline__ void first_range(const u32 (&first)[2], u32& low, u32& high) {
    low = __reduce_min_sync(FULL_MASK, min(first[0], first[1]));
    high = __reduce_max_sync(FULL_MASK, max(first[0], first[1]));
}

#endif
