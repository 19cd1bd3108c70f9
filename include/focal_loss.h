/**
 * focal_loss.h - focal loss for C and C++ (and whatever calls C).
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * THE LOSS. For a logit x with target t in [0, 1] and p = 1 / (1 + exp(-x)):
 *
 *     CE      = log(1 + exp(x)) - x*t                  binary cross entropy
 *     m       = p*(1-t) + (1-p)*t                      1 - p_t, the probability of being wrong
 *     alpha_t = alpha*t + (1-alpha)*(1-t)              1 everywhere when alpha < 0
 *     loss    = weight * alpha_t * m^gamma * CE
 *
 * (Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5.) A row (an anchor, a pixel, a
 * sample) has K logits along the class axis and so K independent binary losses; a row without an object has
 * an all-zero target. With softmax a row has one loss over its K exclusive classes,
 *
 *     loss    = weight * alpha_y * (1-p_y)^gamma * -log(p_y)
 *
 * and for a dense target (a distribution t over the classes) the sum of t_y times that over all y.
 *
 * GRADIENTS are with respect to the logits:
 *
 *     sigmoid   alpha_t * m^gamma * [(p-t) + gamma*(1-2t)*r*CE],  r = p*(1-p)/m
 *     softmax   alpha_y * o^gamma * (1 + gamma*p_y*h) * (p_j - [j == y]),  o = 1-p_y,  h = -log(p_y)/o
 *
 * times weight, grad_loss and what the reduction divides by.
 *
 * TENSORS. logits: float16, bfloat16, float32 or float64, any shape of rank 1 to 16, any strides.
 * targets: class indices (int32 or int64, the logits' shape without the class axis) or dense (the logits'
 * dtype and shape). class_alpha: [K]. weight: broadcasts as in NumPy to the logits' shape (sigmoid) or the
 * rows' shape (softmax). normalizer: one element. All three have the logits' dtype and may be absent.
 * loss: the logits' dtype; one element for sum and mean, else the logits' shape (sigmoid) or the rows'
 * (softmax). grad_logits: the logits' dtype and shape.
 *
 * A class index equal to ignore_index leaves its row out (loss 0, gradient 0, counted nowhere); one equal to
 * background_index (default: K; sigmoid only) makes an all-zero target row; any other outside [0, K) is an
 * error that names the row, counted in row-major order, and the value (on a CUDA device: NaN, see below). ignore_index goes first where the two are
 * equal, and with a background_index of its own, K is no longer valid. class_alpha is used as it is: a negative entry
 * does not switch it off.
 *
 * NUMBERS. Arithmetic is float32 for float16, bfloat16 and float32, float64 for float64. For gamma in [0, 5]
 * a float32 loss is within 8 ULP and a gradient within 16 ULP of the exact value wherever that is a normal
 * number; sums are accumulated in float64 in a fixed order, from sigmoid losses that are rounded to the arithmetic's
 * type first (so below its smallest normal number they lose digits). Finite for every finite logit whose exact result
 * fits the type; limits at infinities; NaN in, NaN out. Results have the same bits for every number of threads and
 * every instruction set, whatever floating-point modes the caller has set (rounding, subnormals flushed, traps): those
 * are set to the defaults for the call and put back. Soft labels: the same bounds, in ULP of the largest term. An input
 * that is empty, or ignored as a whole, gives 0 for sum and mean; a normalizer of 0 then divides it like any other number.
 *
 * CUDA. Where the tensors are decides where the work runs: all of a call's in main memory, or all on one CUDA device
 * (FOCAL_LOSS_DEVICE_TYPE_CUDA, or memory that CUDA manages); anything else is FOCAL_LOSS_STATUS_INVALID_ARGUMENT.
 * The driver (for CUDA 11.8 or newer; any GPU from compute capability 7.5 on) is looked for at the first such call;
 * without one that works, such calls answer FOCAL_LOSS_STATUS_CUDA with the reason, and nothing else changes. Work is
 * queued on the stream in the options, in that stream's context, or for NULL on the default stream of the caller's
 * current context if that is the device's, else of the device's primary context. A call returns when its work is
 * queued: it never waits, and reads nothing on the host, so class_alpha, weight, normalizer and grad_loss may still be
 * on their way, and memory must stay until the stream has come past the call. It can be captured into a CUDA graph.
 * Sums take some kilobytes of workspace, allocated and freed in the stream's order (as memory nodes of a graph that is
 * captured). The first call in a context makes the driver compile the kernels, which takes seconds unless they are in its
 * cache. A class index that is not valid cannot be an error: it makes its row's loss and gradient NaN, and a sum or
 * mean with it; nothing out of bounds is read. The bounds under NUMBERS hold, with sums within 1e-6; a call gives the
 * same bits each time on the same device, but not those of the CPU, and focal_loss_forward_backward() with a grad_loss
 * for each loss may differ from focal_loss_forward() within the bounds. Should the driver fail when some work is
 * queued already, the outputs hold anything.
 *
 * ERRORS. Every function that can fail returns a focal_loss_status as int32_t. On anything but
 * FOCAL_LOSS_STATUS_OK nothing has been written (but for FOCAL_LOSS_STATUS_INTERNAL, which is a bug, and perhaps for
 * FOCAL_LOSS_STATUS_CUDA, see above), and focal_loss_last_error_message() says what was wrong with which argument.
 *
 * THREADS. Every function may be called from any number of threads at once. The caller sees to it that
 * nobody writes to a tensor that a call reads, or touches one that it writes. Large calls use a process-wide pool of
 * threads (of the processor's cores, or RAYON_NUM_THREADS), started at the first of them. Where the system has no
 * threads to give, and in a child after fork(), the calling thread does everything itself, with the same bits.
 *
 * ONNX RUNTIME. The library also exports RegisterCustomOps, which ONNX Runtime calls when it is given the library's
 * path (RegisterCustomOpsLibrary_V2). Nothing else here needs ONNX Runtime.
 *
 * EXAMPLE.
 *
 *     float logits[2 * 3] = {2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f}, loss;
 *     int64_t targets[2] = {0, 3}, shape[2] = {2, 3};        // an object of class 0; background (K = 3)
 *     focal_loss_device cpu = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
 *     focal_loss_dtype f32 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 32, 1}, i64 = {FOCAL_LOSS_DTYPE_CODE_INT, 64, 1};
 *     focal_loss_tensor x = {logits, cpu, 2, f32, shape, NULL, 0};
 *     focal_loss_tensor t = {targets, cpu, 1, i64, shape, NULL, 0};
 *     focal_loss_tensor l = {&loss, cpu, 0, f32, NULL, NULL, 0};
 *     focal_loss_inputs inputs = {sizeof inputs, &x, &t, NULL, NULL, NULL};
 *     focal_loss_options options;
 *     focal_loss_options_init(&options);
 *     if (focal_loss_forward(&options, &inputs, &l) != FOCAL_LOSS_STATUS_OK)
 *         fprintf(stderr, "%s\n", focal_loss_last_error_message());
 */

