// Losses that need no teacher's logits, and what all losses share.
#include "head_loss.cuh"

// Three rows fit the shared memory of a Hopper multiprocessor; elsewhere ptxas would spill to fit as many.
#if __CUDA_ARCH__ == 900
#define BOUNDS __launch_bounds__(THREADS, 3)
#elif __CUDA_ARCH__ == 1200
#define BOUNDS __launch_bounds__(THREADS, 1)
#else
#define BOUNDS __launch_bounds__(THREADS, 2)
#endif

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void BOUNDS head_loss_tokens_##SUFFIX(                                                       \
        const i32* targets, const u32* top_ids, const float* top_log_probs, T* logits, float* losses, u32 vocab,       \
        u32 stride, u32 first, u32 all, u32 top_k, float cap, u32 gradient, u32 cached, float denominator,             \
        const __grid_constant__ Terms terms) {                                                                         \
        Targets<T> of = {targets, 0, 0, 0, top_ids, top_log_probs, 0, top_k, 0.f};                                     \
        head_loss<T, false>(                                                                                           \
            logits, of, losses, vocab, stride, first, all, cap, gradient, cached, denominator, terms);                 \
    }                                                                                                                  \
    /* x *= factor, unless that is 1. */                                                                               \
    extern "C" __global__ void __launch_bounds__(256) head_loss_scale_##SUFFIX(const float* factor, T* x, u64 n) {     \
        float f = *factor;                                                                                             \
        if (f == 1.f) return;                                                                                          \
        for (u64 i = thread_index(); i < n; i += thread_count()) x[i] = from_float<T>(f * to_float(x[i]));             \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)

// Sums the rows of `losses` [terms, rows] and divides by the denominator: the terms, and their weighted sum. One block of
// 1,024.
extern "C" __global__ void __launch_bounds__(1024) head_loss_sum(
    const float* losses, float* loss, float* values, u32 rows, float denominator,
    const __grid_constant__ Terms terms) {
    __shared__ double scratch[32];
    double total = 0.;
    for (u32 t = 0; t < terms.count; t++) {
        double sum = 0.;
        for (u32 i = threadIdx.x; i < rows; i += 1024) sum += losses[(u64)t * rows + i];
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
        __syncthreads();
        sum = warp_sum(scratch[threadIdx.x % 32]) / denominator;
        __syncthreads();
        total += terms.term[t].weight * sum;
        if (threadIdx.x == 0) values[t] = (float)sum;
    }
    if (threadIdx.x == 0) *loss = (float)total;
}
