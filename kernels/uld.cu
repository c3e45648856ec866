// Universal logit distillation of rows: Σ |p₍ᵢ₎ - q₍ᵢ₎| over the probabilities of each side in descending order, the
// shorter side padded with zeros. Gives the loss of each row and the sign of q - p at each of the student's tokens.
#include "pack.cuh"
#include "sort.cuh"

#define THREADS 1024
#define IGNORE -100

struct Shared {
    u32 warps[THREADS / 32][DIGITS], start[DIGITS];
    float scratch[32];
};

// Keys in ascending order are floats in descending order.
__device__ __forceinline__ u32 descending(float x) {
    u32 bits = __float_as_uint(x);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}
__device__ __forceinline__ float of_key(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}

// Sorts n logits, bounded and divided by T, in descending order; equal ones keep theirs. `work` holds 4·n words, of
// which the first n become the keys and the next n the tokens.
template <class T>
__device__ __forceinline__ void sort_row(const T* z, u32 n, float cap, float inverse_t, u32* work, Shared& shared) {
    u32 *keys = work, *tokens = work + n, *other_keys = work + 2 * (u64)n, *other_tokens = work + 3 * (u64)n;
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        float x = to_float(z[i]);
        keys[i] = descending((cap > 0.f ? cap * tanhf(x / cap) : x) * inverse_t);
    }
    for (u32 shift = 0; shift < 32; shift += 8) {
        if (threadIdx.x < DIGITS) shared.start[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < n; i += THREADS) atomicAdd(&shared.start[keys[i] >> shift & (DIGITS - 1)], 1);
        __syncthreads();
        if (threadIdx.x < 32) {
            u32 own = 0;
            for (u32 d = 0; d < 8; d++) own += shared.start[threadIdx.x * 8 + d];
            u32 next = warp_scan(own) - own;
            for (u32 d = 0; d < 8; d++) {
                u32 here = shared.start[threadIdx.x * 8 + d];
                shared.start[threadIdx.x * 8 + d] = next;
                next += here;
            }
        }
        __syncthreads();
        stable_scatter<THREADS>(
            keys, shift == 0 ? 0 : tokens, other_keys, other_tokens, 0, n, shift, shared.start, shared.warps);
        u32* swap = keys;
        keys = other_keys, other_keys = swap;
        swap = tokens;
        tokens = other_tokens, other_tokens = swap;
    }
}

// log Σ exp of sorted keys.
__device__ __forceinline__ float log_sum_exp(const u32* keys, u32 n, float* scratch) {
    float top = of_key(keys[0]), sum = 0.f;
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += expf(of_key(keys[i]) - top);
    return top + logf(block_sum(sum, scratch));
}

// Blocks walk over the rows, each with its part of `work` [blocks, 4·(vocab + teacher_vocab)].
template <class T>
__device__ __forceinline__ void rows_of_block(
    const T* logits, const T* teacher, const i32* targets, i8* signs, float* losses, u32* work, u32 rows, u32 vocab,
    u32 stride, u32 teacher_vocab, u32 teacher_stride, float cap, float teacher_cap, float temperature) {
    __shared__ Shared shared;
    u32* student = work + (u64)blockIdx.x * 4 * ((u64)vocab + teacher_vocab);
    u32* other = student + 4 * (u64)vocab;
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        if (targets[row] == IGNORE) continue;
        sort_row(logits + row * stride, vocab, cap, 1.f / temperature, student, shared);
        sort_row(teacher + row * teacher_stride, teacher_vocab, teacher_cap, 1.f / temperature, other, shared);
        float q_sum = log_sum_exp(student, vocab, shared.scratch);
        float p_sum = log_sum_exp(other, teacher_vocab, shared.scratch), loss = 0.f;
        u32 most = vocab > teacher_vocab ? vocab : teacher_vocab;
        for (u32 rank = threadIdx.x; rank < most; rank += THREADS) {
            float p = rank < teacher_vocab ? expf(of_key(other[rank]) - p_sum) : 0.f;
            float d = (rank < vocab ? expf(of_key(student[rank]) - q_sum) : 0.f) - p;
            loss += fabsf(d);
            if (rank < vocab) signs[row * stride + student[vocab + rank]] = d > 0.f ? 1 : d < 0.f ? -1 : 0;
        }
        loss = block_sum(loss, shared.scratch);
        if (threadIdx.x == 0) losses[row] = loss;
    }
}

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) uld_rows_##SUFFIX(                                           \
        const T* logits, const T* teacher, const i32* targets, i8* signs, float* losses, u32* work, u32 rows,          \
        u32 vocab, u32 stride, u32 teacher_vocab, u32 teacher_stride, float cap, float teacher_cap,                    \
        float temperature) {                                                                                           \
        rows_of_block(                                                                                                 \
            logits, teacher, targets, signs, losses, work, rows, vocab, stride, teacher_vocab, teacher_stride, cap,    \
            teacher_cap, temperature);                                                                                 \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
