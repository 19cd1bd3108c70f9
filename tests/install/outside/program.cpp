// focal_loss.hpp in two units of one program.
#include <focal_loss.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

float from_another_unit(const focal_loss::inputs &inputs);

int main() {
    const std::vector<float> logits{2.0f, -1.0f, 0.5f, -3.0f, -2.0f, -4.0f};
    const std::vector<int> targets{0, 3};
    const focal_loss::inputs inputs{{logits, {2, 3}}, targets};
    float loss = 0;
    focal_loss::forward(focal_loss::options().reduction(focal_loss::reduction::sum), inputs, focal_loss::tensor::scalar(loss));
    std::printf("%.9g by version %s\n", double(loss), focal_loss::version());
    if (!(std::fabs(loss - 0.301942) < 1e-6) || loss < from_another_unit(inputs) || loss > from_another_unit(inputs)) return 1;
    try {
        focal_loss::forward(focal_loss::options().gamma(-1), inputs, focal_loss::tensor::scalar(loss));
    } catch (const focal_loss::invalid_argument &) {
        return 0;
    }
    return 1;
}
