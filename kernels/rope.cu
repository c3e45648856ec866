// Rotates the pairs (x[i], x[i + d/2]) of each head by the angles of its position; direction -1 rotates back.
#include "pack.cuh"

template <class T>
__device__ __forceinline__ void rotate(
    const T* x, const float* cosines, const float* sines, T* y, u32 rows, u32 t, u32 heads, u32 d, float direction) {
    const u32 N = Pack<T>::N;
    u32 half = d / 2, packs = (half + N - 1) / N;
    bool wide = half % N == 0 && aligned(x) && aligned(y) && aligned(cosines) && aligned(sines);
    // The caller sees to it that this fits: 2^32 packs are 2^35 elements.
    u32 count = rows * heads * packs;
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        u32 head = (u32)index / packs, i = ((u32)index - head * packs) * N;
        u64 angle = (u64)(head / heads % t) * half, start = (u64)head * d;
        const T* from = x + start;
        Pack<T> a = load_pack(from, i, half, wide), b = load_pack(from + half, i, half, wide);
        float c[N], s[N], u[N], v[N];
        load_floats(cosines + angle, i, half, wide, c);
        load_floats(sines + angle, i, half, wide, s);
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            u[k] = a[k] * c[k] - b[k] * (direction * s[k]);
            v[k] = b[k] * c[k] + a[k] * (direction * s[k]);
        }
        store_pack(y + start, i, half, wide, u);
        store_pack(y + start + half, i, half, wide, v);
    }
}

extern "C" __global__ void __launch_bounds__(256) rope_rotate_f32(
    const float* x, const float* cosines, const float* sines, float* y, u32 rows, u32 t, u32 heads, u32 d,
    float direction) {
    rotate(x, cosines, sines, y, rows, t, heads, d, direction);
}
extern "C" __global__ void __launch_bounds__(256) rope_rotate_bf16(
    const bf16* x, const float* cosines, const float* sines, bf16* y, u32 rows, u32 t, u32 heads, u32 d,
    float direction) {
    rotate(x, cosines, sines, y, rows, t, heads, d, direction);
}
