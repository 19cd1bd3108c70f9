/* The header's own example, and its known answer. */
#include <focal_loss.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    float logits[2 * 3] = {2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f}, loss;
    int64_t targets[2] = {0, 3}, shape[2] = {2, 3};
    focal_loss_device cpu = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
    focal_loss_dtype f32 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 32, 1}, i64 = {FOCAL_LOSS_DTYPE_CODE_INT, 64, 1};
    focal_loss_tensor x = {NULL, {0, 0}, 2, {0, 0, 0}, NULL, NULL, 0}, t = x, l = x;
    focal_loss_inputs inputs = {sizeof inputs, NULL, NULL, NULL, NULL, NULL};
    focal_loss_options options;
    x.data = logits, x.device = cpu, x.dtype = f32, x.shape = shape;
    t.data = targets, t.device = cpu, t.dtype = i64, t.shape = shape, t.ndim = 1;
    l.data = &loss, l.device = cpu, l.dtype = f32, l.ndim = 0;
    inputs.logits = &x, inputs.targets = &t;
    focal_loss_options_init(&options);
    options.reduction = FOCAL_LOSS_REDUCTION_SUM;
    if (focal_loss_forward(&options, &inputs, &l) != FOCAL_LOSS_STATUS_OK) {
        fprintf(stderr, "%s\n", focal_loss_last_error_message());
        return 1;
    }
    /* The formula in float64 gives 0.3019421727818123. */
    if (!(fabs((double)loss - 0.301942) < 1e-6) || strcmp(focal_loss_version_string(), FOCAL_LOSS_VERSION) != 0) {
        fprintf(stderr, "%.9g by version %s, headers %s\n", (double)loss, focal_loss_version_string(), FOCAL_LOSS_VERSION);
        return 1;
    }
    printf("%.9g by version %s\n", (double)loss, focal_loss_version_string());
    return 0;
}
