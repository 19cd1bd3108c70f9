#!/usr/bin/env python3
"""Print `src/math/coefficients.rs`: the polynomials behind exp and log, from their definitions.

    pip install mpmath && python3 src/math/coefficients.py | rustfmt > src/math/coefficients.rs

Each polynomial interpolates its function at the Chebyshev nodes of its interval in 60-digit
arithmetic, which is within a small factor of the best there is; the degree is the smallest whose
error stays below a sixteenth of the type's unit roundoff, and the error reached is printed beside it.
"""
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


def log_ratio(m):  # -log(1 - m) / m = 1 + m * log_ratio(m)
    if abs(m) < mpf(10) ** -12:
        return mpf(1) / 2 + m / 3
    return (-log(1 - m) / m - 1) / m


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

POLYNOMIALS = [
    # name, types, function, interval (a little wider than the reduced argument), error's weight in the result
    ("EXP", BOTH, exp_tail, mpf("-0.3470"), mpf("0.3470"), lambda r: r**2 / exp(r), "exp(r) = 1 + r + r^2 * P(r), |r| <= ln(2)/2"),
    ("EXP_NEAR", (("f32", -26),), exp_tail, mpf("-0.3470"), mpf("0.3470"), lambda r: r**2 / exp(r), "the same"),
    ("LOG_RATIO", (("f32", -25),), log_ratio, mpf(0), 1 / (1 + exp(mpf(1))), lambda m: m / (1 + m * log_ratio(m)), "-log(1 - m) = m * (1 + m * P(m)), 0 <= m <= sigmoid(-1)"),
    ("LOG", BOTH, log_tail, mpf("-0.2501"), mpf("0.5001"), lambda f: abs(f) ** 3, "log(1+f) = f - f^2/2 + f^3 * P(f), -1/4 <= f <= 1/2"),
]


def main():
    print("//! Polynomial coefficients, lowest power first. Written by `coefficients.py`; do not edit.")
    print("#![allow(clippy::excessive_precision)]")
    for name, types, function, low, high, weight, meaning in POLYNOMIALS:
        for kind, exponent in types:
            degree = 2
            while True:
                coefficients = interpolate(function, low, high, degree)
                error = worst(function, coefficients, low, high, weight)
                if error < mpf(2) ** exponent:
                    break
                degree += 1
            digits = 10 if kind == "f32" else 18
            print(f"\n/// {meaning}. Degree {degree}, error {mp.nstr(error, 2)} before rounding.")
            print(f"pub const {name}_{kind.upper()}: [{kind}; {degree + 1}] = [")
            for c in coefficients:
                print(f"    {mp.nstr(c, digits, min_fixed=0, max_fixed=0)},")
            print("];")


if __name__ == "__main__":
    main()
