// Sigmoid focal loss over a whole problem.
//
// A thread takes V neighbours at a time (V = 1 where memory is strided). They go through the quick formula as they
// are. Those few that it is not made for, soft labels and logits beyond its limit, go through the exact formula one by
// one afterwards, and so does, in its turn, the positive that was taken for a negative where rows are long. An
// element's result depends on that element's inputs alone, whichever kernel computes it.
#pragma once
#include "sums.h"

enum Labels { ROWS, INDEX, DENSE };

// Coefficients of an element, if it is a positive and if it is a negative.
template <class R> struct Coefficients {
    Both<R> ones, zeros;
};

// What a thread knows about the launch.
template <class S> struct Sigmoid {
    typedef typename Storage<S>::Arithmetic R;

    const focal_loss_problem &p;
    Both<double> factor;
    Coefficients<R> uniform;
    bool each; // coefficients vary from element to element

    FOCAL_LOSS_DEVICE Sigmoid(const focal_loss_problem &p, Both<double> factor) : p(p), factor(factor) {
        each = p.class_alpha || p.weight.address || (p.grad_loss.address && !p.reduced);
        uniform = product(p.alpha < 0 ? 1.0 : p.alpha, p.alpha < 0 ? 1.0 : 1.0 - p.alpha, factor.loss, factor.grad);
    }

    // All factors meet in f64 and are rounded once: only their product has to fit the type.
    static FOCAL_LOSS_DEVICE Coefficients<R> product(double positive, double negative, double loss, double grad) {
        return {{(R)(positive * loss), (R)(positive * grad)}, {(R)(negative * loss), (R)(negative * grad)}};
    }

    FOCAL_LOSS_DEVICE Coefficients<R> coefficients(const RowOffsets &row, i64 k) const {
        double positive = p.alpha < 0 ? 1.0 : p.alpha, negative = p.alpha < 0 ? 1.0 : 1.0 - p.alpha;
        if (p.class_alpha) {
            positive = load<S>(p.class_alpha, k * p.class_alpha_stride);
            negative = 1.0 - positive;
        }
        double loss = factor.loss, grad = factor.grad;
        if (p.weight.address) {
            const double weight = load<S>(p.weight.address, row.weight + k * p.weight.class_stride);
            loss *= weight;
            grad *= weight;
        }
        if (p.grad_loss.address && !p.reduced)
            grad *= (double)load<S>(p.grad_loss.address, row.grad_loss + k * p.grad_loss.class_stride);
        return product(positive, negative, loss, grad);
    }
};

// `quick.at` of hard labels, in the arithmetic's type; f64 has no quicker form than the exact one.
template <class S, class R> struct Hard;

template <class S> struct Hard<S, float> {
    Quick<Storage<S>::SHORT> quick;
    explicit FOCAL_LOSS_DEVICE Hard(double gamma) : quick(gamma) {}
    template <bool GRAD> FOCAL_LOSS_DEVICE Both<float> at(float z) const { return quick.template at<GRAD>(z); }
    // NaN is within: it goes its way through either formula.
    FOCAL_LOSS_DEVICE bool beyond(float x) const { return magnitude(x) > quick.limit; }
    template <int V> FOCAL_LOSS_DEVICE bool any_beyond(const float (&x)[V]) const {
        float largest = magnitude(x[0]);
#pragma unroll
        for (int j = 1; j < V; ++j) largest = fmaxf(largest, magnitude(x[j]));
        return beyond(largest);
    }
};

template <class S> struct Hard<S, double> {
    Gamma<double> gamma;
    explicit FOCAL_LOSS_DEVICE Hard(double gamma) : gamma(gamma) {}
    template <bool GRAD> FOCAL_LOSS_DEVICE Both<double> at(double z) const {
        return hard_exact(Shared<double>(z), z, Both<double>{1, 1}, gamma);
    }
    // Beyond this a product of two factors may underflow half way.
    FOCAL_LOSS_DEVICE bool beyond(double x) const { return magnitude(x) * gamma.power_plus_one.high > 600.0; }
    template <int V> FOCAL_LOSS_DEVICE bool any_beyond(const double (&x)[V]) const {
        bool any = false;
#pragma unroll
        for (int j = 0; j < V; ++j) any |= beyond(x[j]);
        return any;
    }
};

template <class R, int V> FOCAL_LOSS_DEVICE R pick(const R (&x)[V], int j) {
    R value = x[0];
#pragma unroll
    for (int i = 1; i < V; ++i) value = j == i ? x[i] : value;
    return value;
}

