/* What a process may do to the library: change the floating-point modes, fork, have no threads to give. The results
 * keep their bits. Each in a child, since the pool of threads is made once for a process. */
#include <dirent.h>
#include <fenv.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "check.h"

enum { N = 4096, K = 80 };
static const int64_t SHAPE[2] = {N, K}, ROWS[1] = {N};
static float X[N * K], LOSS[N * K], GRAD[N * K], EXPECTED_LOSS[N * K], EXPECTED_GRAD[N * K];
static int64_t Y[N];

static void run(int32_t num_threads, focal_loss_activation activation, float *loss, float *grad) {
    focal_loss_tensor x = view(X, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS);
    focal_loss_tensor l = view(loss, F32, 2, SHAPE), g = view(grad, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    focal_loss_options o = defaults();
    o.reduction = FOCAL_LOSS_REDUCTION_NONE;
    o.activation = activation;
    o.num_threads = num_threads;
    if (activation == FOCAL_LOSS_ACTIVATION_SOFTMAX) {
        l.ndim = 1;
        l.shape = ROWS;
    }
    OK(focal_loss_forward_backward(&o, &in, NULL, &l, &g));
}

static void same_bits(int32_t num_threads) {
    static const focal_loss_activation activations[2] = {FOCAL_LOSS_ACTIVATION_SIGMOID, FOCAL_LOSS_ACTIVATION_SOFTMAX};
    int i;
    for (i = 0; i < 2; i++) {
        int mode = fegetround();
        CHECK(fesetround(FE_TONEAREST) == 0);
#ifdef __SSE__
        {
            unsigned control = _mm_getcsr();
            _mm_setcsr(0x1f80);
            run(1, activations[i], EXPECTED_LOSS, EXPECTED_GRAD);
            _mm_setcsr(control);
        }
#else
        run(1, activations[i], EXPECTED_LOSS, EXPECTED_GRAD);
#endif
        CHECK(fesetround(mode) == 0);
        run(num_threads, activations[i], LOSS, GRAD);
        CHECK(memcmp(LOSS, EXPECTED_LOSS, sizeof LOSS) == 0);
        CHECK(memcmp(GRAD, EXPECTED_GRAD, sizeof GRAD) == 0);
    }
}

/* Rounding upwards and flushing subnormals, before the first thread of the pool inherits them. */
static void other_floating_point_modes(void) {
    int num_threads;
    CHECK(fesetround(FE_UPWARD) == 0);
#ifdef __SSE__
    _mm_setcsr(_mm_getcsr() | 0x8040); /* results and operands */
#endif
    for (num_threads = 0; num_threads < 2; num_threads++) {
        same_bits(num_threads);
        /* The caller's modes are as they were. */
        CHECK(fegetround() == FE_UPWARD);
#ifdef __SSE__
        CHECK((_mm_getcsr() & 0x8040) == 0x8040);
#endif
    }
}

static int threads(void) {
    int count = 0;
    struct dirent *entry;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    while ((entry = readdir(tasks)) != NULL) count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void in_child(void (*body)(void)) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60); /* a call that hangs is a failure */
        body();
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void large_call(void) { same_bits(0); }

static void fork_after_use(void) {
    same_bits(0);
    /* Otherwise there would be nothing that stays behind. */
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1 && getenv("RAYON_NUM_THREADS") == NULL) CHECK(threads() > 1);
    in_child(large_call);
    same_bits(0);
}

static void *first_call(void *unused) {
    run(0, FOCAL_LOSS_ACTIVATION_SIGMOID, LOSS, GRAD);
    return unused;
}

static long microseconds;

/* While another thread makes the process's first call, which starts the pool: at some microsecond in the middle of it. */
static void fork_during_first_call(void) {
    struct timespec start, now;
    pthread_t thread;
    int status;
    pid_t child;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &start) == 0);
    CHECK(pthread_create(&thread, NULL, first_call, NULL) == 0);
    do CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    while ((now.tv_sec - start.tv_sec) * 1000000 + (now.tv_nsec - start.tv_nsec) / 1000 < microseconds);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        same_bits(0);
        _exit(0); /* what the other thread had would be reported as leaked */
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* Room for what is there, but for no thread's stack. */
static void no_threads(void) {
    struct rlimit limit;
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL && fscanf(statm, "%ld", &pages) == 1);
    fclose(statm);
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (1 << 20);
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    same_bits(0);
    CHECK(threads() == 1);
}

int main(void) {
    int64_t i;
    /* From -36, whose loss is subnormal, to 8. */
    for (i = 0; i < N * K; i++) X[i] = (float)(i * 7919 % 44000) / 1000.0f - 36.0f;
    for (i = 0; i < N; i++) Y[i] = i % K;
    in_child(other_floating_point_modes);
    in_child(fork_after_use);
    for (microseconds = 0; microseconds < 600; microseconds += 6) in_child(fork_during_first_call);
    /* AddressSanitizer reserves more address space than there is. */
#ifndef __SANITIZE_ADDRESS__
    in_child(no_threads);
#endif
    return 0;
}
