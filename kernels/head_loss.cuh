// Losses of rows of logits, and the logits' gradient in their place. One block a row; what a row needs is found in
// passes over it (the first reads memory, the rest the caches), and a last pass writes the gradient. In every loss the
// gradient of an element is a·q + b, plus the slope of a divergence, plus something at the target.
#pragma once
#include "losses.cuh"

#define THREADS 512
#define IGNORE -100

// One row of logits.
template <class T> struct Row {
    T* z;
    u32 vocab;
    bool wide;
    float cap, inverse_cap;

    __device__ __forceinline__ Row(T* z, u32 vocab, u32 stride, float cap)
        : z(z), vocab(vocab), wide(stride % Pack<T>::N == 0 && aligned(z)), cap(cap),
          inverse_cap(cap > 0.f ? 1.f / cap : 0.f) {}

    // The bounded logit in units of the bound, or the logit itself.
    __device__ __forceinline__ float bend(float z) const { return cap > 0.f ? Math<T>::tanh(z * inverse_cap) : z; }
    __device__ __forceinline__ float scale() const { return cap > 0.f ? cap : 1.f; }
    __device__ __forceinline__ float capped(float z) const { return scale() * bend(z); }
    __device__ __forceinline__ Pack<T> pack(u32 i) const { return load_pack(z, i, vocab, wide); }
};

// log Σ exp(z/T) over the row, and Σ z if wanted. With EXCLUDE, logits of -∞ stay so.
template <bool EXCLUDE, class T>
__device__ __forceinline__ float log_sum_exp(const Row<T>& row, float inverse_t, float* scratch, float* sum_z) {
    const u32 N = Pack<T>::N;
    float top = -INFINITY_F, sum = 0.f, total = 0.f, scale = row.scale();
#pragma unroll 2
    for (u32 i = threadIdx.x * N; i < row.vocab; i += THREADS * N) {
        Pack<T> z = row.pack(i);
        float x[N], here = -INFINITY_F;
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float c = scale * row.bend(z[k]);
            if (i + k < row.vocab) total += c;
            x[k] = i + k < row.vocab && !(EXCLUDE && z[k] == -INFINITY_F) ? c * inverse_t : -INFINITY_F;
            here = fmaxf(here, x[k]);
        }
        if (EXCLUDE && here == -INFINITY_F) continue;
        here = fmaxf(here, top);
        sum *= Math<T>::exp(top - here);
        top = here;
#pragma unroll
        for (u32 k = 0; k < N; k++) sum += Math<T>::exp(x[k] - here);
    }
    if (sum_z) *sum_z = block_sum(total, scratch);
    float most = block_max(top, scratch);
    if (EXCLUDE && most == -INFINITY_F) return most;
    return most + logf(block_sum(sum * expf(top - most), scratch));
}

// What the last pass needs of a term.
struct Slope {
    u32 kind;
    float inverse_t, log_q_sum, log_p_sum, parameter;
    // Coefficients of q, of q for the tokens of a teacher's top k, of 1, and of q·slope.
    float a, a_inside, b, c;
};

// Adds the gradient with respect to the bounded logits z of a pack of which `n` elements count; y are the teacher's.
// `signs` are ULD's.
template <class T, bool TEACHER, u32 N>
__device__ __forceinline__ void add_slopes(
    const Slope* slopes, u32 count, const float (&z)[N], const float (&y)[N], const i8* signs, u32 n, bool inside,
    float (&dz)[N]) {
    typedef Math<T> M;
    for (u32 t = 0; t < count; t++) {
        const Slope s = slopes[t];
        if (TEACHER && s.kind == ULD) {
#pragma unroll
            for (u32 k = 0; k < N; k++)
                dz[k] += M::exp(z[k] * s.inverse_t - s.log_q_sum) * (s.a + s.c * (k < n ? signs[k] : 0));
        } else if (TEACHER && is_divergence(s.kind)) {
            with_divergence(s.kind, [&](auto kind) {
#pragma unroll
                for (u32 k = 0; k < N; k++) {
                    float lq = z[k] * s.inverse_t - s.log_q_sum, lp = y[k] * s.inverse_t - s.log_p_sum;
                    dz[k] += s.a * M::exp(lq) + s.c * share<decltype(kind)::value, M>(lp, lq, s.parameter).q_slope;
                }
            });
        } else {
            float a = inside ? s.a_inside : s.a;
#pragma unroll
            for (u32 k = 0; k < N; k++) dz[k] += a * M::exp(z[k] * s.inverse_t - s.log_q_sum) + s.b;
        }
    }
}

