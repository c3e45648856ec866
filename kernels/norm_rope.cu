// Root-mean-square norm of each head times a gain, then the rotation of its pairs (n[i], n[i + d/2]) by the angles of its
// position: QK-norm and the rotary embedding in one pass. A lane holds a pack of the first half and its partner of the
// second.
#include "lanes.cuh"

#if __CUDA_ARCH__ == 900
#define BACKWARD_BOUNDS __launch_bounds__(BLOCK, 3)
#else
#define BACKWARD_BOUNDS __launch_bounds__(BLOCK)
#endif

// The two packs of a lane, and the place of the head among positions.
template <class T> struct Halves {
    static const u32 N = Pack<T>::N;
    u32 half, i;
    bool live, wide;
    u64 start, angle;

    __device__ __forceinline__ Halves(u64 row, u32 rows, u32 lane, u32 t, u32 heads, u32 d, bool all_aligned)
        : half(d / 2), i(lane * N), live(row < rows && lane * N < d / 2), wide(all_aligned && (d / 2) % N == 0),
          start(row * d), angle((u64)((u32)row / heads % t) * (d / 2)) {}

    __device__ __forceinline__ void load(const T* x, float (&a)[N], float (&b)[N]) const {
        u32 n = live ? half : 0;
        Pack<T> p = load_pack(x + start, i, n, wide), q = load_pack(x + start + half, i, n, wide);
#pragma unroll
        for (u32 k = 0; k < N; k++) a[k] = p[k], b[k] = q[k];
    }
    __device__ __forceinline__ void store(T* y, const float (&a)[N], const float (&b)[N]) const {
        u32 n = live ? half : 0;
        store_pack(y + start, i, n, wide, a);
        store_pack(y + start + half, i, n, wide, b);
    }
    __device__ __forceinline__ void gain(const float* w, float (&a)[N], float (&b)[N]) const {
        u32 n = live ? half : 0;
        load_floats(w, i, n, wide, a);
        load_floats(w + half, i, n, wide, b);
    }
    // Rotates by the angles, or back.
    __device__ __forceinline__ void rotate(
        const float* cosines, const float* sines, float direction, float (&a)[N], float (&b)[N]) const {
        float c[N], s[N];
        load_floats(cosines + angle, i, live ? half : 0, wide, c);
        load_floats(sines + angle, i, live ? half : 0, wide, s);
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float x = a[k];
            a[k] = x * c[k] - b[k] * (direction * s[k]);
            b[k] = b[k] * c[k] + x * (direction * s[k]);
        }
    }
};

template <class T, u32 LANES>
__device__ __forceinline__ void forward(
    const T* x, const float* w, const float* cosines, const float* sines, T* y, float* inverse, u32 rows, u32 t,
    u32 heads, u32 d, float eps) {
    const u32 N = Pack<T>::N;
    u64 row = (u64)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    u32 lane = threadIdx.x % LANES;
    Halves<T> at(row, rows, lane, t, heads, d, aligned(x) && aligned(w) && aligned(cosines) && aligned(sines) && aligned(y));
    float a[N], b[N], wa[N], wb[N], sum = 0.f;
    at.load(x, a, b);
    at.gain(w, wa, wb);
#pragma unroll
    for (u32 k = 0; k < N; k++) sum += a[k] * a[k] + b[k] * b[k];
    float r = 1.f / sqrtf(lanes_sum<LANES>(sum, (float*)0) / (float)d + eps);
    if (at.live && lane == 0) inverse[row] = r;
#pragma unroll
    for (u32 k = 0; k < N; k++) a[k] *= r * wa[k], b[k] *= r * wb[k];
    at.rotate(cosines, sines, 1.f, a, b);
    at.store(y, a, b);
}

