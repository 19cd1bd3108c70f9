/**
 * focal_loss.hpp - focal loss for C++17 and newer: what is in focal_loss.h, with its checks and defaults made C++.
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Nothing to build: every function here makes one call of the C library, so a program links what a C program links
 * (-lfocal_loss), and gets the same bits. focal_loss.h is the manual: the formulas, shapes, dtypes, numerical bounds and
 * CUDA are described there.
 *
 *     std::vector<float> logits = {2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f}, gradient(6);
 *     std::vector<std::int64_t> targets = {0, 3};                 // an object of class 0; background (K = 3)
 *     float loss;
 *     focal_loss::inputs inputs{{logits, {2, 3}}, targets};
 *     focal_loss::forward_backward(focal_loss::options().gamma(1.5), inputs, focal_loss::tensor::scalar(loss),
 *                                  {gradient, {2, 3}});
 *
 * MEMORY. A tensor is a view of memory that stays the caller's and has to be there until the call is over (on a CUDA
 * device: until the stream has come past it). A view has its own copy of shape and strides; nothing here allocates,
 * but for an exception's message. Where a view is made of a container, it must fit the container: that is checked. A view
 * of a temporary container is good for the statement that has it, as a std::span would be.
 *
 * ERRORS. A status other than FOCAL_LOSS_STATUS_OK becomes an exception, focal_loss::error or what derives from it; all
 * are std::runtime_error. what() is the library's sentence, status() its number. What the call has written then, and what
 * it has not, is as in C: see ERRORS there. A view that does not fit its memory is an invalid_argument when it is made.
 *
 * THREADS. As in C: any number at once. Objects of this header are plain values; share them as you would an int.
 */
#ifndef FOCAL_LOSS_HPP
#define FOCAL_LOSS_HPP

#if !defined(__cplusplus) || (__cplusplus < 201703L && (!defined(_MSVC_LANG) || _MSVC_LANG < 201703L))
#error "focal_loss.hpp needs C++17 or newer; focal_loss.h serves C++11"
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#if defined(__has_include) && (__cplusplus >= 202002L || (defined(_MSVC_LANG) && _MSVC_LANG >= 202002L))
#if __has_include(<span>)
#include <span>
#endif
#endif
#if defined(__STDCPP_FLOAT16_T__) || defined(__STDCPP_BFLOAT16_T__)
#include <stdfloat>
#endif

#include "focal_loss.h"

namespace focal_loss {

/** The most axes that a tensor can have. */
inline constexpr std::size_t max_rank = 16;

/* ------------------------------------------------------------------------------------------------------ errors */

/** What a call came to when it failed: the library's sentence in what(), its number in status(). */
class error : public std::runtime_error {
  public:
    error(focal_loss_status status, const std::string &message) : std::runtime_error(message), status_(status) {}

    /** Never FOCAL_LOSS_STATUS_OK. A number that this header does not know can come from a newer library. */
    focal_loss_status status() const noexcept { return status_; }

