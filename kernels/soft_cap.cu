// y = cap·tanh(x/cap), elementwise, and its gradient.
#include "pack.cuh"

template <class T> __device__ __forceinline__ void forward(const T* x, T* y, u64 n, float cap) {
    const u32 N = Pack<T>::N;
    bool wide = aligned(x) && aligned(y);
    for (u64 i = thread_index() * N; i < n; i += thread_count() * N) {
        Pack<T> p = load_pack(x, i, n, wide);
        float v[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) v[k] = cap * tanhf(p[k] / cap);
        store_pack(y, i, n, wide, v);
    }
}

// 1 - tanh² cancels where tanh is near 1; 4/(e^u + e^-u)² does not.
template <class T> __device__ __forceinline__ void backward(const T* x, const T* dy, T* dx, u64 n, float cap) {
    const u32 N = Pack<T>::N;
    bool wide = aligned(x) && aligned(dy) && aligned(dx);
    for (u64 i = thread_index() * N; i < n; i += thread_count() * N) {
        Pack<T> p = load_pack(x, i, n, wide), d = load_pack(dy, i, n, wide);
        float v[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float u = fabsf(p[k] / cap);
            float sech = 2.f * expf(-u) / (1.f + expf(-2.f * u));
            v[k] = d[k] * sech * sech;
        }
        store_pack(dx, i, n, wide, v);
    }
}

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) soft_cap_forward_##SUFFIX(const T* x, T* y, u64 n, float cap) {  \
        forward(x, y, n, cap);                                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        soft_cap_backward_##SUFFIX(const T* x, const T* dy, T* dx, u64 n, float cap) {                                 \
        backward(x, dy, dx, n, cap);                                                                                   \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
