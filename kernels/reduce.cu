// Reductions along an axis. A reduction that few blocks could do is split: the parts go to `partial` and are combined in
// order by the finishing kernel.
#include "fold.cuh"

__device__ __forceinline__ void store(float* out, float x) { *out = x; }
__device__ __forceinline__ void store(bf16* out, float x) { *out = to_bf16(x); }
__device__ __forceinline__ void store(u32* out, u32 x) { *out = x; }

// out[row] of x [rows, n], `group` threads a row. The grid's y counts the splits of a row, `length` elements each.
template <class Fold, class T, class Out>
__device__ __forceinline__ void fold_rows(const T* x, Out* out, typename Fold::Acc* partial, u64 rows, u64 n, u64 length,
                                          u32 group, double divisor) {
    __shared__ typename Fold::Acc scratch[FOLD_THREADS];
    u32 rows_each = FOLD_THREADS / group;
    u64 from = blockIdx.y * length, to = from + length < n ? from + length : n;
    for (u64 first = (u64)blockIdx.x * rows_each; first < rows; first += (u64)gridDim.x * rows_each) {
        u64 row = first + threadIdx.x / group;
        typename Fold::Acc acc = Fold::start();
        if (row < rows) acc = lane_fold<Fold>(x + row * n, from, to, group);
        acc = group_fold<Fold>(acc, group, scratch);
        if (row < rows && (threadIdx.x & (group - 1)) == 0) {
            if (gridDim.y == 1) store(out + row, Fold::finish(acc, divisor));
            else partial[blockIdx.y * rows + row] = acc;
        }
    }
}

// out[outer, inner] of x [outer, n, inner]: 32 columns and 8 rows of threads. The grid's x counts tiles of columns, its y
// the splits of the axis, `length` elements each, its z the outer axis.
template <class Fold, class T, class Out>
__device__ __forceinline__ void fold_columns(const T* x, Out* out, typename Fold::Acc* partial, u64 outer, u64 n, u64 inner,
                                             u64 length, double divisor) {
    __shared__ typename Fold::Acc scratch[8][32];
    u32 lane = threadIdx.x % 32, line = threadIdx.x / 32;
    u64 from = blockIdx.y * length, to = from + length < n ? from + length : n;
    for (u64 o = blockIdx.z; o < outer; o += gridDim.z) {
        for (u64 column = (u64)blockIdx.x * 32 + lane; column - lane < inner; column += (u64)gridDim.x * 32) {
            typename Fold::Acc acc = Fold::start();
            if (column < inner) {
                const T* p = x + o * n * inner + column;
#pragma unroll 4
                for (u64 i = from + line; i < to; i += 8) acc = Fold::step(acc, to_float(p[i * inner]), i);
            }
            scratch[line][lane] = acc;
            __syncthreads();
            if (line == 0 && column < inner) {
                for (int l = 1; l < 8; l++) acc = Fold::merge(acc, scratch[l][lane]);
                if (gridDim.y == 1) store(out + o * inner + column, Fold::finish(acc, divisor));
                else partial[(blockIdx.y * outer + o) * inner + column] = acc;
            }
            __syncthreads();
        }
    }
}

// out[i] of partial [splits, count].
template <class Fold, class Out>
__device__ __forceinline__ void fold_partials(const typename Fold::Acc* partial, Out* out, u64 count, u64 splits,
                                              double divisor) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        typename Fold::Acc acc = partial[i];
        for (u64 split = 1; split < splits; split++) acc = Fold::merge(acc, partial[split * count + i]);
        store(out + i, Fold::finish(acc, divisor));
    }
}

#define REDUCE(name, Fold, dtype, T, Out)                                                                              \
    extern "C" __global__ void __launch_bounds__(FOLD_THREADS)                                                         \
        reduce_rows_##name##_##dtype(const T* x, Out* out, void* partial, u64 rows, u64 n, u64 length, u32 group,      \
                                     double divisor) {                                                                 \
        fold_rows<Fold>(x, out, (typename Fold::Acc*)partial, rows, n, length, group, divisor);                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(FOLD_THREADS)                                                         \
        reduce_columns_##name##_##dtype(const T* x, Out* out, void* partial, u64 outer, u64 n, u64 inner, u64 length,  \
                                        double divisor) {                                                              \
        fold_columns<Fold>(x, out, (typename Fold::Acc*)partial, outer, n, inner, length, divisor);                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(FOLD_THREADS)                                                         \
        reduce_partials_##name##_##dtype(const void* partial, Out* out, u64 count, u64 splits, double divisor) {       \
        fold_partials<Fold>((const typename Fold::Acc*)partial, out, count, splits, divisor);                          \
    }
#define REDUCE_FLOATS(name, Fold)            \
    REDUCE(name, Fold, f32, float, float)    \
    REDUCE(name, Fold, bf16, bf16, bf16)

REDUCE_FLOATS(sum, Sum)
REDUCE_FLOATS(norm, Norm)
REDUCE_FLOATS(max, Maximum)
REDUCE_FLOATS(min, Minimum)
REDUCE(argmax, ArgMax, f32, float, u32)
REDUCE(argmax, ArgMax, bf16, bf16, u32)
