/* Every dtype, and views: strided, reversed, repeated, offset, the class axis in front, in place. */
#include "check.h"

static const int64_t SHAPE[2] = {4, 3}, ROWS[1] = {4};
static const float X[12] = {2.0f, -1.0f, 0.5f, -3.0f, 0.25f, 1.5f, 8.0f, -8.0f, 0.0f, -0.5f, 4.0f, -4.0f};
static const int64_t Y[4] = {0, 2, 3, 1};
static float LOSS[12], GRAD[12];

/* What dense float32 tensors give; the rest is compared with it. */
static void reference(const focal_loss_options *o) {
    focal_loss_tensor x = view(X, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS);
    focal_loss_tensor l = view(LOSS, F32, 2, SHAPE), g = view(GRAD, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    OK(focal_loss_forward_backward(o, &in, NULL, &l, &g));
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint16_t to_bf16(float value) {
    uint32_t bits = to_bits(value);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* To the nearest multiple of the half's last place, ties to even; for magnitudes that a half has. */
static uint16_t to_f16(float value) {
    uint16_t sign = value < 0 ? 0x8000 : 0;
    int exponent;
    double scaled, whole;
    if (value == 0) return 0;
    (void)frexp(fabs((double)value), &exponent);
    if (exponent < -13) exponent = -13;
    scaled = ldexp(fabs((double)value), 11 - exponent);
    whole = floor(scaled);
    if (scaled - whole > 0.5 || (scaled - whole == 0.5 && fmod(whole, 2) == 1)) whole += 1;
    /* A carry into the next binade comes out right by itself. */
    return (uint16_t)(sign | (uint16_t)((exponent + 13) * 1024 + (int)whole));
}

static double from_f16(uint16_t half) {
    int exponent = (half >> 10) & 31, fraction = half & 1023;
    double magnitude = exponent ? ldexp(1024.0 + fraction, exponent - 25) : ldexp((double)fraction, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void halves(const focal_loss_options *o) {
    static const uint16_t known[6] = {0x3c00, 0xc000, 0x3555, 0x0001, 0x0400, 0x7bff};
    uint16_t x16[12], l16[12], g16[12];
    int32_t y32[4] = {0, 2, 3, 1};
    focal_loss_tensor x = view(x16, F16, 2, SHAPE), y = view(y32, I32, 1, ROWS);
    focal_loss_tensor l = view(l16, F16, 2, SHAPE), g = view(g16, F16, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    int k;
    for (k = 0; k < 6; k++) CHECK(to_f16((float)from_f16(known[k])) == known[k]);
    CHECK(from_f16(0x3c00) == 1 && from_f16(0xc000) == -2 && to_f16(1.0f / 3) == 0x3555);
    for (k = 0; k < 12; k++) x16[k] = to_f16(X[k]); /* exact */
    OK(focal_loss_forward_backward(o, &in, NULL, &l, &g));
    for (k = 0; k < 12; k++) {
        CHECK(l16[k] == to_f16(LOSS[k]));
        CHECK((g16[k] & 0x7fff) == (to_f16(GRAD[k]) & 0x7fff));
        CHECK(GRAD[k] == 0 || (g16[k] >> 15) == (GRAD[k] < 0));
    }
    for (k = 0; k < 12; k++) x16[k] = to_bf16(X[k]);
    for (k = 0; k < 12; k++) CHECK(from_bits((uint32_t)x16[k] << 16) == X[k]);
    x.dtype = l.dtype = g.dtype = BF16;
    OK(focal_loss_forward_backward(o, &in, NULL, &l, &g));
    for (k = 0; k < 12; k++) CHECK(l16[k] == to_bf16(LOSS[k]) && g16[k] == to_bf16(GRAD[k]));
}

static void doubles(const focal_loss_options *o) {
    double x64[12], l64[12], g64[12];
    focal_loss_tensor x = view(x64, F64, 2, SHAPE), y = view(Y, I64, 1, ROWS);
    focal_loss_tensor l = view(l64, F64, 2, SHAPE), g = view(g64, F64, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    int k;
    for (k = 0; k < 12; k++) x64[k] = X[k];
    OK(focal_loss_forward_backward(o, &in, NULL, &l, &g));
    for (k = 0; k < 12; k++) {
        NEAR(LOSS[k], l64[k], 16);
        NEAR(GRAD[k], g64[k], 32);
    }
}

/* Logits transposed and reversed, targets repeated every second element, outputs with gaps. */
static void strided(const focal_loss_options *o) {
    float x12[12], l48[48], g24[24];
    int32_t y8[8];
    const int64_t xs[2] = {-1, 4}, ys[1] = {-2}, ls[2] = {12, 4}, gs[2] = {2, 8};
    focal_loss_tensor x = view(x12, F32, 2, SHAPE), y = view(y8, I32, 1, ROWS);
    focal_loss_tensor l = view(l48, F32, 2, SHAPE), g = view(g24, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    int r, k, i;
    x.strides = xs;
    x.byte_offset = 3 * sizeof(float);
    y.strides = ys;
    y.byte_offset = 6 * sizeof(int32_t);
    l.strides = ls;
    g.strides = gs;
    for (r = 0; r < 4; r++) {
        y8[6 - 2 * r] = (int32_t)Y[r];
        y8[7 - 2 * r] = -99; /* never looked at */
        for (k = 0; k < 3; k++) x12[3 - r + 4 * k] = X[3 * r + k];
    }
    for (i = 0; i < 48; i++) l48[i] = -1;
    for (i = 0; i < 24; i++) g24[i] = -1000;
    OK(focal_loss_forward_backward(o, &in, NULL, &l, &g));
    for (r = 0; r < 4; r++) {
        for (k = 0; k < 3; k++) {
            CHECK(memcmp(&l48[12 * r + 4 * k], &LOSS[3 * r + k], sizeof(float)) == 0);
            CHECK(memcmp(&g24[2 * r + 8 * k], &GRAD[3 * r + k], sizeof(float)) == 0);
        }
    }
    for (i = 0; i < 48; i++) CHECK(i % 4 == 0 || l48[i] == -1);
    for (i = 0; i < 24; i++) CHECK(i % 2 == 0 || g24[i] == -1000);
}

/* The class axis in front; each number where it was. */
static void axis_in_front(const focal_loss_options *given) {
    focal_loss_options o = *given;
    const int64_t shape[2] = {3, 4};
    float x12[12], l12[12], g12[12];
    focal_loss_tensor x = view(x12, F32, 2, shape), y = view(Y, I64, 1, ROWS);
    focal_loss_tensor l = view(l12, F32, 2, shape), g = view(g12, F32, 2, shape);
    focal_loss_inputs in = two_inputs(&x, &y);
    int r, k, turn;
    for (r = 0; r < 4; r++)
        for (k = 0; k < 3; k++) x12[4 * k + r] = X[3 * r + k];
    for (turn = 0; turn < 2; turn++) {
        o.axis = turn ? -2 : 0;
        OK(focal_loss_forward_backward(&o, &in, NULL, &l, &g));
        for (r = 0; r < 4; r++)
            for (k = 0; k < 3; k++)
                CHECK(l12[4 * k + r] == LOSS[3 * r + k] && g12[4 * k + r] == GRAD[3 * r + k]);
    }
}

static void repeated_inputs(const focal_loss_options *o) {
    const int64_t zero[2] = {0, 1}, still[1] = {0};
    float loss[12];
    focal_loss_tensor x = view(X, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS), l = view(loss, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    int i;
    x.strides = zero;
    y.strides = still;
    OK(focal_loss_forward(o, &in, &l));
    for (i = 0; i < 12; i++) CHECK(loss[i] == LOSS[i % 3]);
    l.strides = zero;
    REFUSED(focal_loss_forward(o, &in, &l), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "loss");
}

static void in_place(const focal_loss_options *o) {
    const int64_t rows[2] = {3, 3}, three[1] = {3};
    float buffer[12];
    focal_loss_tensor x = view(buffer, F32, 2, SHAPE), y = view(Y, I64, 1, ROWS);
    focal_loss_tensor g = view(buffer, F32, 2, SHAPE);
    focal_loss_inputs in = two_inputs(&x, &y);
    memcpy(buffer, X, sizeof buffer);
    OK(focal_loss_backward(o, &in, NULL, &g));
    CHECK(memcmp(buffer, GRAD, sizeof buffer) == 0);
    memcpy(buffer, X, sizeof buffer);
    OK(focal_loss_backward(o, &in, NULL, &x)); /* the very same view */
    CHECK(memcmp(buffer, GRAD, sizeof buffer) == 0);
    memcpy(buffer, X, sizeof buffer);
    x.shape = g.shape = rows;
    y.shape = three;
    g.byte_offset = sizeof(float); /* shifted by one */
    REFUSED(focal_loss_backward(o, &in, NULL, &g), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "grad_logits");
    CHECK(memcmp(buffer, X, sizeof buffer) == 0);
}

int main(void) {
    focal_loss_options o = defaults();
    o.reduction = FOCAL_LOSS_REDUCTION_NONE;
    reference(&o);
    halves(&o);
    doubles(&o);
    strided(&o);
    axis_in_front(&o);
    repeated_inputs(&o);
    in_place(&o);
    return 0;
}
