// Losses of rows of logits, and the logits' gradient in their place. One block a row: passes over the row find what its
// losses need, and a last one writes the gradient. In every loss the gradient of an element is a·q + b, plus the slope of a
// divergence, plus something at the target. Losses whose slope is a sign come in f32: in bf16 the error of a logit would
// turn many signs.
#pragma once
#include "losses.cuh"

#define THREADS 512
#define IGNORE -100
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// One row of logits. A bounded logit is scale·bend(z).
template <class T> struct Row {
    const T* z;
    u32 vocab;
    bool wide;
    float cap, scale, inverse_cap;

    __device__ __forceinline__ Row(const T* z, u32 vocab, u32 stride, float cap)
        : z(z), vocab(vocab), wide(stride % Pack<T>::N == 0 && aligned(z)), cap(cap), scale(cap > 0.f ? cap : 1.f),
          inverse_cap(cap > 0.f ? 1.f / cap : 0.f) {}

    __device__ __forceinline__ float bend(float z) const {
        return cap > 0.f ? Math<T>::tanh(z * inverse_cap) : z;
    }
    __device__ __forceinline__ float capped(float z) const { return scale * bend(z); }
    __device__ __forceinline__ Pack<T> pack(u32 i) const { return load_pack(z, i, vocab, wide); }
};

// log Σ exp(z/T) over the row, and Σ z if wanted. With EXCLUDE, logits of -∞ stay so.
template <bool EXCLUDE, bool SUM, class T>
__device__ __forceinline__ float log_sum_exp(
    const Row<T>& row, float inverse_t, float* scratch, float* sum_z) {
    const u32 N = Pack<T>::N;
    typedef Math<T> M;
    float sum = 0.f, total = 0.f, b = row.scale * inverse_t * LOG2_E;
    // Bounded logits are at most b, and need no search for the largest as long as 2^-2b is not too small.
    if (!EXCLUDE && row.cap > 0.f && b <= 50.f) {
#pragma unroll 2
        for (u32 i = threadIdx.x * N; i < row.vocab; i += THREADS * N) {
            Pack<T> z = row.pack(i);
            bool whole = i + N <= row.vocab;
#pragma unroll
            for (u32 k = 0; k < N; k++) {
                float t = row.bend(z[k]), e = M::exp2(t * b - b);
                bool in = whole || i + k < row.vocab;
                sum += in ? e : 0.f;
                if (SUM) total += in ? t : 0.f;
            }
        }
        if (SUM) *sum_z = row.scale * block_sum(total, scratch);
        return b * LN_2 + logf(block_sum(sum, scratch));
    }
    float top = -INFINITY_F;
#pragma unroll 2
    for (u32 i = threadIdx.x * N; i < row.vocab; i += THREADS * N) {
        Pack<T> z = row.pack(i);
        float x[N], here = top;
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float t = row.bend(z[k]);
            if (SUM && i + k < row.vocab) total += t;
            x[k] = i + k < row.vocab && !(EXCLUDE && z[k] == -INFINITY_F) ? t * b : -INFINITY_F;
            here = fmaxf(here, x[k]);
        }
        if (EXCLUDE && here == -INFINITY_F) continue;
        sum *= M::exp2(top - here);
        top = here;
#pragma unroll
        for (u32 k = 0; k < N; k++) sum += M::exp2(x[k] - here);
    }
    if (SUM) *sum_z = row.scale * block_sum(total, scratch);
    float most = block_max(top, scratch);
    if (EXCLUDE && most == -INFINITY_F) return most;
    return most * LN_2 + logf(block_sum(sum * exp2f(top - most), scratch));
}

// What the last pass needs of a term.
struct Slope {
    u32 kind;
    // log q = inverse_t·z - log_q_sum, log p alike.
    float inverse_t, log_q_sum, log_p_sum, parameter;
    // Coefficients of q, of q for the tokens of a teacher's top k, of 1, and of q·slope.
    float a, a_inside, b, c;
};

