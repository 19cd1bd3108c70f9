/* The contract around the numbers: layouts, defaults, older structs, messages, threads, versions. */
#include <pthread.h>
#include <stddef.h>

#include "check.h"

/* DLPack v1, as published (dlpack.h). */
typedef enum { kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3 } DLDeviceType;
typedef enum { kDLInt = 0, kDLFloat = 2, kDLBfloat = 4 } DLDataTypeCode;
typedef struct {
    DLDeviceType device_type;
    int32_t device_id;
} DLDevice;
typedef struct {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
} DLDataType;
typedef struct {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} DLTensor;

#define SAME(ours, theirs, field)                                           \
    CHECK(offsetof(ours, field) == offsetof(theirs, field));                \
    CHECK(sizeof(((ours *)0)->field) == sizeof(((theirs *)0)->field))

static void dlpack(void) {
    SAME(focal_loss_tensor, DLTensor, data);
    SAME(focal_loss_tensor, DLTensor, device);
    SAME(focal_loss_tensor, DLTensor, ndim);
    SAME(focal_loss_tensor, DLTensor, dtype);
    SAME(focal_loss_tensor, DLTensor, shape);
    SAME(focal_loss_tensor, DLTensor, strides);
    SAME(focal_loss_tensor, DLTensor, byte_offset);
    SAME(focal_loss_device, DLDevice, device_type);
    SAME(focal_loss_device, DLDevice, device_id);
    SAME(focal_loss_dtype, DLDataType, code);
    SAME(focal_loss_dtype, DLDataType, bits);
    SAME(focal_loss_dtype, DLDataType, lanes);
    CHECK(sizeof(focal_loss_tensor) == sizeof(DLTensor));
    CHECK(sizeof(focal_loss_device) == sizeof(DLDevice));
    CHECK(sizeof(focal_loss_dtype) == sizeof(DLDataType));
    CHECK((int)FOCAL_LOSS_DEVICE_TYPE_CPU == (int)kDLCPU && (int)FOCAL_LOSS_DEVICE_TYPE_CUDA == (int)kDLCUDA);
    CHECK((int)FOCAL_LOSS_DEVICE_TYPE_CUDA_HOST == (int)kDLCUDAHost);
    CHECK((int)FOCAL_LOSS_DTYPE_CODE_INT == (int)kDLInt && (int)FOCAL_LOSS_DTYPE_CODE_FLOAT == (int)kDLFloat);
    CHECK((int)FOCAL_LOSS_DTYPE_CODE_BFLOAT == (int)kDLBfloat);
    { /* and a DLTensor goes through as it is */
        int64_t shape[2] = {1, 2};
        float x2[2] = {0, 0}, t2[2] = {1, 0}, sum = -1;
        DLTensor x = {x2, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, NULL, NULL, 0}, t, l;
        focal_loss_inputs in;
        focal_loss_options o = defaults();
        x.shape = shape;
        t = l = x;
        t.data = t2;
        l.data = &sum;
        l.ndim = 0;
        l.shape = NULL;
        in = two_inputs((const focal_loss_tensor *)(const void *)&x, (const focal_loss_tensor *)(const void *)&t);
        OK(focal_loss_forward(&o, &in, (focal_loss_tensor *)(void *)&l));
        NEAR(sum, 0.25 * log(2.0) / 2, 16);
    }
}

static void numbers(void) {
    CHECK(FOCAL_LOSS_STATUS_OK == 0 && FOCAL_LOSS_STATUS_INVALID_ARGUMENT == 1 && FOCAL_LOSS_STATUS_UNSUPPORTED == 2);
    CHECK(FOCAL_LOSS_STATUS_OUT_OF_MEMORY == 3 && FOCAL_LOSS_STATUS_CUDA == 4 && FOCAL_LOSS_STATUS_INTERNAL == 5);
    CHECK(FOCAL_LOSS_ACTIVATION_SIGMOID == 0 && FOCAL_LOSS_ACTIVATION_SOFTMAX == 1);
    CHECK(FOCAL_LOSS_REDUCTION_NONE == 0 && FOCAL_LOSS_REDUCTION_SUM == 1 && FOCAL_LOSS_REDUCTION_MEAN == 2);
    CHECK(FOCAL_LOSS_NORMALIZATION_ELEMENTS == 0 && FOCAL_LOSS_NORMALIZATION_ROWS == 1);
    CHECK(FOCAL_LOSS_NORMALIZATION_POSITIVES == 2 && FOCAL_LOSS_NORMALIZATION_WEIGHTS == 3);
    CHECK(offsetof(focal_loss_options, struct_size) == 0 && offsetof(focal_loss_inputs, struct_size) == 0);
    CHECK(sizeof(focal_loss_status) == sizeof(int32_t));
}