// (loss, slope) of focal cross-entropy, whose gradient is slope·(δ - q).
__device__ __forceinline__ float2 focal(float log_q, float gamma) {
    float q = expf(log_q), rest = -expm1f(log_q), discount = powf(rest, gamma);
    float bend = gamma == 0.f ? 0.f : gamma * powf(rest, gamma - 1.f) * q * log_q;
    return make_float2(-discount * log_q, bend - discount);
}

// log Σ exp(x/T) of the top k, whose bounded logits are x.
template <class T>
__device__ __forceinline__ float log_sum_exp_top(
    const Row<T>& row, const float* top, u32 top_k, float inverse_t, float* scratch) {
    float most = -INFINITY_F, sum = 0.f;
    for (u32 j = threadIdx.x; j < top_k; j += THREADS) most = fmaxf(most, row.capped(top[j]) * inverse_t);
    most = block_max(most, scratch);
    for (u32 j = threadIdx.x; j < top_k; j += THREADS) sum += expf(row.capped(top[j]) * inverse_t - most);
    return most + logf(block_sum(sum, scratch));
}

// Forward KL from a teacher's top k and the rest as one bucket. `top` are the row's logits at `ids`; the row is changed
// and restored. Fills what the slope needs and returns the loss.
template <class T>
__device__ __forceinline__ float top_k_loss(
    const Row<T>& row, const Term& term, float weight, const u32* ids, const float* log_probs, const float* top,
    u32 top_k, Slope& s, float* scratch) {
    for (u32 j = threadIdx.x; j < top_k; j += THREADS)
        if (ids[j] < row.vocab) row.z[ids[j]] = from_float<T>(-INFINITY_F);
    __syncthreads();
    float outside = log_sum_exp<true>(row, s.inverse_t, scratch, (float*)0);
    for (u32 j = threadIdx.x; j < top_k; j += THREADS)
        if (ids[j] < row.vocab) row.z[ids[j]] = from_float<T>(top[j]);
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

// A loss between distributions; as above.
template <class T>
__device__ __forceinline__ float divergence_loss(
    const Row<T>& row, const Row<T>& teacher, const Term& term, float weight, Slope& s, float* scratch) {
    const u32 N = Pack<T>::N;
    typedef Math<T> M;
    s.log_q_sum = log_sum_exp<false>(row, s.inverse_t, scratch, (float*)0);
    s.log_p_sum = log_sum_exp<false>(teacher, s.inverse_t, scratch, (float*)0);
    float loss = 0.f, mean = 0.f;
    with_divergence(term.kind, [&](auto kind) {
        for (u32 i = threadIdx.x * N; i < row.vocab; i += THREADS * N) {
            Pack<T> z = row.pack(i), y = teacher.pack(i);
#pragma unroll
            for (u32 k = 0; k < N; k++) {
                float lq = row.capped(z[k]) * s.inverse_t - s.log_q_sum;
                float lp = teacher.capped(y[k]) * s.inverse_t - s.log_p_sum;
                Share part = share<decltype(kind)::value, M>(lp, lq, term.parameter);
                if (i + k < row.vocab) loss += part.loss, mean += part.q_slope;
            }
        }
    });
    s.c = weight * term.temperature;
    s.a = -s.c * block_sum(mean, scratch);
    return term.temperature * term.temperature * block_sum(loss, scratch);
}

// ULD, whose signs and loss are there; as above.
template <class T>
__device__ __forceinline__ float uld_loss(
    const Row<T>& row, const Term& term, float weight, const i8* signs, float loss, Slope& s, float* scratch) {
    const u32 N = Pack<T>::N;
    s.log_q_sum = log_sum_exp<false>(row, s.inverse_t, scratch, (float*)0);
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
    T* teacher;
    const i8* signs;
    const float* sign_losses;
    const u32* top_ids;
    const float* top_log_probs;
    u32 teacher_stride, top_k;
    float teacher_cap;
};

// Row blockIdx.x of a chunk of logits [rows, stride], of which `vocab` columns count; the rest of the gradient is zero.
// It is row first + blockIdx.x of all; its unweighted loss of term t goes to losses[t][that].
template <class T, bool TEACHER>
__device__ __forceinline__ void head_loss(
    T* logits, const Targets<T> targets, float* losses, u32 vocab, u32 stride, u32 first, u32 all, float cap,
    u32 gradient, float denominator, const Terms& terms) {
    const u32 N = Pack<T>::N;
    __shared__ Slope slopes[MAX_TERMS];
    __shared__ float scratch[32];
    // The row's logits at the teacher's top k.
    extern __shared__ float top[];
    u64 index = blockIdx.x, overall = first + index;
    Row<T> row(logits + index * stride, vocab, stride, cap);
    i32 target = targets.ids[overall];
    losses += overall;
    if (target < 0 || target >= (i32)vocab) {
        // A target that does not exist gives NaN: the device cannot refuse it.
        if (threadIdx.x < terms.count) losses[(u64)threadIdx.x * all] = target == IGNORE ? 0.f : NAN_F;
        float zeros[N] = {};
        if (gradient)
            for (u32 i = threadIdx.x * N; i < stride; i += THREADS * N) store_pack(row.z, i, stride, row.wide, zeros);
        return;
    }
    Row<T> teacher(TEACHER ? targets.teacher + index * targets.teacher_stride : row.z, vocab,
                   TEACHER ? targets.teacher_stride : stride, TEACHER ? targets.teacher_cap : cap);
    const u32* top_ids = targets.top_ids + overall * targets.top_k;
    const float* top_log_probs = targets.top_log_probs + overall * targets.top_k;
    const i8* signs = targets.signs + index * stride;
    float z_target = row.capped(to_float(row.z[target])), at_target = 0.f, of_top = 0.f;
    if (!TEACHER)
        for (u32 j = threadIdx.x; j < targets.top_k; j += THREADS)
            top[j] = top_ids[j] < vocab ? to_float(row.z[top_ids[j]]) : 0.f;
    __syncthreads();
    for (u32 t = 0; t < terms.count; t++) {
        const Term term = terms.term[t];
        Slope s = {term.kind, 1.f / term.temperature, 0.f, 0.f, term.parameter, 0.f, 0.f, 0.f, 0.f};
        float weight = term.weight / denominator, loss;
        if (TEACHER && term.kind == ULD) {
            loss = uld_loss(row, term, weight, signs, targets.sign_losses[index], s, scratch);
        } else if (TEACHER && is_divergence(term.kind)) {
            loss = divergence_loss(row, teacher, term, weight, s, scratch);
        } else if (!TEACHER && term.kind == TOP_K_FORWARD_KL) {
            loss = top_k_loss(row, term, weight, top_ids, top_log_probs, top, targets.top_k, s, scratch);
            of_top += weight * term.temperature;
        } else if (term.kind == CROSS_ENTROPY) {
            float smoothing = term.parameter, sum;
            s.log_q_sum = log_sum_exp<false>(row, 1.f, scratch, &sum);
            loss = (1.f - smoothing) * (s.log_q_sum - z_target) + smoothing * (s.log_q_sum - sum / (float)vocab);
            s.a = weight;
            s.b = -weight * smoothing / (float)vocab;
            at_target -= weight * (1.f - smoothing);
        } else {
            s.log_q_sum = log_sum_exp<false>(row, 1.f, scratch, (float*)0);
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
        Pack<T> raw = row.pack(i), from = TEACHER ? teacher.pack(i) : raw;
        float bent[N], z[N], y[N], dz[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            bent[k] = row.bend(raw[k]);
            z[k] = row.scale() * bent[k];
            y[k] = TEACHER ? teacher.capped(from[k]) : 0.f;
            dz[k] = i + k == (u32)target ? at_target : 0.f;
        }
        add_slopes<T, TEACHER>(slopes, terms.count, z, y, signs + i, vocab - i, false, dz);
        if (cap > 0.f) {
#pragma unroll
            for (u32 k = 0; k < N; k++) dz[k] *= 1.f - bent[k] * bent[k];
        }
        store_pack(row.z, i, vocab, row.wide, dz);
    }
    for (u32 i = vocab + threadIdx.x; i < stride; i += THREADS) row.z[i] = from_float<T>(0.f);
    if (TEACHER || targets.top_k == 0) return;
    __syncthreads();
    for (u32 j = threadIdx.x; j < targets.top_k; j += THREADS) {
        if (top_ids[j] >= vocab) continue;
        float bent = row.bend(top[j]), z[1] = {row.scale() * bent}, y[1] = {0.f};
        float dz[1] = {(top_ids[j] == (u32)target ? at_target : 0.f) - of_top * expf(top_log_probs[j])};
        add_slopes<T, TEACHER>(slopes, terms.count, z, y, signs, 1, true, dz);
        row.z[top_ids[j]] = from_float<T>(dz[0] * (cap > 0.f ? 1.f - bent * bent : 1.f));
    }
}