  private:
    focal_loss_status status_;
};

/** An argument breaks the contract; the message names it. */
class invalid_argument : public error {
  public:
    explicit invalid_argument(const std::string &message) : error(FOCAL_LOSS_STATUS_INVALID_ARGUMENT, message) {}
};

/** The arguments make sense, but this version of the library cannot serve them. */
class unsupported : public error {
  public:
    explicit unsupported(const std::string &message) : error(FOCAL_LOSS_STATUS_UNSUPPORTED, message) {}
};

/** The library could not have the memory that it needs. */
class out_of_memory : public error {
  public:
    explicit out_of_memory(const std::string &message) : error(FOCAL_LOSS_STATUS_OUT_OF_MEMORY, message) {}
};

/** There is no usable CUDA driver or device, or it failed; the message has the driver's words. */
class cuda_error : public error {
  public:
    explicit cuda_error(const std::string &message) : error(FOCAL_LOSS_STATUS_CUDA, message) {}
};

/** A bug in the library; please report it with the message. */
class internal_error : public error {
  public:
    explicit internal_error(const std::string &message) : error(FOCAL_LOSS_STATUS_INTERNAL, message) {}
};

/** Throws what belongs to a status of the C library; returns for FOCAL_LOSS_STATUS_OK. The message is this thread's. */
inline void check(std::int32_t status) {
    if (status == FOCAL_LOSS_STATUS_OK) return;
    const std::string message = focal_loss_last_error_message();
    switch (status) {
        case FOCAL_LOSS_STATUS_INVALID_ARGUMENT: throw invalid_argument(message);
        case FOCAL_LOSS_STATUS_UNSUPPORTED: throw unsupported(message);
        case FOCAL_LOSS_STATUS_OUT_OF_MEMORY: throw out_of_memory(message);
        case FOCAL_LOSS_STATUS_CUDA: throw cuda_error(message);
        case FOCAL_LOSS_STATUS_INTERNAL: throw internal_error(message);
        default: throw error(static_cast<focal_loss_status>(status), message);
    }
}

/* ------------------------------------------------------------------------------------------------------- types */

/** The library's type of a C++ type: `dtype_of<T>::value`. Types without one cannot be in a tensor.
 *
 * float, double, and signed integers of 32 and 64 bits have one, and in C++23 std::float16_t and std::bfloat16_t.
 * For a 16-bit float of your own, say which it is:
 *
 *     template <>
 *     struct focal_loss::dtype_of<Eigen::half> : focal_loss::dtype_constant<FOCAL_LOSS_DTYPE_CODE_FLOAT, 16> {};
 */
template <typename T, typename = void>
struct dtype_of;

/** A type by its code (a focal_loss_dtype_code) and bits. */
template <int code, int bits>
struct dtype_constant {
    static constexpr focal_loss_dtype value = {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), 1};
};

template <>
struct dtype_of<float> : dtype_constant<FOCAL_LOSS_DTYPE_CODE_FLOAT, 32> {};
template <>
struct dtype_of<double> : dtype_constant<FOCAL_LOSS_DTYPE_CODE_FLOAT, 64> {};
template <typename T>
struct dtype_of<T, std::enable_if_t<std::is_integral_v<T> && std::is_signed_v<T> && !std::is_same_v<T, wchar_t> &&
                                    (sizeof(T) == 4 || sizeof(T) == 8)>>
    : dtype_constant<FOCAL_LOSS_DTYPE_CODE_INT, 8 * static_cast<int>(sizeof(T))> {};
#ifdef __STDCPP_FLOAT16_T__
template <>
struct dtype_of<std::float16_t> : dtype_constant<FOCAL_LOSS_DTYPE_CODE_FLOAT, 16> {};
#endif
#ifdef __STDCPP_BFLOAT16_T__
template <>
struct dtype_of<std::bfloat16_t> : dtype_constant<FOCAL_LOSS_DTYPE_CODE_BFLOAT, 16> {};
#endif

#ifdef __cpp_lib_span
using std::span;
#else
/** Some elements in a row, as C++20's std::span: for memory that is in no container. */
template <typename T>
class span {
  public:
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

  private:
    T *data_;
    std::size_t size_;
};
#endif

/** Sizes or strides: at most `max_rank` numbers, kept here. Made of a list, `{2, 3}`, or of any container of integers. */
class extents {
  public:
    extents() noexcept = default;
    extents(std::initializer_list<std::int64_t> values) { assign(values.begin(), values.size()); }
    template <typename Container,
              typename = std::enable_if_t<std::is_integral_v<
                  std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<const Container &>()))>>>>>
    extents(const Container &values) {
        assign(std::data(values), std::size(values));
    }

    std::size_t size() const noexcept { return size_; }
    const std::int64_t *data() const noexcept { return values_.data(); }
    std::int64_t operator[](std::size_t axis) const noexcept { return values_[axis]; }

    /** As in "[2, 3]", for messages. */
    std::string to_string() const {
        std::string text = "[";
        for (std::size_t i = 0; i < size_; i++) text += (i ? ", " : "") + std::to_string(values_[i]);
        return text + "]";
    }

  private:
    template <typename Integer>
    void assign(const Integer *values, std::size_t size) {
        if (size > max_rank) {
            throw invalid_argument("tensor: rank " + std::to_string(size) + " is above " + std::to_string(max_rank));
        }
        for (std::size_t i = 0; i < size; i++) values_[i] = static_cast<std::int64_t>(values[i]);
        size_ = size;
    }

    std::array<std::int64_t, max_rank> values_{};
    std::size_t size_ = 0;
};