template <class R, int V> FOCAL_LOSS_DEVICE void put(R (&x)[V], int j, R value) {
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = j == i ? value : x[i];
}

// Losses and gradients of V logits with labels t. With ROWS, t is not looked at: all are negatives but number `own`
// (if it is one of them); and losses that will be added up come without their coefficient, except those that went
// through `settled`, whose result takes their place.
// `coefficients(j)` are those of number j.
template <class S, Labels LABELS, bool LOSS, bool GRAD, int V, class R, class Coefficient, class Settled>
FOCAL_LOSS_DEVICE void evaluate(const focal_loss_problem &p, const Hard<S, R> &hard, const R (&x)[V], const R (&t)[V],
                                unsigned own, Coefficient coefficients, R (&loss)[V], R (&grad)[V], Settled settled) {
    bool others = LABELS == ROWS ? own < (unsigned)V : false;
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const bool positive = LABELS != ROWS && t[j] == (R)1;
        if (LABELS == DENSE) others |= !(positive || t[j] == (R)0);
        const Both<R> value = hard.template at<GRAD>(positive ? -x[j] : x[j]);
        if (LABELS == ROWS) {
            loss[j] = value.loss;
            if (GRAD) grad[j] = coefficients(j).zeros.grad * value.grad;
        } else {
            const Coefficients<R> c = coefficients(j);
            if (LOSS) loss[j] = (positive ? c.ones.loss : c.zeros.loss) * value.loss;
            if (GRAD) grad[j] = (positive ? -c.ones.grad : c.zeros.grad) * value.grad;
        }
    }
    if (LABELS == ROWS && LOSS && !p.reduced)
#pragma unroll
        for (int j = 0; j < V; ++j) loss[j] *= coefficients(j).zeros.loss;
    if (!(others || hard.any_beyond(x))) return;

    unsigned left = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) {
        bool other = hard.beyond(x[j]);
        if (LABELS == ROWS) other |= own == (unsigned)j;
        if (LABELS == DENSE) other |= !(t[j] == (R)1 || t[j] == (R)0);
        left |= (unsigned)other << j;
    }
    const Gamma<R> gamma(p.gamma);
#pragma unroll 1
    for (; left; left &= left - 1) {
        const int j = __ffs((int)left) - 1;
        const R logit = pick(x, j), label = LABELS == ROWS ? (R)(own == (unsigned)j) : pick(t, j);
        const Coefficients<R> c = coefficients(j);
        Both<R> value;
        if (LABELS == ROWS && !hard.beyond(logit)) {
            value = hard.template at<GRAD>(-logit);
            value = {c.ones.loss * value.loss, -c.ones.grad * value.grad};
        } else {
            value = exact(logit, label, c.ones, c.zeros, gamma);
        }
        if (LOSS) put(loss, j, settled(value.loss));
        if (GRAD) put(grad, j, value.grad);
    }
}

// The sum of V losses: a pair of levels in their own type, the rest in f64.
template <int V> FOCAL_LOSS_DEVICE double sum_of(const float (&x)[V]) {
    float part[V];
#pragma unroll
    for (int j = 0; j < V; ++j) part[j] = x[j];
#pragma unroll
    for (int width = V / 2; width > 0; width /= 2)
#pragma unroll
        for (int j = 0; j < width; ++j) part[j] += part[j + width];
    if (magnitude(part[0]) <= Real<float>::MAX) return part[0];
    double sum = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) sum += (double)x[j];
    return sum;
}

template <int V> FOCAL_LOSS_DEVICE double sum_of(const double (&x)[V]) {
    double sum = x[0];
#pragma unroll
    for (int j = 1; j < V; ++j) sum += x[j];
    return sum;
}

template <class R, int V> FOCAL_LOSS_DEVICE void fill(R (&x)[V], R value) {
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = value;
}

enum { SIGMOID_THREADS = 256 };

