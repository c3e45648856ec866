// Softmax of rows, or its logarithm; e^(x - max) in f32, its sum in f64.
#include "fold.cuh"
#include "math.cuh"

// Sum of e^(x - max).
template <class T>
__device__ __forceinline__ double exp_sum(const T* x, u64 n, float max, u32 group) {
    double sum = 0.0;
    for (u64 i = threadIdx.x & (group - 1); i < n; i += group) sum += (double)exp_exact(__fsub_rn(to_float(x[i]), max));
    return sum;
}

template <class T>
__device__ __forceinline__ void softmax(const T* x, T* out, u64 rows, u64 n, u32 group, u32 log_too) {
    __shared__ double scratch[FOLD_THREADS];
    u32 rows_each = FOLD_THREADS / group, lane = threadIdx.x & (group - 1);
    for (u64 first = (u64)blockIdx.x * rows_each; first < rows; first += (u64)gridDim.x * rows_each) {
        u64 row = first + threadIdx.x / group;
        bool is_row = row < rows;
        const T* from = x + (is_row ? row * n : 0);
        float max = is_row ? lane_fold<Maximum>(from, 0, n, group) : 0.f;
        max = group_fold<Maximum>(max, group, (float*)scratch);
        double sum = group_fold<Sum>(is_row ? exp_sum(from, n, max, group) : 0.0, group, scratch);
        if (!is_row) continue;
        T* to = out + row * n;
        float shift = (float)log(sum), scale = (float)(1.0 / sum);
        for (u64 i = lane; i < n; i += group) {
            float centred = __fsub_rn(to_float(from[i]), max);
            to[i] = from_float<T>(log_too ? __fsub_rn(centred, shift) : __fmul_rn(exp_exact(centred), scale));
        }
    }
}

extern "C" __global__ void __launch_bounds__(FOLD_THREADS)
    softmax_rows_f32(const float* x, float* out, u64 rows, u64 n, u32 group, u32 log_too) {
    softmax(x, out, rows, n, group, log_too);
}
extern "C" __global__ void __launch_bounds__(FOLD_THREADS)
    softmax_rows_bf16(const bf16* x, bf16* out, u64 rows, u64 n, u32 group, u32 log_too) {
    softmax(x, out, rows, n, group, log_too);
}
