/* No memory: every allocation that the library makes fails in turn, by itself and with all that follow. Each time in a
 * process of its own, which has to go on: the call succeeds with the same bits, or answers OUT_OF_MEMORY and has written
 * nothing; the next one, with memory, succeeds.
 *
 * An allocation is the library's when its code asks for it, on any thread, or when the C library does while it serves
 * the calling thread, as in pthread_create. What the C library and the loader need for a thread that has started is not
 * among them: they end the process by themselves. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__)
int main(void) {
    printf("    NOT RUN: allocations can be made to fail with glibc alone, and without AddressSanitizer\n");
    return 0;
}
#else

#include "failing.h"

/* Three chunks of work. */
enum { N = 1024, K = 80, BYTES = N * K * 8 };
static const int64_t SHAPE[2] = {N, K}, ROWS[1] = {N}, NARROW[2] = {N, K - 1};
static unsigned char X[BYTES];
static int64_t Y[N], WRONG[N];

typedef enum { FORWARD, BACKWARD, FUSED } call_kind;
typedef enum {
    NOTHING,
    NO_OPTIONS,
    ANOTHER_SIZE,
    GAMMA,
    OTHER_SHAPE,
    CLASS_INDEX,
    OVERLAP,
    ON_CUDA,
    WRONGS
} wrong_kind;
typedef struct {
    focal_loss_activation activation;
    const focal_loss_dtype *dtype;
    call_kind call;
    int32_t num_threads;
    wrong_kind wrong;
} scenario;

static const focal_loss_dtype *const DTYPES[4] = {&F16, &BF16, &F32, &F64};
static const char *const WORDS[WRONGS] = {
    "", "options: the struct is NULL", "which is the size of no version", "gamma is", "but logits have", "class index 1000",
    "overlaps", "CUDA",
};

typedef struct {
    long asked, failed, out_of_memory;
    unsigned char loss[BYTES], grad[BYTES];
} results;
/* Of the process that had all memory, and of the one under test. */
static results *expected, *got;
static int32_t expected_status;

/* -8 to 4 in sixteenths, which all four types have; the 16-bit ones as their upper bits. */
static void make_logits(focal_loss_dtype dtype) {
    int i;
    for (i = 0; i < N * K; i++) {
        double value = (double)(i * 7919 % 193) / 16.0 - 8.0;
        float single = (float)value;
        uint32_t bits;
        uint16_t half;
        memcpy(&bits, &single, sizeof bits);
        if (dtype.bits == 64) memcpy(X + 8 * i, &value, 8);
        if (dtype.bits == 32) memcpy(X + 4 * i, &single, 4);
        if (dtype.bits == 16) {
            half = (uint16_t)(bits >> 16);
            if (dtype.code == FOCAL_LOSS_DTYPE_CODE_FLOAT)
                half = (uint16_t)(single == 0 ? 0 : (bits >> 16 & 0x8000) | (((bits >> 23 & 0xff) - 112) << 10) | (bits >> 13 & 0x3ff));
            memcpy(X + 2 * i, &half, 2);
        }
    }
}

static int32_t run(const scenario *s, results *r) {
    int softmax = s->activation == FOCAL_LOSS_ACTIVATION_SOFTMAX;
    focal_loss_tensor x = view(X, *s->dtype, 2, SHAPE), y = view(s->wrong == CLASS_INDEX ? WRONG : Y, I64, 1, ROWS);
    focal_loss_tensor l = view(r->loss, *s->dtype, softmax ? 1 : 2, SHAPE);
    focal_loss_tensor g = view(s->wrong == OVERLAP ? r->loss : r->grad, *s->dtype, 2, s->wrong == OTHER_SHAPE ? NARROW : SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    focal_loss_options o = defaults();
    o.reduction = FOCAL_LOSS_REDUCTION_NONE;
    o.activation = s->activation;
    o.num_threads = s->num_threads;
    if (s->wrong == ANOTHER_SIZE) o.struct_size = 13;
    if (s->wrong == GAMMA) o.gamma = -1;
    if (s->wrong == ON_CUDA) x.device.device_type = y.device.device_type = l.device.device_type = g.device.device_type = FOCAL_LOSS_DEVICE_TYPE_CUDA;
    switch (s->call) {
    case FORWARD: return focal_loss_forward(s->wrong == NO_OPTIONS ? NULL : &o, &in, &l);
    case BACKWARD: return focal_loss_backward(s->wrong == NO_OPTIONS ? NULL : &o, &in, NULL, &g);
    default: return focal_loss_forward_backward(s->wrong == NO_OPTIONS ? NULL : &o, &in, NULL, &l, &g);
    }
}

static int untouched(void) {
    int i;
    for (i = 0; i < BYTES; i++) {
        if (got->loss[i] != 0xa5 || got->grad[i] != 0xa5) return 0;
    }
    return 1;
}

/* The call, whose allocations fail as `mode` says only while it lasts; what comes of it has to be right. */
static void checked(const scenario *s, mode_kind how) {
    int32_t status;
    memset(got->loss, 0xa5, BYTES);
    memset(got->grad, 0xa5, BYTES);
    __atomic_store_n(&mode, how, __ATOMIC_SEQ_CST);
    in_call = 1;
    status = run(s, got);
    in_call = 0;
    if (how != OFF) {
        /* Threads that it has started may still be setting themselves up. */
        struct timespec moment = {0, 300000};
        nanosleep(&moment, NULL);
    }
    __atomic_store_n(&mode, OFF, __ATOMIC_SEQ_CST);
    if (status == FOCAL_LOSS_STATUS_OUT_OF_MEMORY) {
        CHECK(failed > 0 && untouched());
        CHECK(strstr(focal_loss_last_error_message(), "memory could not be had") != NULL);
        got->out_of_memory++;
    } else {
        CHECK(status == expected_status);
        if (status == FOCAL_LOSS_STATUS_OK) {
            CHECK(memcmp(got->loss, expected->loss, BYTES) == 0);
            CHECK(memcmp(got->grad, expected->grad, BYTES) == 0);
        } else {
            CHECK(untouched());
            CHECK(strstr(focal_loss_last_error_message(), WORDS[s->wrong]) != NULL);
        }
    }
}

/* `before` calls with memory, `calls` without from allocation `n` on, and one with; in a child. */
static void in_child(const scenario *s, int before, int calls, mode_kind how, long n) {
    int status;
    pid_t child;
    got->asked = got->failed = 0;
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60); /* a call that hangs is a failure */
        failing = n;
        while (before-- > 0) checked(s, OFF);
        while (calls-- > 0) checked(s, how);
        checked(s, OFF);
        got->asked = asked;
        got->failed = failed;
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "activation %d, %d bits, call %d, %d threads, wrong %d, %d calls before: with allocation %ld failing%s: %s %d\n",
                s->activation, s->dtype->bits, s->call, s->num_threads, s->wrong, before, n,
                how == ALL_FROM ? " and all that follow" : "", WIFSIGNALED(status) ? "signal" : "exit",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        exit(1);
    }
}

