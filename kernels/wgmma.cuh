// Hopper's warpgroup products of bf16: 64 rows by 64 columns, f32 sums. Only sm_90a has them.
//
// Matrices in shared memory have rows of 64 elements (128 bytes), whose 16-byte chunk c of row r lies at chunk c ^ r % 8,
// and start at multiples of 1024 bytes.
#pragma once
#include "mma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

const int MATRIX_ROW = 128; // bytes

__device__ __forceinline__ u32 chunk_offset(u32 row, u32 chunk) {
    return row * MATRIX_ROW + ((chunk ^ (row & 7)) << 4);
}

// Describes a matrix at `address`: groups of eight rows 1024 bytes apart, 128-byte swizzle. The same for a matrix whose
// rows run along k (the next 16 of k are 32 bytes on) and for one whose rows are k (2048 bytes on).
__device__ __forceinline__ u64 describe(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// Makes shared memory that this thread wrote visible to the products of others, before a barrier.
__device__ __forceinline__ void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers written before it may be used by the products after it.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING groups of products are under way.
template <int PENDING> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// After a wait: tells the compiler that products have changed, or still read, these registers until here.
template <int N> __device__ __forceinline__ void settle(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[n][e])::"memory");
}
template <int N> __device__ __forceinline__ void settle(u32 (&a)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) asm volatile("" : "+r"(a[n][e])::"memory");
}

#define SUMS_64                                                                                                        \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"   \
    "%30,%31}"
#define SUMS_OF(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define ALL_SUMS(c)                                                                                                    \
    SUMS_OF(c, 0), SUMS_OF(c, 1), SUMS_OF(c, 2), SUMS_OF(c, 3), SUMS_OF(c, 4), SUMS_OF(c, 5), SUMS_OF(c, 6), SUMS_OF(c, 7)

// c += a·b over 16 of k (c = a·b unless `add`). a: fragments of registers; b: 64 rows that run along k, or with ROWS_ARE_K
// 16 rows of k.
template <bool ROWS_ARE_K>
__device__ __forceinline__ void product(float (&c)[8][4], const u32 (&a)[4], u64 b, bool add = true) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " SUMS_64 ", {%32,%33,%34,%35}, %36, p, 1, 1, %38; }"
                 : ALL_SUMS(c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(ROWS_ARE_K));
}
// The same with a in shared memory: 64 rows that run along k.
template <bool ROWS_ARE_K>
__device__ __forceinline__ void product(float (&c)[8][4], u64 a, u64 b, bool add = true) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " SUMS_64 ", %32, %33, p, 1, 1, 0, %35; }"
                 : ALL_SUMS(c)
                 : "l"(a), "l"(b), "r"((int)add), "n"(ROWS_ARE_K));
}

#endif