// Class indices, one pair of coefficients for everything, and rows made of whole groups of ROW_GROUP elements, fewer than
// 2^31 of them: what a detector's loss comes down to, so nothing is done per element that can be done per group. The
// next group is on its way while this one is computed.
template <class S, bool LOSS, bool GRAD> FOCAL_LOSS_DEVICE void sigmoid_rows(const focal_loss_problem &p) {
    typedef typename Storage<S>::Arithmetic R;
    constexpr int V = Storage<S>::LANES, GROUP = FOCAL_LOSS_ROW_GROUP(sizeof(S)), VECTORS = GROUP / V;
    const Sigmoid<S> launch(p, factors<S, SIGMOID_THREADS>(p));
    const Hard<S, R> hard(p.gamma);
    const double negative = (p.alpha < 0 ? 1.0 : 1.0 - p.alpha) * launch.factor.loss;

    const unsigned row_groups = (unsigned)p.classes / GROUP, groups = (unsigned)p.rows * row_groups;
    const unsigned step = gridDim.x * SIGMOID_THREADS;
    unsigned group = blockIdx.x * SIGMOID_THREADS + threadIdx.x;
    unsigned row = group / row_groups, in_row = group - row * row_groups;
    const unsigned row_step = step / row_groups, in_row_step = step - row_step * row_groups;
    const i64 label_stride = p.targets.row_strides[0] * p.index_bytes;
    const bool wide = p.index_bytes == 8;

    double total = 0;
    uint4 next[VECTORS];
    i64 next_index;
    const auto fetch = [&] {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) next[v] = load_16_bytes(p.logits.address, (i64)group * VECTORS + v);
        const u64 address = p.targets.address + row * label_stride;
        next_index = wide ? *(const i64 *)address : *(const int *)address;
    };
    if (group < groups) fetch();
    while (group < groups) {
        R x[GROUP], loss[GROUP], grad[GROUP];
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) unpack<S>(next[v], x + v * V);
        const i64 index = next_index;
        const unsigned here = group, k = in_row * GROUP;
        group += step;
        row += row_step;
        in_row += in_row_step;
        if (in_row >= row_groups) {
            in_row -= row_groups;
            ++row;
        }
        if (group < groups) fetch();

        unsigned own = GROUP; // counted from k
        bool counted = true;
        // Most rows have no object.
        if (__builtin_expect(index != p.background_index, 0)) {
            const i64 y = label(p, index);
            counted = y >= BACKGROUND;
            own = (unsigned)y - k;
            if (!counted) {
                const R value = y == IGNORED ? (R)0 : not_a_number<R>();
                fill(loss, value);
                fill(grad, value);
                total += (double)value;
            }
        }
        if (counted) {
            const auto coefficients = [&](int) { return launch.uniform; };
            const auto settled = [&](R value) {
                if (!p.reduced) return value;
                total += (double)value;
                return (R)0;
            };
            evaluate<S, ROWS, LOSS, GRAD>(p, hard, x, x, own, coefficients, loss, grad, settled);
            if (LOSS && p.reduced) total = fma(sum_of(loss), negative, total);
        }
        if (LOSS && !p.reduced)
#pragma unroll
            for (int v = 0; v < VECTORS; ++v) store_16_bytes<S>(p.loss.address, (i64)here * VECTORS + v, loss + v * V);
        if (GRAD)
#pragma unroll
            for (int v = 0; v < VECTORS; ++v)
                store_16_bytes<S>(p.grad_logits.address, (i64)here * VECTORS + v, grad + v * V);
    }
    if (LOSS && p.reduced) leave_partial<SIGMOID_THREADS>(p.partials, total);
}

// Where a thread's V elements lie: `first` counts in row-major order, of which `count` exist.
template <int V> struct Place {
    const focal_loss_problem &p;
    i64 row;
    unsigned k; // of the first
    int count;

    FOCAL_LOSS_DEVICE void locate(int j, i64 &row_of, unsigned &k_of) const {
        const unsigned classes = (unsigned)p.classes, at = k + j;
        const unsigned further = classes >= V ? at >= classes : at / classes;
        row_of = row + further;
        k_of = at - further * classes;
    }
};