// Blocks walk over the rows; each leaves its part of dw in its row of `partial` [blocks, d].
template <class T, u32 LANES>
__device__ __forceinline__ void backward(
    const T* x, const float* w, const float* inverse, const float* cosines, const float* sines, const T* dy, T* dx,
    float* partial, u32 rows, u32 t, u32 heads, u32 d) {
    const u32 N = Pack<T>::N, GROUPS = BLOCK / LANES;
    __shared__ float part[2 * LANES * N];
    u32 lane = threadIdx.x % LANES, half = d / 2;
    bool all = aligned(x) && aligned(w) && aligned(cosines) && aligned(sines) && aligned(dy) && aligned(dx);
    float dw[2][N];
#pragma unroll
    for (u32 k = 0; k < N; k++) dw[0][k] = dw[1][k] = 0.f;
    for (u64 base = (u64)blockIdx.x * GROUPS; base < rows; base += (u64)gridDim.x * GROUPS) {
        u64 row = base + threadIdx.x / LANES;
        Halves<T> at(row, rows, lane, t, heads, d, all);
        float a[N], b[N], ga[N], gb[N], wa[N], wb[N], sum = 0.f, r = row < rows ? inverse[row] : 0.f;
        at.load(x, a, b);
        at.load(dy, ga, gb);
        at.rotate(cosines, sines, -1.f, ga, gb);
        // Read again for each row: kept in registers it would push out what is used more.
        asm volatile("" : "+l"(w));
        at.gain(w, wa, wb);
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            a[k] *= r, b[k] *= r;
            dw[0][k] += ga[k] * a[k], dw[1][k] += gb[k] * b[k];
            ga[k] *= wa[k], gb[k] *= wb[k];
            sum += ga[k] * a[k] + gb[k] * b[k];
        }
        float mean = lanes_sum<LANES>(sum, (float*)0) / (float)d;
#pragma unroll
        for (u32 k = 0; k < N; k++) a[k] = r * (ga[k] - a[k] * mean), b[k] = r * (gb[k] - b[k] * mean);
        at.store(dx, a, b);
    }
    // Both halves padded to whole packs, side by side.
    u32 padded = LANES * N;
    partial += (u64)blockIdx.x * d;
    for (u32 turn = 0; turn < GROUPS; turn++) {
        if (threadIdx.x / LANES == turn) {
#pragma unroll
            for (u32 h = 0; h < 2; h++)
#pragma unroll
                for (u32 k = 0; k < N; k++) {
                    float* to = part + h * padded + lane * N + k;
                    *to = turn == 0 ? dw[h][k] : *to + dw[h][k];
                }
        }
        __syncthreads();
    }
    for (u32 i = threadIdx.x; i < half; i += BLOCK) partial[i] = part[i], partial[half + i] = part[padded + i];
}

// Calls f with the number of lanes as a compile-time constant.
template <u32 LANES> struct Lanes {
    static const u32 value = LANES;
};
template <class F> __device__ __forceinline__ void with_lanes(u32 lanes, F f) {
    switch (lanes) {
    case 4: return f(Lanes<4>());
    case 8: return f(Lanes<8>());
    case 16: return f(Lanes<16>());
    default: return f(Lanes<32>());
    }
}

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK) norm_rope_forward_##SUFFIX(                                    \
        const T* x, const float* w, const float* cosines, const float* sines, T* y, float* inverse, u32 rows, u32 t,   \
        u32 heads, u32 d, u32 lanes, float eps) {                                                                      \
        with_lanes(lanes, [&](auto n) {                                                                                \
            forward<T, decltype(n)::value>(x, w, cosines, sines, y, inverse, rows, t, heads, d, eps);                  \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void BACKWARD_BOUNDS norm_rope_backward_##SUFFIX(                                   \
        const T* x, const float* w, const float* inverse, const float* cosines, const float* sines, const T* dy,       \
        T* dx, float* partial, u32 rows, u32 t, u32 heads, u32 d, u32 lanes) {                                         \
        with_lanes(lanes, [&](auto n) {                                                                                \
            backward<T, decltype(n)::value>(                                                                           \
                x, w, inverse, cosines, sines, dy, dx, partial, rows, t, heads, d);                                    \
        });                                                                                                            \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
