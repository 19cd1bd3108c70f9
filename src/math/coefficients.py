#!/usr/bin/env python3
"""Print `src/math/coefficients.rs`: the polynomials behind exp and log, from their definitions.

    pip install mpmath && python3 src/math/coefficients.py | rustfmt > src/math/coefficients.rs

Each polynomial interpolates its function at the Chebyshev nodes of its interval in 60-digit
arithmetic, which is within a small factor of the best there is; the degree is the smallest whose
error stays below a sixteenth of the type's unit roundoff, and the error reached is printed beside it.
Polynomials that depend on gamma are fitted when gamma is known (`easy.rs`); for them the nodes and
the matrix that turns values at the nodes into coefficients are printed.
"""
from mpmath import mp, mpf, cos, exp, log, pi, lu_solve, matrix, inverse

mp.dps = 60


def exp_tail(r):  # exp(r) = 1 + r + r^2 * exp_tail(r)
    if abs(r) < mpf(10) ** -12:
        return mpf(1) / 2 + r / 6
    return (exp(r) - 1 - r) / r**2


def log_tail(f):  # log(1 + f) = f - f^2/2 + f^3 * log_tail(f)
    if abs(f) < mpf(10) ** -12:
        return mpf(1) / 3 - f / 4
    return (log(1 + f) - f + f**2 / 2) / f**3


def chebyshev(low, high, count):
    """The nodes, and the matrix of their powers."""
    nodes = [(low + high) / 2 + (high - low) / 2 * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    powers = matrix(count, count)
    for i, node in enumerate(nodes):
        for j in range(count):
            powers[i, j] = node**j
    return nodes, powers


def interpolate(function, low, high, degree):
    """Monomial coefficients, lowest power first."""
    nodes, powers = chebyshev(low, high, degree + 1)
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
    ("EXP_LEANING", BOTH, exp_tail, mpf("-0.2010"), mpf("0.4940"), lambda r: r**2 / exp(r), "the same, -0.2 <= r <= 0.4932"),
    ("LOG", BOTH, log_tail, mpf("-0.2501"), mpf("0.5001"), lambda f: abs(f) ** 3, "log(1+f) = f - f^2/2 + f^3 * P(f), -1/4 <= f <= 1/2"),
]

# Easy examples: up to which gamma, where they begin, and how many coefficients follow the constant one.
EASY = [(mpf("2"), mpf("-1")), (mpf("5"), mpf("-2"))]
EASY_COEFFICIENTS = 8


def easy_error(gamma, limit):
    """The worst relative errors of `1 + e*G(e)` and `1 + gamma + e*H(e)`, in units of 2^-24."""
    ratio = lambda e: log(1 + e) / e
    easy_loss = lambda e: (1 + e) ** -gamma * ratio(e)
    easy_grad = lambda e: (1 + e) ** (-gamma - 1) * (1 + gamma * ratio(e))
    errors = []
    for function, constant in ((easy_loss, mpf(1)), (easy_grad, 1 + gamma)):
        rest = lambda e: (function(e) - constant) / e
        end = exp(limit)
        coefficients = interpolate(rest, mpf(0), end, EASY_COEFFICIENTS - 1)
        errors.append(worst(rest, coefficients, end / 2000, end, lambda e: e / function(e)) * 2**24)
    return errors


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
    number = lambda x: mp.nstr(x, 19, min_fixed=0, max_fixed=0)
    row = lambda values: "[" + ", ".join(number(v) for v in values) + "]"
    print(f"""
/// What a fit needs where `e = exp(z)` goes from 0 to `exp(limit)`: nodes, `log(1 + node)`, and for each
/// coefficient its weights of the values at the nodes.
pub struct EasyFit {{
    pub largest_gamma: f64,
    pub limit: f64,
    pub nodes: [f64; {EASY_COEFFICIENTS}],
    pub log1p: [f64; {EASY_COEFFICIENTS}],
    pub weights: [[f64; {EASY_COEFFICIENTS}]; {EASY_COEFFICIENTS}],
}}
""")
    for gamma, limit in EASY:
        loss, grad = easy_error(gamma, limit)
        print(f"// Largest errors before rounding at gamma {number(gamma)}: loss {mp.nstr(loss, 2)}, gradient {mp.nstr(grad, 2)} of 2^-24.")
    print(f"pub const EASY: [EasyFit; {len(EASY)}] = [")
    for gamma, limit in EASY:
        nodes, powers = chebyshev(mpf(0), exp(limit), EASY_COEFFICIENTS)
        weights = inverse(powers)
        print(f"EasyFit {{ largest_gamma: {number(gamma)}, limit: {number(limit)},")
        print(f"nodes: {row(nodes)}, log1p: {row([log(1 + e) for e in nodes])},")
        print("weights: [" + ", ".join(row(list(weights[j, :])) for j in range(EASY_COEFFICIENTS)) + "] },")
    print("];")


if __name__ == "__main__":
    main()