static long processes = 0, failures = 0, answered = 0;

/* What the call comes to where there is memory; in a child, so that here it was never called. */
static void expect(const scenario *s) {
    int status;
    pid_t child;
    make_logits(*s->dtype);
    memset(expected->loss, 0xa5, BYTES);
    memset(expected->grad, 0xa5, BYTES);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(run(s, expected));
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    expected_status = WEXITSTATUS(status);
    CHECK((expected_status == FOCAL_LOSS_STATUS_OK) == (s->wrong == NOTHING));
    CHECK(expected_status != FOCAL_LOSS_STATUS_OUT_OF_MEMORY && expected_status != FOCAL_LOSS_STATUS_INTERNAL);
}

/* Every allocation of `calls` calls after `before`; how many there are at most. */
static long every(const scenario *s, int before, int calls) {
    static const mode_kind HOW[2] = {ONE, ALL_FROM};
    long most = 0;
    int i;
    expect(s);
    for (i = 0; i < 2; i++) {
        long n = 0;
        do {
            got->out_of_memory = 0;
            in_child(s, before, calls, HOW[i], ++n);
            processes++;
            failures += got->failed;
            answered += got->out_of_memory;
            most = n - 1 > most ? n - 1 : most;
            CHECK(n < 10000);
        } while (got->failed > 0);
    }
    return most;
}

static long allocations(const scenario *s, int before, int calls) {
    expect(s);
    in_child(s, before, calls, COUNT, 0);
    return got->asked;
}

int main(void) {
    static const focal_loss_activation ACTIVATIONS[2] = {FOCAL_LOSS_ACTIVATION_SIGMOID, FOCAL_LOSS_ACTIVATION_SOFTMAX};
    int a, d, c, w;
    long first_alone = 0, first = 0, later = 0, errors = 0;
    /* The same on every machine, and the one variable of the library's is read, which takes memory. */
    CHECK(setenv("RAYON_NUM_THREADS", "4", 1) == 0 && setenv("FOCAL_LOSS_MAX_ISA", "avx512", 1) == 0);
    CHECK(find());
    expected = mmap(NULL, 2 * sizeof *expected, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)expected != MAP_FAILED);
    got = expected + 1;
    for (a = 0; a < N; a++) {
        Y[a] = a % K;
        WRONG[a] = a == N / 2 ? 1000 : Y[a];
    }
    for (a = 0; a < 2; a++) {
        for (d = 0; d < 4; d++) {
            for (c = FORWARD; c <= FUSED; c++) {
                scenario one = {ACTIVATIONS[a], DTYPES[d], (call_kind)c, 1, NOTHING}, many = one;
                many.num_threads = 0;
                /* Nothing at all on one thread; a block for 63 calls with a pool. */
                CHECK(allocations(&one, 1, 20) == 0);
                CHECK(allocations(&many, 1, 189) <= 4);
                later += every(&many, 1, 64);
                if (d == a + 1 && c == FUSED) {
                    first_alone += every(&one, 0, 1);
                    first += every(&many, 0, 2);
                }
            }
        }
        for (w = NOTHING + 1; w < WRONGS; w++) {
            scenario bad = {ACTIVATIONS[a], &F32, FUSED, 0, (wrong_kind)w};
            errors += every(&bad, 0, 1) + every(&bad, 1, 1);
        }
    }
    /* Each has allocations that failed; otherwise nothing has been tested. */
    CHECK(first_alone > 0 && first > 50 && later > 20 && errors > 20);
    {
        scenario wide = {FOCAL_LOSS_ACTIVATION_SIGMOID, &F32, FUSED, 0, NOTHING};
        long n;
        CHECK(setenv("RAYON_NUM_THREADS", "128", 1) == 0);
        expect(&wide);
        /* A pool that lives in the reserve as a whole, or the call does without. */
        for (n = 2; n < 2000; n += 97) in_child(&wide, 0, 2, ALL_FROM, n);
    }
    printf("    %ld allocations failed in %ld processes, %ld calls answered OUT_OF_MEMORY; first call: %ld allocations on one "
           "thread, %ld with a pool\n",
           failures, processes, answered, first_alone / 2, first / 2);
    return 0;
}
#endif
