/* Proof that AddressSanitizer sees into the library: a tensor whose memory is one element short. It must report. */
#include "check.h"

int main(void) {
    const int64_t shape[2] = {2, 3}, rows[1] = {2}, targets[2] = {0, 3};
    float *logits = (float *)calloc(5, sizeof *logits), sum;
    focal_loss_tensor x = view(logits, F32, 2, shape), t = view(targets, I64, 1, rows), l = view(&sum, F32, 0, NULL);
    focal_loss_inputs in = two_inputs(&x, &t);
    focal_loss_options o = defaults();
    focal_loss_forward(&o, &in, &l);
    puts("nothing was noticed");
    return 0;
}