#ifndef FOCAL_LOSS_H
#define FOCAL_LOSS_H

/* Generated by cbindgen from src/capi; do not edit. */

#include <stddef.h>
#include <stdint.h>

/** The version of this header; focal_loss_version_string() has the library's. */
#define FOCAL_LOSS_VERSION_MAJOR 0
#define FOCAL_LOSS_VERSION_MINOR 1
#define FOCAL_LOSS_VERSION_PATCH 0
#define FOCAL_LOSS_VERSION "0.1.0"

/**
 * What a call came to. Numbers are never reused.
 */
enum focal_loss_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Done.
     */
    FOCAL_LOSS_STATUS_OK = 0,
    /**
     * An argument breaks the contract in this header.
     */
    FOCAL_LOSS_STATUS_INVALID_ARGUMENT = 1,
    /**
     * The arguments make sense, but this version cannot serve them.
     */
    FOCAL_LOSS_STATUS_UNSUPPORTED = 2,
    /**
     * Memory could not be had, even for the message of another error. Nothing has been written; the same call succeeds
     * once there is memory.
     */
    FOCAL_LOSS_STATUS_OUT_OF_MEMORY = 3,
    /**
     * There is no usable CUDA driver or device, or it failed; the message has the driver's words.
     */
    FOCAL_LOSS_STATUS_CUDA = 4,
    /**
     * A bug in this library; please report it with the message.
     */
    FOCAL_LOSS_STATUS_INTERNAL = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum focal_loss_status focal_loss_status;
