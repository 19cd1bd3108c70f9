/* Forward, backward and fused against numbers computed with 60 digits. */
#include "check.h"

static const int64_t ROW[2] = {1, 3}, ONE[1] = {1};
static float X[3] = {2.0f, -1.0f, 0.5f};
static int64_t Y[1] = {0};

struct known {
    double alpha, gamma, loss[3], sum, grad[3];
};

/* One anchor of class 0 among three classes. */
static const struct known OBJECT[] = {
    {0.25, 2, {0.00045089070881009384, 0.016993543131350499, 0.28305870064455733}, 0.30050313448471792,
     {-0.0012177350488481916, 0.039435847483170466, 0.39461386640593728}},
    {-1, 2, {0.0018035628352403754, 0.022658057508467332, 0.37741160085940978}, 0.40187322120311748,
     {-0.0048709401953927665, 0.052581129977560621, 0.52615182187458303}},
    {0.25, 0, {0.031732002760743124, 0.23494626563866713, 0.73055773813508001}, 0.99723600653449026,
     {-0.029800730505529389, 0.20170606602749634, 0.46684449840139092}},
    {0.75, 0.5, {0.032867160743403322, 0.040614035088874895, 0.19212716807555397}, 0.26560836390783219,
     {-0.04534145010724029, 0.049713580449904641, 0.15904193121100756}},
};
/* The same anchor without an object. */
static const double EMPTY_LOSS[3] = {1.2375586345660567, 0.016993543131350499, 0.28305870064455733};
static const double EMPTY_SUM = 1.5376108783419645;
/* Softmax, class 0, gamma 2, no alpha. */
static const double SOFTMAX_LOSS = 0.011092750091379811;
static const double SOFTMAX_GRAD[3] = {-0.027284674080418819, 0.004977420961006117, 0.022307253119412702};

static void sigmoid_index_and_dense(void) {
    float onehot[3] = {1, 0, 0}, loss[3], grad[3], loss2[3], grad2[3], sum;
    focal_loss_tensor x = view(X, F32, 2, ROW), y = view(Y, I64, 1, ONE), d = view(onehot, F32, 2, ROW);
    focal_loss_tensor l = view(loss, F32, 2, ROW), g = view(grad, F32, 2, ROW), s = view(&sum, F32, 0, NULL);
    focal_loss_tensor l2 = view(loss2, F32, 2, ROW), g2 = view(grad2, F32, 2, ROW);
    const focal_loss_tensor *targets[2];
    size_t i, kind, k;
    targets[0] = &y;
    targets[1] = &d;
    for (kind = 0; kind < 2; kind++) {
        focal_loss_inputs in = two_inputs(&x, targets[kind]);
        for (i = 0; i < sizeof OBJECT / sizeof *OBJECT; i++) {
            const struct known *want = &OBJECT[i];
            focal_loss_options o = defaults();
            o.alpha = want->alpha;
            o.gamma = want->gamma;
            o.reduction = FOCAL_LOSS_REDUCTION_NONE;
            OK(focal_loss_forward(&o, &in, &l));
            OK(focal_loss_backward(&o, &in, NULL, &g));
            OK(focal_loss_forward_backward(&o, &in, NULL, &l2, &g2));
            CHECK(memcmp(loss, loss2, sizeof loss) == 0);
            CHECK(memcmp(grad, grad2, sizeof grad) == 0);
            for (k = 0; k < 3; k++) {
                NEAR(loss[k], want->loss[k], 16);
                NEAR(grad[k], want->grad[k], 32);
            }
            o.reduction = FOCAL_LOSS_REDUCTION_SUM;
            OK(focal_loss_forward(&o, &in, &s));
            NEAR(sum, want->sum, 8);
            o.reduction = FOCAL_LOSS_REDUCTION_MEAN;
            OK(focal_loss_forward_backward(&o, &in, NULL, &s, &g));
            NEAR(sum, want->sum / 3, 8);
            for (k = 0; k < 3; k++) NEAR(grad[k], want->grad[k] / 3, 32);
            o.normalization = FOCAL_LOSS_NORMALIZATION_ROWS;
            OK(focal_loss_forward(&o, &in, &s));
            NEAR(sum, want->sum, 8);
            o.normalization = FOCAL_LOSS_NORMALIZATION_POSITIVES;
            OK(focal_loss_forward(&o, &in, &s));
            NEAR(sum, want->sum, 8);
        }
    }
}

