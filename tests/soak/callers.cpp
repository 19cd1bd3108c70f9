// Threads that call the library through C, for soak.py: problems drawn from a seed and computed by one thread beforehand,
// then computed again by all threads at once in every way the C ABI has, each result compared bit for bit.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "focal_loss.h"

namespace {

constexpr int MAX_RANK = 4;
constexpr std::size_t MAX_ELEMENTS = 1 << 17;  // four chunks, so that threads share a problem
constexpr std::size_t MAX_BYTES = MAX_ELEMENTS * 8 * 2;
constexpr std::size_t PROBLEM_BYTES = 96 << 20;
// What an output holds before a call, and what stays between its elements.
constexpr int UNTOUCHED = 0xA5;

std::mutex failure_lock;
std::string failure;
std::atomic<bool> stop;
std::atomic<std::uint64_t> calls;

void fail(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const std::lock_guard<std::mutex> lock(failure_lock);
    if (failure.empty()) failure = text;
    stop = true;
}

struct Random {
    std::mt19937_64 bits;
    explicit Random(std::uint64_t seed) : bits(seed) {}
    std::uint64_t below(std::uint64_t limit) { return bits() % limit; }
    bool one_in(std::uint64_t n) { return below(n) == 0; }
    double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    template <class T, std::size_t N> T pick(const T (&values)[N]) { return values[below(N)]; }
};

// Taken once and touched, so that a growing process is the library's or the host's doing.
struct Arena {
    unsigned char *memory = nullptr;
    std::size_t size = 0, used = 0;
    void reserve(std::size_t bytes) {
        if (memory) return;
        void *got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (got == MAP_FAILED) throw std::bad_alloc();
        memory = static_cast<unsigned char *>(got);
        size = bytes;
    }
    unsigned char *take(std::size_t bytes) {
        const std::size_t start = used;
        used += (bytes + 63) & ~std::size_t{63};
        return used <= size ? memory + start : nullptr;
    }
};

struct Tensor {
    focal_loss_tensor view{};
    std::int64_t shape[MAX_RANK]{}, strides[MAX_RANK]{};
    std::size_t bytes = 0, start = 0;  // of the memory; where the first element is
    Tensor() = default;
    Tensor(const Tensor &) = delete;
    Tensor &operator=(const Tensor &) = delete;
};

focal_loss_dtype dtype_of(std::uint8_t code, std::uint8_t bits) { return {code, bits, 1}; }

std::uint64_t encode(double value, focal_loss_dtype dtype) {
    if (dtype.bits == 64) {
        std::uint64_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        return bits;
    }
    const float single = static_cast<float>(value);
    std::uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    if (dtype.bits == 32) return bits;
    if (dtype.code == FOCAL_LOSS_DTYPE_CODE_BFLOAT) return bits >> 16;
    // float16, cut off; 0 below the normal numbers.
    const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127 + 15;
    const std::uint32_t sign = bits >> 16 & 0x8000;
    if (exponent <= 0) return sign;
    return exponent >= 31 ? sign | 0x7c00 : sign | static_cast<std::uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff);
}

// A tensor's shape and, in any order of the axes, with gaps and backwards, its place in memory.
void lay_out(Random &random, Tensor &tensor, focal_loss_dtype dtype, const std::vector<std::int64_t> &shape) {
    const int rank = static_cast<int>(shape.size());
    int order[MAX_RANK];
    for (int i = 0; i < rank; i++) order[i] = rank - 1 - i;
    const bool dense = !random.one_in(3);
    if (!dense)
        for (int i = rank - 1; i > 0; i--) std::swap(order[i], order[random.below(i + 1)]);
    // At most one gap, so that it takes at most twice the room.
    const int gap = dense || random.one_in(2) ? -1 : static_cast<int>(random.below(MAX_RANK));
    std::int64_t step = 1, start = 0;
    for (int i = 0; i < rank; i++) {
        const int axis = order[i];
        const std::int64_t size = shape[axis];
        const bool backwards = !dense && random.one_in(4);
        tensor.shape[axis] = size;
        tensor.strides[axis] = backwards ? -step : step;
        if (backwards && size > 0) start += (size - 1) * step;
        step = step * (size > 0 ? size : 1) + (i == gap);
    }
    tensor.start = static_cast<std::size_t>(start) * (dtype.bits / 8);
    tensor.bytes = static_cast<std::size_t>(step) * (dtype.bits / 8);
    tensor.view.device = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
    tensor.view.ndim = rank;
    tensor.view.dtype = dtype;
    tensor.view.shape = tensor.shape;
    tensor.view.strides = dense ? nullptr : tensor.strides;
}