#else
typedef int32_t focal_loss_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How logits become probabilities.
 */
enum focal_loss_activation
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * K independent binary losses per row: focal loss as published.
     */
    FOCAL_LOSS_ACTIVATION_SIGMOID = 0,
    /**
     * One loss per row over K exclusive classes. Mind alpha: a scalar alpha is then a plain factor that
     * balances nothing; use class_alpha, or switch it off with alpha = -1.
     */
    FOCAL_LOSS_ACTIVATION_SOFTMAX = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum focal_loss_activation focal_loss_activation;
#else
typedef int32_t focal_loss_activation;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What becomes of the losses.
 */
enum focal_loss_reduction
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Kept one by one.
     */
    FOCAL_LOSS_REDUCTION_NONE = 0,
    /**
     * Added up.
     */
    FOCAL_LOSS_REDUCTION_SUM = 1,
    /**
     * Added up and divided by what `normalization` says.
     */
    FOCAL_LOSS_REDUCTION_MEAN = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum focal_loss_reduction focal_loss_reduction;
#else
typedef int32_t focal_loss_reduction;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What FOCAL_LOSS_REDUCTION_MEAN divides by.
 */
enum focal_loss_normalization
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The number of losses: K for each counted row (sigmoid), one for each (softmax).
     */
    FOCAL_LOSS_NORMALIZATION_ELEMENTS = 0,
    /**
     * The number of rows that are not ignored.
     */
    FOCAL_LOSS_NORMALIZATION_ROWS = 1,
    /**
     * The rows of a real class, or the sum of dense targets; never below 1.
     */
    FOCAL_LOSS_NORMALIZATION_POSITIVES = 2,
    /**
     * The sum of `weight` over everything counted; without `weight` the same as ELEMENTS. A sum of 0 gives a loss
     * of 0 for losses that add up to 0, and gradients of 0.
     */
    FOCAL_LOSS_NORMALIZATION_WEIGHTS = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum focal_loss_normalization focal_loss_normalization;
#else
typedef int32_t focal_loss_normalization;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Where a tensor's memory is; DLPack's numbers.
 */
enum focal_loss_device_type
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Main memory.
     */
    FOCAL_LOSS_DEVICE_TYPE_CPU = 1,
    /**
     * Memory of the CUDA device that `device_id` numbers.
     */
    FOCAL_LOSS_DEVICE_TYPE_CUDA = 2,
    /**
     * Main memory pinned by CUDA; used as main memory, by the CPU.
     */
    FOCAL_LOSS_DEVICE_TYPE_CUDA_HOST = 3,
    /**
     * Memory managed by CUDA (cudaMallocManaged); used as memory of the CUDA device `device_id`.
     */
    FOCAL_LOSS_DEVICE_TYPE_CUDA_MANAGED = 13,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum focal_loss_device_type focal_loss_device_type;
#else
typedef int32_t focal_loss_device_type;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The kind of number; DLPack's codes. Together with `bits` it gives the types of this library:
 * INT 32 and 64, FLOAT 16, 32 and 64, BFLOAT 16.
 */