/* ----------------------------------------------------------------------------------------------------- tensors */

namespace detail {

/* What a container's elements are: `const float` of a `const std::vector<float>`. */
template <typename Container>
using element = std::remove_pointer_t<decltype(std::data(std::declval<Container &>()))>;

/* There is a type of the library's for them. */
template <typename Container>
using if_numbers = decltype(dtype_of<std::remove_cv_t<element<Container>>>::value);

template <typename Container>
using if_writable = std::enable_if_t<!std::is_const_v<element<Container>>, if_numbers<Container>>;

/* Whether all elements lie among `size`, where the first is number `first`; nothing here can overflow. */
inline bool fits(std::size_t size, std::size_t first, const extents &shape, const extents &strides) noexcept {
    for (std::size_t axis = 0; axis < shape.size(); axis++) {
        if (shape[axis] == 0) return true;
    }
    if (first >= size) return false;
    const std::uint64_t room_below = first, room_above = size - 1 - first;
    std::uint64_t below = 0, above = 0;
    for (std::size_t axis = 0; axis < shape.size(); axis++) {
        const std::uint64_t steps = static_cast<std::uint64_t>(shape[axis]) - 1;
        const bool down = strides[axis] < 0;
        const std::uint64_t step = down ? 0 - static_cast<std::uint64_t>(strides[axis])
                                        : static_cast<std::uint64_t>(strides[axis]);
        std::uint64_t &reach = down ? below : above;
        const std::uint64_t left = (down ? room_below : room_above) - reach;
        if (step != 0 && steps > left / step) return false;
        reach += steps * step;
    }
    return true;
}

/* A size_t cannot count more elements than it has room for; a shape can ask for more. */
inline bool holds(std::size_t size, const extents &shape) noexcept {
    std::uint64_t count = 1;
    for (std::size_t axis = 0; axis < shape.size(); axis++) {
        if (shape[axis] == 0) return size == 0;
    }
    for (std::size_t axis = 0; axis < shape.size(); axis++) {
        const std::uint64_t extent = static_cast<std::uint64_t>(shape[axis]);
        if (extent > size / count) return false;
        count *= extent;
    }
    return count == size;
}

} // namespace detail

/** A view of numbers that are read. Copies are views of the same memory. */
class const_tensor {
  public:
    /** All of a container (anything with std::data and std::size: a vector, an array, a span), along one axis. */
    template <typename Container, typename = detail::if_numbers<const Container>>
    const_tensor(const Container &memory) : const_tensor(memory, {static_cast<std::int64_t>(std::size(memory))}) {}

    /** All of a container, row-major in this shape.
     * Throws invalid_argument where the shape has not as many elements as the container. */
    template <typename Container, typename = detail::if_numbers<const Container>>
    const_tensor(const Container &memory, const extents &shape)
        : const_tensor(std::data(memory), std::size(memory), shape) {}

    /** Some of a container: strides in elements, of any sign (0 repeats); `first` is the place of the element [0, 0...].
     * Throws invalid_argument where an element would lie outside. */
    template <typename Container, typename = detail::if_numbers<const Container>>
    const_tensor(const Container &memory, const extents &shape, const extents &strides, std::size_t first = 0)
        : const_tensor(std::data(memory), std::size(memory), shape, strides, first) {}

    /** A single number, of rank 0. */
    template <typename T, typename = decltype(dtype_of<T>::value)>
    static const_tensor scalar(const T &value) {
        return const_tensor(&value, 1, extents());
    }

    /** What is gone after its statement is no memory to keep a view of. */
    template <typename T>
    static const_tensor scalar(const T &&value) = delete;

