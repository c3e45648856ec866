// y = gate·σ(gate)·up, elementwise, and its gradient.
#include "pack.cuh"

template <class T> __device__ __forceinline__ void forward(const T* gate, const T* up, T* y, u64 n) {
    const u32 N = Pack<T>::N;
    bool wide = aligned(gate) && aligned(up) && aligned(y);
    for (u64 i = thread_index() * N; i < n; i += thread_count() * N) {
        Pack<T> g = load_pack(gate, i, n, wide), u = load_pack(up, i, n, wide);
        float v[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) v[k] = g[k] * Math<T>::sigmoid(g[k]) * u[k];
        store_pack(y, i, n, wide, v);
    }
}

template <class T>
__device__ __forceinline__ void backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, u64 n) {
    const u32 N = Pack<T>::N;
    bool wide = aligned(gate) && aligned(up) && aligned(dy) && aligned(dgate) && aligned(dup);
    for (u64 i = thread_index() * N; i < n; i += thread_count() * N) {
        Pack<T> g = load_pack(gate, i, n, wide), u = load_pack(up, i, n, wide), d = load_pack(dy, i, n, wide);
        float dg[N], du[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float s = Math<T>::sigmoid(g[k]);
            du[k] = d[k] * g[k] * s;
            dg[k] = d[k] * u[k] * s * (1.f + g[k] * (1.f - s));
        }
        store_pack(dgate, i, n, wide, dg);
        store_pack(dup, i, n, wide, du);
    }
}

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        swiglu_forward_##SUFFIX(const T* gate, const T* up, T* y, u64 n) {                                             \
        forward(gate, up, y, n);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        swiglu_backward_##SUFFIX(const T* gate, const T* up, const T* dy, T* dgate, T* dup, u64 n) {                   \
        backward(gate, up, dy, dgate, dup, n);                                                                         \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
