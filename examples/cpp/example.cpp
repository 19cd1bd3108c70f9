// Focal loss and its gradient from C++17, through the header over the C functions.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "focal_loss.hpp"

int main() {
    std::vector<float> logits = {2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f}, gradient(6);
    std::vector<std::int64_t> targets = {0, 3};  // an object of class 0; background (K = 3)
    float loss = 0;
    // The header's default reduction is the mean, over all six.
    focal_loss::forward_backward(focal_loss::options().gamma(2), {{logits, {2, 3}}, targets},
                                 focal_loss::tensor::scalar(loss), {gradient, {2, 3}});

    double expected = 0;
    for (std::size_t i = 0; i < logits.size(); i++) {
        const bool positive = targets[i / 3] == static_cast<std::int64_t>(i % 3);
        const double p = 1 / (1 + std::exp(-static_cast<double>(logits[i])));
        const double p_t = positive ? p : 1 - p, alpha_t = positive ? 0.25 : 0.75;
        expected += -alpha_t * (1 - p_t) * (1 - p_t) * std::log(p_t) / 6;
    }
    std::cout << "loss " << loss << ", by the textbook " << expected << '\n';

    bool refused = false;
    try {
        targets[1] = 4;
        focal_loss::forward(focal_loss::options(), {{logits, {2, 3}}, targets}, focal_loss::tensor::scalar(loss));
    } catch (const std::runtime_error &error) {
        std::cout << "a class that is not there: " << error.what() << '\n';
        refused = true;
    }
    return refused && std::abs(loss - expected) <= 1e-6 * expected ? EXIT_SUCCESS : EXIT_FAILURE;
}
