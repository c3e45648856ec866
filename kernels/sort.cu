// Sorting of rows by integer keys that hold value and position, so that any sort is stable and any selection unique:
// a bitonic network, its short steps in shared memory.
#include "common.cuh"

#define LAST_KEY 0xffffffffffffffffull

// keys [rows, padded] of x [rows, n]. Zeros of both signs are equal; NaN is larger than everything.
template <class T>
__device__ __forceinline__ void make_keys(const T* x, u64* keys, u64 rows, u64 n, u64 padded, u32 descending) {
    for (u64 i = thread_index(); i < rows * padded; i += thread_count()) {
        u64 row = i / padded, position = i - row * padded;
        if (position >= n) {
            keys[i] = LAST_KEY;
            continue;
        }
        float value = to_float(x[row * n + position]);
        u32 bits = __float_as_uint(__fadd_rn(value, 0.f));
        u32 ascending = value != value ? 0xffffffffu : bits ^ ((u32)((i32)bits >> 31) | 0x80000000u);
        keys[i] = (u64)(descending ? ~ascending : ascending) << 32 | position;
    }
}
extern "C" __global__ void sort_keys_f32(const float* x, u64* keys, u64 rows, u64 n, u64 padded, u32 descending) {
    make_keys(x, keys, rows, n, padded, descending);
}
extern "C" __global__ void sort_keys_bf16(const bf16* x, u64* keys, u64 rows, u64 n, u64 padded, u32 descending) {
    make_keys(x, keys, rows, n, padded, descending);
}

// Steps of the network within chunks of `chunk` keys, one chunk a block: the merges of runs from `first` to `last` keys.
// A row has `row` keys, a power of two; merges shorter than a row end rising and falling in turn.
extern "C" __global__ void __launch_bounds__(1024)
    sort_chunks(u64* keys, u64 row, u32 chunk, u64 first, u64 last) {
    extern __shared__ u64 part[];
    u64 base = (u64)blockIdx.x * chunk;
    for (u32 i = threadIdx.x; i < chunk; i += blockDim.x) part[i] = keys[base + i];
    for (u64 run = first; run <= last; run *= 2) {
        for (u32 step = (u32)(run < chunk ? run : chunk) / 2; step > 0; step /= 2) {
            __syncthreads();
            for (u32 pair = threadIdx.x; pair < chunk / 2; pair += blockDim.x) {
                u32 low = 2 * pair - (pair & (step - 1)), high = low + step;
                bool rising = ((base + low) & (row - 1) & run) == 0;
                u64 a = part[low], b = part[high];
                if ((a > b) == rising) {
                    part[low] = b;
                    part[high] = a;
                }
            }
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < chunk; i += blockDim.x) keys[base + i] = part[i];
}

// One step of the merges of runs of `run` keys, across chunks.
extern "C" __global__ void sort_step(u64* keys, u64 pairs, u64 row, u64 run, u64 step) {
    for (u64 pair = thread_index(); pair < pairs; pair += thread_count()) {
        u64 low = 2 * pair - (pair & (step - 1)), high = low + step;
        bool rising = (low & (row - 1) & run) == 0;
        u64 a = keys[low], b = keys[high];
        if ((a > b) == rising) {
            keys[low] = b;
            keys[high] = a;
        }
    }
}

// The first `k` keys of each of a row's chunks, side by side: to [rows, padded] of from [rows, chunks, chunk].
extern "C" __global__ void sort_compact(const u64* from, u64* to, u64 rows, u64 chunks, u64 chunk, u64 k, u64 padded) {
    for (u64 i = thread_index(); i < rows * padded; i += thread_count()) {
        u64 row = i / padded, j = i - row * padded;
        to[i] = j < chunks * k ? from[(row * chunks + j / k) * chunk + j % k] : LAST_KEY;
    }
}

// The values and positions of the first `k` keys of each row.
template <class T>
__device__ __forceinline__ void take(const u64* keys, const T* x, T* values, u32* positions, u64 rows, u64 n, u64 k,
                                     u64 padded) {
    for (u64 i = thread_index(); i < rows * k; i += thread_count()) {
        u64 row = i / k;
        u32 position = (u32)keys[row * padded + (i - row * k)];
        positions[i] = position;
        values[i] = x[row * n + position];
    }
}
extern "C" __global__ void sort_take_f32(const u64* keys, const float* x, float* values, u32* positions, u64 rows, u64 n,
                                         u64 k, u64 padded) {
    take(keys, x, values, positions, rows, n, k, padded);
}
extern "C" __global__ void sort_take_bf16(const u64* keys, const bf16* x, bf16* values, u32* positions, u64 rows, u64 n,
                                          u64 k, u64 padded) {
    take(keys, x, values, positions, rows, n, k, padded);
}
