/* Focal loss and its gradient from C. Compile with: cc example.c $(pkg-config --cflags --libs focal_loss) -lm */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "focal_loss.h"

enum { N = 2, K = 3 };

/* The formula of the paper (Lin et al. 2017, equation 5), for comparison. */
static double textbook(const double *logits, const int64_t *targets) {
    double sum = 0;
    for (int i = 0; i < N * K; i++) {
        int positive = targets[i / K] == i % K;
        double p = 1 / (1 + exp(-logits[i]));
        double p_t = positive ? p : 1 - p, alpha_t = positive ? 0.25 : 0.75;
        sum += -alpha_t * (1 - p_t) * (1 - p_t) * log(p_t);
    }
    return sum;
}

int main(void) {
    float logits[N * K] = {2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f}, loss, gradient[N * K];
    int64_t targets[N] = {0, 3}; /* an object of class 0; background (K = 3) */
    int64_t shape[2] = {N, K};

    /* Tensors are DLPack's. A row of class indices has one axis, a sum has none. */
    focal_loss_device cpu = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
    focal_loss_dtype f32 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 32, 1}, i64 = {FOCAL_LOSS_DTYPE_CODE_INT, 64, 1};
    focal_loss_tensor x = {logits, cpu, 2, f32, shape, NULL, 0}, t = {targets, cpu, 1, i64, shape, NULL, 0};
    focal_loss_tensor l = {&loss, cpu, 0, f32, NULL, NULL, 0}, g = {gradient, cpu, 2, f32, shape, NULL, 0};
    focal_loss_inputs inputs = {sizeof inputs, &x, &t, NULL, NULL, NULL};

    focal_loss_options options;
    focal_loss_options_init(&options); /* sigmoid, alpha 0.25, gamma 2, mean */
    options.reduction = FOCAL_LOSS_REDUCTION_SUM;

    if (focal_loss_forward_backward(&options, &inputs, NULL, &l, &g) != FOCAL_LOSS_STATUS_OK) {
        fprintf(stderr, "%s\n", focal_loss_last_error_message());
        return EXIT_FAILURE;
    }

    double exact[N * K];
    for (int i = 0; i < N * K; i++) exact[i] = logits[i];
    double expected = textbook(exact, targets);
    printf("loss %.9g, by the textbook %.9g\n", loss, expected);
    int wrong = !(fabs(loss - expected) <= 1e-6 * expected);
    for (int i = 0; i < N * K; i++) {
        const double step = 1e-5;
        exact[i] = logits[i] + step;
        double above = textbook(exact, targets);
        exact[i] = logits[i] - step;
        double slope = (above - textbook(exact, targets)) / (2 * step);
        exact[i] = logits[i];
        printf("  d loss / d logit %d: %.9g, by differences %.9g\n", i, gradient[i], slope);
        wrong |= !(fabs(gradient[i] - slope) <= 1e-6);
    }

    /* What does not fit is refused in a sentence, before anything is written. */
    targets[1] = 4;
    if (focal_loss_forward(&options, &inputs, &l) == FOCAL_LOSS_STATUS_OK) wrong = 1;
    printf("a class that is not there: %s\n", focal_loss_last_error_message());
    return wrong ? EXIT_FAILURE : EXIT_SUCCESS;
}