// Adds the gradient with respect to the bounded logits scale·t of a pack of which `n` elements count; y are the
// teacher's bounded logits, `signs` ULD's. Returns what the pack adds to the forward KL, which is read on the way.
template <class T, bool TEACHER, u32 N>
__device__ __forceinline__ float add_slopes(
    const Slope* slopes, u32 count, float scale, const float (&t)[N], const float (&y)[N], const i8* signs, u32 n,
    bool inside, float (&dz)[N]) {
    typedef Math<T> M;
    float loss = 0.f;
    for (u32 i = 0; i < count; i++) {
        const Slope s = slopes[i];
        float to_lq = scale * s.inverse_t;
        if (TEACHER && s.kind == ULD) {
#pragma unroll
            for (u32 k = 0; k < N; k++)
                dz[k] += M::exp(t[k] * to_lq - s.log_q_sum) * (s.a + s.c * (k < n ? signs[k] : 0));
        } else if (TEACHER && is_divergence(s.kind)) {
            with_divergence(s.kind, [&](auto kind) {
                const u32 KIND = decltype(kind)::value;
#pragma unroll
                for (u32 k = 0; k < N; k++) {
                    float lq = t[k] * to_lq - s.log_q_sum, lp = y[k] * s.inverse_t - s.log_p_sum;
                    Share part = share<KIND, M>(lp, lq, s.parameter);
                    dz[k] += s.a * M::exp(lq) + s.c * part.q_slope;
                    if (KIND == FORWARD_KL) loss += k < n ? part.loss : 0.f;
                }
            });
        } else {
            float a = inside ? s.a_inside : s.a, b = to_lq * LOG2_E, l = s.log_q_sum * LOG2_E;
#pragma unroll
            for (u32 k = 0; k < N; k++) dz[k] += a * M::exp2(t[k] * b - l) + s.b;
        }
    }
    return loss;
}

// (loss, slope) of focal cross-entropy, whose gradient is slope·(δ - q).
__device__ __forceinline__ float2 focal(float log_q, float gamma) {
    float q = expf(log_q), rest = -expm1f(log_q), discount = powf(rest, gamma);
    float bend = gamma == 0.f ? 0.f : gamma * powf(rest, gamma - 1.f) * q * log_q;
    return make_float2(-discount * log_q, bend - discount);
}

// log Σ exp(x/T) of the top k, whose logits are x.
template <class R>
__device__ __forceinline__ float log_sum_exp_top(
    const R& row, const float* top, u32 top_k, float inverse_t, float* scratch) {
    float most = -INFINITY_F, sum = 0.f;
    for (u32 j = threadIdx.x; j < top_k; j += THREADS) most = fmaxf(most, row.capped(top[j]) * inverse_t);
    most = block_max(most, scratch);
    for (u32 j = threadIdx.x; j < top_k; j += THREADS) sum += expf(row.capped(top[j]) * inverse_t - most);
    return most + logf(block_sum(sum, scratch));
}

// Forward KL from a teacher's top k and the rest as one bucket. `top` are the row's logits at `ids`; the row, at `z`, is
// changed and restored. Fills what the slope needs and returns the loss.
template <class T>
__device__ __forceinline__ float top_k_loss(
    const Row<T>& row, T* z, const Term& term, float weight, const u32* ids, const float* log_probs,
    const float* top, u32 top_k, Slope& s, float* scratch) {
    for (u32 j = threadIdx.x; j < top_k; j += THREADS)
        if (ids[j] < row.vocab) z[ids[j]] = from_float<T>(-INFINITY_F);
    __syncthreads();
    float outside = log_sum_exp<true, false>(row, s.inverse_t, scratch, (float*)0);
    for (u32 j = threadIdx.x; j < top_k; j += THREADS)
        if (ids[j] < row.vocab) z[ids[j]] = from_float<T>(top[j]);
    float within = log_sum_exp_top(row, top, top_k, s.inverse_t, scratch);
    float most = fmaxf(outside, within);
    s.log_q_sum = most + logf(expf(outside - most) + expf(within - most));
    float mass = 0.f, loss = 0.f;
    for (u32 j = threadIdx.x; j < top_k; j += THREADS) {
        float p = expf(log_probs[j]);
        mass += p;
        loss += p * (log_probs[j] - (row.capped(top[j]) * s.inverse_t - s.log_q_sum));
        // A token that does not exist: the device cannot refuse it.
        if (ids[j] >= row.vocab) loss = NAN_F;
    }
    mass = block_sum(mass, scratch);
    loss = block_sum(loss, scratch);
    float rest = fmaxf(1.f - mass, 0.f);
    s.a = s.a_inside = weight * term.temperature * (mass + rest);
    if (rest > 0.f) {
        loss += rest * (logf(rest) - (outside - s.log_q_sum));
        s.a -= weight * term.temperature * rest * expf(s.log_q_sum - outside);
    }
    return term.temperature * term.temperature * loss;
}

template <u32 KIND, class T>
__device__ __forceinline__ void divergence_sums(
    const Row<T>& row, const Row<T>& teacher, const Slope& s, float& loss, float& mean) {
    const u32 N = Pack<T>::N;
    for (u32 i = threadIdx.x * N; i < row.vocab; i += THREADS * N) {
        Pack<T> z = row.pack(i), y = teacher.pack(i);
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float lq = row.capped(z[k]) * s.inverse_t - s.log_q_sum;
            float lp = teacher.capped(y[k]) * s.inverse_t - s.log_p_sum;
            Share part = share<KIND, Math<T>>(lp, lq, s.parameter);
            if (i + k < row.vocab) loss += part.loss, mean += part.q_slope;
        }
    }
}

