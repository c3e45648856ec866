// Losses over the vocabulary. P is the teacher's distribution softmax(y/T), Q the student's softmax(z/T).
#pragma once
#include "pack.cuh"

// In the order of the kinds that the host sends.
enum Kind : u32 {
    CROSS_ENTROPY,
    FOCAL,
    FORWARD_KL,
    REVERSE_KL,
    JSD,
    SKEW_FORWARD_KL,
    SKEW_REVERSE_KL,
    TVD,
    TOP_K_FORWARD_KL,
    ULD,
};

// One term of the loss. `parameter` is the smoothing ε, the focal γ, JSD's β or the skew α.
struct Term {
    u32 kind;
    float weight, temperature, parameter;
};

#define MAX_TERMS 7
struct Terms {
    Term term[MAX_TERMS];
    u32 count;
};

// What a token adds to a loss between distributions, and q·∂loss/∂q.
struct Share {
    float loss, q_slope;
};

// log q - log(w·q + (1-w)·p) given d = log p - log q, that is -log(w + (1-w)·e^d).
template <class M> __device__ __forceinline__ float over_mix(float d, float w, float rest) {
    float near = d > 0.f ? rest : w, far = d > 0.f ? w : rest;
    return -(fmaxf(d, 0.f) + M::log(near + far * M::exp(-fabsf(d))));
}

// The losses between distributions, without their factor T²: a case each.
template <u32 KIND, class M> __device__ __forceinline__ Share share(float lp, float lq, float a) {
    float p = M::exp(lp), q = M::exp(lq);
    if constexpr (KIND == FORWARD_KL) {
        return {p * (lp - lq), -p};
    } else if constexpr (KIND == REVERSE_KL) {
        float slope = lq - lp;
        return {q * slope, q * slope};
    } else if constexpr (KIND == JSD) {
        // The slope comes to (1-β)·(log q - log m); the other terms sum to a constant.
        float slope = (1.f - a) * over_mix<M>(lp - lq, 1.f - a, a);
        return {a * p * over_mix<M>(lq - lp, a, 1.f - a) + q * slope, q * slope};
    } else if constexpr (KIND == SKEW_FORWARD_KL) {
        float m = over_mix<M>(lq - lp, a, 1.f - a);
        return {p * m, -(1.f - a) * q * M::exp(m)};
    } else if constexpr (KIND == SKEW_REVERSE_KL) {
        float m = over_mix<M>(lp - lq, a, 1.f - a);
        return {q * m, q * (m - a * M::exp(m))};
    } else {
        static_assert(KIND == TVD, "a loss between distributions");
        float d = q - p;
        return {0.5f * fabsf(d), d > 0.f ? 0.5f * q : d < 0.f ? -0.5f * q : 0.f};
    }
}

__device__ __forceinline__ bool is_divergence(u32 kind) { return FORWARD_KL <= kind && kind <= TVD; }

// Calls f with the kind as a compile-time constant, if it is a loss between distributions.
template <u32 KIND> struct Constant {
    static const u32 value = KIND;
};
template <class F> __device__ __forceinline__ void with_divergence(u32 kind, F f) {
    switch (kind) {
    case FORWARD_KL: return f(Constant<FORWARD_KL>());
    case REVERSE_KL: return f(Constant<REVERSE_KL>());
    case JSD: return f(Constant<JSD>());
    case SKEW_FORWARD_KL: return f(Constant<SKEW_FORWARD_KL>());
    case SKEW_REVERSE_KL: return f(Constant<SKEW_REVERSE_KL>());
    case TVD: return f(Constant<TVD>());
    default: return;
    }
}
