/* Many small calls in a row from C, as a program in C makes them: a loop in Python would time Python. */

#include "focal_loss.h"

void latency_empty(const char *(*function)(void), long calls) {
    for (long i = 0; i < calls; i++) function();
}

int32_t latency_forward(const focal_loss_options *options, const focal_loss_inputs *inputs, focal_loss_tensor *loss,
                        long calls) {
    int32_t status = 0;
    for (long i = 0; i < calls; i++) status |= focal_loss_forward(options, inputs, loss);
    return status;
}

int32_t latency_forward_backward(const focal_loss_options *options, const focal_loss_inputs *inputs,
                                 focal_loss_tensor *loss, focal_loss_tensor *grad, long calls) {
    int32_t status = 0;
    for (long i = 0; i < calls; i++) status |= focal_loss_forward_backward(options, inputs, NULL, loss, grad);
    return status;
}
