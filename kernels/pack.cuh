// Sixteen bytes of a row or of a flat array: four f32 or eight bf16, computed on as f32.
#pragma once
#include "common.cuh"

template <class T> struct Pack {
    static const u32 N = 16 / sizeof(T);
    u32 word[4];

    __device__ __forceinline__ float operator[](u32 k) const {
        if constexpr (is_bf16<T>::value) {
            return k & 1 ? high_bf16(word[k / 2]) : low_bf16(word[k / 2]);
        } else {
            return __uint_as_float(word[k]);
        }
    }

    static __device__ __forceinline__ Pack of(const float* v) {
        Pack p;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if constexpr (is_bf16<T>::value) {
                p.word[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
            } else {
                p.word[i] = __float_as_uint(v[i]);
            }
        }
        return p;
    }
};

// Whether `p` can be read 16 bytes at a time.
__device__ __forceinline__ bool aligned(const void* p) { return ((u64)p & 15) == 0; }

// Values i.. of the n at p; zeros beyond. `wide` says that p + i is a multiple of 16 bytes.
template <class T> __device__ __forceinline__ Pack<T> load_pack(const T* p, u64 i, u64 n, bool wide) {
    Pack<T> v;
    if (wide && i + Pack<T>::N <= n) {
        uint4 raw = *(const uint4*)(p + i);
        v.word[0] = raw.x, v.word[1] = raw.y, v.word[2] = raw.z, v.word[3] = raw.w;
        return v;
    }
    float x[Pack<T>::N];
#pragma unroll
    for (u32 k = 0; k < Pack<T>::N; k++) x[k] = i + k < n ? to_float(p[i + k]) : 0.f;
    return Pack<T>::of(x);
}

// Writes values i.. of the n at p, none beyond.
template <class T> __device__ __forceinline__ void store_pack(T* p, u64 i, u64 n, bool wide, const float* x) {
    if (wide && i + Pack<T>::N <= n) {
        Pack<T> v = Pack<T>::of(x);
        *(uint4*)(p + i) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
        return;
    }
#pragma unroll
    for (u32 k = 0; k < Pack<T>::N; k++)
        if (i + k < n) p[i + k] = from_float<T>(x[k]);
}

// Values i.. of the n floats at p; zeros beyond. `wide` says that p + i is a multiple of 16 bytes.
template <u32 N> __device__ __forceinline__ void load_floats(const float* p, u64 i, u64 n, bool wide, float (&v)[N]) {
    if (wide && i + N <= n) {
#pragma unroll
        for (u32 k = 0; k < N; k += 4) {
            float4 four = *(const float4*)(p + i + k);
            v[k] = four.x, v[k + 1] = four.y, v[k + 2] = four.z, v[k + 3] = four.w;
        }
        return;
    }
#pragma unroll
    for (u32 k = 0; k < N; k++) v[k] = i + k < n ? p[i + k] : 0.f;
}

// Writes values i.. of the n floats at p, none beyond.
template <u32 N>
__device__ __forceinline__ void store_floats(float* p, u64 i, u64 n, bool wide, const float (&v)[N]) {
    if (wide && i + N <= n) {
#pragma unroll
        for (u32 k = 0; k < N; k += 4) *(float4*)(p + i + k) = make_float4(v[k], v[k + 1], v[k + 2], v[k + 3]);
        return;
    }
#pragma unroll
    for (u32 k = 0; k < N; k++)
        if (i + k < n) p[i + k] = v[k];
}

// Functions whose error bf16 hides take the fast form; f32 takes the exact one.
template <class T> struct Math {
    static __device__ __forceinline__ float exp(float x) {
        if constexpr (is_bf16<T>::value) return __expf(x);
        else return expf(x);
    }
    static __device__ __forceinline__ float exp2(float x) {
        if constexpr (is_bf16<T>::value) {
            float y;
            asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
            return y;
        } else {
            return exp2f(x);
        }
    }
    static __device__ __forceinline__ float log(float x) {
        if constexpr (is_bf16<T>::value) return __logf(x);
        else return logf(x);
    }
    // In bf16 with a relative error of 2^-11.
    static __device__ __forceinline__ float tanh(float x) {
        if constexpr (is_bf16<T>::value) {
            float y;
            asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
            return y;
        } else {
            return tanhf(x);
        }
    }
    static __device__ __forceinline__ float sigmoid(float x) {
        if constexpr (is_bf16<T>::value) return __fdividef(1.f, 1.f + __expf(-x));
        else return 1.f / (1.f + expf(-x));
    }
};