enum focal_loss_dtype_code
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Signed integer.
     */
    FOCAL_LOSS_DTYPE_CODE_INT = 0,
    /**
     * IEEE 754 binary floating point.
     */
    FOCAL_LOSS_DTYPE_CODE_FLOAT = 2,
    /**
     * bfloat16.
     */
    FOCAL_LOSS_DTYPE_CODE_BFLOAT = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum focal_loss_dtype_code focal_loss_dtype_code;
#else
typedef int32_t focal_loss_dtype_code;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What to compute. Set it up with focal_loss_options_init(), then change fields.
 */
typedef struct focal_loss_options {
    /**
     * sizeof(focal_loss_options) as the caller knows it. Fields that a shorter struct from an older
     * header lacks have their defaults; a longer one is an error.
     */
    size_t struct_size;
    /**
     * A `focal_loss_activation`. Default: SIGMOID.
     */
    int32_t activation;
    /**
     * The weight of positives in [0, 1] (negatives get 1 - alpha); below 0: off. With softmax a plain
     * factor. Overruled by `class_alpha`. Default: 0.25.
     */
    double alpha;
    /**
     * The focusing exponent, finite and >= 0. Default: 2.
     */
    double gamma;
    /**
     * A `focal_loss_reduction`. Default: MEAN.
     */
    int32_t reduction;
    /**
     * A `focal_loss_normalization`. Default: ELEMENTS.
     */
    int32_t normalization;
    /**
     * The class axis; negative counts from the end. Default: -1.
     */
    int32_t axis;
    /**
     * Nonzero: `ignore_index` holds. Default: 0.
     */
    int32_t has_ignore_index;
    /**
     * The class index whose rows are left out. Class-index targets only.
     */
    int64_t ignore_index;
    /**
     * Nonzero: `background_index` holds; 0: the background is K. Default: 0.
     */
    int32_t has_background_index;
    /**
     * The class index whose rows are all-zero targets. Class-index targets with sigmoid only.
     */
    int64_t background_index;
    /**
     * The most threads to use at once; 0: all. The process-wide pool is never resized. Default: 0.
     */
    int32_t num_threads;
    /**
     * For tensors on a CUDA device: the cudaStream_t or CUstream that the work is queued on, of that device; NULL is
     * the device's default stream. Ignored otherwise. Default: NULL.
     */
    void *stream;
} focal_loss_options;

/**
 * A device: DLPack's `DLDevice`.
 */
typedef struct focal_loss_device {
    /**
     * A `focal_loss_device_type`.
     */
    int32_t device_type;
    /**
     * Which of the devices of that type: CUDA's number of it. Ignored for main memory.
     */
    int32_t device_id;
} focal_loss_device;

/**
 * An element type: DLPack's `DLDataType`.
 */
typedef struct focal_loss_dtype {
    /**
     * A `focal_loss_dtype_code`.
     */
    uint8_t code;
    /**
     * Bits of an element.
     */
    uint8_t bits;
    /**
     * Must be 1.
     */
    uint16_t lanes;
} focal_loss_dtype;

/**
 * A borrowed view of a tensor, bit for bit a DLPack v1 `DLTensor`: a `DLTensor *` from PyTorch, NumPy,
 * JAX, CuPy or TVM can be passed as it is. The library keeps no pointer to it after a call.
 */
typedef struct focal_loss_tensor {
    /**
     * The memory, aligned to the element. May be NULL if the tensor has no elements.
     */
    void *data;
    /**
     * Where the memory is, and so where the work runs: all tensors of a call are in main memory, or all are on one
     * CUDA device. Else: FOCAL_LOSS_STATUS_INVALID_ARGUMENT.
     */
    struct focal_loss_device device;
    /**
     * The number of axes, at most 16.
     */
    int32_t ndim;
    /**
     * The element type.
     */
    struct focal_loss_dtype dtype;
    /**
     * `ndim` sizes, none negative. May be NULL if `ndim` is 0.
     */
    const int64_t *shape;
    /**
     * `ndim` steps in elements (not bytes), of any sign; NULL means dense and row-major. An output's
     * elements must not overlap; an input's may (a step of 0 repeats).
     */
    const int64_t *strides;
    /**
     * Added to `data`, in bytes.
     */
    uint64_t byte_offset;
} focal_loss_tensor;

