// KL(softmax(R_teacher) ‖ softmax(R_student)) of rows of relations, and its gradient with respect to the student's.
#include "common.cuh"

#define THREADS 256

// log Σ exp of n values.
__device__ __forceinline__ float log_sum_exp(const float* x, u32 n, float* scratch) {
    float top = -INFINITY_F, sum = 0.f;
    for (u32 j = threadIdx.x; j < n; j += THREADS) top = fmaxf(top, x[j]);
    top = block_max(top, scratch);
    for (u32 j = threadIdx.x; j < n; j += THREADS) sum += expf(x[j] - top);
    return top + logf(block_sum(sum, scratch));
}

// Row blockIdx.x of the relations [slices·t, t] of both; with `causal` position i relates to those up to i. The gradient,
// times `scale`, goes to `slope`, zeros included; the loss to losses[first + blockIdx.x].
template <class T>
__device__ __forceinline__ void row(
    const float* student, const float* teacher, T* slope, float* losses, u64 first, u32 t, u32 causal, float scale) {
    __shared__ float scratch[32];
    u64 start = (u64)blockIdx.x * t;
    u32 keys = causal ? blockIdx.x % t + 1 : t;
    student += start, teacher += start, slope += start;
    float q_sum = log_sum_exp(student, keys, scratch), p_sum = log_sum_exp(teacher, keys, scratch), loss = 0.f;
    for (u32 j = threadIdx.x; j < t; j += THREADS) {
        float d = 0.f;
        if (j < keys) {
            float lq = student[j] - q_sum, lp = teacher[j] - p_sum, p = expf(lp);
            loss += p * (lp - lq);
            d = scale * (expf(lq) - p);
        }
        slope[j] = from_float<T>(d);
    }
    loss = block_sum(loss, scratch);
    if (threadIdx.x == 0) losses[first + blockIdx.x] = loss;
}

#define ENTRY(T, SUFFIX)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) relation_kl_rows_##SUFFIX(                                   \
        const float* student, const float* teacher, T* slope, float* losses, u64 first, u32 t, u32 causal,             \
        float scale) {                                                                                                 \
        row(student, teacher, slope, losses, first, t, causal, scale);                                                 \
    }
ENTRY(float, f32)
ENTRY(bf16, bf16)