focal_loss_tensor at(const Tensor &tensor, void *memory) {
    focal_loss_tensor view = tensor.view;
    view.data = memory;
    view.byte_offset = tensor.start;
    return view;
}

struct Problem {
    std::uint64_t seed = 0;
    focal_loss_options options{};
    Tensor logits, targets, class_alpha, weight, normalizer, grad_loss, loss, grad;
    bool has_class_alpha = false, has_weight = false, has_normalizer = false, has_grad_loss = false;
    // In place another one, since the logits' gaps are not the gradient's.
    unsigned char *expected_loss = nullptr, *expected_grad = nullptr, *expected_in_place = nullptr;
};

enum Way { FORWARD, BACKWARD, IN_PLACE, BOTH };

int32_t call(const Problem &p, Way way, const focal_loss_options &options, void *logits, void *loss, void *grad) {
    const focal_loss_tensor x = at(p.logits, logits);
    focal_loss_tensor l = at(p.loss, loss), g = at(p.grad, grad);
    focal_loss_inputs inputs{};
    inputs.struct_size = sizeof inputs;
    inputs.logits = &x;
    inputs.targets = &p.targets.view;
    if (p.has_class_alpha) inputs.class_alpha = &p.class_alpha.view;
    if (p.has_weight) inputs.weight = &p.weight.view;
    if (p.has_normalizer) inputs.normalizer = &p.normalizer.view;
    const focal_loss_tensor *grad_loss = p.has_grad_loss ? &p.grad_loss.view : nullptr;
    switch (way) {
        case FORWARD: return focal_loss_forward(&options, &inputs, &l);
        case BOTH: return focal_loss_forward_backward(&options, &inputs, grad_loss, &l, &g);
        default: return focal_loss_backward(&options, &inputs, grad_loss, &g);
    }
}