    /** Memory that no container knows, such as a CUDA device's, or of a type without a `dtype_of`. Without strides it is
     * row-major. The library checks it as it checks a C caller's; how much memory there is, nobody can check. */
    static const_tensor raw(const void *data, focal_loss_dtype dtype, focal_loss_device device, const extents &shape,
                            const std::optional<extents> &strides = std::nullopt) {
        return const_tensor(data, dtype, device, shape, strides, 0);
    }

    /** A view as C has it, and so DLPack: pass `*reinterpret_cast<const focal_loss_tensor *>(dl_tensor)`.
     * Throws invalid_argument for a rank that no tensor can have, or a shape that is NULL. */
    static const_tensor from_c(const focal_loss_tensor &tensor) {
        if (tensor.ndim < 0 || static_cast<std::size_t>(tensor.ndim) > max_rank) {
            throw invalid_argument("tensor: ndim is " + std::to_string(tensor.ndim) + ", but must lie in [0, " +
                                   std::to_string(max_rank) + "]");
        }
        if (tensor.ndim > 0 && tensor.shape == nullptr) {
            throw invalid_argument("tensor: shape is NULL, but ndim is " + std::to_string(tensor.ndim));
        }
        const std::size_t rank = static_cast<std::size_t>(tensor.ndim);
        std::optional<extents> strides;
        if (tensor.strides != nullptr) strides.emplace(span<const std::int64_t>(tensor.strides, rank));
        return const_tensor(tensor.data, tensor.dtype, tensor.device,
                            extents(span<const std::int64_t>(tensor.shape, rank)), strides, tensor.byte_offset);
    }

    /** The view for the C functions. It points into this object. */
    focal_loss_tensor c() const noexcept {
        focal_loss_tensor tensor;
        tensor.data = data_;
        tensor.device = device_;
        tensor.ndim = static_cast<std::int32_t>(shape_.size());
        tensor.dtype = dtype_;
        tensor.shape = shape_.data();
        tensor.strides = strides_ ? strides_->data() : nullptr;
        tensor.byte_offset = byte_offset_;
        return tensor;
    }

    const extents &shape() const noexcept { return shape_; }
    focal_loss_dtype dtype() const noexcept { return dtype_; }
    focal_loss_device device() const noexcept { return device_; }

  protected:
    template <typename T>
    const_tensor(const T *data, std::size_t size, const extents &shape)
        : const_tensor(data, dtype_of<T>::value, cpu, not_negative(shape), std::nullopt, 0) {
        if (!detail::holds(size, shape)) {
            throw invalid_argument("tensor: shape " + shape.to_string() + " does not have the " + std::to_string(size) +
                                   " elements of its memory");
        }
    }

    template <typename T>
    const_tensor(const T *data, std::size_t size, const extents &shape, const extents &strides, std::size_t first)
        : const_tensor(data, dtype_of<T>::value, cpu, not_negative(shape), strides,
                       static_cast<std::uint64_t>(first) * sizeof(T)) {
        if (!detail::fits(size, first, shape, strides)) {
            throw invalid_argument("tensor: strides " + strides.to_string() + " with shape " + shape.to_string() +
                                   " from element " + std::to_string(first) + " leave the " + std::to_string(size) +
                                   " elements of its memory");
        }
    }

    const_tensor(const void *data, focal_loss_dtype dtype, focal_loss_device device, const extents &shape,
                 const std::optional<extents> &strides, std::uint64_t byte_offset)
        : data_(const_cast<void *>(data)), // C has one struct for both; what is read is not written
          device_(device), dtype_(dtype), shape_(shape), strides_(strides), byte_offset_(byte_offset) {
        if (strides && strides->size() != shape.size()) {
            throw invalid_argument("tensor: strides " + strides->to_string() + " are not as many as the sizes " +
                                   shape.to_string());
        }
    }

