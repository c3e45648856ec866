// Rows of a table by token id, and the sum of their gradients back into it. The sum needs the positions of each id
// together and in order: a stable radix sort of the ids, 8 bits a pass. No float is added atomically, so the bits are the
// same in every run.
#include "pack.cuh"
#include "sort.cuh"

// As many as the sort has digits.
#define THREADS 256
// Keys that one block of the sort takes.
#define TILE 2048
// Sorted positions whose rows one block of the sum takes.
#define RUN 32
// Rows that it reads at a time.
#define AHEAD 4

// y[i] = table[ids[i]]. An id beyond the table gives a row of NaN: the device cannot refuse it.
template <class T>
__device__ __forceinline__ void gather(const float* table, const u32* ids, T* y, u32 count, u32 h, u32 vocab) {
    const u32 N = Pack<T>::N;
    u32 packs = (h + N - 1) / N;
    bool wide = h % N == 0 && aligned(y) && aligned(table);
    for (u64 index = thread_index(); index < (u64)count * packs; index += thread_count()) {
        u64 row = index / packs;
        u32 i = (u32)(index - row * packs) * N, id = ids[row];
        float v[N];
        if (id < vocab) {
            load_floats(table + (u64)id * h, i, h, wide, v);
        } else {
#pragma unroll
            for (u32 k = 0; k < N; k++) v[k] = NAN_F;
        }
        store_pack(y + row * h, i, h, wide, v);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_gather_f32(const float* table, const u32* ids, float* y, u32 count, u32 h, u32 vocab) {
    gather(table, ids, y, count, h, vocab);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_gather_bf16(const float* table, const u32* ids, bf16* y, u32 count, u32 h, u32 vocab) {
    gather(table, ids, y, count, h, vocab);
}

// counts[digit][block]: how often each digit (8 bits from `shift`) comes in each tile of keys.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_sort_count(const u32* keys, u32* counts, u32 count, u32 shift) {
    __shared__ u32 bins[DIGITS];
    bins[threadIdx.x] = 0;
    __syncthreads();
    u64 first = (u64)blockIdx.x * TILE;
    for (u32 i = threadIdx.x; i < TILE && first + i < count; i += THREADS)
        atomicAdd(&bins[keys[first + i] >> shift & (DIGITS - 1)], 1);
    __syncthreads();
    counts[(u64)threadIdx.x * gridDim.x + blockIdx.x] = bins[threadIdx.x];
}

// Turns n counts into the sums of those before each. One block of 1,024.
extern "C" __global__ void __launch_bounds__(1024) embedding_sort_scan(u32* counts, u32 n) {
    __shared__ u32 warps[32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, before = 0;
    for (u32 base = 0; base < n; base += 1024) {
        u32 i = base + threadIdx.x, own = i < n ? counts[i] : 0, sum = warp_scan(own);
        if (lane == 31) warps[warp] = sum;
        __syncthreads();
        u32 total = warp_scan(warps[lane]);
        u32 earlier = __shfl_sync(FULL_MASK, total, warp == 0 ? 0 : warp - 1);
        if (i < n) counts[i] = before + (warp == 0 ? 0 : earlier) + sum - own;
        before += __shfl_sync(FULL_MASK, total, 31);
        __syncthreads();
    }
}

// Moves keys and values to where `starts` (scanned counts) sends them; equal digits keep their order. Without `values`
// the value of a key is its index.
extern "C" __global__ void __launch_bounds__(THREADS) embedding_sort_scatter(
    const u32* keys, const u32* values, const u32* starts, u32* keys_out, u32* values_out, u32 count, u32 shift) {
    __shared__ u32 start[DIGITS], warps[THREADS / 32][DIGITS];
    start[threadIdx.x] = starts[(u64)threadIdx.x * gridDim.x + blockIdx.x];
    u64 first = (u64)blockIdx.x * TILE, end = first + TILE < count ? first + TILE : count;
    stable_scatter<THREADS>(keys, values, keys_out, values_out, first, end, shift, start, warps);
}

// Adds the rows of dy to the table: positions `order` sorted by their ids `keys`. A run of equal ids within this block's
// part is added at once; the part of a run that crosses the edge goes to `edge` [blocks, 2, h]: slot 0 if it came from
// before, else 1.
template <class T>
__device__ __forceinline__ void scatter(
    const T* dy, const u32* keys, const u32* order, float* table, float* edge, u32 count, u32 h, u32 vocab) {
    const u32 N = Pack<T>::N;
    __shared__ u32 ids[RUN + 2], rows[RUN];
    u64 first = (u64)blockIdx.x * RUN;
    u32 n = count - first < RUN ? (u32)(count - first) : RUN;
    for (u32 i = threadIdx.x; i < n + 2; i += blockDim.x) {
        u64 at = first + i;
        ids[i] = at == 0 || at > count ? 0xffffffffu : keys[at - 1];
        if (i < n) rows[i] = order[at];
    }
    __syncthreads();
    bool wide = h % N == 0 && aligned(dy) && aligned(table) && aligned(edge);
    for (u32 c = threadIdx.x * N; c < h; c += blockDim.x * N) {
        float sum[N];
        u32 begin = 0;
        for (u32 base = 0; base < n; base += AHEAD) {
            Pack<T> ahead[AHEAD];
#pragma unroll
            for (u32 j = 0; j < AHEAD; j++)
                if (base + j < n) ahead[j] = load_pack(dy + (u64)rows[base + j] * h, c, h, wide);
#pragma unroll
            for (u32 j = 0; j < AHEAD; j++) {
                u32 i = base + j;
                if (i >= n) continue;
                bool fresh = i == begin;
#pragma unroll
                for (u32 k = 0; k < N; k++) sum[k] = fresh ? ahead[j][k] : sum[k] + ahead[j][k];
                u32 id = ids[i + 1];
                bool last = i + 1 == n;
                if (!last && ids[i + 2] == id) continue;
                bool from = begin == 0 && ids[0] == id, on = last && ids[n + 1] == id;
                begin = i + 1;
                if (id >= vocab) continue;
                if (from || on) {
                    store_floats(edge + ((u64)blockIdx.x * 2 + (from ? 0 : 1)) * h, c, h, wide, sum);
                } else {
                    float* out = table + (u64)id * h;
                    float old[N];
                    load_floats(out, c, h, wide, old);
#pragma unroll
                    for (u32 k = 0; k < N; k++) old[k] += sum[k];
                    store_floats(out, c, h, wide, old);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) embedding_scatter_f32(
    const float* dy, const u32* keys, const u32* order, float* table, float* edge, u32 count, u32 h, u32 vocab) {
    scatter(dy, keys, order, table, edge, count, h, vocab);
}
extern "C" __global__ void __launch_bounds__(THREADS) embedding_scatter_bf16(
    const bf16* dy, const u32* keys, const u32* order, float* table, float* edge, u32 count, u32 h, u32 vocab) {
    scatter(dy, keys, order, table, edge, count, h, vocab);
}

// Adds the runs that cross edges: the block where one begins walks to its end, in order.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_edges(const u32* keys, const float* edge, float* table, u32 count, u32 h, u32 vocab) {
    u64 end = ((u64)blockIdx.x + 1) * RUN;
    if (end >= count) return;
    u32 id = keys[end - 1];
    if (id >= vocab || keys[end] != id) return;
    u64 first = (u64)blockIdx.x * RUN;
    if (first > 0 && keys[first - 1] == id && keys[first] == id) return;
    u64 blocks = ((u64)count + RUN - 1) / RUN, last = blockIdx.x + 1;
    while ((last + 1) * RUN < count && keys[(last + 1) * RUN] == id) last++;
    for (u32 c = threadIdx.x; c < h; c += THREADS) {
        float sum = edge[((u64)blockIdx.x * 2 + 1) * h + c];
#pragma unroll 4
        for (u64 block = blockIdx.x + 1; block <= last && block < blocks; block++) sum += edge[block * 2 * h + c];
        table[(u64)id * h + c] += sum;
    }
}