static void initial_options(void) {
    union {
        focal_loss_options options;
        unsigned char bytes[sizeof(focal_loss_options) + 16];
    } u;
    size_t i;
    memset(&u, 0xa5, sizeof u);
    focal_loss_options_init(&u.options);
    CHECK(u.options.struct_size == sizeof(focal_loss_options));
    CHECK(u.options.activation == FOCAL_LOSS_ACTIVATION_SIGMOID);
    CHECK(u.options.alpha == 0.25 && u.options.gamma == 2);
    CHECK(u.options.reduction == FOCAL_LOSS_REDUCTION_MEAN);
    CHECK(u.options.normalization == FOCAL_LOSS_NORMALIZATION_ELEMENTS);
    CHECK(u.options.axis == -1 && u.options.num_threads == 0 && u.options.stream == NULL);
    CHECK(!u.options.has_ignore_index && !u.options.has_background_index);
    for (i = sizeof(focal_loss_options); i < sizeof u.bytes; i++) CHECK(u.bytes[i] == 0xa5);
    focal_loss_options_init(NULL); /* as the header says: nothing */
}

static const int64_t SHAPE[2] = {2, 3}, ROWS[1] = {2};
static const float X[6] = {2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f};
static const int64_t Y[2] = {0, 3};

/* A struct that ends after the first fields, in memory that ends there too. */
static void *shortened(const void *whole, size_t size) {
    unsigned char *part = (unsigned char *)malloc(size);
    CHECK(part != NULL);
    memcpy(part, whole, size);
    memcpy(part, &size, sizeof size);
    return part;
}

static void older_structs(void) {
    const size_t ends[] = {
        offsetof(focal_loss_options, alpha),          offsetof(focal_loss_options, gamma),
        offsetof(focal_loss_options, reduction),      offsetof(focal_loss_options, axis),
        offsetof(focal_loss_options, ignore_index),   offsetof(focal_loss_options, has_background_index),
        offsetof(focal_loss_options, background_index), offsetof(focal_loss_options, num_threads),
        offsetof(focal_loss_options, stream),
    };
    float want, got, weight = 5;
    focal_loss_tensor x = view(X, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS), w = view(&weight, F32, 0, NULL);
    focal_loss_tensor l = view(&want, F32, 0, NULL), l2 = view(&got, F32, 0, NULL);
    focal_loss_inputs in = two_inputs(&x, &y), *short_inputs;
    focal_loss_options o = defaults(), *old;
    size_t i;
    OK(focal_loss_forward(&o, &in, &l));
    for (i = 0; i < sizeof ends / sizeof *ends; i++) {
        old = (focal_loss_options *)shortened(&o, ends[i]);
        got = -1;
        OK(focal_loss_forward(old, &in, &l2));
        CHECK(got == want);
        free(old);
    }
    /* What the short struct does have counts; what it lacks has its default, whatever the caller's memory holds. */
    o.gamma = 0.5;
    OK(focal_loss_forward(&o, &in, &l));
    o.reduction = FOCAL_LOSS_REDUCTION_SUM;
    o.has_ignore_index = 1;
    o.struct_size = offsetof(focal_loss_options, reduction);
    OK(focal_loss_forward(&o, &in, &l2));
    CHECK(got == want);
    in.weight = &w;
    short_inputs = (focal_loss_inputs *)shortened(&in, offsetof(focal_loss_inputs, class_alpha));
    OK(focal_loss_forward(&o, short_inputs, &l2));
    CHECK(got == want);
    free(short_inputs);

    for (i = 0; i <= sizeof(focal_loss_options) + 8; i++) {
        const size_t sizes[] = {0, 1, 7, 8, 9, 13, 17, 20, 28, 31, 52, 68, 84, 87, 89, 96};
        size_t k;
        int bad = i > sizeof(focal_loss_options);
        for (k = 0; k < sizeof sizes / sizeof *sizes; k++) bad |= i == sizes[k];
        if (!bad) continue;
        o.struct_size = i;
        got = -1;
        REFUSED(focal_loss_forward(&o, &in, &l2), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "options");
        CHECK(got == -1);
    }
    o = defaults();
    for (i = 0; i <= sizeof in + 8; i++) {
        if (i > 8 && i <= sizeof in && i % 8 == 0) continue;
        in.struct_size = i;
        REFUSED(focal_loss_forward(&o, &in, &l2), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "inputs");
    }
    in.struct_size = (size_t)-8;
    REFUSED(focal_loss_forward(&o, &in, &l2), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "inputs");
}

