// The random numbers of tensor/src/rng.rs, bit by bit.
#include "math.cuh"

// Philox4x32-10 of a counter under a key.
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 high_a = __umulhi(0xd2511f53u, counter.x), low_a = 0xd2511f53u * counter.x;
        u32 high_b = __umulhi(0xcd9e8d57u, counter.z), low_b = 0xcd9e8d57u * counter.z;
        counter = make_uint4(high_b ^ counter.y ^ key.x, low_b, high_a ^ counter.w ^ key.y, low_a);
        key.x += 0x9e3779b9u;
        key.y += 0xbb67ae85u;
    }
    return counter;
}

// Uniform in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float uniform(u32 word) { return __fmul_rn((float)(word >> 8), 1.f / 16777216.f); }

// Standard normal: the inverse of the distribution, as rng.rs describes.
__device__ __forceinline__ float normal(u32 word) {
    const float centre[10] = {0.f,          4.035435e-8f,    4.861015e-7f,  -4.990563e-6f, -6.21797e-6f,
                              3.091502e-4f, -1.7730102e-3f, -5.908171e-3f, 0.34880266f,   2.1233137f};
    const float tail[10] = {6.245613e-5f,  -2.5073045e-5f, -4.5611366e-4f, 1.0263361e-3f, -1.370299e-3f,
                            2.0480845e-3f, -3.654929e-3f,  5.627448e-3f,   1.4236145f,    4.5746746f};
    exact p = (exact((float)(i32)(word & 0x7fffffffu)) + 0.5f) * (1.f / 4294967296.f);
    exact w = -ln_normal((exact(4.f) * p * (exact(1.f) - p)).value, 0.f).value;
    bool in_tail = w.value >= 5.f;
    exact t = in_tail ? exact(__fsqrt_rn(w.value)) - 3.4f : w - 2.5f;
    exact sum = 0.f;
#pragma unroll
    for (int i = 0; i < 10; i++) sum = sum * t + (in_tail ? tail[i] : centre[i]);
    exact z = (exact(1.f) - exact(2.f) * p) * sum;
    return __uint_as_float(__float_as_uint(z.value) ^ (word & 0x80000000u));
}

// out[i] = f(word i of the stream): four numbers a counter.
template <class F>
__device__ __forceinline__ void words(float* out, u64 count, uint2 key, uint2 high, F f) {
    for (u64 i = thread_index(); i < (count + 3) / 4; i += thread_count()) {
        uint4 block = philox(make_uint4((u32)i, (u32)(i >> 32), high.x, high.y), key);
        float4 y = make_float4(f(block.x), f(block.y), f(block.z), f(block.w));
        if (4 * i + 4 <= count && (u64)out % 16 == 0) {
            store4(out + 4 * i, y);
        } else {
            const float four[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (4 * i + j < count) out[4 * i + j] = four[j];
            }
        }
    }
}

// low + span·uniform.
extern "C" __global__ void random_uniform_f32(float* out, u64 count, u32 key0, u32 key1, u32 high0, u32 high1, float low,
                                              float span) {
    words(out, count, make_uint2(key0, key1), make_uint2(high0, high1),
          [low, span](u32 word) { return __fadd_rn(low, __fmul_rn(span, uniform(word))); });
}

// mean + std·normal.
extern "C" __global__ void random_normal_f32(float* out, u64 count, u32 key0, u32 key1, u32 high0, u32 high1, float mean,
                                             float std) {
    words(out, count, make_uint2(key0, key1), make_uint2(high0, high1),
          [mean, std](u32 word) { return __fadd_rn(mean, __fmul_rn(std, normal(word))); });
}