// Row-major memory, any K, any factors.
template <class S, Labels LABELS, bool LOSS, bool GRAD>
FOCAL_LOSS_DEVICE void sigmoid_vectors(const focal_loss_problem &p) {
    typedef typename Storage<S>::Arithmetic R;
    constexpr int V = Storage<S>::LANES;
    const Sigmoid<S> launch(p, factors<S, SIGMOID_THREADS>(p));
    const Hard<S, R> hard(p.gamma);

    const i64 elements = p.rows * p.classes, vectors = (elements + V - 1) / V;
    const i64 start = (i64)blockIdx.x * SIGMOID_THREADS + threadIdx.x, step = (i64)gridDim.x * SIGMOID_THREADS;
    Cursor<unsigned> at(start * V, step * V, (unsigned)p.classes);
    double total = 0;
    for (i64 vector = start; vector < vectors; vector += step, at.advance()) {
        const i64 first = vector * V;
        const Place<V> place = {p, at.outer, at.inner, (int)(elements - first < V ? elements - first : V)};
        R x[V], t[V], loss[V], grad[V];
        load_vector<S>(p.logits.address, first, place.count, x);
        unsigned ignored = 0, invalid = 0;
        if (LABELS == DENSE) {
            load_vector<S>(p.targets.address, first, place.count, t);
        } else {
            i64 row = -1, own = BACKGROUND;
#pragma unroll
            for (int j = 0; j < V; ++j) {
                i64 row_of;
                unsigned k;
                place.locate(j, row_of, k);
                // What is behind the end belongs to no row.
                if (row_of != row && row_of < p.rows) {
                    row = row_of;
                    own = label(p, class_index(p, p.row_rank ? row * p.targets.row_strides[0] : 0));
                }
                t[j] = (R)(own == (i64)k);
                ignored |= (unsigned)(own == IGNORED) << j;
                invalid |= (unsigned)(own == INVALID) << j;
            }
        }
        const auto coefficients = [&](int j) {
            if (!launch.each || j >= place.count) return launch.uniform;
            i64 row;
            unsigned k;
            place.locate(j, row, k);
            return launch.coefficients(RowOffsets::flat(p, row), k);
        };
        evaluate<S, LABELS, LOSS, GRAD>(p, hard, x, t, 0, coefficients, loss, grad, [](R value) { return value; });
        if (ignored | invalid) {
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if ((ignored | invalid) >> j & 1) loss[j] = grad[j] = ignored >> j & 1 ? (R)0 : not_a_number<R>();
            }
        }
        if (LOSS && p.reduced) {
#pragma unroll
            for (int j = 0; j < V; ++j) loss[j] = j < place.count ? loss[j] : (R)0;
            total += sum_of(loss);
        }
        if (LOSS && !p.reduced) store_vector<S>(p.loss.address, first, place.count, loss);
        if (GRAD) store_vector<S>(p.grad_logits.address, first, place.count, grad);
    }
    if (LOSS && p.reduced) leave_partial<SIGMOID_THREADS>(p.partials, total);
}

// Any memory. Neighbouring threads take neighbouring classes, or neighbouring rows where these lie closer.
template <class S> FOCAL_LOSS_DEVICE void sigmoid_strided(const focal_loss_problem &p) {
    typedef typename Storage<S>::Arithmetic R;
    const Sigmoid<S> launch(p, factors<S, SIGMOID_THREADS>(p));
    const Hard<S, R> hard(p.gamma);

    const i64 elements = p.rows * p.classes;
    const i64 start = (i64)blockIdx.x * SIGMOID_THREADS + threadIdx.x, step = (i64)gridDim.x * SIGMOID_THREADS;
    Cursor<i64> at(start, step, p.rows_innermost ? p.rows : p.classes);
    double total = 0;
    for (i64 i = start; i < elements; i += step, at.advance()) {
        const i64 k = p.rows_innermost ? at.outer : at.inner;
        const RowOffsets row = RowOffsets::of(p, p.rows_innermost ? at.inner : at.outer);
        const R x[1] = {load<S>(p.logits.address, row.logits + k * p.logits.class_stride)};
        R t[1], loss[1], grad[1];
        i64 own = BACKGROUND;
        if (p.index_bytes) {
            own = label(p, class_index(p, row.targets));
            t[0] = (R)(own == k);
        } else {
            t[0] = load<S>(p.targets.address, row.targets + k * p.targets.class_stride);
        }
        const auto coefficients = [&](int) { return launch.each ? launch.coefficients(row, k) : launch.uniform; };
        evaluate<S, DENSE, true, true>(p, hard, x, t, 0, coefficients, loss, grad, [](R value) { return value; });
        if (own < BACKGROUND) loss[0] = grad[0] = own == IGNORED ? (R)0 : not_a_number<R>();
        if (p.loss.address && p.reduced) total += (double)loss[0];
        if (p.loss.address && !p.reduced) store<S>(p.loss.address, row.loss + k * p.loss.class_stride, loss[0]);
        if (p.grad_logits.address)
            store<S>(p.grad_logits.address, row.grad_logits + k * p.grad_logits.class_stride, grad[0]);
    }
    if (p.loss.address && p.reduced) leave_partial<SIGMOID_THREADS>(p.partials, total);
}
