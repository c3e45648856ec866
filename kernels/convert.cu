// Conversions between element types: floats round to nearest even, integers truncate toward zero and saturate.
#include "common.cuh"

struct f16 {
    u16 bits;
};

__device__ __forceinline__ float half_to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ f16 float_to_half(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

template <class T> __device__ __forceinline__ double to_double(T x) { return (double)x; }
template <> __device__ __forceinline__ double to_double(bf16 x) { return (double)to_float(x); }
template <> __device__ __forceinline__ double to_double(f16 x) { return (double)half_to_float(x); }

// The nearest f32 whose last bit tells whether it is exact (rounded to odd): rounding it again to fewer bits gives what
// rounding `x` itself would.
__device__ __forceinline__ float round_to_odd(double x) {
    float y = __double2float_rz(x);
    bool exact = (double)y == x || x != x;
    return exact ? y : __uint_as_float(__float_as_uint(y) | 1u);
}

template <class T> __device__ __forceinline__ T from_double(double x);
template <> __device__ __forceinline__ float from_double(double x) { return (float)x; }
template <> __device__ __forceinline__ bf16 from_double(double x) { return to_bf16(round_to_odd(x)); }
template <> __device__ __forceinline__ f16 from_double(double x) { return float_to_half(round_to_odd(x)); }
template <> __device__ __forceinline__ i8 from_double(double x) {
    return (i8)(x != x ? 0 : max(-128, min(127, __double2int_rz(x))));
}
template <> __device__ __forceinline__ u8 from_double(double x) { return (u8)(x != x ? 0 : max(0, min(255, __double2int_rz(x)))); }
template <> __device__ __forceinline__ i32 from_double(double x) { return x != x ? 0 : __double2int_rz(x); }
template <> __device__ __forceinline__ u32 from_double(double x) { return x != x ? 0u : __double2uint_rz(x); }
template <> __device__ __forceinline__ i64 from_double(double x) { return x != x ? 0ll : __double2ll_rz(x); }

template <class From, class To> __device__ __forceinline__ void convert(const From* from, To* to, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) to[i] = from_double<To>(to_double(from[i]));
}

// Pairs of floats, four at a time.
template <class From, class To> __device__ __forceinline__ void convert_floats(const From* from, To* to, u64 count) {
    u64 first = thread_index(), step = thread_count(), done = 0;
    if ((u64)from % (4 * sizeof(From)) == 0 && (u64)to % (4 * sizeof(To)) == 0) {
        done = count / 4 * 4;
        for (u64 i = first; i < count / 4; i += step) store4(to + 4 * i, load4(from + 4 * i));
    }
    for (u64 i = done + first; i < count; i += step) to[i] = from_float<To>(to_float(from[i]));
}
extern "C" __global__ void convert_f32_to_bf16(const float* from, bf16* to, u64 count) { convert_floats(from, to, count); }
extern "C" __global__ void convert_bf16_to_f32(const bf16* from, float* to, u64 count) { convert_floats(from, to, count); }

#define CONVERT(from_name, From, to_name, To)                                                               \
    extern "C" __global__ void convert_##from_name##_to_##to_name(const From* from, To* to, u64 count) {    \
        convert(from, to, count);                                                                           \
    }
#define INTEGERS(name, T)      \
    CONVERT(name, T, i8, i8)   \
    CONVERT(name, T, u8, u8)   \
    CONVERT(name, T, u32, u32) \
    CONVERT(name, T, i32, i32) \
    CONVERT(name, T, i64, i64)
#define FLOATS(name, T)          \
    CONVERT(name, T, f32, float) \
    CONVERT(name, T, bf16, bf16) \
    CONVERT(name, T, f16, f16)

INTEGERS(f32, float)
INTEGERS(bf16, bf16)
INTEGERS(f16, f16)
CONVERT(f32, float, f16, f16)
CONVERT(f16, f16, f32, float)
CONVERT(bf16, bf16, f16, f16)
CONVERT(f16, f16, bf16, bf16)
FLOATS(i8, i8)
FLOATS(u8, u8)
FLOATS(u32, u32)
FLOATS(i32, i32)
FLOATS(i64, i64)
CONVERT(i8, i8, u8, u8)
CONVERT(i8, i8, u32, u32)
CONVERT(i8, i8, i32, i32)
CONVERT(i8, i8, i64, i64)
CONVERT(u8, u8, i8, i8)
CONVERT(u8, u8, u32, u32)
CONVERT(u8, u8, i32, i32)
CONVERT(u8, u8, i64, i64)
CONVERT(u32, u32, i8, i8)
CONVERT(u32, u32, u8, u8)
CONVERT(u32, u32, i32, i32)
CONVERT(u32, u32, i64, i64)
CONVERT(i32, i32, i8, i8)
CONVERT(i32, i32, u8, u8)
CONVERT(i32, i32, u32, u32)
CONVERT(i32, i32, i64, i64)
CONVERT(i64, i64, i8, i8)
CONVERT(i64, i64, u8, u8)
CONVERT(i64, i64, u32, u32)
CONVERT(i64, i64, i32, i32)
