// Arithmetic element by element over strided views. In f32 the bits are the CPU's; bf16 computes in f32 and rounds once.
#include "math.cuh"
#include "walk.cuh"

// out[i] = f(a[i]); `a` may be any view, the output is contiguous.
template <class T, class F>
__device__ __forceinline__ void unary(const T* a, T* out, const Walk<1>& walk, u64 count, F f) {
    if (!walk.is_flat()) {
        for (u64 i = thread_index(); i < count; i += thread_count()) {
            u64 at[1];
            walk.positions(i, at);
            out[i] = from_float<T>(f(to_float(a[at[0]])));
        }
        return;
    }
    bool repeated = walk.rank == 0 || walk.strides[0][0] == 0;
    u64 first = thread_index(), step = thread_count(), done = 0;
    if (((u64)out | (repeated ? 0 : (u64)a)) % (4 * sizeof(T)) == 0) {
        done = count / 4 * 4;
        for (u64 i = first; i < count / 4; i += step) {
            float4 x;
            if (repeated) x.x = x.y = x.z = x.w = to_float(a[0]);
            else x = load4(a + 4 * i);
            store4(out + 4 * i, make_float4(f(x.x), f(x.y), f(x.z), f(x.w)));
        }
    }
    for (u64 i = done + first; i < count; i += step) {
        out[i] = from_float<T>(f(to_float(a[repeated ? 0 : i])));
    }
}

// out[i] = f(a[i], b[i]); `out` may be `a` if the walk says that `a` is contiguous.
template <class T, class F>
__device__ __forceinline__ void binary(const T* a, const T* b, T* out, const Walk<2>& walk, u64 count, F f) {
    if (!walk.is_flat()) {
        for (u64 i = thread_index(); i < count; i += thread_count()) {
            u64 at[2];
            walk.positions(i, at);
            out[i] = from_float<T>(f(to_float(a[at[0]]), to_float(b[at[1]])));
        }
        return;
    }
    bool one_a = walk.rank == 0 || walk.strides[0][0] == 0, one_b = walk.rank == 0 || walk.strides[1][0] == 0;
    u64 first = thread_index(), step = thread_count(), done = 0;
    if (((u64)out | (one_a ? 0 : (u64)a) | (one_b ? 0 : (u64)b)) % (4 * sizeof(T)) == 0) {
        done = count / 4 * 4;
        for (u64 i = first; i < count / 4; i += step) {
            float4 x, y;
            if (one_a) x.x = x.y = x.z = x.w = to_float(a[0]);
            else x = load4(a + 4 * i);
            if (one_b) y.x = y.y = y.z = y.w = to_float(b[0]);
            else y = load4(b + 4 * i);
            store4(out + 4 * i, make_float4(f(x.x, y.x), f(x.y, y.y), f(x.z, y.z), f(x.w, y.w)));
        }
    }
    for (u64 i = done + first; i < count; i += step) {
        out[i] = from_float<T>(f(to_float(a[one_a ? 0 : i]), to_float(b[one_b ? 0 : i])));
    }
}

#define UNARY(name, expression)                                                                                 \
    extern "C" __global__ void elementwise_##name##_f32(const float* a, float* out, Walk<1> walk, u64 count) {  \
        unary(a, out, walk, count, [](float x) -> float { return expression; });                                \
    }                                                                                                           \
    extern "C" __global__ void elementwise_##name##_bf16(const bf16* a, bf16* out, Walk<1> walk, u64 count) {   \
        unary(a, out, walk, count, [](float x) -> float { return expression; });                                \
    }
#define UNARY_SCALAR(name, expression)                                                                          \
    extern "C" __global__ void elementwise_##name##_f32(const float* a, float* out, Walk<1> walk, u64 count,    \
                                                        float value) {                                          \
        unary(a, out, walk, count, [value](float x) -> float { return expression; });                           \
    }                                                                                                           \
    extern "C" __global__ void elementwise_##name##_bf16(const bf16* a, bf16* out, Walk<1> walk, u64 count,     \
                                                         float value) {                                         \
        unary(a, out, walk, count, [value](float x) -> float { return expression; });                           \
    }
#define BINARY(name, expression)                                                                                \
    extern "C" __global__ void elementwise_##name##_f32(const float* a, const float* b, float* out,             \
                                                        Walk<2> walk, u64 count) {                              \
        binary(a, b, out, walk, count, [](float x, float y) -> float { return expression; });                   \
    }                                                                                                           \
    extern "C" __global__ void elementwise_##name##_bf16(const bf16* a, const bf16* b, bf16* out,               \
                                                         Walk<2> walk, u64 count) {                             \
        binary(a, b, out, walk, count, [](float x, float y) -> float { return expression; });                   \
    }