// False: there is no room for it.
bool draw(Problem &p, std::uint64_t seed, Arena &arena) {
    Random random(seed);
    p.seed = seed;
    const focal_loss_dtype dtype = random.pick({dtype_of(FOCAL_LOSS_DTYPE_CODE_FLOAT, 32), dtype_of(FOCAL_LOSS_DTYPE_CODE_FLOAT, 64),
                                                dtype_of(FOCAL_LOSS_DTYPE_CODE_FLOAT, 16), dtype_of(FOCAL_LOSS_DTYPE_CODE_BFLOAT, 16)});
    const auto wanted = static_cast<std::int64_t>(std::exp2(random.unit() * 17));
    const auto classes = std::min<std::int64_t>(random.pick({1, 2, 3, 5, 7, 16, 17, 33, 80, 91, 200}), wanted);
    std::int64_t rows = random.one_in(32) ? 0 : wanted / classes;
    std::vector<std::int64_t> row_shape;
    for (auto axes = random.below(MAX_RANK); axes > 1; axes--) {
        const std::int64_t size = random.pick({1, 2, 3, 4});
        if (rows < size) continue;
        row_shape.push_back(size);
        rows /= size;
    }
    if (!row_shape.empty() || random.below(16)) row_shape.push_back(rows);
    const int axis = static_cast<int>(random.below(row_shape.size() + 1));
    std::vector<std::int64_t> shape = row_shape;
    shape.insert(shape.begin() + axis, classes);

    focal_loss_options &options = p.options;
    focal_loss_options_init(&options);
    const bool softmax = random.one_in(2);
    options.activation = softmax;
    options.alpha = random.pick({0.25, -1.0, 0.0, 1.0, random.unit()});
    options.gamma = random.pick({2.0, 2.0, 0.0, 0.5, 1.0, 1.5, 3.0, 5 * random.unit()});
    options.reduction = static_cast<std::int32_t>(random.below(3));
    options.normalization = static_cast<std::int32_t>(random.below(4));
    options.axis = axis - (random.one_in(2) ? static_cast<int>(shape.size()) : 0);
    options.num_threads = 1;
    const bool indices = !random.one_in(3);
    std::int64_t special[2] = {0, 0};
    std::size_t specials = 0;
    if (indices && random.one_in(2)) {
        options.has_ignore_index = 1;
        special[specials++] = options.ignore_index = -100;
    }
    if (indices && !softmax) {
        special[specials] = classes;
        if (random.one_in(2)) {
            options.has_background_index = 1;
            special[specials] = options.background_index = -1;
        }
        specials++;
    }

    const std::vector<std::int64_t> &losses = softmax ? row_shape : shape;
    const std::vector<std::int64_t> result = options.reduction == FOCAL_LOSS_REDUCTION_NONE ? losses : std::vector<std::int64_t>{};
    const auto allocate = [&](Tensor &tensor) {
        tensor.view.data = arena.take(tensor.bytes);
        tensor.view.byte_offset = tensor.start;
        if (tensor.view.data) std::memset(tensor.view.data, UNTOUCHED, tensor.bytes);
        return tensor.view.data != nullptr;
    };
    // Every place is written, those between elements too: what is there is not the library's business.
    const auto fill = [&](Tensor &tensor, auto value) {
        if (!allocate(tensor)) return false;
        const std::size_t bytes = tensor.view.dtype.bits / 8;
        for (std::size_t i = 0; i + bytes <= tensor.bytes; i += bytes) {
            const std::uint64_t element = value();
            std::memcpy(static_cast<unsigned char *>(tensor.view.data) + i, &element, bytes);
        }
        return true;
    };
    const int style = static_cast<int>(random.below(8));
    const auto logit = [&] {
        if (style == 0) return random.bits();  // whatever there is: NaN, infinities, subnormals
        if (style < 3) return encode(16 * random.unit() - 8, dtype);
        return encode(4 * (random.unit() + random.unit() + random.unit()) - 10, dtype);  // a trained detector's
    };
    const auto fraction = [&] { return encode(random.unit(), dtype); };
    const auto label = [&] {
        const auto drawn = random.below(classes + 2 * specials);
        const auto classes_ = static_cast<std::uint64_t>(classes);
        return drawn < classes_ ? drawn : static_cast<std::uint64_t>(special[(drawn - classes_) % specials]);
    };
    lay_out(random, p.logits, dtype, shape);
    if (!fill(p.logits, logit)) return false;
    lay_out(random, p.targets, indices ? dtype_of(FOCAL_LOSS_DTYPE_CODE_INT, random.one_in(2) ? 32 : 64) : dtype,
            indices ? row_shape : shape);
    if (!(indices ? fill(p.targets, label) : fill(p.targets, fraction))) return false;
    lay_out(random, p.class_alpha, dtype, {classes});
    // The last axes, some of them stretched.
    std::vector<std::int64_t> weights(losses.begin() + static_cast<std::ptrdiff_t>(random.below(losses.size() + 1)), losses.end());
    for (auto &size : weights) size = random.one_in(3) ? 1 : size;
    lay_out(random, p.weight, dtype, weights);
    lay_out(random, p.normalizer, dtype, {});
    lay_out(random, p.grad_loss, dtype, result);
    p.has_class_alpha = random.one_in(4) && fill(p.class_alpha, fraction);
    p.has_weight = random.one_in(3) && fill(p.weight, fraction);
    p.has_normalizer = random.one_in(4) && fill(p.normalizer, [&] { return encode(0.5 + random.unit(), dtype); });
    p.has_grad_loss = random.one_in(3) && fill(p.grad_loss, fraction);
    lay_out(random, p.loss, dtype, result);
    // The logits' own layout, so that the gradient can replace them.
    lay_out(random, p.grad, dtype, shape);
    std::memcpy(p.grad.strides, p.logits.strides, sizeof p.grad.strides);
    p.grad.view.strides = p.logits.view.strides ? p.grad.strides : nullptr;
    p.grad.bytes = p.logits.bytes;
    p.grad.start = p.logits.start;
    if (!allocate(p.loss) || !allocate(p.grad)) return false;
    p.expected_loss = static_cast<unsigned char *>(p.loss.view.data);
    p.expected_grad = static_cast<unsigned char *>(p.grad.view.data);
    p.expected_in_place = arena.take(p.grad.bytes);
    if (!p.expected_in_place) return false;
    std::memcpy(p.expected_in_place, p.logits.view.data, p.grad.bytes);
    if (p.grad.bytes > MAX_BYTES || p.loss.bytes > MAX_BYTES) {
        fail("problem %llu: %zu and %zu bytes are more than the threads have", static_cast<unsigned long long>(seed), p.grad.bytes,
             p.loss.bytes);
        return false;
    }
    for (const Way way : {FORWARD, BACKWARD, IN_PLACE})
        if (const int32_t status = call(p, way, options, way == IN_PLACE ? p.expected_in_place : p.logits.view.data,
                                        p.expected_loss, way == IN_PLACE ? p.expected_in_place : p.expected_grad)) {
            fail("problem %llu: status %d: %s", static_cast<unsigned long long>(seed), status, focal_loss_last_error_message());
            return false;
        }
    return true;
}

