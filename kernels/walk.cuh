// Strided views of equal dimensions, walked together; tensor/src/cuda fills the struct after merging axes.
#pragma once
#include "common.cuh"

#define MAX_AXES 8

// Axes from the outermost to the innermost; strides in elements, one row a view. No axes: a single element.
template <int N> struct Walk {
    u64 dims[MAX_AXES];
    u64 strides[N][MAX_AXES];
    u64 rank;

    // Whether every view is adjacent in memory, or one value repeated.
    __device__ __forceinline__ bool is_flat() const {
        bool flat = rank <= 1;
        if (rank == 1) {
#pragma unroll
            for (int view = 0; view < N; view++) flat &= strides[view][0] <= 1;
        }
        return flat;
    }

    // Positions of row-major element `i` in each view.
    __device__ __forceinline__ void positions(u64 i, u64 (&at)[N]) const {
#pragma unroll
        for (int view = 0; view < N; view++) at[view] = 0;
#pragma unroll
        for (int axis = MAX_AXES - 1; axis >= 0; axis--) {
            if (axis < (int)rank) {
                u64 rest = i / dims[axis], index = i - rest * dims[axis];
#pragma unroll
                for (int view = 0; view < N; view++) at[view] += index * strides[view][axis];
                i = rest;
            }
        }
    }
};