static void background_and_ignored(void) {
    int32_t y32[1] = {3};
    float loss[3], grad[3], sum;
    focal_loss_tensor x = view(X, F32, 2, ROW), y = view(y32, I32, 1, ONE);
    focal_loss_tensor l = view(loss, F32, 2, ROW), g = view(grad, F32, 2, ROW), s = view(&sum, F32, 1, ONE);
    focal_loss_inputs in = two_inputs(&x, &y);
    focal_loss_options o = defaults();
    size_t k;
    o.reduction = FOCAL_LOSS_REDUCTION_NONE;
    OK(focal_loss_forward(&o, &in, &l));
    for (k = 0; k < 3; k++) NEAR(loss[k], EMPTY_LOSS[k], 16);
    o.reduction = FOCAL_LOSS_REDUCTION_MEAN;
    o.normalization = FOCAL_LOSS_NORMALIZATION_POSITIVES; /* no object: divided by 1, not by 0 */
    OK(focal_loss_forward(&o, &in, &s));
    NEAR(sum, EMPTY_SUM, 8);
    o.has_background_index = 1;
    o.background_index = -7;
    REFUSED(focal_loss_forward(&o, &in, &s), FOCAL_LOSS_STATUS_INVALID_ARGUMENT, "targets");
    y32[0] = -7;
    OK(focal_loss_forward(&o, &in, &s));
    NEAR(sum, EMPTY_SUM, 8);
    o.has_ignore_index = 1;
    o.ignore_index = -7; /* ignored before background */
    o.normalization = FOCAL_LOSS_NORMALIZATION_ELEMENTS;
    OK(focal_loss_forward_backward(&o, &in, NULL, &s, &g));
    CHECK(sum == 0 && grad[0] == 0 && grad[1] == 0 && grad[2] == 0);
}

static void optional_inputs(void) {
    static const int64_t three[1] = {3}, two_two[2] = {2, 2}, column[2] = {2, 1}, two[1] = {2};
    float class_alpha[3] = {0.25f, 0.25f, 0.25f}, weight[3] = {2, 3, 4}, normalizer = 8, loss[3], grad[3], sum, g1 = 3;
    focal_loss_tensor x = view(X, F32, 2, ROW), y = view(Y, I64, 1, ONE);
    focal_loss_tensor a = view(class_alpha, F32, 1, three), w = view(weight, F32, 1, three);
    focal_loss_tensor n = view(&normalizer, F32, 0, NULL), l = view(loss, F32, 2, ROW), g = view(grad, F32, 2, ROW);
    focal_loss_tensor s = view(&sum, F32, 0, NULL), up = view(&g1, F32, 0, NULL);
    focal_loss_inputs in = two_inputs(&x, &y);
    focal_loss_options o = defaults();
    size_t k;
    o.alpha = -1;
    o.reduction = FOCAL_LOSS_REDUCTION_NONE;
    in.class_alpha = &a;
    in.weight = &w;
    in.normalizer = &n;
    OK(focal_loss_forward_backward(&o, &in, NULL, &l, &g));
    for (k = 0; k < 3; k++) {
        NEAR(loss[k], OBJECT[0].loss[k] * weight[k] / 8, 16);
        NEAR(grad[k], OBJECT[0].grad[k] * weight[k] / 8, 32);
    }
    o.reduction = FOCAL_LOSS_REDUCTION_SUM;
    OK(focal_loss_backward(&o, &in, &up, &g));
    for (k = 0; k < 3; k++) NEAR(grad[k], OBJECT[0].grad[k] * weight[k] / 8 * 3, 32);
    o.reduction = FOCAL_LOSS_REDUCTION_MEAN;
    o.normalization = FOCAL_LOSS_NORMALIZATION_WEIGHTS;
    OK(focal_loss_forward(&o, &in, &s));
    NEAR(sum, (OBJECT[0].loss[0] * 2 + OBJECT[0].loss[1] * 3 + OBJECT[0].loss[2] * 4) / 9 / 8, 16);
    { /* a weight for each anchor; alpha differs between the positive and the negative of one row */
        float logits[4] = {0, 0, 0, 0}, anchors[2] = {1, 10}, out[4];
        int64_t classes[2] = {0, 1};
        focal_loss_tensor x4 = view(logits, F32, 2, two_two), y2 = view(classes, I64, 1, two);
        focal_loss_tensor w2 = view(anchors, F32, 2, column), l4 = view(out, F32, 2, two_two);
        focal_loss_inputs in4 = two_inputs(&x4, &y2);
        in4.weight = &w2;
        o = defaults();
        o.reduction = FOCAL_LOSS_REDUCTION_NONE;
        OK(focal_loss_forward(&o, &in4, &l4));
        NEAR(out[0], 0.25 * 0.25 * log(2.0), 16);
        NEAR(out[1], 0.75 * 0.25 * log(2.0), 16);
        NEAR(out[2], 7.5 * 0.25 * log(2.0), 16);
        NEAR(out[3], 2.5 * 0.25 * log(2.0), 16);
    }
}

