// y = x / sqrt(mean(x²) + eps) · w over rows of h, and its gradient. A row belongs to 8, 16 or 32 lanes of a warp or to
// the whole block of 256; each lane keeps its first packs in registers and reads the rest again.
#include "lanes.cuh"

template <class T> __device__ __forceinline__ float square_sum(const Pack<T>& x) {
    float sum = 0.f;
#pragma unroll
    for (u32 k = 0; k < Pack<T>::N; k++) sum += x[k] * x[k];
    return sum;
}

template <class T>
__device__ __forceinline__ void write_normed(const Pack<T>& x, float r, const float* w, T* y, u32 i, u32 h, bool wide) {
    float v[Pack<T>::N];
    load_floats(w, i, h, wide, v);
#pragma unroll
    for (u32 k = 0; k < Pack<T>::N; k++) v[k] *= x[k] * r;
    store_pack(y, i, h, wide, v);
}

template <class T, u32 LANES, u32 KEPT>
__device__ __forceinline__ void forward(const T* x, const float* w, T* y, float* inverse, u32 rows, u32 h, float eps) {
    const u32 N = Pack<T>::N;
    __shared__ float scratch[32];
    u64 row = (u64)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    u32 lane = threadIdx.x % LANES;
    bool wide = h % N == 0 && aligned(x) && aligned(w) && aligned(y), live = row < rows;
    u32 width = live ? h : 0;
    x += row * h, y += row * h;
    Pack<T> kept[KEPT];
    float sum = 0.f;
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) kept[j] = load_pack(x, i, width, wide);
    }
#pragma unroll
    for (u32 j = 0; j < KEPT; j++)
        if ((j * LANES + lane) * N < width) sum += square_sum(kept[j]);
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) sum += square_sum(load_pack(x, i, width, wide));
    sum = lanes_sum<LANES>(sum, scratch);
    float r = 1.f / sqrtf(sum / (float)h + eps);
    if (live && lane == 0) inverse[row] = r;
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        u32 i = (j * LANES + lane) * N;
        if (i < width) write_normed(kept[j], r, w, y, i, width, wide);
    }
    for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N)
        write_normed(load_pack(x, i, width, wide), r, w, y, i, width, wide);
}

template <class T>
__device__ __forceinline__ void forward_lanes(
    const T* x, const float* w, T* y, float* inverse, u32 rows, u32 h, u32 lanes, float eps) {
    switch (lanes) {
    case 8: return forward<T, 8, 1>(x, w, y, inverse, rows, h, eps);
    case 16: return forward<T, 16, 1>(x, w, y, inverse, rows, h, eps);
    case 32: return forward<T, 32, 3>(x, w, y, inverse, rows, h, eps);
    default: return forward<T, BLOCK, 4>(x, w, y, inverse, rows, h, eps);
    }
}

// Gradient of one pack: `dx = r·(g - n·mean)` with n = x·r, g = dy·w; `other` is added if there is one.
template <class T>
__device__ __forceinline__ void write_gradient(
    const Pack<T>& x, const Pack<T>& dy, float r, float mean, const float* w, const T* other, T* dx, u32 i, u32 h,
    bool wide) {
    float v[Pack<T>::N];
    load_floats(w, i, h, wide, v);
#pragma unroll
    for (u32 k = 0; k < Pack<T>::N; k++) v[k] = r * (dy[k] * v[k] - x[k] * r * mean);
    if (other) {
        Pack<T> more = load_pack(other, i, h, wide);
#pragma unroll
        for (u32 k = 0; k < Pack<T>::N; k++) v[k] += more[k];
    }
    store_pack(dx, i, h, wide, v);
}

template <class T>
__device__ __forceinline__ float product_sum(
    const Pack<T>& x, const Pack<T>& dy, const float* w, u32 i, u32 h, bool wide) {
    float sum = 0.f, g[Pack<T>::N];
    load_floats(w, i, h, wide, g);
#pragma unroll
    for (u32 k = 0; k < Pack<T>::N; k++) sum += dy[k] * g[k] * x[k];
    return sum;
}

