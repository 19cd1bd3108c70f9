#!/usr/bin/env python3
"""Write the float64 test vectors from the definitions in 60-digit arithmetic.

    pip install mpmath && python3 tests/data/make_float64_vectors.py

sigmoid.csv: x, t, alpha, gamma, loss, gradient, largest term of the gradient
softmax.csv: gamma, y, K logits, loss, K gradients   (K from the number of fields)
"""
import pathlib
import random

from mpmath import exp, log, mp, mpf

mp.dps = 400  # exp(-800) next to 1 keeps its digits
HERE = pathlib.Path(__file__).parent
GAMMAS = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.3, 5.0]


def sigmoid(x, t, alpha, gamma):
    x, t, alpha, gamma = map(mpf, (x, t, alpha, gamma))
    p, q = 1 / (1 + exp(-x)), 1 / (1 + exp(x))
    alpha_t = 1 if alpha < 0 else alpha * t + (1 - alpha) * (1 - t)
    ce = -t * log(p) - (1 - t) * log(q)
    m = p * (1 - t) + q * t
    focus = alpha_t * m**gamma
    terms = focus * (p - t), focus * gamma * (1 - 2 * t) * p * q / m * ce
    return focus * ce, sum(terms), max(abs(term) for term in terms)


def softmax(row, y, gamma):
    row, gamma = [mpf(x) for x in row], mpf(gamma)
    total = sum(exp(x) for x in row)
    p = [exp(x) / total for x in row]
    ce, o = -log(p[y]), 1 - p[y]
    slope = o**gamma * (1 + gamma * p[y] * ce / o)
    return o**gamma * ce, [slope * (p[j] - (1 if j == y else 0)) for j in range(len(row))]


def main():
    draw = random.Random(2017)
    magnitudes = [0.0] + [draw.choice([-1, 1]) * 10 ** draw.uniform(-6, 2.4) for _ in range(120)]
    with open(HERE / "sigmoid.csv", "w") as out:
        for x in magnitudes:
            for gamma in GAMMAS:
                for t in (0.0, 1.0, round(draw.random(), 3)):
                    alpha = draw.choice([-1.0, 0.25, 0.75, 0.1])
                    loss, gradient, largest = sigmoid(x, t, alpha, gamma)
                    print(*map(repr, (x, t, alpha, gamma, float(loss), float(gradient), float(largest))), sep=",", file=out)
    with open(HERE / "softmax.csv", "w") as out:
        for case in range(160):
            scale = draw.choice([1e-3, 1, 10, 100])
            row = [draw.gauss(0, scale) for _ in range(draw.choice([2, 3, 10, 33]))]
            y, gamma = draw.randrange(len(row)), draw.choice(GAMMAS)
            loss, gradient = softmax(row, y, gamma)
            print(*map(repr, [gamma, y, *row, float(loss), *map(float, gradient)]), sep=",", file=out)


if __name__ == "__main__":
    main()
