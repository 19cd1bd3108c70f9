// Random small problems through every kernel, in memory that is exactly as large as they say, for the sanitizers to
// watch. Kernels that can do the same problem have to agree: bit for bit where nothing is added up (an element's
// result depends on that element's inputs alone), else to within the rounding of f64 sums.
//
// Takes the number of problems for each type, if not 10.
#include "shim.h"

#include "../../src/cuda/kernels/focal_loss.cu"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

using Problem = focal_loss_problem;
using Kernel = void(Problem);

struct Kernels {
    Kernel *count, *rows[3], *index[3], *dense[3], *strided, *warp, *thread, *finish;
};

#define OUTPUTS(LABELS, TYPE)                                                                                         \
    {focal_loss_sigmoid_##LABELS##_##TYPE##_loss, focal_loss_sigmoid_##LABELS##_##TYPE##_grad,                        \
     focal_loss_sigmoid_##LABELS##_##TYPE##_both}
#define KERNELS_OF(TYPE)                                                                                              \
    Kernels {                                                                                                         \
        focal_loss_count_##TYPE, OUTPUTS(rows, TYPE), OUTPUTS(index, TYPE), OUTPUTS(dense, TYPE),                     \
            focal_loss_sigmoid_strided_##TYPE, focal_loss_softmax_warp_##TYPE, focal_loss_softmax_thread_##TYPE,      \
            focal_loss_finish_##TYPE                                                                                  \
    }

static std::mt19937 generator(1);
static int below(int n) { return (int)(generator() % n); }
static bool chance(double p) { return std::uniform_real_distribution<>()(generator) < p; }

[[noreturn]] static void fail(const char *what, const std::string &problem) {
    fprintf(stderr, "%s: %s\n", what, problem.c_str());
    exit(1);
}

// Memory of exactly the bytes that shape and strides reach, aligned to 16 where it is dense.
template <class T> struct Tensor {
    std::unique_ptr<char, decltype(&free)> bytes{nullptr, free};
    focal_loss_operand operand = {};
    std::vector<long long> offsets; // of all elements, classes innermost
    size_t size = 0;

    T &at(size_t i) { return ((T *)operand.address)[offsets[i]]; }

    // `has_row`, `has_class`: whether it has these axes. Dense means row-major with the classes last.
    Tensor(const Problem &p, bool has_row, bool has_class, bool dense, bool misaligned = false) {
        long long step = 1, low = 0, high = 0;
        const auto place = [&](long long &stride, long long count) {
            stride = step * (dense || chance(0.7) ? 1 : -1);
            (stride < 0 ? low : high) += stride * (count - 1);
            step *= dense ? count : count + below(2);
        };
        if (has_class) place(operand.class_stride, p.classes);
        for (int axis = p.row_rank - 1; axis >= 0 && has_row; --axis) place(operand.row_strides[axis], p.row_shape[axis]);
        size = (size_t)(high - low + 1) * sizeof(T);
        const size_t start = misaligned ? sizeof(T) : 0;
        void *memory = nullptr;
        if (posix_memalign(&memory, 16, start + size)) abort();
        memset(memory, 0x7f, start + size);
        bytes.reset((char *)memory);
        operand.address = (u64)(bytes.get() + start) - low * sizeof(T);
        for (long long row = 0; row < p.rows; ++row) {
            long long offset = 0;
            for (long long axis = p.row_rank - 1, rest = row; axis >= 0; rest /= p.row_shape[axis--])
                offset += rest % p.row_shape[axis] * operand.row_strides[axis];
            for (long long k = 0; k < p.classes; ++k) offsets.push_back(offset + k * operand.class_stride);
        }
    }

    // The values of all elements, as bits.
    std::vector<u64> bits() {
        std::vector<u64> result;
        for (size_t i = 0; i < offsets.size(); ++i) {
            u64 value = 0;
            memcpy(&value, &at(i), sizeof(T));
            result.push_back(value);
        }
        return result;
    }
};

template <class S> void run(const char *type, const Kernels &kernels, const int problems) {
    typedef typename Storage<S>::Arithmetic R;
    const auto value = [](double mean, double spread) {
        return Storage<S>::store((R)std::normal_distribution<>(mean, spread)(generator));
    };
    for (int n = 0; n < problems; ++n) {
        Problem p = {};
        const bool softmax = n % 3 == 2, dense_memory = n % 2 == 0;
        p.index_bytes = (n / 2) % 4 == 3 ? 0 : below(2) ? 4 : 8;
        p.classes = (const int[]){1, 3, 8, 16, 37, 80}[below(6)];
        p.row_rank = dense_memory ? 1 : below(4);
        p.rows = 1;
        for (int axis = 0; axis < p.row_rank; ++axis) p.rows *= p.row_shape[axis] = 1 + below(dense_memory ? 60 : 5);
        p.alpha = chance(0.3) ? -1 : 0.25;
        p.gamma = (const double[]){0, 0.5, 2, 5, 30}[below(5)];
        p.has_background = !softmax;
        p.background_index = chance(0.8) ? p.classes : 0;
        p.has_ignore = p.index_bytes && chance(0.5);
        p.ignore_index = -100;
        p.reduced = chance(0.6);
        p.row_weights = softmax;
        p.rows_innermost = chance(0.5);
        p.divisor = 1;
        p.count_factor = 1;
        const bool has_weight = chance(0.3), has_class_alpha = chance(0.3), has_grad_loss = chance(0.4);
        if (p.reduced && chance(0.7)) p.count = 1 + below(has_weight ? 3 : 2);

        Tensor<S> x(p, true, true, dense_memory), t(p, true, true, dense_memory), gradient(p, true, true, dense_memory);
        Tensor<S> weight(p, chance(0.7), !softmax && chance(0.7), false);
        Tensor<S> loss(p, !p.reduced, !p.reduced && !softmax, dense_memory);
        Tensor<S> grad_loss(p, !p.reduced, !p.reduced && !softmax, false, true);
        Tensor<int> index4(p, true, false, dense_memory);
        Tensor<i64> index8(p, true, false, dense_memory);
        for (size_t i = 0; i < x.offsets.size(); ++i) {
            x.at(i) = chance(0.02) ? Storage<S>::store((R)(chance(0.5) ? INFINITY : -3e4)) : value(-1, 4);
            t.at(i) = chance(0.5) ? Storage<S>::store((R)below(2)) : value(0.5, 0.2);
            weight.at(i) = value(1, 0.2);
            grad_loss.at(i) = value(0, 1);
            const i64 y = chance(0.1)    ? p.ignore_index
                          : chance(0.05) ? (const i64[]){-1, 1 << 30, 77777}[below(3)]
                                         : below((int)p.classes + !softmax);
            index4.at(i) = (int)y;
            index8.at(i) = y;
        }
        std::vector<S> class_alpha;
        for (int k = 0; k < p.classes; ++k) class_alpha.push_back(value(0.5, 0.1));
        const S normalizer = value(2, 0.1);
        p.logits = x.operand;
        p.targets = p.index_bytes == 4 ? index4.operand : p.index_bytes == 8 ? index8.operand : t.operand;
        if (has_weight) p.weight = weight.operand;
        if (has_grad_loss) p.grad_loss = grad_loss.operand;
        if (has_class_alpha) {
            // Backwards.
            p.class_alpha = (u64)(class_alpha.data() + p.classes - 1);
            p.class_alpha_stride = -1;
        }
        if (chance(0.3)) p.normalizer = (u64)&normalizer;

        std::string name = std::string(type) + " number " + std::to_string(n);
        struct Results {
            std::vector<u64> gradient, loss;
        };
        const auto launch = [&](Kernel *kernel, unsigned threads, int outputs, unsigned blocks) {
            Problem q = p;
            if (outputs != 1) q.loss = loss.operand;
            if (outputs != 0) q.grad_logits = gradient.operand;
            q.blocks = blocks;
            q.count_blocks = q.count ? 2 : 0;
            const auto partials = std::make_unique<double[]>(q.blocks), counts = std::make_unique<double[]>(q.count_blocks);
            q.partials = (u64)partials.get();
            q.count_partials = (u64)counts.get();
            if (q.count) shim::launch(q.count_blocks, 256, [&] { kernels.count(q); });
            shim::launch(blocks, threads, [&] { kernel(q); });
            if (q.loss.address && q.reduced) shim::launch(1, 256, [&] { kernels.finish(q); });
            return Results{outputs != 0 ? gradient.bits() : std::vector<u64>(),
                           outputs != 1 ? loss.bits() : std::vector<u64>()};
        };
        const auto same = [&](const Results &a, const Results &b, const char *what) {
            if (a.gradient != b.gradient && !a.gradient.empty() && !b.gradient.empty()) fail(what, name);
            if (!p.reduced && a.loss != b.loss && !a.loss.empty() && !b.loss.empty()) fail(what, name);
            if (p.reduced && !a.loss.empty() && !b.loss.empty()) {
                S one, other;
                memcpy(&one, &a.loss[0], sizeof(S));
                memcpy(&other, &b.loss[0], sizeof(S));
                const double u = Storage<S>::load(one), v = Storage<S>::load(other);
                if (!(fabs(u - v) <= 1e-2 * fabs(u) || u == v || (u != u && v != v))) fail(what, name);
            }
        };
        const int outputs = below(3);
        if (softmax) {
            const Results warp = launch(kernels.warp, 128, 2, 1 + below(2));
            const Results thread = launch(kernels.thread, 128, outputs, 1);
            if (sizeof(S) == 2) same(warp, thread, "a warp or a thread for each row");
            continue;
        }
        const Results strided = launch(kernels.strided, 256, 2, 1 + below(3));
        if (!dense_memory) continue;
        const auto &kind = p.index_bytes ? kernels.index : kernels.dense;
        same(strided, launch(kind[outputs], 256, outputs, 1 + below(2)), "strided and dense memory");
        same(strided, launch(kind[2], 256, 2, 1), "strided and dense memory, both outputs");
        if (p.index_bytes && p.classes % FOCAL_LOSS_ROW_GROUP(sizeof(S)) == 0 && !has_weight && !has_class_alpha &&
            (p.reduced || !has_grad_loss))
            same(strided, launch(kernels.rows[outputs], 256, outputs, 1 + below(2)), "strided memory and whole rows");
    }
    printf("%s: %d problems\n", type, problems);
}

int main(int count, char **arguments) {
    const int problems = count > 1 ? atoi(arguments[1]) : 10;
    shim::noise = 1;
    run<float>("f32", KERNELS_OF(f32), problems);
    run<double>("f64", KERNELS_OF(f64), problems);
    run<F16>("f16", KERNELS_OF(f16), problems);
    run<BF16>("bf16", KERNELS_OF(bf16), problems);
}
