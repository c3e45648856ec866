// KL(softmax(R_teacher) ‖ softmax(R_student)) of rows of relations, and its gradient with respect to the student's.
#include "common.cuh"

#define THREADS 256

// Relations R = root·A·Aᵀ of slices [slices, t, width], whose rows lie `stride` apart, as f64: [slices, t, t]. Relations
// grow with the width, and an error in them is a relative one of e^R.
extern "C" __global__ void __launch_bounds__(THREADS)
    relation_kl_products(const float* a, double* r, u32 slices, u32 t, u32 width, u32 stride, double root) {
    u64 count = (u64)slices * t * t;
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        u32 j = (u32)(index % t);
        u64 row = index / t;
        const float* slice = a + row / t * width;
        const float *query = slice + row % t * stride, *key = slice + (u64)j * stride;
        double sum = 0.;
        for (u32 c = 0; c < width; c++) sum += (double)query[c] * key[c];
        r[index] = sum * root;
    }
}

// log Σ exp of the distances of n values from the largest, which goes to `top`.
template <class R> __device__ __forceinline__ float log_sum_exp(const R* x, u32 n, float* scratch, R* top) {
    __shared__ R tops[32];
    R most = x[0];
    float sum = 0.f;
    for (u32 j = threadIdx.x; j < n; j += THREADS) most = x[j] > most ? x[j] : most;
#pragma unroll
    for (u32 lane = 16; lane > 0; lane >>= 1) {
        R other = __shfl_xor_sync(FULL_MASK, most, lane);
        most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = most;
    __syncthreads();
    for (u32 warp = 0; warp < THREADS / 32; warp++) most = tops[warp] > most ? tops[warp] : most;
    for (u32 j = threadIdx.x; j < n; j += THREADS) sum += expf((float)(x[j] - most));
    *top = most;
    return logf(block_sum(sum, scratch));
}

// Row blockIdx.x of the relations [slices·t, t] of both; with `causal` position i relates to those up to i. The gradient,
// times `scale`, goes to `slope`, zeros included; the loss to losses[first + blockIdx.x].
template <class R, class T>
__device__ __forceinline__ void row(
    const R* student, const R* teacher, T* slope, float* losses, u64 first, u32 t, u32 causal, float scale) {
    __shared__ float scratch[32];
    u64 start = (u64)blockIdx.x * t;
    u32 keys = causal ? blockIdx.x % t + 1 : t;
    student += start, teacher += start, slope += start;
    R q_top, p_top;
    float q_sum = log_sum_exp(student, keys, scratch, &q_top), p_sum = log_sum_exp(teacher, keys, scratch, &p_top);
    float loss = 0.f;
    for (u32 j = threadIdx.x; j < t; j += THREADS) {
        float d = 0.f;
        if (j < keys) {
            float lq = (float)(student[j] - q_top) - q_sum, lp = (float)(teacher[j] - p_top) - p_sum, p = expf(lp);
            loss += p * (lp - lq);
            d = scale * (expf(lq) - p);
        }
        slope[j] = from_float<T>(d);
    }
    loss = block_sum(loss, scratch);
    if (threadIdx.x == 0) losses[first + blockIdx.x] = loss;
}

// f32 takes the exact products, bf16 those of the tensor cores.
extern "C" __global__ void __launch_bounds__(THREADS) relation_kl_rows_f32(
    const double* student, const double* teacher, float* slope, float* losses, u64 first, u32 t, u32 causal,
    float scale) {
    row(student, teacher, slope, losses, first, t, causal, scale);
}
extern "C" __global__ void __launch_bounds__(THREADS) relation_kl_rows_bf16(
    const float* student, const float* teacher, bf16* slope, float* losses, u64 first, u32 t, u32 causal,
    float scale) {
    row(student, teacher, slope, losses, first, t, causal, scale);
}
