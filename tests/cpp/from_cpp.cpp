// The C ABI as a C++ program uses it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "focal_loss.h"

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            std::fprintf(stderr, "%s:%d: failed: %s (last message: \"%s\")\n", __FILE__, __LINE__,        \
                         #condition, focal_loss_last_error_message());                                    \
            std::exit(1);                                                                                 \
        }                                                                                                 \
    } while (0)

// C linkage: these declarations clash with the header's unless its own are extern "C" with these types.
extern "C" {
const char *focal_loss_last_error_message(void);
const char *focal_loss_version_string(void);
const char *focal_loss_cpu_isa(void);
void focal_loss_options_init(focal_loss_options *);
std::int32_t focal_loss_forward(const focal_loss_options *, const focal_loss_inputs *, focal_loss_tensor *);
std::int32_t focal_loss_backward(const focal_loss_options *, const focal_loss_inputs *, const focal_loss_tensor *,
                                 focal_loss_tensor *);
std::int32_t focal_loss_forward_backward(const focal_loss_options *, const focal_loss_inputs *,
                                         const focal_loss_tensor *, focal_loss_tensor *, focal_loss_tensor *);
}

static_assert(std::is_standard_layout<focal_loss_tensor>::value && std::is_trivial<focal_loss_tensor>::value, "");
static_assert(std::is_standard_layout<focal_loss_options>::value && std::is_trivial<focal_loss_options>::value, "");
static_assert(std::is_standard_layout<focal_loss_inputs>::value && std::is_trivial<focal_loss_inputs>::value, "");
static_assert(sizeof(focal_loss_status) == 4 && sizeof(focal_loss_reduction) == 4, "");

namespace {

template <typename T>
focal_loss_tensor view(std::vector<T> &data, const std::vector<std::int64_t> &shape) {
    const std::uint8_t code = std::is_integral<T>::value ? FOCAL_LOSS_DTYPE_CODE_INT : FOCAL_LOSS_DTYPE_CODE_FLOAT;
    return focal_loss_tensor{data.data(),
                             focal_loss_device{FOCAL_LOSS_DEVICE_TYPE_CPU, 0},
                             static_cast<std::int32_t>(shape.size()),
                             focal_loss_dtype{code, static_cast<std::uint8_t>(8 * sizeof(T)), 1},
                             shape.data(),
                             nullptr,
                             0};
}

template <typename T, typename Index>
void one_anchor_three_classes(double tolerance) {
    std::vector<T> x{T(2), T(-1), T(0.5)}, loss(3), grad(3), sum(1);
    std::vector<Index> y{0};
    const std::vector<std::int64_t> row{1, 3}, one{1}, scalar;
    focal_loss_tensor logits = view(x, row), targets = view(y, one), l = view(loss, row), g = view(grad, row);
    focal_loss_inputs inputs{sizeof inputs, &logits, &targets, nullptr, nullptr, nullptr};
    focal_loss_options options;
    focal_loss_options_init(&options);
    options.reduction = FOCAL_LOSS_REDUCTION_NONE;
    CHECK(focal_loss_forward_backward(&options, &inputs, nullptr, &l, &g) == FOCAL_LOSS_STATUS_OK);
    const double losses[] = {0.00045089070881009384, 0.016993543131350499, 0.28305870064455733};
    const double grads[] = {-0.0012177350488481916, 0.039435847483170466, 0.39461386640593728};
    for (int k = 0; k < 3; k++) {
        CHECK(std::fabs(double(loss[k]) - losses[k]) <= tolerance * std::fabs(losses[k]));
        CHECK(std::fabs(double(grad[k]) - grads[k]) <= 2 * tolerance * std::fabs(grads[k]));
    }
    focal_loss_tensor s = view(sum, scalar);
    options.reduction = FOCAL_LOSS_REDUCTION_SUM;
    CHECK(focal_loss_forward(&options, &inputs, &s) == FOCAL_LOSS_STATUS_OK);
    CHECK(std::fabs(double(sum[0]) - 0.30050313448471792) <= tolerance);
    options.activation = FOCAL_LOSS_ACTIVATION_SOFTMAX;
    options.alpha = -1;
    CHECK(focal_loss_forward(&options, &inputs, &s) == FOCAL_LOSS_STATUS_OK);
    CHECK(std::fabs(double(sum[0]) - 0.011092750091379811) <= tolerance * 0.012);
}

// Many threads of the caller's, each with a problem of its own size: the same bits as alone.
void from_many_threads() {
    auto run = [](std::int64_t rows, std::int32_t num_threads) {
        std::vector<float> x(static_cast<std::size_t>(rows * 80)), grad(x.size()), sum(1);
        std::vector<std::int32_t> y(static_cast<std::size_t>(rows));
        for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(std::sin(double(i)) * 6);
        for (std::size_t i = 0; i < y.size(); i++) y[i] = static_cast<std::int32_t>(i % 81);
        const std::vector<std::int64_t> shape{rows, 80}, row_shape{rows}, scalar;
        focal_loss_tensor logits = view(x, shape), targets = view(y, row_shape);
        focal_loss_tensor l = view(sum, scalar), g = view(grad, shape);
        focal_loss_inputs inputs{sizeof inputs, &logits, &targets, nullptr, nullptr, nullptr};
        focal_loss_options options;
        focal_loss_options_init(&options);
        options.num_threads = num_threads;
        CHECK(focal_loss_forward_backward(&options, &inputs, nullptr, &l, &g) == FOCAL_LOSS_STATUS_OK);
        grad.push_back(sum[0]);
        return grad;
    };
    std::vector<std::vector<float>> alone, together(6);
    for (int i = 0; i < 6; i++) alone.push_back(run(500 * (i + 1), 1));
    std::vector<std::thread> threads;
    for (int i = 0; i < 6; i++) {
        threads.emplace_back([&together, &run, i] { together[std::size_t(i)] = run(500 * (i + 1), i % 4); });
    }
    for (auto &thread : threads) thread.join();
    CHECK(alone == together);
}

void errors_are_messages_not_exceptions() {
    focal_loss_options options;
    focal_loss_options_init(&options);
    CHECK(focal_loss_forward(&options, nullptr, nullptr) == FOCAL_LOSS_STATUS_INVALID_ARGUMENT);
    CHECK(std::string(focal_loss_last_error_message()).find("inputs") != std::string::npos);
    std::thread([] { CHECK(std::string(focal_loss_last_error_message()).empty()); }).join();
    CHECK(!std::string(focal_loss_last_error_message()).empty());
}

} // namespace

int main() {
    CHECK(std::string(FOCAL_LOSS_VERSION) == focal_loss_version_string());
    one_anchor_three_classes<float, std::int32_t>(5e-7);
    one_anchor_three_classes<float, std::int64_t>(5e-7);
    one_anchor_three_classes<double, std::int32_t>(1e-15);
    one_anchor_three_classes<double, std::int64_t>(1e-15);
    from_many_threads();
    errors_are_messages_not_exceptions();
    return 0;
}
