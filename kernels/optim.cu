// Optimizer steps that nothing on the host waits for: the norm of the gradients, the decision whether to use them, AdamW,
// and the elementwise parts of Muon. Formulas as on the CPU; f32 throughout, sums in f64 in a fixed order.
#include "common.cuh"

// What a step decides, and what later steps and the log need of it. The host reads it late or never.
struct State {
    // Factor of the learning rates, and Adam's corrections 1/(1-β₁ᵗ) and 1/√(1-β₂ᵗ).
    double factor, correct_m, correct_v;
    double norm;
    // Place of the first gradient that is not finite, counted over all of them; the greatest number if there is none.
    u64 bad;
    // Factor of the gradients: their scale, and what clips them.
    float clip;
    // Whether this step changes nothing.
    u32 skip;
    // Steps that changed something.
    u64 updates;
};
#define NOWHERE 0xffffffffffffffffull

__device__ __forceinline__ double block_sum_f64(double x, double* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.;
    x = warp_sum(x);
    __syncthreads();
    return x;
}

// Calls f(i, x) for the elements of a thread block's share of `n`, four at a time where they are aligned.
template <class F> __device__ __forceinline__ void each(const float* x, u64 n, F f) {
    u64 whole = ((u64)x & 15) == 0 ? n / 4 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count()) {
        float4 v = load4(x + 4 * i);
        f(4 * i, v.x), f(4 * i + 1, v.y), f(4 * i + 2, v.z), f(4 * i + 3, v.w);
    }
    for (u64 i = 4 * whole + thread_index(); i < n; i += thread_count()) f(i, x[i]);
}

extern "C" __global__ void optim_clear(State* state) { state->bad = NOWHERE; }

// Sum of squares of a thread block's share of the gradients, and the first that is not finite. `before`: gradients that
// come before these.
extern "C" __global__ __launch_bounds__(256) void optim_squares(const float* grads, double* sums, State* state, u64 n,
                                                               u64 before) {
    __shared__ double scratch[32];
    double sum = 0.;
    u64 bad = NOWHERE;
    each(grads, n, [&](u64 i, float g) {
        sum += (double)g * (double)g;
        if (!(fabsf(g) < INFINITY_F)) bad = min(bad, before + i);
    });
    if (bad != NOWHERE) atomicMin(&state->bad, bad);
    sum = block_sum_f64(sum, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Joins the sums; decides. `factors`: of the learning rates, and of the gradients before all else. `loss` may be null. One
// thread block.
extern "C" __global__ __launch_bounds__(256) void optim_decide(const double* sums, const float* factors, const float* loss,
                                                              State* state, u32 count, double limit, double beta1,
                                                              double beta2) {
    __shared__ double scratch[32];
    double total = 0.;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) total += sums[i];
    total = block_sum_f64(total, scratch);
    if (threadIdx.x != 0) return;
    double norm = sqrt(total) * factors[1];
    // A loss that is not finite is reason enough: its gradients are not looked at.
    bool good_loss = !loss || fabsf(*loss) < INFINITY_F, fine = good_loss && state->bad == NOWHERE;
    if (!good_loss) state->bad = NOWHERE;
    u64 updates = state->updates + fine;
    state->factor = (double)factors[0];
    state->norm = norm;
    state->clip = (limit > 0. && norm > limit ? (float)(limit / norm) : 1.f) * factors[1];
    state->skip = !fine;
    state->updates = updates;
    state->correct_m = 1. / (1. - pow(beta1, (double)updates));
    state->correct_v = 1. / sqrt(1. - pow(beta2, (double)updates));
}

// As `AdamW::step` on the CPU, bit for bit.
extern "C" __global__ __launch_bounds__(256) void optim_adamw(const float* grads, const State* state, float* params, float* m,
                                                             float* v, u64 n, double lr, double weight_decay, double beta1,
                                                             double beta2, float eps) {
    if (state->skip) return;
    float clip = state->clip, b1 = (float)beta1, b2 = (float)beta2;
    float b1_rest = (float)(1. - beta1), b2_rest = (float)(1. - beta2), correct_v = (float)state->correct_v;
    lr *= state->factor;
    float rate = (float)(lr * state->correct_m), keep = (float)(1. - lr * weight_decay);
    auto update = [&](float g, float& p, float& m, float& v) {
        g = __fmul_rn(g, clip);
        m = __fadd_rn(__fmul_rn(b1, m), __fmul_rn(b1_rest, g));
        v = __fadd_rn(__fmul_rn(b2, v), __fmul_rn(b2_rest, __fmul_rn(g, g)));
        float below = __fadd_rn(__fmul_rn(__fsqrt_rn(v), correct_v), eps);
        p = __fsub_rn(__fmul_rn(p, keep), __fmul_rn(rate, __fdiv_rn(m, below)));
    };
    u64 whole = (((u64)grads | (u64)params | (u64)m | (u64)v) & 15) == 0 ? n / 4 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count()) {
        float4 g4 = load4(grads + 4 * i), p4 = load4(params + 4 * i), m4 = load4(m + 4 * i), v4 = load4(v + 4 * i);
        update(g4.x, p4.x, m4.x, v4.x), update(g4.y, p4.y, m4.y, v4.y);
        update(g4.z, p4.z, m4.z, v4.z), update(g4.w, p4.w, m4.w, v4.w);
        store4(params + 4 * i, p4), store4(m + 4 * i, m4), store4(v + 4 * i, v4);
    }
    for (u64 i = 4 * whole + thread_index(); i < n; i += thread_count()) update(grads[i], params[i], m[i], v[i]);
}

