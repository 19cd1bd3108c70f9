// include/focal_loss.hpp against the C functions: the same bits, and an exception for every status.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "focal_loss.hpp"

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            std::fprintf(stderr, "%s:%d: failed: %s (last message: \"%s\")\n", __FILE__, __LINE__,        \
                         #condition, focal_loss_last_error_message());                                    \
            std::exit(1);                                                                                 \
        }                                                                                                 \
    } while (0)

namespace {

namespace fl = focal_loss;

// A 16-bit float of the user's own.
struct my_bfloat {
    std::uint16_t bits;
};

} // namespace

template <>
struct focal_loss::dtype_of<my_bfloat> : focal_loss::dtype_constant<FOCAL_LOSS_DTYPE_CODE_BFLOAT, 16> {};

namespace {

// What can be made of what, found out by the compiler.
static_assert(std::is_base_of_v<std::runtime_error, fl::error>);
static_assert(std::is_convertible_v<std::vector<float> &, fl::tensor>);
static_assert(std::is_convertible_v<const std::vector<float> &, fl::const_tensor>);
static_assert(!std::is_constructible_v<fl::tensor, const std::vector<float> &>);
static_assert(!std::is_constructible_v<fl::tensor, fl::const_tensor>);
static_assert(std::is_convertible_v<fl::tensor, fl::const_tensor>);
static_assert(std::is_convertible_v<fl::span<double>, fl::tensor>);
static_assert(!std::is_constructible_v<fl::tensor, fl::span<const double>>);
static_assert(!std::is_constructible_v<fl::const_tensor, std::vector<unsigned>>);
static_assert(!std::is_constructible_v<fl::const_tensor, std::vector<std::int16_t>>);
static_assert(!std::is_constructible_v<fl::const_tensor, std::string>);
static_assert(std::is_constructible_v<fl::const_tensor, std::vector<long long>>);
static_assert(std::is_trivially_copyable_v<fl::options>);

template <typename T, typename = void>
struct has_scalar_of : std::false_type {};
template <typename T>
struct has_scalar_of<T, std::void_t<decltype(fl::const_tensor::scalar(std::declval<T>()))>> : std::true_type {};
static_assert(has_scalar_of<const float &>::value && has_scalar_of<double &>::value && !has_scalar_of<float>::value);

template <typename T>
bool same_bits(const std::vector<T> &a, const std::vector<T> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <typename T>
focal_loss_tensor c_view(const std::vector<T> &data, const std::vector<std::int64_t> &shape) {
    return focal_loss_tensor{const_cast<T *>(data.data()),       {FOCAL_LOSS_DEVICE_TYPE_CPU, 0},
                             static_cast<std::int32_t>(shape.size()), fl::dtype_of<T>::value,
                             shape.data(),                        nullptr,
                             0};
}

// Numbers that repeat in no pattern of a shape; the same everywhere.
template <typename T>
std::vector<T> numbers(std::size_t count, double scale) {
    std::vector<T> values(count);
    std::uint32_t state = 12345;
    for (auto &value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<T>((double(state) / 4294967296.0 - 0.5) * scale);
    }
    return values;
}

// Every activation, reduction and normalisation, with every optional input: by C and by C++.
template <typename T>
void same_bits_as_c() {
    const std::int64_t rows = 37, classes = 19;
    const std::vector<T> x = numbers<T>(std::size_t(rows * classes), 40), alpha(std::size_t(classes), T(0.3));
    const std::vector<T> normalizer{T(3)};
    std::vector<std::int64_t> y(static_cast<std::size_t>(rows));
    for (std::size_t i = 0; i < y.size(); i++) y[i] = i % 7 == 0 ? -100 : static_cast<std::int64_t>(i) % classes;
    const std::vector<std::int64_t> shape{rows, classes}, row_shape{rows}, class_shape{classes}, scalar;
    for (int activation = 0; activation < 2; activation++) {
        for (int reduction = 0; reduction < 3; reduction++) {
            for (int normalization = 0; normalization < 4; normalization++) {
                for (int optional = 0; optional < 16; optional++) {
                    const auto loss_shape = reduction != 0 ? scalar : activation == 0 ? shape : row_shape;
                    const std::size_t losses = reduction != 0 ? 1 : activation == 0 ? x.size() : y.size();
                    const auto upstream = numbers<T>(losses, 2), weight = numbers<T>(activation == 0 ? x.size() : y.size(), 1);

                    focal_loss_options o;
                    focal_loss_options_init(&o);
                    o.activation = activation, o.alpha = 0.4, o.gamma = 1.5;
                    o.reduction = reduction, o.normalization = normalization;
                    o.has_ignore_index = 1, o.ignore_index = -100, o.num_threads = 1;
                    const auto how = fl::options()
                                         .activation(static_cast<fl::activation>(activation))
                                         .alpha(0.4)
                                         .gamma(1.5)
                                         .reduction(static_cast<fl::reduction>(reduction))
                                         .normalization(static_cast<fl::normalization>(normalization))
                                         .ignore_index(-100)
                                         .num_threads(1);
                    CHECK(std::memcmp(&how.c().alpha, &o.alpha, sizeof o.alpha) == 0);

                    auto xv = c_view(x, shape), yv = c_view(y, row_shape), av = c_view(alpha, class_shape);
                    auto wv = c_view(weight, activation == 0 ? shape : row_shape), nv = c_view(normalizer, scalar);
                    auto uv = c_view(upstream, loss_shape);
                    focal_loss_inputs in{sizeof in, &xv, &yv, optional & 1 ? &av : nullptr, optional & 2 ? &wv : nullptr,
                                         optional & 4 ? &nv : nullptr};
                    fl::inputs inputs{{x, shape}, y};
                    if (optional & 1) inputs.class_alpha = alpha;
                    if (optional & 2) inputs.weight = fl::const_tensor(weight, activation == 0 ? shape : row_shape);
                    if (optional & 4) inputs.normalizer = fl::const_tensor::scalar(normalizer[0]);
                    std::optional<fl::const_tensor> grad_loss;
                    if (optional & 8) grad_loss = fl::const_tensor(upstream, loss_shape);

                    std::vector<T> l1(losses), l2(losses), l3(losses), g1(x.size()), g2(x.size()), g3(x.size());
                    auto lv = c_view(l1, loss_shape), gv = c_view(g1, shape);
                    CHECK(focal_loss_forward_backward(&o, &in, optional & 8 ? &uv : nullptr, &lv, &gv) == 0);
                    fl::forward_backward(how, inputs, {l2, loss_shape}, {g2, shape}, grad_loss);
                    CHECK(same_bits(l1, l2) && same_bits(g1, g2));
                    fl::forward(how, inputs, {l3, loss_shape});
                    fl::backward(how, inputs, {g3, shape}, grad_loss);
                    CHECK(same_bits(l1, l3) && same_bits(g1, g3));
                }
            }
        }
    }
}

void options_are_the_librarys() {
    focal_loss_options c;
    std::memset(&c, 0, sizeof c);
    focal_loss_options_init(&c);
    auto equal = [](const focal_loss_options &a, const focal_loss_options &b) {
        return a.struct_size == b.struct_size && a.activation == b.activation && !(a.alpha < b.alpha) &&
               !(a.alpha > b.alpha) && !(a.gamma < b.gamma) && !(a.gamma > b.gamma) && a.reduction == b.reduction &&
               a.normalization == b.normalization && a.axis == b.axis && a.has_ignore_index == b.has_ignore_index &&
               a.ignore_index == b.ignore_index && a.has_background_index == b.has_background_index &&
               a.background_index == b.background_index && a.num_threads == b.num_threads && a.stream == b.stream;
    };
    CHECK(equal(fl::options().c(), c));
    int stream = 0;
    const auto all = fl::options()
                         .activation(fl::activation::softmax)
                         .no_alpha()
                         .gamma(0.5)
                         .reduction(fl::reduction::none)
                         .normalization(fl::normalization::weights)
                         .axis(1)
                         .ignore_index(-7)
                         .background_index(9)
                         .num_threads(3)
                         .stream(&stream);
    c = focal_loss_options{c.struct_size, 1, -1, 0.5, 0, 3, 1, 1, -7, 1, 9, 3, &stream};
    CHECK(equal(all.c(), c));
    auto back = all;
    back.ignore_index(std::nullopt).background_index(std::nullopt);
    CHECK(back.c().has_ignore_index == 0 && back.c().has_background_index == 0);
}

// Containers of every kind, strides, in place.
void views() {
    const auto how = fl::options().reduction(fl::reduction::none);
    std::vector<float> x = numbers<float>(12, 20), loss(12), grad(12), other(12);
    const std::array<std::int32_t, 4> y{0, 2, 3, 1};
    fl::forward_backward(how, {{x, {4, 3}}, y}, {loss, {4, 3}}, {grad, {4, 3}});

    // Transposed in memory: the class axis has the longer stride.
    std::vector<float> turned(12);
    for (std::size_t r = 0; r < 4; r++) {
        for (std::size_t k = 0; k < 3; k++) turned[4 * k + r] = x[3 * r + k];
    }
    fl::forward(how, {{turned, {4, 3}, {1, 4}}, y}, {other, {4, 3}});
    CHECK(same_bits(loss, other));
    // The same by the axis.
    fl::options in_front = how;
    in_front.axis(0);
    std::vector<float> turned_loss(12);
    fl::forward(in_front, {{turned, {3, 4}}, y}, {turned_loss, {3, 4}});
    for (std::size_t r = 0; r < 4; r++) {
        for (std::size_t k = 0; k < 3; k++) CHECK(!(turned_loss[4 * k + r] < loss[3 * r + k] || turned_loss[4 * k + r] > loss[3 * r + k]));
    }
    // Backwards, from the last element; of a C array.
    float backwards[12];
    for (std::size_t i = 0; i < 12; i++) backwards[11 - i] = x[i];
    fl::forward(how, {{backwards, {4, 3}, {-3, -1}, 11}, y}, {other, {4, 3}});
    CHECK(same_bits(loss, other));
    // A span of memory that is in no container.
    std::unique_ptr<float[]> owned(new float[12]);
    fl::forward(how, {{fl::span<const float>(x.data(), 12), {4, 3}}, y}, {fl::span<float>(owned.get(), 12), {4, 3}});
    CHECK(std::memcmp(owned.get(), loss.data(), sizeof(float) * 12) == 0);
    // DLPack's struct, and a tensor without its own type.
    const std::vector<std::int64_t> shape{4, 3};
    const focal_loss_tensor dl = c_view(x, shape);
    fl::forward(how, {fl::const_tensor::from_c(dl), y}, fl::tensor::from_c(c_view(other, shape)));
    CHECK(same_bits(loss, other));
    const focal_loss_device cpu{FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
    fl::forward(how, {fl::const_tensor::raw(x.data(), fl::dtype_of<float>::value, cpu, shape), y},
                fl::tensor::raw(other.data(), fl::dtype_of<float>::value, cpu, shape, fl::extents{3, 1}));
    CHECK(same_bits(loss, other));
    // A view stays whole when it is copied and what it was made of is gone.
    std::optional<fl::const_tensor> kept;
    {
        const fl::const_tensor first(x, std::vector<int>{4, 3}, {3, 1});
        kept = first;
    }
    CHECK(kept->c().shape != shape.data() && kept->shape().to_string() == "[4, 3]");
    fl::forward(how, {*kept, y}, {other, {4, 3}});
    CHECK(same_bits(loss, other));
    // The gradient over the logits.
    std::vector<float> both = x;
    fl::backward(how, {{both, {4, 3}}, y}, {both, {4, 3}});
    CHECK(same_bits(grad, both));
    // A type of the user's own. 2 in bfloat16 is 0x4000.
    std::vector<my_bfloat> half{{0x4000}, {0xbf80}, {0x3f00}}, half_loss(3);
    fl::forward(how, {{half, {1, 3}}, std::vector<int>{0}}, {half_loss, {1, 3}});
    CHECK(half_loss[0].bits == 0x39ec && half_loss[1].bits == 0x3c8b && half_loss[2].bits == 0x3e91);
    // Nothing at all.
    float mean = -1;
    fl::forward(fl::options(), {{std::vector<float>(), {0, 3}}, std::vector<int>()}, fl::tensor::scalar(mean));
    CHECK(!(mean < 0 || mean > 0));
#ifdef __STDCPP_FLOAT16_T__
    std::vector<std::float16_t> f16{2.0f16, -1.0f16, 0.5f16}, f16_loss(3);
    fl::forward(how, {{f16, {1, 3}}, std::vector<int>{0}}, {f16_loss, {1, 3}});
    CHECK(float(f16_loss[2]) > 0.28f && float(f16_loss[2]) < 0.29f);
#endif
}

template <typename Exception, typename Body>
void throws(focal_loss_status status, const std::string &words, Body body) {
    try {
        body();
    } catch (const Exception &caught) {
        CHECK(caught.status() == status);
        CHECK(std::string(caught.what()).find(words) != std::string::npos);
        return;
    }
    CHECK(!"something else was thrown, or nothing");
}

void errors_are_exceptions() {
    const auto invalid = FOCAL_LOSS_STATUS_INVALID_ARGUMENT;
    const std::vector<float> x(6, 1.0f), seventeen(1);
    const std::vector<int> y{0, 3};
    std::vector<float> loss(6, -7.0f);
    const fl::inputs in{{x, {2, 3}}, y};
    const auto none = fl::options().reduction(fl::reduction::none);
    const auto call = [&](const fl::options &how, const fl::inputs &inputs) { fl::forward(how, inputs, {loss, {2, 3}}); };

    // The library's words, and nothing written.
    const auto gamma = fl::options(none).gamma(-1);
    throws<fl::invalid_argument>(invalid, "gamma is -1, but must be finite and at least 0", [&] { call(gamma, in); });
    CHECK(std::string(focal_loss_last_error_message()) == "gamma is -1, but must be finite and at least 0");
    throws<fl::error>(invalid, "gamma is -1", [&] { call(gamma, in); });
    throws<fl::invalid_argument>(invalid, "class index 4 at row 1 is outside", [&] {
        fl::backward(none, {{x, {2, 3}}, std::vector<int>{0, 4}}, {loss, {2, 3}});
    });
    throws<fl::invalid_argument>(invalid, "grad_loss: shape [3], but", [&] {
        fl::backward(none, in, {loss, {2, 3}}, fl::const_tensor(std::vector<float>(3)));
    });
    throws<fl::invalid_argument>(invalid, "weight: shape [4] does not broadcast", [&] {
        fl::forward_backward(none, {{x, {2, 3}}, y, std::nullopt, std::vector<float>(4)}, {loss, {2, 3}}, {loss, {2, 3}});
    });
    const fl::const_tensor elsewhere = fl::const_tensor::raw(x.data(), {FOCAL_LOSS_DTYPE_CODE_FLOAT, 32, 1}, {7, 0}, {2, 3});
    throws<fl::unsupported>(FOCAL_LOSS_STATUS_UNSUPPORTED, "logits: device_type 7", [&] { call(none, {elsewhere, y}); });
    for (float value : loss) CHECK(!(value < -7 || value > -7));

    // Every status; numbers of a newer library too.
    throws<fl::invalid_argument>(invalid, "", [] { fl::check(1); });
    throws<fl::unsupported>(FOCAL_LOSS_STATUS_UNSUPPORTED, "", [] { fl::check(2); });
    throws<fl::out_of_memory>(FOCAL_LOSS_STATUS_OUT_OF_MEMORY, "", [] { fl::check(3); });
    throws<fl::cuda_error>(FOCAL_LOSS_STATUS_CUDA, "", [] { fl::check(4); });
    throws<fl::internal_error>(FOCAL_LOSS_STATUS_INTERNAL, "", [] { fl::check(5); });
    throws<fl::error>(static_cast<focal_loss_status>(77), "", [] { fl::check(77); });
    fl::check(FOCAL_LOSS_STATUS_OK);

    // The message is the thread's own.
    std::thread([&] {
        throws<fl::invalid_argument>(invalid, "num_threads is -1", [&] { call(fl::options(none).num_threads(-1), in); });
    }).join();
}

// A view that does not fit its memory is refused before the library is asked.
void views_fit_their_memory() {
    const auto invalid = FOCAL_LOSS_STATUS_INVALID_ARGUMENT;
    const auto largest = std::numeric_limits<std::int64_t>::max(), least = std::numeric_limits<std::int64_t>::min();
    std::vector<double> x(6);
    const auto refused = [&](const std::string &words, auto... arguments) {
        throws<fl::invalid_argument>(invalid, words, [&] { fl::const_tensor(x, arguments...); });
        throws<fl::invalid_argument>(invalid, words, [&] { fl::tensor(x, arguments...); });
    };
    using e = fl::extents;
    refused("shape [2, 2] does not have the 6 elements", e{2, 2});
    refused("shape [7] does not have the 6 elements", e{7});
    refused("shape [0, 6] does not have the 6 elements", e{0, 6});
    refused("does not have the 6 elements", e{largest, largest, 6});
    refused("does not have the 6 elements", e{std::int64_t(1) << 32, std::int64_t(1) << 32});
    refused("the negative size -2", e{-2, -3});
    refused("rank 17 is above 16", std::vector<int>(17, 1));
    refused("strides [1] are not as many as the sizes [2, 3]", e{2, 3}, e{1});
    refused("leave the 6 elements", e{2, 3}, e{3, 2});
    refused("leave the 6 elements", e{2, 3}, e{-3, 1}, std::size_t(2));
    refused("leave the 6 elements", e{2, 3}, e{3, 1}, std::size_t(1));
    refused("leave the 6 elements", e{1}, e{1}, std::size_t(6));
    refused("leave the 6 elements", e{2}, e{largest});
    refused("leave the 6 elements", e{2}, e{least}, std::size_t(5));
    refused("leave the 6 elements", e{largest, largest}, e{1, -1}, std::size_t(5));
    refused("leave the 6 elements", e{3, 3, 3}, e{2, 1, 1});
    (void)fl::const_tensor(x, e{2, 3}, e{-3, 1}, 3);
    (void)fl::const_tensor(x, e{largest, 2}, e{0, 5});
    (void)fl::const_tensor(x, e{1, 2}, e{largest, 5});
    (void)fl::const_tensor(x, e{0, 2}, e{largest, 50}, 99);
    focal_loss_tensor c = c_view(x, {6});
    c.ndim = 17;
    throws<fl::invalid_argument>(invalid, "ndim is 17", [&] { (void)fl::const_tensor::from_c(c); });
    c.ndim = -1;
    throws<fl::invalid_argument>(invalid, "ndim is -1", [&] { (void)fl::tensor::from_c(c); });
    c.ndim = 1;
    c.shape = nullptr;
    throws<fl::invalid_argument>(invalid, "shape is NULL", [&] { (void)fl::tensor::from_c(c); });
}

} // namespace

int main() {
    CHECK(std::string(FOCAL_LOSS_VERSION) == fl::version());
    CHECK(std::string(fl::cpu_isa()) == focal_loss_cpu_isa());
    same_bits_as_c<float>();
    same_bits_as_c<double>();
    options_are_the_librarys();
    views();
    errors_are_exceptions();
    views_fit_their_memory();
    return 0;
}