Arena problem_memory, thread_memory;
std::deque<Problem> problems;

// The result of one call against the serial one: the elements, and what lies between them.
void check(const Problem &p, Random &random, unsigned char *loss, unsigned char *grad) {
    const Way way = random.pick({FORWARD, BACKWARD, IN_PLACE, BOTH, BOTH});
    focal_loss_options options = p.options;
    options.num_threads = random.pick({0, 0, 2, 3, 8, 1});
    const bool refused = random.one_in(16), by_gamma = random.one_in(2);
    if (refused) (by_gamma ? options.gamma = -1 : options.axis = 99);
    std::memset(loss, UNTOUCHED, p.loss.bytes);
    if (way == IN_PLACE)
        std::memcpy(grad, p.logits.view.data, p.logits.bytes);
    else
        std::memset(grad, UNTOUCHED, p.grad.bytes);
    const int32_t status = call(p, way, options, way == IN_PLACE ? grad : p.logits.view.data, loss, grad);
    const char *message = focal_loss_last_error_message();
    const auto report = [&](const char *what) {
        fail("problem %llu, way %d, num_threads %d: %s (status %d, \"%s\")", static_cast<unsigned long long>(p.seed), way,
             options.num_threads, what, status, message);
    };
    if (refused) {
        if (status != FOCAL_LOSS_STATUS_INVALID_ARGUMENT) report("should have been refused");
        if (!std::strstr(message, by_gamma ? "gamma" : "axis")) report("another call's message");
        for (std::size_t i = 0; i < p.loss.bytes; i++)
            if (loss[i] != UNTOUCHED) return report("the refused call has written the loss");
        for (std::size_t i = 0; i < p.grad.bytes; i++)
            if (grad[i] != (way == IN_PLACE ? static_cast<unsigned char *>(p.logits.view.data)[i] : UNTOUCHED))
                return report("the refused call has written the gradient");
        return;
    }
    if (status != FOCAL_LOSS_STATUS_OK || *message) report("should have succeeded");
    if ((way == FORWARD || way == BOTH) && std::memcmp(loss, p.expected_loss, p.loss.bytes)) report("another loss");
    if (way != FORWARD && std::memcmp(grad, way == IN_PLACE ? p.expected_in_place : p.expected_grad, p.grad.bytes))
        report("another gradient");
}

}  // namespace

// Draws problems until their memory is full. How many; 0 for a failure.
extern "C" std::size_t callers_prepare(std::uint64_t seed, int threads) try {
    problem_memory.reserve(PROBLEM_BYTES);
    thread_memory.reserve(static_cast<std::size_t>(threads) * 2 * MAX_BYTES);
    problem_memory.used = thread_memory.used = 0;
    problems.clear();
    for (std::uint64_t number = 0;; number++) {
        problems.emplace_back();
        if (!draw(problems.back(), seed * 1000003 + number, problem_memory)) {
            problems.pop_back();
            return failure.empty() ? problems.size() : 0;
        }
    }
} catch (const std::exception &error) {
    fail("%s", error.what());
    return 0;
}

// Has the threads call for so long. 0: everything was as expected.
extern "C" int callers_run(std::uint64_t seed, int threads, double seconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    std::vector<std::thread> running;
    for (int i = 0; i < threads; i++) {
        unsigned char *const loss = thread_memory.take(MAX_BYTES), *const grad = thread_memory.take(MAX_BYTES);
        running.emplace_back([=] {
            Random random(seed * 1009 + static_cast<std::uint64_t>(i));
            while (!stop && std::chrono::steady_clock::now() < end) {
                check(problems[random.below(problems.size())], random, loss, grad);
                calls++;
            }
        });
    }
    for (auto &thread : running) thread.join();
    return stop;
}

extern "C" std::uint64_t callers_calls() { return calls; }

extern "C" const char *callers_failure() { return failure.c_str(); }