// The kernels below take `gridDim.y` matrices of `numel` elements that lie one after another.

// buf = momentum·buf + g; sum of squares of u = g + momentum·buf in each thread block's share.
extern "C" __global__ __launch_bounds__(256) void optim_momentum(const float* grads, const State* state, float* buf,
                                                                double* sums, u64 numel, float momentum) {
    __shared__ double scratch[32];
    grads += blockIdx.y * numel;
    buf += blockIdx.y * numel;
    float clip = state->clip;
    bool skip = state->skip;
    double sum = 0.;
    auto update = [&](float g, float b) {
        g = __fmul_rn(g, clip);
        b = __fadd_rn(__fmul_rn(momentum, b), g);
        double u = (double)__fadd_rn(g, __fmul_rn(momentum, b));
        sum += u * u;
        return b;
    };
    if (!skip) {
        u64 whole = (((u64)grads | (u64)buf) & 15) == 0 ? numel / 4 : 0;
        for (u64 i = thread_index(); i < whole; i += thread_count()) {
            float4 g = load4(grads + 4 * i), b = load4(buf + 4 * i);
            store4(buf + 4 * i, make_float4(update(g.x, b.x), update(g.y, b.y), update(g.z, b.z), update(g.w, b.w)));
        }
        for (u64 i = 4 * whole + thread_index(); i < numel; i += thread_count()) buf[i] = update(grads[i], buf[i]);
    }
    sum = block_sum_f64(sum, scratch);
    if (threadIdx.x == 0) sums[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// x = u/(‖u‖ + 1e-7), where Newton–Schulz starts. `count` sums a matrix.
template <class T>
__device__ __forceinline__ void newton_schulz_start(const float* grads, const float* buf, const double* sums,
                                                    const State* state, T* x, u64 numel, u32 count, float momentum) {
    __shared__ float shared_scale;
    grads += blockIdx.y * numel;
    buf += blockIdx.y * numel;
    x += blockIdx.y * numel;
    if (threadIdx.x < 32) {
        double total = 0.;
        for (u32 i = threadIdx.x; i < count; i += 32) total += sums[(u64)blockIdx.y * count + i];
        total = warp_sum(total);
        if (threadIdx.x == 0) shared_scale = (float)(1. / (sqrt(total) + 1e-7));
    }
    __syncthreads();
    float clip = state->clip, scale = shared_scale;
    auto start = [&](float g, float b) { return __fmul_rn(__fadd_rn(__fmul_rn(g, clip), __fmul_rn(momentum, b)), scale); };
    u64 whole = (((u64)grads | (u64)buf | (u64)x) & 15) == 0 ? numel / 4 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count()) {
        float4 g = load4(grads + 4 * i), b = load4(buf + 4 * i);
        store4(x + 4 * i, make_float4(start(g.x, b.x), start(g.y, b.y), start(g.z, b.z), start(g.w, b.w)));
    }
    for (u64 i = 4 * whole + thread_index(); i < numel; i += thread_count()) x[i] = from_float<T>(start(grads[i], buf[i]));
}
extern "C" __global__ __launch_bounds__(256) void optim_start_f32(const float* grads, const float* buf, const double* sums,
                                                                 const State* state, float* x, u64 numel, u32 count,
                                                                 float momentum) {
    newton_schulz_start(grads, buf, sums, state, x, numel, count, momentum);
}
extern "C" __global__ __launch_bounds__(256) void optim_start_bf16(const float* grads, const float* buf, const double* sums,
                                                                  const State* state, bf16* x, u64 numel, u32 count,
                                                                  float momentum) {
    newton_schulz_start(grads, buf, sums, state, x, numel, count, momentum);
}

// square = a·I + b·gram + square for matrices [n, n] of `numel` < 2³² elements: with square = c·gram², the quintic's factor of X.
template <class T>
__device__ __forceinline__ void polynomial(const T* gram, T* square, u64 numel, u32 n, float a, float b) {
    gram += blockIdx.y * numel;
    square += blockIdx.y * numel;
    // The diagonal's places are the multiples of n + 1.
    auto sum = [&](u64 i, float g, float s) { return b * g + s + ((u32)i % (n + 1) == 0 ? a : 0.f); };
    u64 whole = (((u64)gram | (u64)square) & 15) == 0 ? numel / 4 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count()) {
        float4 g = load4(gram + 4 * i), s = load4(square + 4 * i);
        store4(square + 4 * i, make_float4(sum(4 * i, g.x, s.x), sum(4 * i + 1, g.y, s.y), sum(4 * i + 2, g.z, s.z),
                                           sum(4 * i + 3, g.w, s.w)));
    }
    for (u64 i = 4 * whole + thread_index(); i < numel; i += thread_count())
        square[i] = from_float<T>(sum(i, to_float(gram[i]), to_float(square[i])));
}
extern "C" __global__ __launch_bounds__(256) void optim_polynomial_f32(const float* gram, float* square, u64 numel, u32 n,
                                                                      float a, float b) {
    polynomial(gram, square, numel, n, a, b);
}
extern "C" __global__ __launch_bounds__(256) void optim_polynomial_bf16(const bf16* gram, bf16* square, u64 numel, u32 n,
                                                                       float a, float b) {
    polynomial(gram, square, numel, n, a, b);
}

