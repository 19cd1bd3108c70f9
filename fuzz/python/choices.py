"""Choices out of a seed, or out of the bytes of a coverage-guided fuzzer."""

import random


class Choices:
    """Numbers below a bound: from ``seed``, or from ``provider``, atheris' reader of bytes."""

    def __init__(self, seed=0, provider=None):
        self._random = None if provider else random.Random(seed)
        self._provider = provider

    def below(self, count):
        if self._provider:
            return self._provider.ConsumeIntInRange(0, count - 1)
        return self._random.randrange(count)

    def one_in(self, count):
        return self.below(count) == count - 1

    def pick(self, values):
        values = list(values)
        return values[self.below(len(values))]
