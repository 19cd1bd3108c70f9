/* Threads that call at once, large calls and small, shared inputs and outputs of their own; for ThreadSanitizer and
 * helgrind, and for the leak check: every result has the bits of the serial one. */
#include <pthread.h>

#include "check.h"

enum { THREADS = 8, ROUNDS = 6, ROWS = 3000, CLASSES = 7 };

static const int64_t SHAPE[2] = {ROWS, CLASSES}, ROWS_SHAPE[1] = {ROWS};
static float logits[ROWS * CLASSES], expected[ROWS * CLASSES], expected_sum;
static int64_t targets[ROWS];

static int32_t call(int32_t num_threads, int64_t bad, float *sum, float *grad) {
    focal_loss_tensor x = view(logits, F32, 2, SHAPE), t = view(targets, I64, 1, ROWS_SHAPE);
    focal_loss_tensor l = view(sum, F32, 0, NULL), g = view(grad, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &t);
    focal_loss_options o = defaults();
    o.num_threads = num_threads;
    o.gamma = bad ? -1.0 : 1.5;
    return focal_loss_forward_backward(&o, &in, NULL, &l, &g);
}

static void *work(void *argument) {
    const int number = *(const int *)argument;
    float *grad = (float *)malloc(sizeof expected), sum;
    int round;
    CHECK(grad != NULL);
    for (round = 0; round < ROUNDS; round++) {
        REFUSED(call(round % 4, 1, &sum, grad), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "gamma");
        OK(call((round + number) % 4, 0, &sum, grad));
        CHECK(memcmp(&sum, &expected_sum, sizeof sum) == 0 && memcmp(grad, expected, sizeof expected) == 0);
    }
    free(grad);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    int numbers[THREADS], i;
    for (i = 0; i < ROWS * CLASSES; i++) logits[i] = (float)((i * 31) % 101) / 8.0f - 6.0f;
    for (i = 0; i < ROWS; i++) targets[i] = i * 7 % (CLASSES + 1);
    OK(call(1, 0, &expected_sum, expected));
    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}