  private:
    static constexpr focal_loss_device cpu = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};

    static const extents &not_negative(const extents &shape) {
        for (std::size_t axis = 0; axis < shape.size(); axis++) {
            if (shape[axis] < 0) {
                throw invalid_argument("tensor: shape has the negative size " + std::to_string(shape[axis]));
            }
        }
        return shape;
    }

    void *data_;
    focal_loss_device device_;
    focal_loss_dtype dtype_;
    extents shape_;
    std::optional<extents> strides_;
    std::uint64_t byte_offset_;
};

/** A view of numbers that are written. It is made as a const_tensor is, of memory that is not const. */
class tensor : public const_tensor {
  public:
    template <typename Container, typename = detail::if_writable<Container>>
    tensor(Container &&memory) : tensor(memory, {static_cast<std::int64_t>(std::size(memory))}) {}

    template <typename Container, typename = detail::if_writable<Container>>
    tensor(Container &&memory, const extents &shape) : const_tensor(std::data(memory), std::size(memory), shape) {}

    template <typename Container, typename = detail::if_writable<Container>>
    tensor(Container &&memory, const extents &shape, const extents &strides, std::size_t first = 0)
        : const_tensor(std::data(memory), std::size(memory), shape, strides, first) {}

    template <typename T, typename = decltype(dtype_of<T>::value)>
    static tensor scalar(T &value) {
        return tensor(const_tensor::scalar(value));
    }

    static tensor raw(void *data, focal_loss_dtype dtype, focal_loss_device device, const extents &shape,
                      const std::optional<extents> &strides = std::nullopt) {
        return tensor(const_tensor::raw(data, dtype, device, shape, strides));
    }

    static tensor from_c(const focal_loss_tensor &c) { return tensor(const_tensor::from_c(c)); }

  private:
    explicit tensor(const const_tensor &view) : const_tensor(view) {}
};

/* ----------------------------------------------------------------------------------------------------- options */

/** How logits become probabilities: see focal_loss_activation. */
enum class activation : std::int32_t {
    sigmoid = FOCAL_LOSS_ACTIVATION_SIGMOID,
    softmax = FOCAL_LOSS_ACTIVATION_SOFTMAX,
};

/** What becomes of the losses: see focal_loss_reduction. */
enum class reduction : std::int32_t {
    none = FOCAL_LOSS_REDUCTION_NONE,
    sum = FOCAL_LOSS_REDUCTION_SUM,
    mean = FOCAL_LOSS_REDUCTION_MEAN,
};

/** What reduction::mean divides by: see focal_loss_normalization. */
enum class normalization : std::int32_t {
    elements = FOCAL_LOSS_NORMALIZATION_ELEMENTS,
    rows = FOCAL_LOSS_NORMALIZATION_ROWS,
    positives = FOCAL_LOSS_NORMALIZATION_POSITIVES,
    weights = FOCAL_LOSS_NORMALIZATION_WEIGHTS,
};

/** What to compute: from the first moment with the library's defaults (sigmoid, alpha 0.25, gamma 2, mean over elements).
 * Every function sets one field of focal_loss_options, which has the meanings, and returns the object:
 *
 *     focal_loss::options().gamma(1.5).normalization(focal_loss::normalization::positives)
 *
 * Values are checked when they are used. */
class options {
  public:
    options() noexcept { focal_loss_options_init(&c_); }

    options &activation(focal_loss::activation value) noexcept { return set(c_.activation, value); }
    options &alpha(double value) noexcept { return set(c_.alpha, value); }
    /** No balance: what a negative alpha means. */
    options &no_alpha() noexcept { return alpha(-1); }
    options &gamma(double value) noexcept { return set(c_.gamma, value); }
    options &reduction(focal_loss::reduction value) noexcept { return set(c_.reduction, value); }
    options &normalization(focal_loss::normalization value) noexcept { return set(c_.normalization, value); }
    options &axis(std::int32_t value) noexcept { return set(c_.axis, value); }
    /** Rows of this class index are left out; nullopt: none are. */
    options &ignore_index(std::optional<std::int64_t> value) noexcept {
        c_.has_ignore_index = value.has_value();
        return set(c_.ignore_index, value.value_or(0));
    }
    /** Rows of this class index are all-zero targets; nullopt: those of the index K. */
    options &background_index(std::optional<std::int64_t> value) noexcept {
        c_.has_background_index = value.has_value();
        return set(c_.background_index, value.value_or(0));
    }
    options &num_threads(std::int32_t value) noexcept { return set(c_.num_threads, value); }
    /** A cudaStream_t or CUstream. */
    options &stream(void *value) noexcept { return set(c_.stream, value); }