// dx is the gradient, plus `other` if there is one. Blocks walk over the rows; each leaves its part of dw in its row of
// `partial` [blocks, h].
template <class T, u32 LANES, u32 KEPT>
__device__ __forceinline__ void backward(
    const T* x, const float* w, const float* inverse, const T* dy, const T* other, T* dx, float* partial, u32 rows,
    u32 h) {
    const u32 N = Pack<T>::N, GROUPS = BLOCK / LANES;
    __shared__ float scratch[32];
    __shared__ float part[LANES == BLOCK ? 1 : KEPT * LANES * N];
    u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    bool wide = h % N == 0 && aligned(x) && aligned(w) && aligned(dy) && aligned(other) && aligned(dx);
    partial += (u64)blockIdx.x * h;
    float dw[KEPT][N];
#pragma unroll
    for (u32 j = 0; j < KEPT; j++)
#pragma unroll
        for (u32 k = 0; k < N; k++) dw[j][k] = 0.f;
    bool first = true;
    for (u64 base = (u64)blockIdx.x * GROUPS; base < rows; base += (u64)gridDim.x * GROUPS) {
        u64 row = base + group;
        u32 width = row < rows ? h : 0;
        // The gain is read again each time: kept in registers it would push out what is used more.
        asm volatile("" : "+l"(w));
        const T *xr = x + row * h, *dyr = dy + row * h;
        float r = row < rows ? inverse[row] : 0.f, sum = 0.f;
        Pack<T> kx[KEPT], kdy[KEPT];
#pragma unroll
        for (u32 j = 0; j < KEPT; j++) {
            u32 i = (j * LANES + lane) * N;
            if (i < width) kx[j] = load_pack(xr, i, width, wide), kdy[j] = load_pack(dyr, i, width, wide);
        }
#pragma unroll
        for (u32 j = 0; j < KEPT; j++) {
            u32 i = (j * LANES + lane) * N;
            if (i < width) sum += product_sum(kx[j], kdy[j], w, i, width, wide);
        }
        for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N)
            sum += product_sum(load_pack(xr, i, width, wide), load_pack(dyr, i, width, wide), w, i, width, wide);
        float mean = lanes_sum<LANES>(sum, scratch) * r / (float)h;
        asm volatile("" : "+l"(w));
#pragma unroll
        for (u32 j = 0; j < KEPT; j++) {
            u32 i = (j * LANES + lane) * N;
            if (i >= width) continue;
#pragma unroll
            for (u32 k = 0; k < N; k++) dw[j][k] += kdy[j][k] * (kx[j][k] * r);
            write_gradient(kx[j], kdy[j], r, mean, w, other ? other + row * h : other, dx + row * h, i, width, wide);
        }
        for (u32 i = (KEPT * LANES + lane) * N; i < width; i += LANES * N) {
            Pack<T> xi = load_pack(xr, i, width, wide), dyi = load_pack(dyr, i, width, wide);
#pragma unroll
            for (u32 k = 0; k < N; k++)
                if (i + k < h) partial[i + k] = (first ? 0.f : partial[i + k]) + dyi[k] * (xi[k] * r);
            write_gradient(xi, dyi, r, mean, w, other ? other + row * h : other, dx + row * h, i, width, wide);
        }
        first = false;
    }
    write_columns<LANES>(dw, part, partial, h);
}

template <class T>
__device__ __forceinline__ void backward_lanes(
    const T* x, const float* w, const float* inverse, const T* dy, const T* other, T* dx, float* partial, u32 rows,
    u32 h, u32 lanes) {
    switch (lanes) {
    case 8: return backward<T, 8, 1>(x, w, inverse, dy, other, dx, partial, rows, h);
    case 16: return backward<T, 16, 1>(x, w, inverse, dy, other, dx, partial, rows, h);
    case 32: return backward<T, 32, 3>(x, w, inverse, dy, other, dx, partial, rows, h);
    default: return backward<T, BLOCK, 3>(x, w, inverse, dy, other, dx, partial, rows, h);
    }
}

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK) rms_norm_forward_##SUFFIX(                                   \
        const T* x, const float* w, T* y, float* inverse, u32 rows, u32 h, u32 lanes, float eps) {                     \
        forward_lanes(x, w, y, inverse, rows, h, lanes, eps);                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK) rms_norm_backward_##SUFFIX(                                    \
        const T* x, const float* w, const float* inverse, const T* dy, const T* other, T* dx, float* partial,          \
        u32 rows, u32 h, u32 lanes) {                                                                                  \
        backward_lanes(x, w, inverse, dy, other, dx, partial, rows, h, lanes);                                         \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)

// dw = beta·dw + the sum of the rows of `partial` [parts, h], in order: 32 columns a block of 1,024.
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_dw(const float* partial, float* dw, u32 parts, u32 h, float beta) {
    __shared__ float sums[32][33];
    u32 column = blockIdx.x * 32 + threadIdx.x % 32, slice = threadIdx.x / 32;
    float sum = 0.f;
    if (column < h)
        for (u32 i = slice; i < parts; i += 32) sum += partial[(u64)i * h + column];
    sums[slice][threadIdx.x % 32] = sum;
    __syncthreads();
    sum = warp_reduce(sums[threadIdx.x % 32][slice], Add());
    u32 out = blockIdx.x * 32 + slice;
    if (threadIdx.x % 32 == 0 && out < h) dw[out] = beta == 0.f ? sum : beta * dw[out] + sum;
}