static void softmax(void) {
    float onehot[3] = {1, 0, 0}, class_alpha[3] = {0.5f, 100, 100}, loss, grad[3];
    static const int64_t three[1] = {3};
    focal_loss_tensor x = view(X, F32, 2, ROW), y = view(Y, I64, 1, ONE), d = view(onehot, F32, 2, ROW);
    focal_loss_tensor l = view(&loss, F32, 1, ONE), g = view(grad, F32, 2, ROW), a = view(class_alpha, F32, 1, three);
    const double alphas[3] = {-1, 0.25, 1};
    size_t i, k, kind;
    for (kind = 0; kind < 2; kind++) {
        focal_loss_inputs in = two_inputs(&x, kind ? &d : &y);
        for (i = 0; i < 3; i++) {
            focal_loss_options o = defaults();
            double factor = alphas[i] < 0 ? 1 : alphas[i];
            o.activation = FOCAL_LOSS_ACTIVATION_SOFTMAX;
            o.reduction = (int32_t)i; /* one row: every reduction is the same */
            o.alpha = alphas[i];
            OK(focal_loss_forward_backward(&o, &in, NULL, &l, &g));
            NEAR(loss, SOFTMAX_LOSS * factor, 16);
            for (k = 0; k < 3; k++) NEAR(grad[k], SOFTMAX_GRAD[k] * factor, 32);
            in.class_alpha = &a;
            OK(focal_loss_forward(&o, &in, &l));
            NEAR(loss, SOFTMAX_LOSS * 0.5, 16);
            in.class_alpha = NULL;
        }
    }
}

static void soft_labels(void) {
    static const int64_t one[1] = {1};
    double x1[1] = {0.5}, t1[1] = {0.3}, loss, grad;
    focal_loss_tensor x = view(x1, F64, 1, one), t = view(t1, F64, 1, one);
    focal_loss_tensor l = view(&loss, F64, 0, NULL), g = view(&grad, F64, 1, one);
    focal_loss_inputs in = two_inputs(&x, &t);
    focal_loss_options o = defaults();
    OK(focal_loss_forward_backward(&o, &in, NULL, &l, &g));
    CHECK(fabs(loss - 0.14901774472877438) < 1e-16);
    CHECK(fabs(grad - 0.10934235734499322) < 1e-16);
}

int main(void) {
    sigmoid_index_and_dense();
    background_and_ignored();
    optional_inputs();
    softmax();
    soft_labels();
    return 0;
}