UNARY(neg, -x)
UNARY(exp, exp_exact(x))
UNARY(ln, ln_exact(x))
UNARY(sqrt, __fsqrt_rn(x))
UNARY(square, __fmul_rn(x, x))
UNARY(abs, fabsf(x))
UNARY(tanh, tanh_exact(x))
UNARY_SCALAR(add_scalar, __fadd_rn(x, value))
UNARY_SCALAR(mul_scalar, __fmul_rn(x, value))
BINARY(add, __fadd_rn(x, y))
BINARY(sub, __fsub_rn(x, y))
BINARY(mul, __fmul_rn(x, y))
BINARY(div, __fdiv_rn(x, y))
BINARY(maximum, x >= y || x != x ? x : y)
BINARY(minimum, x <= y || x != x ? x : y)

// x[i] += y[i], x contiguous.
extern "C" __global__ void elementwise_add_assign_f32(const float* y, float* x, Walk<2> walk, u64 count) {
    binary(x, y, x, walk, count, [](float x, float y) { return __fadd_rn(x, y); });
}
extern "C" __global__ void elementwise_add_assign_bf16(const bf16* y, bf16* x, Walk<2> walk, u64 count) {
    binary(x, y, x, walk, count, [](float x, float y) { return __fadd_rn(x, y); });
}

// x[i] += factor·y[i], product and sum rounded by themselves.
extern "C" __global__ void elementwise_add_scaled_f32(const float* y, float* x, Walk<2> walk, u64 count, float factor) {
    binary(x, y, x, walk, count, [factor](float x, float y) { return __fadd_rn(x, __fmul_rn(factor, y)); });
}
extern "C" __global__ void elementwise_add_scaled_bf16(const bf16* y, bf16* x, Walk<2> walk, u64 count, float factor) {
    binary(x, y, x, walk, count, [factor](float x, float y) { return __fadd_rn(x, __fmul_rn(factor, y)); });
}

// x[i] = x[i]·factor.
extern "C" __global__ void elementwise_scale_assign_f32(float* x, Walk<1> walk, u64 count, float factor) {
    unary(x, x, walk, count, [factor](float x) { return __fmul_rn(x, factor); });
}
extern "C" __global__ void elementwise_scale_assign_bf16(bf16* x, Walk<1> walk, u64 count, float factor) {
    unary(x, x, walk, count, [factor](float x) { return __fmul_rn(x, factor); });
}

// out[i] = mask[i] ? value : x[i].
template <class T>
__device__ __forceinline__ void masked_fill(const T* x, const u8* mask, T* out, const Walk<2>& walk, u64 count,
                                            float value) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        u64 at[2];
        walk.positions(i, at);
        out[i] = mask[at[1]] ? from_float<T>(value) : x[at[0]];
    }
}
extern "C" __global__ void elementwise_masked_fill_f32(const float* x, const u8* mask, float* out, Walk<2> walk,
                                                       u64 count, float value) {
    masked_fill(x, mask, out, walk, count, value);
}
extern "C" __global__ void elementwise_masked_fill_bf16(const bf16* x, const u8* mask, bf16* out, Walk<2> walk,
                                                        u64 count, float value) {
    masked_fill(x, mask, out, walk, count, value);
}

// Every element of a contiguous tensor set to one value; `bits` is the value repeated to fill 64 bits.
template <class T> __device__ __forceinline__ void fill(T* out, u64 count, u64 bits) {
    const u64 n = 16 / sizeof(T);
    u64 first = thread_index(), step = thread_count(), done = 0;
    if ((u64)out % 16 == 0) {
        done = count / n * n;
        for (u64 i = first; i < count / n; i += step) ((ulonglong2*)out)[i] = make_ulonglong2(bits, bits);
    }
    for (u64 i = done + first; i < count; i += step) out[i] = (T)bits;
}
extern "C" __global__ void elementwise_fill_1(u8* out, u64 count, u64 bits) { fill(out, count, bits); }
extern "C" __global__ void elementwise_fill_2(u16* out, u64 count, u64 bits) { fill(out, count, bits); }
extern "C" __global__ void elementwise_fill_4(u32* out, u64 count, u64 bits) { fill(out, count, bits); }
extern "C" __global__ void elementwise_fill_8(u64* out, u64 count, u64 bits) { fill(out, count, bits); }