// A loss between distributions; as above. The forward KL, whose mean slope is known, is left to the last pass if `later`.
template <class R>
__device__ __forceinline__ float divergence_loss(
    const R& row, const R& teacher, const Term& term, float weight, bool later, Slope& s, float* scratch) {
    s.log_q_sum = log_sum_exp<false, false>(row, s.inverse_t, scratch, (float*)0);
    s.log_p_sum = log_sum_exp<false, false>(teacher, s.inverse_t, scratch, (float*)0);
    s.c = weight * term.temperature;
    if (term.kind == FORWARD_KL && later) {
        s.a = s.c;
        return 0.f;
    }
    float loss = 0.f, mean = 0.f;
    with_divergence(term.kind, [&](auto kind) {
        divergence_sums<decltype(kind)::value>(row, teacher, s, loss, mean);
    });
    s.a = -s.c * block_sum(mean, scratch);
    return term.temperature * term.temperature * block_sum(loss, scratch);
}

// ULD, whose signs and loss are there; as above.
template <class T>
__device__ __forceinline__ float uld_loss(
    const Row<T>& row, float weight, const i8* signs, float loss, Slope& s, float* scratch) {
    const u32 N = Pack<T>::N;
    s.log_q_sum = log_sum_exp<false, false>(row, s.inverse_t, scratch, (float*)0);
    float mean = 0.f;
    for (u32 i = threadIdx.x * N; i < row.vocab; i += THREADS * N) {
        Pack<T> z = row.pack(i);
#pragma unroll
        for (u32 k = 0; k < N; k++)
            if (i + k < row.vocab) mean += Math<T>::exp(row.capped(z[k]) * s.inverse_t - s.log_q_sum) * signs[i + k];
    }
    s.c = weight * s.inverse_t;
    s.a = -s.c * block_sum(mean, scratch);
    return loss;
}

// What the rows are compared with. Ids and the top k are those of all rows; the teacher's logits, `signs` [rows, stride]
// and `sign_losses`, which the ULD kernel found, are those of the chunk.
template <class T> struct Targets {
    const i32* ids;
    const T* teacher;
    const i8* signs;
    const float* sign_losses;
    const u32* top_ids;
    const float* top_log_probs;
    u32 teacher_stride, top_k;
    float teacher_cap;
};

