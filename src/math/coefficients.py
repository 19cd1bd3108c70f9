#!/usr/bin/env python3
"""Print `src/math/coefficients.rs`: the polynomials behind exp and log, from their definitions.

    pip install mpmath && python3 src/math/coefficients.py | rustfmt > src/math/coefficients.rs
    python3 src/math/coefficients.py cuda > src/cuda/kernels/coefficients.h

Each polynomial interpolates its function at the Chebyshev nodes of its interval in 60-digit
arithmetic, which is within a small factor of the best there is; the degree is the smallest whose
error stays below a sixteenth of the type's unit roundoff, and the error reached is printed beside it.
"""
import sys

from mpmath import mp, mpf, cos, exp, log, pi, lu_solve, matrix

mp.dps = 60


def exp_tail(r):  # exp(r) = 1 + r + r^2 * exp_tail(r)
    if abs(r) < mpf(10) ** -12:
        return mpf(1) / 2 + r / 6
    return (exp(r) - 1 - r) / r**2


def log_tail(f):  # log(1 + f) = f - f^2/2 + f^3 * log_tail(f)
    if abs(f) < mpf(10) ** -12:
        return mpf(1) / 3 - f / 4
    return (log(1 + f) - f + f**2 / 2) / f**3


def ratio_tail(e):  # log(1 + e) = e * (1 + e * ratio_tail(e))
    return (log(1 + e) - e) / e**2 if e else -mpf(1) / 2


def exp_slope(r):  # exp(r) = 1 + r * exp_slope(r)
    return (exp(r) - 1) / r if abs(r) > mpf(10) ** -12 else 1 + r / 2


def log_ratio(e):  # log(1 + e) = e * log_ratio(e)
    return log(1 + e) / e if e else mpf(1)


def square_loss(e):
    return log_ratio(e) / (1 + e) ** 2


def square_grad(e):
    return (1 + 2 * log_ratio(e)) / (1 + e) ** 3


def interpolate(function, low, high, degree):
    """Monomial coefficients, lowest power first."""
    count = degree + 1
    nodes = [(low + high) / 2 + (high - low) / 2 * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    powers = matrix(count, count)
    for i, node in enumerate(nodes):
        for j in range(count):
            powers[i, j] = node**j
    return list(lu_solve(powers, matrix([function(node) for node in nodes])))


def worst(function, coefficients, low, high, weight):
    """The largest error on the interval, times what `weight` says it is worth in the result."""
    points = [low + (high - low) * i / 2000 for i in range(2001)]
    value = lambda x: sum(c * x**i for i, c in enumerate(coefficients))
    return max(abs(value(x) - function(x)) * weight(x) for x in points)


# Each type with the exponent that the error must stay below: a sixteenth of a rounding, or a
# quarter where a shorter polynomial is worth it.
BOTH = (("f32", -28), ("f64", -57))

EASY = exp(-mpf(1))  # the largest exponential of an easy logit

POLYNOMIALS = [
    # name, types, function, interval (a little wider than the reduced argument), error's weight in the result
    ("EXP", BOTH, exp_tail, mpf("-0.3470"), mpf("0.3470"), lambda r: r**2 / exp(r), "exp(r) = 1 + r + r^2 * P(r), |r| <= ln(2)/2"),
    ("EXP_SLOPE", (("f32", -27),), exp_slope, mpf("-0.3470"), mpf("0.3470"), lambda r: abs(r) / exp(r), "exp(r) = 1 + r * P(r), |r| <= ln(2)/2"),
    ("LOG_RATIO", (("f32", -26),), log_ratio, mpf(0), EASY, lambda e: 1 / log_ratio(e), "log(1 + e) = e * P(e), 0 <= e <= exp(-1)"),
    ("SQUARE_LOSS", (("f32", -26),), square_loss, mpf(0), EASY, lambda e: 1 / square_loss(e), "log(1 + e) / (e * (1 + e)^2) = P(e), 0 <= e <= exp(-1)"),
    ("SQUARE_GRAD", (("f32", -25),), square_grad, mpf(0), EASY, lambda e: 1 / square_grad(e), "(1 + 2 * log(1 + e) / e) / (1 + e)^3 = P(e), 0 <= e <= exp(-1)"),
    ("EXP_LEANING", BOTH, exp_tail, mpf("-0.2010"), mpf("0.4940"), lambda r: r**2 / exp(r), "the same, -0.2 <= r <= 0.4932"),
    ("LOG", BOTH, log_tail, mpf("-0.2501"), mpf("0.5001"), lambda f: abs(f) ** 3, "log(1+f) = f - f^2/2 + f^3 * P(f), -1/4 <= f <= 1/2"),
]

# For the GPU alone, whose threads do not divide the range of `e = exp(-|x|)`: the short form is for float16 and
# bfloat16, whose results are rounded to far fewer bits.
CUDA_POLYNOMIALS = [
    ("RATIO", (("f32", -25), ("half", -20)), ratio_tail, mpf(0), mpf(1), lambda e: e**2 / log(1 + e) if e else mpf(0),
     "log(1+e) = e * (1 + e * P(e)), 0 <= e <= 1"),
]


def fits(polynomials):
    """(name, type, coefficients, what is to be said about them)."""
    for name, types, function, low, high, weight, meaning in polynomials:
        for kind, exponent in types:
            degree = 2
            while True:
                coefficients = interpolate(function, low, high, degree)
                error = worst(function, coefficients, low, high, weight)
                if error < mpf(2) ** exponent:
                    break
                degree += 1
            yield name, kind, coefficients, f"{meaning}. Degree {degree}, error {mp.nstr(error, 2)} before rounding."


def digits(kind, c):
    return mp.nstr(c, 18 if kind == "f64" else 10, min_fixed=0, max_fixed=0)


def cuda():
    print("// Polynomial coefficients, lowest power first. Written by `src/math/coefficients.py cuda`; do not edit.")
    print("#pragma once")
    for name, kind, coefficients, note in fits(POLYNOMIALS + CUDA_POLYNOMIALS):
        if name in ("EXP_SLOPE", "LOG_RATIO", "SQUARE_LOSS", "SQUARE_GRAD", "EXP_LEANING"):
            continue
        suffix = "" if kind == "f64" else "f"
        print(f"\n// {note}")
        print(f"#define FOCAL_LOSS_{name}_{kind.upper()} \\")
        for i in range(0, len(coefficients), 5):
            line = ", ".join(digits(kind, c) + suffix for c in coefficients[i : i + 5])
            print(f"    {line}" + (", \\" if i + 5 < len(coefficients) else ""))


def rust():
    print("//! Polynomial coefficients, lowest power first. Written by `coefficients.py`; do not edit.")
    print("#![allow(clippy::excessive_precision)]")
    for name, kind, coefficients, note in fits(POLYNOMIALS):
        print(f"\n/// {note}")
        print(f"pub const {name}_{kind.upper()}: [{kind}; {len(coefficients)}] = [")
        for c in coefficients:
            print(f"    {digits(kind, c)},")
        print("];")


if __name__ == "__main__":
    cuda() if sys.argv[1:] == ["cuda"] else rust()
