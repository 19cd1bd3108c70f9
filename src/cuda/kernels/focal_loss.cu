// Every kernel of the CUDA backend. `problem.h` says what they are called, when and how they are launched.
//
// Compiled to PTX by `make_ptx.py`, to be assembled by the driver for whatever GPU is there; and compiled as C++ for
// tests, by way of `tests/cuda/shim.h`.
#include "sigmoid.h"
#include "softmax.h"

enum { COUNT_THREADS = 256, FINISH_THREADS = 256 };

// What the mean divides by.
template <class S> FOCAL_LOSS_DEVICE void count(const focal_loss_problem &p) {
    const bool weights = p.count == FOCAL_LOSS_COUNT_WEIGHTS;
    const bool labels = p.index_bytes && !(weights && !p.has_ignore);
    // Class indices decide over whole rows; dense targets and weights have a value for each logit.
    const bool by_row = weights ? p.row_weights : p.index_bytes || p.count == FOCAL_LOSS_COUNT_ROWS;
    const i64 size = by_row ? 1 : p.classes, items = p.rows * size;
    const i64 start = (i64)blockIdx.x * COUNT_THREADS + threadIdx.x, step = (i64)gridDim.x * COUNT_THREADS;
    Cursor<i64> at(start, step, size);
    double total = 0;
    for (i64 i = start; i < items; i += step, at.advance()) {
        const RowOffsets row = RowOffsets::of(p, at.outer);
        const i64 own = labels ? label(p, class_index(p, row.targets)) : 0;
        if (own == IGNORED) continue;
        if (weights)
            total += (double)load<S>(p.weight.address, row.weight + at.inner * p.weight.class_stride);
        else if (p.count == FOCAL_LOSS_COUNT_ROWS)
            total += 1;
        else if (p.index_bytes)
            total += own >= 0 ? 1.0 : 0.0;
        else
            total += (double)load<S>(p.targets.address, row.targets + at.inner * p.targets.class_stride);
    }
    leave_partial<COUNT_THREADS>(p.count_partials, total);
}

// The one element of a reduced loss.
template <class S> FOCAL_LOSS_DEVICE void finish(const focal_loss_problem &p) {
    const double sum = sum_of_partials<FINISH_THREADS>(p.partials, p.blocks);
    const double by = divisor<FINISH_THREADS>(p);
    // Where nothing is counted there is nothing to divide.
    const double mean = by == 0.0 && sum == 0.0 ? 0.0 : sum / by;
    if (threadIdx.x == 0)
        store<S>(p.loss.address, 0, (typename Storage<S>::Arithmetic)(mean / one_element<S>(p.normalizer)));
}

// What follows the threads is the body's name, in as many arguments as its commas make.
#define KERNEL(NAME, THREADS, BLOCKS, ...)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        focal_loss_##NAME(const __grid_constant__ focal_loss_problem problem) {                                        \
        __VA_ARGS__(problem);                                                                                          \
    }

#define SIGMOID(LABELS, TYPE, BLOCKS, ...)                                                                             \
    KERNEL(sigmoid_##LABELS##_##TYPE##_loss, SIGMOID_THREADS, BLOCKS, __VA_ARGS__, true, false >)                      \
    KERNEL(sigmoid_##LABELS##_##TYPE##_grad, SIGMOID_THREADS, BLOCKS, __VA_ARGS__, false, true >)                      \
    KERNEL(sigmoid_##LABELS##_##TYPE##_both, SIGMOID_THREADS, BLOCKS, __VA_ARGS__, true, true >)

#define KERNELS(TYPE, S)                                                                                               \
    KERNEL(count_##TYPE, COUNT_THREADS, 4, count<S>)                                                                   \
    SIGMOID(rows, TYPE, sizeof(S) == 8 ? 2 : 4, sigmoid_rows<S)                                                        \
    SIGMOID(index, TYPE, sizeof(S) == 8 ? 1 : 2, sigmoid_vectors<S, INDEX)                                                                  \
    SIGMOID(dense, TYPE, sizeof(S) == 8 ? 1 : 2, sigmoid_vectors<S, DENSE)                                                                  \
    KERNEL(sigmoid_strided_##TYPE, SIGMOID_THREADS, sizeof(S) == 8 ? 1 : 2, sigmoid_strided<S>)                                             \
    KERNEL(softmax_warp_##TYPE, SOFTMAX_THREADS, 2, softmax<S, WARP>)                                                  \
    KERNEL(softmax_thread_##TYPE, SOFTMAX_THREADS, 2, softmax<S, 1>)                                                   \
    KERNEL(finish_##TYPE, FINISH_THREADS, 1, finish<S>)

KERNELS(f16, F16)
KERNELS(bf16, BF16)
KERNELS(f32, float)
KERNELS(f64, double)