// Row blockIdx.x of a chunk of logits [rows, stride], of which `vocab` columns count; the rest of the gradient is zero.
// It is row first + blockIdx.x of all; its unweighted loss of term t goes to losses[t][that]. If `cached` is set, there is
// shared memory for the row; then for top_k floats.
template <class T, bool TEACHER>
__device__ __forceinline__ void head_loss(
    T* logits, const Targets<T> targets, float* losses, u32 vocab, u32 stride, u32 first, u32 all, float cap,
    u32 gradient, u32 cached, float denominator, const Terms& terms) {
    const u32 N = Pack<T>::N;
    __shared__ Slope slopes[MAX_TERMS];
    __shared__ float scratch[32];
    extern __shared__ uint4 shared[];
    u64 index = blockIdx.x, overall = first + index;
    i32 target = targets.ids[overall];
    T* z = logits + index * stride;
    bool wide = stride % N == 0 && aligned(z);
    losses += overall;
    if (target < 0 || target >= (i32)vocab) {
        // A target that does not exist gives NaN: the device cannot refuse it.
        if (threadIdx.x < terms.count) losses[(u64)threadIdx.x * all] = target == IGNORE ? 0.f : NAN_F;
        float zeros[N] = {};
        if (gradient)
            for (u32 i = threadIdx.x * N; i < stride; i += THREADS * N) store_pack(z, i, stride, wide, zeros);
        return;
    }
    // What is read: the row itself or its copy.
    T* from = z;
    float* top = (float*)shared;
    if (cached) {
        from = (T*)shared;
        top = (float*)(from + (stride + N - 1) / N * N);
        if (wide) {
#pragma unroll 4
            for (u32 i = threadIdx.x; i < stride / N; i += THREADS) shared[i] = ((const uint4*)z)[i];
        } else {
            for (u32 i = threadIdx.x; i < stride; i += THREADS) from[i] = z[i];
        }
        __syncthreads();
    }
    Row<T> row(from, vocab, stride, cap);
    Row<T> teacher(TEACHER ? targets.teacher + index * targets.teacher_stride : from, vocab,
              TEACHER ? targets.teacher_stride : stride, TEACHER ? targets.teacher_cap : cap);
    const u32* top_ids = targets.top_ids + overall * targets.top_k;
    const float* top_log_probs = targets.top_log_probs + overall * targets.top_k;
    const i8* signs = targets.signs + index * stride;
    float z_target = row.capped(to_float(from[target])), at_target = 0.f, of_top = 0.f, of_kl = 0.f;
    if (!TEACHER && targets.top_k) {
        for (u32 j = threadIdx.x; j < targets.top_k; j += THREADS)
            top[j] = top_ids[j] < vocab ? to_float(from[top_ids[j]]) : 0.f;
        __syncthreads();
    }
    u32 kls = 0;
    for (u32 t = 0; t < terms.count; t++) kls += terms.term[t].kind == FORWARD_KL;
    bool later = gradient && kls == 1;
    for (u32 t = 0; t < terms.count; t++) {
        const Term term = terms.term[t];
        Slope s = {term.kind, 1.f / term.temperature, 0.f, 0.f, term.parameter, 0.f, 0.f, 0.f, 0.f};
        float weight = term.weight / denominator, loss;
        if (TEACHER && term.kind == ULD) {
            loss = uld_loss(row, weight, signs, targets.sign_losses[index], s, scratch);
        } else if (TEACHER && is_divergence(term.kind)) {
            loss = divergence_loss(row, teacher, term, weight, later, s, scratch);
        } else if (!TEACHER && term.kind == TOP_K_FORWARD_KL) {
            loss = top_k_loss(row, from, term, weight, top_ids, top_log_probs, top, targets.top_k, s, scratch);
            of_top += weight * term.temperature;
        } else if (term.kind == CROSS_ENTROPY) {
            float smoothing = term.parameter, sum = 0.f;
            s.log_q_sum = smoothing > 0.f ? log_sum_exp<false, true>(row, 1.f, scratch, &sum)
                                          : log_sum_exp<false, false>(row, 1.f, scratch, &sum);
            loss = (1.f - smoothing) * (s.log_q_sum - z_target) + smoothing * (s.log_q_sum - sum / (float)vocab);
            s.a = weight;
            s.b = -weight * smoothing / (float)vocab;
            at_target -= weight * (1.f - smoothing);
        } else {
            s.log_q_sum = log_sum_exp<false, false>(row, 1.f, scratch, (float*)0);
            float2 found = focal(z_target - s.log_q_sum, term.parameter);
            loss = found.x;
            s.a = -weight * found.y;
            at_target += weight * found.y;
        }
        if (term.kind != TOP_K_FORWARD_KL) s.a_inside = s.a;
        if (threadIdx.x == 0) {
            losses[(u64)t * all] = loss;
            slopes[t] = s;
        }
    }
    if (!gradient) return;
    __syncthreads();
    for (u32 i = threadIdx.x * N; i < vocab; i += THREADS * N) {
        Pack<T> raw = row.pack(i), other = TEACHER ? teacher.pack(i) : raw;
        float t[N], y[N], dz[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            t[k] = row.bend(raw[k]);
            y[k] = TEACHER ? teacher.capped(other[k]) : 0.f;
            dz[k] = 0.f;
        }
        of_kl += add_slopes<T, TEACHER>(slopes, terms.count, row.scale, t, y, signs + i, vocab - i, false, dz);
        u32 here = (u32)target - i;
        if (here < N) {
#pragma unroll
            for (u32 k = 0; k < N; k++)
                if (k == here) dz[k] += at_target;
        }
        if (cap > 0.f) {
#pragma unroll
            for (u32 k = 0; k < N; k++) dz[k] *= 1.f - t[k] * t[k];
        }
        store_pack(z, i, vocab, wide, dz);
    }
    for (u32 i = vocab + threadIdx.x; i < stride; i += THREADS) z[i] = from_float<T>(0.f);
    if (TEACHER) {
        of_kl = block_sum(of_kl, scratch);
        if (!later) return;
        for (u32 t = threadIdx.x; t < terms.count; t += THREADS)
            if (terms.term[t].kind == FORWARD_KL)
                losses[(u64)t * all] = terms.term[t].temperature * terms.term[t].temperature * of_kl;
        return;
    }
    if (targets.top_k == 0) return;
    __syncthreads();
    for (u32 j = threadIdx.x; j < targets.top_k; j += THREADS) {
        if (top_ids[j] >= vocab) continue;
        float t[1] = {row.bend(top[j])}, y[1] = {0.f};
        float dz[1] = {(top_ids[j] == (u32)target ? at_target : 0.f) - of_top * expf(top_log_probs[j])};
        add_slopes<T, TEACHER>(slopes, terms.count, row.scale, t, y, signs, 1, true, dz);
        z[top_ids[j]] = from_float<T>(dz[0] * (cap > 0.f ? 1.f - t[0] * t[0] : 1.f));
    }
}
