// Focal loss from Go: the C functions through cgo.
package main

/*
#cgo CFLAGS: -I${SRCDIR}/../../include
#cgo LDFLAGS: -L${SRCDIR}/../../target/release -lfocal_loss -Wl,-rpath,${SRCDIR}/../../target/release
#include "focal_loss.h"

// Go's memory may be passed to C, but not inside of C's structs: those are made here.
static int32_t sum(float *logits, int64_t *targets, int64_t n, int64_t k, float *loss, float *gradient) {
	int64_t shape[2] = {n, k};
	focal_loss_device cpu = {FOCAL_LOSS_DEVICE_TYPE_CPU, 0};
	focal_loss_dtype f32 = {FOCAL_LOSS_DTYPE_CODE_FLOAT, 32, 1}, i64 = {FOCAL_LOSS_DTYPE_CODE_INT, 64, 1};
	focal_loss_tensor x = {logits, cpu, 2, f32, shape, NULL, 0}, t = {targets, cpu, 1, i64, shape, NULL, 0};
	focal_loss_tensor l = {loss, cpu, 0, f32, NULL, NULL, 0}, g = {gradient, cpu, 2, f32, shape, NULL, 0};
	focal_loss_inputs inputs = {sizeof inputs, &x, &t, NULL, NULL, NULL};
	focal_loss_options options;
	focal_loss_options_init(&options); // sigmoid, alpha 0.25, gamma 2
	options.reduction = FOCAL_LOSS_REDUCTION_SUM;
	return focal_loss_forward_backward(&options, &inputs, NULL, &l, &g);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// FocalLoss is the sum of K binary losses for each of the rows, and its gradient. A target of K is background.
func FocalLoss(logits []float32, targets []int64) (float32, []float32, error) {
	if len(targets) == 0 || len(logits)%len(targets) != 0 {
		return 0, nil, errors.New("logits must have the same number of classes for each target")
	}
	// A message belongs to the thread that made the call.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var loss float32
	gradient := make([]float32, len(logits))
	status := C.sum((*C.float)(unsafe.SliceData(logits)), (*C.int64_t)(unsafe.SliceData(targets)),
		C.int64_t(len(targets)), C.int64_t(len(logits)/len(targets)),
		(*C.float)(&loss), (*C.float)(unsafe.SliceData(gradient)))
	if status != C.FOCAL_LOSS_STATUS_OK {
		return 0, nil, fmt.Errorf("focal loss: %s", C.GoString(C.focal_loss_last_error_message()))
	}
	return loss, gradient, nil
}
