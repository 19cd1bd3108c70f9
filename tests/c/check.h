/* Checks for the C and C++ tests: a failing one prints where and what, and ends the program with 1. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "focal_loss.h"

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: failed: %s (last message: \"%s\")\n", __FILE__, __LINE__, #condition,    \
                    focal_loss_last_error_message());                                                        \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Within `ulps` units of 2^-24 (float) of `expected`, relatively. */
#define NEAR(actual, expected, ulps)                                                                         \
    do {                                                                                                     \
        double actual_ = (double)(actual), expected_ = (double)(expected);                                   \
        if (!(fabs(actual_ - expected_) <= (ulps) * 5.97e-8 * fabs(expected_))) {                            \
            fprintf(stderr, "%s:%d: failed: %s is %.17g, but expected %.17g\n", __FILE__, __LINE__, #actual, \
                    actual_, expected_);                                                                     \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#define OK(call) CHECK((call) == FOCAL_LOSS_STATUS_OK)

/* The call is refused, and the message has `word` in it. */
#define REFUSED(call, status, word)                                        \
    do {                                                                   \
        CHECK((call) == (status));                                         \
        CHECK(strstr(focal_loss_last_error_message(), (word)) != NULL);    \
    } while (0)

static const focal_loss_device CPU = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
static const focal_loss_dtype F16 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 16, 1};
static const focal_loss_dtype BF16 = {FOCAL_LOSS_DTYPE_CODE_BFLOAT, 16, 1};
static const focal_loss_dtype F32 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 32, 1};
static const focal_loss_dtype F64 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 64, 1};
static const focal_loss_dtype I32 = {FOCAL_LOSS_DTYPE_CODE_INT, 32, 1};
static const focal_loss_dtype I64 = {FOCAL_LOSS_DTYPE_CODE_INT, 64, 1};

/* A dense tensor on the CPU; const data is for inputs only. */
#define view(data, dtype, ndim, shape) view_((void *)(uintptr_t)(data), dtype, ndim, shape)

static focal_loss_tensor view_(void *data, focal_loss_dtype dtype, int32_t ndim, const int64_t *shape) {
    focal_loss_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = data;
    tensor.device = CPU;
    tensor.ndim = ndim;
    tensor.dtype = dtype;
    tensor.shape = shape;
    (void)F16, (void)BF16, (void)F32, (void)F64, (void)I32, (void)I64; /* not every test needs each */
    return tensor;
}

/* Logits and targets alone. */
static focal_loss_inputs two_inputs(const focal_loss_tensor *logits, const focal_loss_tensor *targets) {
    focal_loss_inputs inputs;
    memset(&inputs, 0, sizeof inputs);
    inputs.struct_size = sizeof inputs;
    inputs.logits = logits;
    inputs.targets = targets;
    return inputs;
}

static focal_loss_options defaults(void) {
    focal_loss_options options;
    focal_loss_options_init(&options);
    return options;
}

#endif