    /** The struct for the C functions. */
    const focal_loss_options &c() const noexcept { return c_; }

  private:
    template <typename Field, typename Value>
    options &set(Field &field, Value value) noexcept {
        field = static_cast<Field>(value);
        return *this;
    }

    focal_loss_options c_{};
};

/** The tensors that are read; the last three may be absent. See focal_loss_inputs. */
struct inputs {
    const_tensor logits;
    const_tensor targets;
    std::optional<const_tensor> class_alpha = std::nullopt;
    std::optional<const_tensor> weight = std::nullopt;
    std::optional<const_tensor> normalizer = std::nullopt;
};

/* ------------------------------------------------------------------------------------------------ computations */

namespace detail {

/* An optional argument as C has it: NULL where it is absent. */
class argument {
  public:
    argument() noexcept = default;
    explicit argument(const const_tensor &view) noexcept : there_(true), tensor_(view.c()) {}
    explicit argument(const std::optional<const_tensor> &view) noexcept {
        if (view) {
            tensor_ = view->c();
            there_ = true;
        }
    }
    focal_loss_tensor *pointer() noexcept { return there_ ? &tensor_ : nullptr; }

  private:
    bool there_ = false;
    focal_loss_tensor tensor_{};
};

class arguments {
  public:
    explicit arguments(const inputs &in) noexcept
        : logits_(in.logits), targets_(in.targets), class_alpha_(in.class_alpha), weight_(in.weight),
          normalizer_(in.normalizer), c_{sizeof c_, logits_.pointer(), targets_.pointer(), class_alpha_.pointer(),
                                         weight_.pointer(), normalizer_.pointer()} {}
    arguments(const arguments &) = delete; // `c_` points into it
    arguments &operator=(const arguments &) = delete;
    const focal_loss_inputs *pointer() const noexcept { return &c_; }

  private:
    argument logits_, targets_, class_alpha_, weight_, normalizer_;
    focal_loss_inputs c_;
};

} // namespace detail

/** Computes the loss: focal_loss_forward(). Throws what ERRORS says. */
inline void forward(const options &how, const inputs &in, const tensor &loss) {
    focal_loss_tensor l = loss.c();
    check(focal_loss_forward(&how.c(), detail::arguments(in).pointer(), &l));
}

/** Computes the gradient with respect to the logits, which may be the logits' own memory: focal_loss_backward().
 * Without `grad_loss`, the gradient with respect to the loss, it is ones. Throws what ERRORS says. */
inline void backward(const options &how, const inputs &in, const tensor &grad_logits,
                     const std::optional<const_tensor> &grad_loss = std::nullopt) {
    focal_loss_tensor g = grad_logits.c();
    check(focal_loss_backward(&how.c(), detail::arguments(in).pointer(), detail::argument(grad_loss).pointer(), &g));
}

/** Computes both in one pass over the logits, the same bits as the two: focal_loss_forward_backward(). */
inline void forward_backward(const options &how, const inputs &in, const tensor &loss, const tensor &grad_logits,
                             const std::optional<const_tensor> &grad_loss = std::nullopt) {
    focal_loss_tensor l = loss.c(), g = grad_logits.c();
    check(focal_loss_forward_backward(&how.c(), detail::arguments(in).pointer(),
                                      detail::argument(grad_loss).pointer(), &l, &g));
}

/** The library's version, "MAJOR.MINOR.PATCH"; that of the headers is FOCAL_LOSS_VERSION. */
inline const char *version() noexcept { return focal_loss_version_string(); }

/** The instruction set that this process's CPU work uses: "baseline", "avx2" or "avx512". */
inline const char *cpu_isa() noexcept { return focal_loss_cpu_isa(); }

} // namespace focal_loss

#endif