static void null_arguments(void) {
    float loss, grad[6];
    focal_loss_tensor x = view(X, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS);
    focal_loss_tensor l = view(&loss, F32, 0, NULL), g = view(grad, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    focal_loss_options o = defaults();
    const int32_t bad = FOCAL_LOSS_STATUS_INVALID_ARGUMENT;
    REFUSED(focal_loss_forward(NULL, &in, &l), bad, "options");
    REFUSED(focal_loss_forward(&o, NULL, &l), bad, "inputs");
    REFUSED(focal_loss_forward(&o, &in, NULL), bad, "loss");
    REFUSED(focal_loss_backward(NULL, &in, NULL, &g), bad, "options");
    REFUSED(focal_loss_backward(&o, NULL, NULL, &g), bad, "inputs");
    REFUSED(focal_loss_backward(&o, &in, NULL, NULL), bad, "grad_logits");
    REFUSED(focal_loss_forward_backward(NULL, NULL, NULL, NULL, NULL), bad, "options");
    REFUSED(focal_loss_forward_backward(&o, &in, NULL, NULL, &g), bad, "loss");
    REFUSED(focal_loss_forward_backward(&o, &in, NULL, &l, NULL), bad, "grad_logits");
    in.logits = NULL;
    REFUSED(focal_loss_forward(&o, &in, &l), bad, "logits");
    in.logits = &x;
    in.targets = NULL;
    REFUSED(focal_loss_forward(&o, &in, &l), bad, "targets");
    in.targets = &y;
    OK(focal_loss_forward(&o, &in, &l));
    CHECK(strcmp(focal_loss_last_error_message(), "") == 0);
}

struct job {
    int number;
    pthread_barrier_t *barrier;
};

/* Each thread fails in its own way, all at once, and then finds its own message. */
static void *fail_in_a_thread(void *argument) {
    const struct job *job = (const struct job *)argument;
    char word[32];
    int round;
    CHECK(strcmp(focal_loss_last_error_message(), "") == 0);
    for (round = 0; round < 100; round++) {
        float loss;
        focal_loss_tensor x = view(X, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS), l = view(&loss, F32, 0, NULL);
        focal_loss_inputs in = two_inputs(&x, &y);
        focal_loss_options o = defaults();
        if (job->number == 0) {
            pthread_barrier_wait(job->barrier);
            OK(focal_loss_forward(&o, &in, &l));
            pthread_barrier_wait(job->barrier);
            CHECK(strcmp(focal_loss_last_error_message(), "") == 0);
            continue;
        }
        o.axis = 100 * job->number + round;
        snprintf(word, sizeof word, "%d", (int)o.axis);
        pthread_barrier_wait(job->barrier);
        REFUSED(focal_loss_forward(&o, &in, &l), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "axis");
        pthread_barrier_wait(job->barrier);
        CHECK(strstr(focal_loss_last_error_message(), word) != NULL);
    }
    return NULL;
}

static void messages_are_per_thread(void) {
    enum { THREADS = 6 };
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    pthread_barrier_t barrier;
    focal_loss_options o = defaults();
    char *before;
    int i;
    REFUSED(focal_loss_forward(&o, NULL, NULL), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "inputs");
    before = (char *)malloc(strlen(focal_loss_last_error_message()) + 1);
    CHECK(before != NULL);
    strcpy(before, focal_loss_last_error_message());
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (i = 0; i < THREADS; i++) {
        jobs[i].number = i;
        jobs[i].barrier = &barrier;
        CHECK(pthread_create(&threads[i], NULL, fail_in_a_thread, &jobs[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(strcmp(before, focal_loss_last_error_message()) == 0);
    pthread_barrier_destroy(&barrier);
    free(before);
}

static void versions(void) {
    char text[64];
    const char *isa = focal_loss_cpu_isa();
    snprintf(text, sizeof text, "%d.%d.%d", FOCAL_LOSS_VERSION_MAJOR, FOCAL_LOSS_VERSION_MINOR,
             FOCAL_LOSS_VERSION_PATCH);
    CHECK(strcmp(text, FOCAL_LOSS_VERSION) == 0);
    CHECK(strcmp(text, focal_loss_version_string()) == 0);
    CHECK(!strcmp(isa, "baseline") || !strcmp(isa, "avx2") || !strcmp(isa, "avx512"));
}

int main(void) {
    CHECK(strcmp(focal_loss_last_error_message(), "") == 0);
    dlpack();
    numbers();
    initial_options();
    older_structs();
    null_arguments();
    messages_are_per_thread();
    versions();
    return 0;
}
