// Sums in two stages, in f64 and in a fixed order: blocks leave partial sums, whoever needs the total adds them up.
#pragma once
#include "formulas.h"
#include "memory.h"

// The sum over the block, for all its threads. THREADS is a power of two.
template <int THREADS> FOCAL_LOSS_DEVICE double block_sum(double value) {
    __shared__ double parts[THREADS];
    const int thread = threadIdx.x;
    parts[thread] = value;
    __syncthreads();
#pragma unroll
    for (int width = THREADS / 2; width > 0; width /= 2) {
        if (thread < width) parts[thread] += parts[thread + width];
        __syncthreads();
    }
    const double total = parts[0];
    __syncthreads();
    return total;
}

template <int THREADS> FOCAL_LOSS_DEVICE double sum_of_partials(u64 partials, unsigned count) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) sum += ((const double *)partials)[i];
    return block_sum<THREADS>(sum);
}

template <int THREADS> FOCAL_LOSS_DEVICE void leave_partial(u64 partials, double value) {
    const double total = block_sum<THREADS>(value);
    if (threadIdx.x == 0) ((double *)partials)[blockIdx.x] = total;
}

// What the mean divides by, `normalizer` apart. To be called by all threads of a block.
template <int THREADS> FOCAL_LOSS_DEVICE double divisor(const focal_loss_problem &p) {
    if (p.count == FOCAL_LOSS_COUNT_NOTHING) return p.divisor;
    const double sum = sum_of_partials<THREADS>(p.count_partials, p.count_blocks) * p.count_factor;
    // A maximum would lose a NaN.
    return p.count == FOCAL_LOSS_COUNT_POSITIVES && sum < 1.0 ? 1.0 : sum;
}

template <class S> FOCAL_LOSS_DEVICE double one_element(u64 address) {
    return address ? (double)load<S>(address, 0) : 1.0;
}

// What all losses and all gradients are multiplied by, apart from alpha, weight and an unreduced grad_loss.
template <class S, int THREADS> FOCAL_LOSS_DEVICE Both<double> factors(const focal_loss_problem &p) {
    const double by = divisor<THREADS>(p), normalizer = one_element<S>(p.normalizer);
    const double incoming = p.reduced ? one_element<S>(p.grad_loss.address) : 1.0;
    // Where nothing is counted there is nothing to divide.
    return {p.reduced ? 1.0 : 1.0 / normalizer, by == 0.0 ? 0.0 : incoming / by / normalizer};
}
