// Losses of which some compare with a teacher's logits.
#include "head_loss.cuh"

// Left alone, ptxas spills on older cards to fit two blocks; Hopper's has two without.
#if __CUDA_ARCH__ == 900
#define BOUNDS __launch_bounds__(THREADS)
#else
#define BOUNDS __launch_bounds__(THREADS, 1)
#endif

#define ENTRIES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void BOUNDS head_loss_teacher_##SUFFIX(                                                   \
        const i32* targets, const T* teacher, const i8* signs, const float* sign_losses, T* logits, float* losses,     \
        u32 vocab, u32 stride, u32 first, u32 all, u32 teacher_stride, float cap, float teacher_cap, u32 gradient,     \
        u32 cached, float denominator, const __grid_constant__ Terms terms) {                                          \
        Targets<T> of = {targets, teacher, signs, sign_losses, 0, 0, teacher_stride, 0, teacher_cap};                  \
        head_loss<T, true>(                                                                                            \
            logits, of, losses, vocab, stride, first, all, cap, gradient, cached, denominator, terms);                 \
    }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
