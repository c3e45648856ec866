// Copies from a strided view, by the size of an element.
#include "walk.cuh"

// to[i] = from's element i: `from` any view, `to` contiguous.
template <class T>
__device__ __forceinline__ void strided(const T* from, T* to, const Walk<1>& walk, u64 count) {
    u64 first = thread_index(), step = thread_count();
    if (walk.rank == 1 && walk.strides[0][0] == 1) {
        const u64 n = 16 / sizeof(T);
        u64 done = 0;
        if (((u64)from | (u64)to) % 16 == 0) {
            done = count / n * n;
            for (u64 i = first; i < count / n; i += step) ((uint4*)to)[i] = ((const uint4*)from)[i];
        }
        for (u64 i = done + first; i < count; i += step) to[i] = from[i];
        return;
    }
    for (u64 i = first; i < count; i += step) {
        u64 at[1];
        walk.positions(i, at);
        to[i] = from[at[0]];
    }
}

// The same where neighbours in memory lie in different rows of the result: the walk's last axis is `columns` elements
// `pitch` apart, the one before it `rows` neighbours. Tiles go through shared memory, so that both sides are read and
// written in whole lines. Blocks (32, 8); the grid's x counts tiles of columns, y of rows, z the outer axes.
template <class T>
__device__ __forceinline__ void transposed(const T* from, T* to, const Walk<1>& outer, u64 matrices, u32 rows, u32 columns,
                                           u64 pitch) {
    __shared__ T tile[32][33];
    u32 x = threadIdx.x % 32, y = threadIdx.x / 32;
    for (u64 matrix = blockIdx.z; matrix < matrices; matrix += gridDim.z) {
        u64 at[1];
        outer.positions(matrix, at);
        for (u32 top = blockIdx.y * 32; top < rows; top += gridDim.y * 32) {
            u32 left = blockIdx.x * 32;
            for (u32 c = y; c < 32; c += 8) {
                if (top + x < rows && left + c < columns) tile[c][x] = from[at[0] + top + x + (left + c) * pitch];
            }
            __syncthreads();
            for (u32 r = y; r < 32; r += 8) {
                if (top + r < rows && left + x < columns) {
                    to[(matrix * rows + top + r) * columns + left + x] = tile[x][r];
                }
            }
            __syncthreads();
        }
    }
}

// Rows of `width` elements into a wider tensor, `pitch` elements apart, the first at `offset`.
template <class T>
__device__ __forceinline__ void into_rows(const T* from, T* to, u64 count, u64 width, u64 pitch, u64 offset) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        u64 row = i / width;
        to[row * pitch + offset + (i - row * width)] = from[i];
    }
}

#define COPY(size, T)                                                                                                  \
    extern "C" __global__ void copy_strided_##size(const T* from, T* to, Walk<1> walk, u64 count) {                    \
        strided(from, to, walk, count);                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        copy_transposed_##size(const T* from, T* to, Walk<1> outer, u64 matrices, u32 rows, u32 columns, u64 pitch) {  \
        transposed(from, to, outer, matrices, rows, columns, pitch);                                                   \
    }                                                                                                                  \
    extern "C" __global__ void copy_into_rows_##size(const T* from, T* to, u64 count, u64 width, u64 pitch,            \
                                                     u64 offset) {                                                     \
        into_rows(from, to, count, width, pitch, offset);                                                              \
    }

COPY(1, u8)
COPY(2, u16)
COPY(4, u32)
COPY(8, u64)
