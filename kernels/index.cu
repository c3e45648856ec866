// Elements and rows picked by ids, and rows added to where ids say. Ids are i64 and were checked.
#include "common.cuh"

// bad = {first position whose id is outside 0..bound, that id}, or {-1, 0}. One block.
extern "C" __global__ void __launch_bounds__(1024) index_check(const i64* ids, i64* bad, u64 count, u64 bound) {
    __shared__ u64 first[1024];
    u64 mine = count;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) {
        if ((u64)ids[i] >= bound) {
            mine = i;
            break;
        }
    }
    first[threadIdx.x] = mine;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) first[threadIdx.x] = min(first[threadIdx.x], first[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) {
        bad[0] = first[0] < count ? (i64)first[0] : -1;
        bad[1] = first[0] < count ? ids[first[0]] : 0;
    }
}

// out [outer, ids, units] of x [outer, n, units]: a slice is so many units of memory.
template <class Unit>
__device__ __forceinline__ void select(const Unit* x, const i64* ids, Unit* out, u64 count, u64 n, u64 id_count, u64 units) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        u64 slice = i / units, outer = slice / id_count;
        u64 id = (u64)ids[slice - outer * id_count];
        out[i] = x[(outer * n + id) * units + (i - slice * units)];
    }
}

// out[row, j] = x[row, ids[row, j]], x [rows, n], ids [rows, k].
template <class T>
__device__ __forceinline__ void gather(const T* x, const i64* ids, T* out, u64 count, u64 n, u64 k) {
    for (u64 i = thread_index(); i < count; i += thread_count()) out[i] = x[i / k * n + (u64)ids[i]];
}

#define INDEX(size, T)                                                                                             \
    extern "C" __global__ void index_select_##size(const T* x, const i64* ids, T* out, u64 count, u64 n,           \
                                                   u64 id_count, u64 units) {                                      \
        select(x, ids, out, count, n, id_count, units);                                                            \
    }
#define GATHER(size, T)                                                                                            \
    extern "C" __global__ void index_gather_##size(const T* x, const i64* ids, T* out, u64 count, u64 n, u64 k) {  \
        gather(x, ids, out, count, n, k);                                                                          \
    }
INDEX(1, u8)
INDEX(2, u16)
INDEX(4, u32)
INDEX(8, u64)
INDEX(16, uint4)
GATHER(1, u8)
GATHER(2, u16)
GATHER(4, u32)
GATHER(8, u64)

// Keys that sort ids by destination, and by source within one; the first `count` of `padded`.
extern "C" __global__ void index_scatter_keys(const i64* ids, u64* keys, u64 count, u64 padded) {
    for (u64 i = thread_index(); i < padded; i += thread_count()) keys[i] = i < count ? (u64)ids[i] << 32 | i : ~0ull;
}

// to[id] += rows[i] for the sorted keys (id, i), one after the other where ids repeat: the block at an id's first key adds
// all its rows. The grid's y counts tiles of columns.
template <class T>
__device__ __forceinline__ void scatter_add(const u64* keys, const T* rows, T* to, u64 count, u64 inner) {
    const int ahead = 8;
    u64 column = (u64)blockIdx.y * blockDim.x + threadIdx.x;
    for (u64 start = blockIdx.x; start < count; start += gridDim.x) {
        u64 id = keys[start] >> 32;
        if (start > 0 && keys[start - 1] >> 32 == id) continue;
        for (u64 c = column; c < inner; c += (u64)gridDim.y * blockDim.x) {
            float sum = to_float(to[id * inner + c]);
            for (u64 i = start; i < count && keys[i] >> 32 == id; i += ahead) {
                // The loads of several rows are under way together; the additions keep their order.
                float x[ahead];
                int n = 0;
#pragma unroll
                for (int a = 0; a < ahead; a++) {
                    bool more = n == a && i + a < count && keys[i + a] >> 32 == id;
                    x[a] = more ? to_float(rows[(keys[i + a] & 0xffffffffull) * inner + c]) : 0.f;
                    n += more;
                }
#pragma unroll
                for (int a = 0; a < ahead; a++) {
                    if (a < n) sum = __fadd_rn(sum, x[a]);
                }
            }
            to[id * inner + c] = from_float<T>(sum);
        }
    }
}
extern "C" __global__ void __launch_bounds__(256)
    index_scatter_add_f32(const u64* keys, const float* rows, float* to, u64 count, u64 inner) {
    scatter_add(keys, rows, to, count, inner);
}
extern "C" __global__ void __launch_bounds__(256)
    index_scatter_add_bf16(const u64* keys, const bf16* rows, bf16* to, u64 count, u64 inner) {
    scatter_add(keys, rows, to, count, inner);
}