// p = p·(1 - lr·wd) - lr·shape·x over all matrices of a group.
template <class T>
__device__ __forceinline__ void muon_update(const T* x, const State* state, float* params, u64 n, double lr,
                                            double weight_decay, double shape) {
    if (state->skip) return;
    lr *= state->factor;
    float keep = (float)(1. - lr * weight_decay), rate = (float)(lr * shape);
    auto update = [&](float p, float x) { return __fsub_rn(__fmul_rn(p, keep), __fmul_rn(rate, x)); };
    u64 whole = (((u64)x | (u64)params) & 15) == 0 ? n / 4 : 0;
    for (u64 i = thread_index(); i < whole; i += thread_count()) {
        float4 p = load4(params + 4 * i), v = load4(x + 4 * i);
        store4(params + 4 * i, make_float4(update(p.x, v.x), update(p.y, v.y), update(p.z, v.z), update(p.w, v.w)));
    }
    for (u64 i = 4 * whole + thread_index(); i < n; i += thread_count()) params[i] = update(params[i], to_float(x[i]));
}
extern "C" __global__ __launch_bounds__(256) void optim_muon_f32(const float* x, const State* state, float* params, u64 n,
                                                                double lr, double weight_decay, double shape) {
    muon_update(x, state, params, n, lr, weight_decay, shape);
}
extern "C" __global__ __launch_bounds__(256) void optim_muon_bf16(const bf16* x, const State* state, float* params, u64 n,
                                                                 double lr, double weight_decay, double shape) {
    muon_update(x, state, params, n, lr, weight_decay, shape);
}