/**
 * The tensors that are read; see the top of this header for dtypes and shapes.
 */
typedef struct focal_loss_inputs {
    /**
     * sizeof(focal_loss_inputs) as the caller knows it.
     */
    size_t struct_size;
    /**
     * Required.
     */
    const struct focal_loss_tensor *logits;
    /**
     * Required: class indices or dense.
     */
    const struct focal_loss_tensor *targets;
    /**
     * Alpha for each class, shape [K], in place of the option `alpha`. May be NULL.
     */
    const struct focal_loss_tensor *class_alpha;
    /**
     * Broadcasts to the logits (sigmoid) or the rows (softmax). May be NULL.
     */
    const struct focal_loss_tensor *weight;
    /**
     * One element that every result is divided by, whatever the reduction. May be NULL.
     */
    const struct focal_loss_tensor *normalizer;
} focal_loss_inputs;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What was wrong in this thread's last call, as a sentence in UTF-8 that names the argument; the
 * empty string if that call succeeded. Never NULL. At most 2047 bytes, valid until this thread's next call.
 */
const char *focal_loss_last_error_message(void);

/**
 * Sets every option of version 0.1 to its default, and `struct_size` to that version's size. NULL is ignored.
 *
 * It will never write more than that, so a program built against this header keeps working with every
 * later library.
 */
void focal_loss_options_init(struct focal_loss_options *options);

/**
 * Computes the loss.
 *
 * `loss` has the logits' dtype: one element for FOCAL_LOSS_REDUCTION_SUM and MEAN, else the logits' shape
 * (sigmoid) or the rows' shape (softmax). It must not overlap an input.
 *
 * Returns a `focal_loss_status`. Since 0.1.
 */
int32_t focal_loss_forward(const struct focal_loss_options *options,
                           const struct focal_loss_inputs *inputs,
                           struct focal_loss_tensor *loss);

/**
 * Computes the gradient with respect to the logits.
 *
 * `grad_loss` is the gradient with respect to the loss, with the loss's dtype and shape; NULL means ones.
 * `grad_logits` has the logits' dtype and shape; it may be the logits' own memory (the same data, shape and
 * strides), and must not overlap anything else.
 *
 * Returns a `focal_loss_status`. Since 0.1.
 */
int32_t focal_loss_backward(const struct focal_loss_options *options,
                            const struct focal_loss_inputs *inputs,
                            const struct focal_loss_tensor *grad_loss,
                            struct focal_loss_tensor *grad_logits);

/**
 * Computes the loss and the gradient in one pass over the logits: the same bits as the two calls.
 *
 * Arguments are those of focal_loss_forward() and focal_loss_backward().
 *
 * Returns a `focal_loss_status`. Since 0.1.
 */
int32_t focal_loss_forward_backward(const struct focal_loss_options *options,
                                    const struct focal_loss_inputs *inputs,
                                    const struct focal_loss_tensor *grad_loss,
                                    struct focal_loss_tensor *loss,
                                    struct focal_loss_tensor *grad_logits);

/**
 * The library's version, "MAJOR.MINOR.PATCH". Never NULL; valid for the life of the process.
 */
const char *focal_loss_version_string(void);

/**
 * The instruction set that this process's CPU work uses: "baseline", "avx2" or "avx512". Never NULL.
 *
 * It is the best that the processor has. The environment variable FOCAL_LOSS_MAX_ISA, set to one of these
 * names before the first call, caps it; another value has no effect. Results have the same bits with each.
 */
const char *focal_loss_cpu_isa(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FOCAL_LOSS_H */
