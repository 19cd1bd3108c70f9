// Softmax focal loss over a whole problem.
//
// GROUP threads read a row together: a warp where classes are neighbours in memory, one thread where rows are. Either
// way each thread has a row of its own for the few numbers per row that are computed in f64: a warp reads up to 32
// rows, one after another, and each of its threads keeps one.
#pragma once
#include "sums.h"

enum { SOFTMAX_THREADS = 128, WARP = 32 };

// Of GROUP threads; with one, nothing is exchanged.
template <int GROUP, class T> FOCAL_LOSS_DEVICE T from_lane(T value, int lane) {
    return GROUP == 1 ? value : __shfl_sync(0xffffffffu, value, lane);
}
template <int GROUP, class T> FOCAL_LOSS_DEVICE T from_partner(T value, int distance) {
    return GROUP == 1 ? value : __shfl_xor_sync(0xffffffffu, value, distance);
}

template <int GROUP> FOCAL_LOSS_DEVICE double group_sum(double value) {
#pragma unroll
    for (int distance = GROUP / 2; distance > 0; distance /= 2) value += from_partner<GROUP>(value, distance);
    return value;
}

// In f64 the sum of exponentials keeps its error; in f32 there are bits to spare.
FOCAL_LOSS_DEVICE void add(Sum &sum, float value) { sum.high += (double)value; }
FOCAL_LOSS_DEVICE void add(Sum &sum, double value) { sum.add(value); }

// The largest logit of a row and the first class that has it.
template <class R> struct Peak {
    R max;
    i64 k;
};

// A row, as its own thread knows it and the others of its group are told.
template <class R> struct RowState {
    Peak<R> peak;
    Row row;
    i64 own;            // class, IGNORED or INVALID; dense: 0
    double weight;      // of the loss
    double upstream;    // of the gradient
    Both<double> last;  // what finished results are multiplied by: 1, or what put_last() took out of these
    double loss, slope; // the results; slope is of the whole row
    double own_grad;    // at `own`

    template <int GROUP> FOCAL_LOSS_DEVICE void peak_from(const RowState &other, int lane) {
        peak.max = from_lane<GROUP>(other.peak.max, lane);
        peak.k = from_lane<GROUP>(other.peak.k, lane);
    }
};

// Takes what is not finite (the reciprocal of a normalizer of 0) out of a coefficient: as a factor of each term it would
// leave infinities of both signs to be added up, where the sum of the terms times it has a sign.
FOCAL_LOSS_DEVICE double put_last(double &coefficient) {
    const double given = coefficient;
    if (magnitude(given) <= Real<double>::MAX) return 1.0;
    coefficient = 1.0;
    return given;
}

