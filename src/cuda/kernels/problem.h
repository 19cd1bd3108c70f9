// One launch in one plain struct: the only parameter of every kernel, passed by value.
//
// Whoever launches fills it in (Rust: a #[repr(C)] twin, field for field; nothing here needs padding) and obeys
// the rules below. All work is queued on one stream, in this order, and nothing waits for the host:
//
//     1. count    only if `count` is not COUNT_NOTHING: what the mean divides by, as partial sums
//     2. main     one of the sigmoid and softmax kernels: losses, gradients or both
//     3. finish   only if `loss` is wanted and `reduced`: adds up the partial sums, divides, stores one element
//
// The same struct goes to all of them. Sums are made in two stages in f64: each block leaves one number in the
// workspace, later kernels add these up in a fixed order. No atomics: the same grid gives the same bits.
//
// Kernels, by name (extern "C"); TYPE is f16, bf16, f32 or f64, OUT is loss, grad or both:
//
//     focal_loss_count_TYPE                      256 threads, `count_blocks` blocks, at most MAX_COUNT_BLOCKS
//     focal_loss_sigmoid_rows_TYPE_OUT           256 threads; class indices, K a multiple of ROW_GROUP(TYPE), no
//                                                class_alpha, no weight, no grad_loss unless `reduced`, rows * K
//                                                < 2^31, and a background that is not to be ignored
//     focal_loss_sigmoid_index_TYPE_OUT          256 threads; class indices, any K, any factors
//     focal_loss_sigmoid_dense_TYPE_OUT          256 threads; dense targets, any K, any factors
//     focal_loss_sigmoid_strided_TYPE            256 threads; everything, slowly; outputs are those with an address
//     focal_loss_softmax_warp_TYPE               128 threads, a warp for each row; meant for classes that are
//                                                neighbours in memory (class_stride 1); right for all
//     focal_loss_softmax_thread_TYPE             128 threads, a thread for each row; meant for classes that are far
//                                                apart, or few (K <= 8); right for all
//     focal_loss_finish_TYPE                     256 threads, 1 block
//
// The first three sigmoid kernels move 16 bytes at a time: LANES(TYPE) = 16 / sizeof(TYPE) elements, and `rows`
// ROW_GROUP(TYPE) elements: 8, in f64 2. They ask that
// logits, grad_logits (where there), dense targets and, unless `reduced`, loss be row-major with the classes last
// (class_stride 1 and, where row_rank is 1, row_strides[0] = K) and start at a multiple of 16 bytes, that
// row_rank <= 1, and that K < 2^31. Other operands may have any strides.
//
// Blocks of the main kernel: any number from 1 to MAX_BLOCKS is right (it loops); it goes into `blocks` and has to
// be the grid's size. Enough is ceil(work / threads), work being
//     sigmoid rows                  rows * K / ROW_GROUP
//     sigmoid index, dense          ceil(rows * K / LANES)          sigmoid strided  rows * K
//     softmax warp                  rows * 32                       softmax thread   rows
// and more than fill the GPU (multiprocessors * BLOCKS_PER_SM) only make the sums longer. Likewise `count_blocks`,
// for rows (times K where sums of targets or weights are made).
//
// Workspace: 8 * blocks bytes at `partials` (if reduced loss is wanted), 8 * count_blocks at `count_partials` (if
// counting), each aligned to 8. It needs no initial value, and is free again after the last launch.
//
// Nothing to do: with rows * K == 0, launch no count and no main kernel, set blocks = count_blocks = 0, count =
// COUNT_NOTHING and divisor = 0; finish stores the 0 of an empty sum.
#pragma once

#define FOCAL_LOSS_ROW_AXES 15 /* MAX_RANK of src/tensor.rs, less the class axis */

#define FOCAL_LOSS_ROW_GROUP(size) ((size) == 8 ? 2 : 8)

enum {
    FOCAL_LOSS_BLOCKS_PER_SM = 4, // all resident at once, on every architecture
    FOCAL_LOSS_MAX_BLOCKS = 65536,
    FOCAL_LOSS_MAX_COUNT_BLOCKS = 256,
};

// What the mean divides by, where only the device can know it. With COUNT_NOTHING it is `divisor`.
enum {
    FOCAL_LOSS_COUNT_NOTHING = 0,
    FOCAL_LOSS_COUNT_ROWS = 1,      // rows that are not ignored, times count_factor (K for the elements of sigmoid)
    FOCAL_LOSS_COUNT_POSITIVES = 2, // rows of a real class, or the sum of dense targets; at least 1
    FOCAL_LOSS_COUNT_WEIGHTS = 3,   // the sum of `weight` over what is not ignored (softmax: row_weights)
};

// A tensor over the logits' index space. Strides are in elements, and 0 along an axis that it does not have.
typedef struct {
    unsigned long long address; // 0: absent
    long long class_stride;
    long long row_strides[FOCAL_LOSS_ROW_AXES];
} focal_loss_operand;

typedef struct {
    focal_loss_operand logits;
    focal_loss_operand targets;     // dense: the logits' type; else 32-bit or 64-bit class indices
    focal_loss_operand weight;      // optional, broadcast
    focal_loss_operand grad_loss;   // optional; one element (all strides 0) where `reduced`
    focal_loss_operand loss;        // optional; one element where `reduced`
    focal_loss_operand grad_logits; // optional; may be the logits' own memory, with the same strides

    unsigned long long class_alpha; // optional: address; its stride follows
    long long class_alpha_stride;
    unsigned long long normalizer; // optional: address of one element

    unsigned long long partials;       // double[blocks]
    unsigned long long count_partials; // double[count_blocks]

    // Rows are all axes but the class axis, outermost first. Merge neighbouring axes where every operand allows it:
    // it is what makes a contiguous tensor have row_rank <= 1. Axes of size 1 are best left out.
    long long row_shape[FOCAL_LOSS_ROW_AXES];
    long long rows;
    long long classes; // K

    long long ignore_index;     // if has_ignore
    long long background_index; // if has_background; sigmoid: always (K by default); softmax: never

    double alpha;        // below 0: off
    double gamma;        // finite, >= 0
    double divisor;      // with COUNT_NOTHING; 1 for a sum or no reduction
    double count_factor; // see COUNT_ROWS; 1 otherwise

    int row_rank;
    int index_bytes; // 4 or 8; 0: dense targets
    int has_ignore;
    int has_background;
    int reduced; // sum or mean
    int count;   // COUNT_...
    int row_weights; // softmax: weight is one for each row, not for each logit
    int rows_innermost; // strided: neighbouring threads take neighbouring rows instead of classes
    unsigned int blocks;
    unsigned int count_blocks;
} focal_loss_problem;

// Kernel parameters end at 4096 bytes.
typedef char focal_loss_problem_fits[sizeof(focal_loss_problem) <= 4096 ? 1 : -1];
typedef char focal_loss_problem_is_dense[sizeof(focal_loss_problem) == 6 * 17 * 8 + (5 + 15 + 4) * 8 + 4 * 8 + 10 * 4 ? 1 : -1];
