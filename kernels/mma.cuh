// bf16 tensor-core pieces for sm_80 and later: asynchronous copies to shared memory, fragments, products.
#pragma once
#include "common.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Starts a copy of BYTES (4, 8 or 16) to shared memory; writes zeros, and reads nothing, unless `valid`.
template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
    const u32 size = valid ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(size)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES),
                     "r"(size)
                     : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;"); }
// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8×8 matrices, whose rows start at the addresses that lanes 0..8, 8..16, 16..24 and 24..32 give.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c += a·b: a 16×16, b 16×8, c 16×8 with c[0..2] in row lane/4 and c[2..4] eight rows below, columns 2·(lane%4) and the next.
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte offsets, within a tile of rows of ROW bf16, of the row that this lane names to load_matrices.
// `down`: matrices 0, 1 are rows 0..8 and 8..16 of the first eight columns (a's fragment; transposed, b's when k runs
// down the rows). `across`: matrices 0, 1 are the first and second eight columns of rows 0..8 (b's when k runs along rows).
template <int ROW> __device__ __forceinline__ u32 lane_down() {
    const u32 lane = threadIdx.x & 31;
    return ((lane & 15) * ROW + (lane >> 4) * 8) * 2;
}
template <int ROW> __device__ __forceinline__ u32 lane_across() {
    const u32 lane = threadIdx.x & 31;
    return (((lane & 7) + (lane >> 4) * 8) * ROW + ((lane >> 3) & 1) * 8) * 2;
}

// The part of a product's result [16, 16] as the left fragment of the next product.
__device__ __forceinline__ void pack_fragment(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