template <class S, int GROUP> FOCAL_LOSS_DEVICE void softmax(const focal_loss_problem &p) {
    typedef typename Storage<S>::Arithmetic R;
    const Both<double> factor = factors<S, SOFTMAX_THREADS>(p);
    const Pair<double> gamma = Gamma<double>(p.gamma).power;
    const int lane = GROUP == 1 ? 0 : (int)(threadIdx.x % WARP);
    const bool dense = p.index_bytes == 0;

    // The rows of a group: `batch` neighbours at a time.
    const i64 groups = (i64)gridDim.x * (SOFTMAX_THREADS / GROUP);
    const i64 group = ((i64)blockIdx.x * SOFTMAX_THREADS + threadIdx.x) / GROUP;
    const i64 fair = (p.rows + groups - 1) / groups;
    const int batch = (int)(fair < GROUP ? fair : GROUP);

    const auto shift = [](R x, R max) { return two_sum(x, -max); };
    const auto logit = [&](const RowOffsets &at, i64 k) {
        return load<S>(p.logits.address, at.logits + k * p.logits.class_stride);
    };
    const auto target = [&](const RowOffsets &at, i64 k) {
        return load<S>(p.targets.address, at.targets + k * p.targets.class_stride);
    };
    const auto alpha = [&](i64 k) -> double {
        if (p.class_alpha) return load<S>(p.class_alpha, k * p.class_alpha_stride);
        return p.alpha < 0 ? 1.0 : p.alpha;
    };

    double total = 0;
    for (i64 first = group * batch; first < p.rows; first += groups * batch) {
        const int count = (int)(p.rows - first < batch ? p.rows - first : batch);
        RowState<R> mine = {};

        // Everybody's largest logit and the sum of the other exponentials.
        for (int r = 0; r < count; ++r) {
            const RowOffsets at = RowOffsets::of(p, first + r);
            Peak<R> peak = {lane < p.classes ? logit(at, lane) : (R)0, lane < p.classes ? lane : p.classes};
            for (i64 k = lane + GROUP; k < p.classes; k += GROUP) {
                const R x = logit(at, k);
                // A NaN in front stays; one further on makes the sum NaN.
                if (x > peak.max) peak = {x, k};
            }
#pragma unroll
            for (int distance = GROUP / 2; distance > 0; distance /= 2) {
                const Peak<R> other = {from_partner<GROUP>(peak.max, distance), from_partner<GROUP>(peak.k, distance)};
                const bool exists = other.k < p.classes, better = other.max > peak.max || peak.k >= p.classes;
                if (exists && (better || (other.max == peak.max && other.k < peak.k))) peak = other;
            }
            // With NaN around, threads may disagree.
            peak = {from_lane<GROUP>(peak.max, 0), from_lane<GROUP>(peak.k, 0)};
            Sum rest = {0, 0};
            for (i64 k = lane; k < p.classes; k += GROUP) {
                const R x = logit(at, k);
                const Exp<R> power = exp_pair(shift(x, peak.max));
                // A NaN that leads the row has to show even where there is no other class.
                add(rest, k != peak.k ? power.unscaled(power.value) : x != x ? x : (R)0);
            }
#pragma unroll
            for (int distance = GROUP / 2; distance > 0; distance /= 2) {
                const Sum other = {from_partner<GROUP>(rest.high, distance), from_partner<GROUP>(rest.low, distance)};
                rest.add(other.high);
                rest.low += other.low;
            }
            if (r == lane) {
                mine.peak = peak;
                mine.row = Row(rest);
            }
        }

        // Each thread its own row.
        const bool has_row = lane < count;
        const RowOffsets at = RowOffsets::of(p, first + (has_row ? lane : 0));
        const auto term = [&](const RowState<R> &state, R x, i64 k, double c) {
            const Pair<double> d = two_sum((double)x, -(double)state.peak.max);
            return Row::term(state.row, d, k == state.peak.k, c, gamma);
        };
        mine.weight = factor.loss;
        if (p.weight.address) mine.weight *= (double)load<S>(p.weight.address, at.weight);
        // Unreduced, the weight has the normalizer in it already.
        mine.upstream = p.reduced ? factor.grad : 1.0;
        if (p.grad_loss.address && !p.reduced) mine.upstream = load<S>(p.grad_loss.address, at.grad_loss);
        mine.last.loss = put_last(mine.weight);
        mine.last.grad = mine.last.loss * put_last(mine.upstream);
        if (!dense) {
            mine.own = label(p, class_index(p, at.targets));
            if (mine.own >= 0) {
                const Term result = term(mine, logit(at, mine.own), mine.own, alpha(mine.own) * mine.weight);
                mine.loss = result.loss * mine.last.loss;
                mine.slope = result.slope * mine.upstream;
                mine.own_grad = -mine.slope * result.others * mine.last.grad;
            } else if (mine.own == INVALID) {
                mine.loss = mine.slope = mine.own_grad = not_a_number<double>();
            }
        }

        // What the others of the group need to know of row r.
        const auto told = [&](int r) {
            RowState<R> state = {};
            state.peak = {from_lane<GROUP>(mine.peak.max, r), from_lane<GROUP>(mine.peak.k, r)};
            state.row.sum = from_lane<GROUP>(mine.row.sum, r);
            state.own = from_lane<GROUP>(mine.own, r);
            state.slope = from_lane<GROUP>(mine.slope, r);
            state.own_grad = from_lane<GROUP>(mine.own_grad, r);
            state.last.grad = from_lane<GROUP>(mine.last.grad, r);
            if (dense) {
                state.row.rest = {from_lane<GROUP>(mine.row.rest.high, r), from_lane<GROUP>(mine.row.rest.low, r)};
                state.row.log_sum = {from_lane<GROUP>(mine.row.log_sum.high, r), from_lane<GROUP>(mine.row.log_sum.low, r)};
                state.weight = from_lane<GROUP>(mine.weight, r);
                state.upstream = from_lane<GROUP>(mine.upstream, r);
            }
            return state;
        };
        if (dense) {
            for (int r = 0; r < count; ++r) {
                const RowOffsets here = RowOffsets::of(p, first + r);
                const RowState<R> state = told(r);
                double loss = 0, slope = 0;
                for (i64 k = lane; k < p.classes; k += GROUP) {
                    const R t = target(here, k);
                    if (t == (R)0) continue;
                    const Term result = term(state, logit(here, k), k, (double)t * alpha(k) * state.weight);
                    loss += result.loss;
                    slope += result.slope * state.upstream;
                }
                loss = group_sum<GROUP>(loss);
                slope = group_sum<GROUP>(slope);
                if (r == lane) {
                    // Zero, or NaN where the row's sum is.
                    mine.loss = (loss + 0.0 / state.row.sum) * mine.last.loss;
                    mine.slope = slope;
                }
            }
        }
        if (has_row && p.loss.address) {
            if (p.reduced)
                total += mine.loss;
            else
                store<S>(p.loss.address, at.loss, (R)mine.loss);
        }
        if (!p.grad_logits.address) continue;

        for (int r = 0; r < count; ++r) {
            const RowOffsets here = RowOffsets::of(p, first + r);
            const RowState<R> state = told(r);
            const R scale = (R)(state.slope * state.last.grad / state.row.sum);
            for (i64 k = lane; k < p.classes; k += GROUP) {
                const R x = logit(here, k);
                Pair<R> d = shift(x, state.peak.max);
                if (k == state.peak.k) d = {0, 0};
                R grad = exp_pair(d).times(scale, (R)1);
                if (dense) {
                    const R t = target(here, k);
                    if (t != (R)0) {
                        const Term result = term(state, x, k, (double)t * alpha(k) * state.weight);
                        const double q = result.slope * state.upstream;
                        grad = (R)((result.own * (state.slope - q) - q * result.others) * state.last.grad);
                    }
                } else if (state.own < 0) {
                    grad = state.own == IGNORED ? (R)0 : not_a_number<R>();
                } else if (k == state.own) {
                    grad = (R)state.own_grad;
                }
                store<S>(p.grad_logits.address, here.grad_logits + k * p.grad_logits.class_stride, grad);
            }
        }
    }
    if (p.loss.address && p.reduced) leave_partial<SOFTMAX_THREADS>(p.partials, total);
}
