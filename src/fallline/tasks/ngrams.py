"""Character n-grams, smoothed as Witten and Bell do: what a model of text without training reaches."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Codes = NDArray[np.int64]


class NGrams:
    r"""The probability of each symbol after the few before it, from counts.

    .. math:: p(c \mid h) = \frac{N(hc) + T(h) \, p(c \mid h')}{N(h) + T(h)}

    :math:`h` is the context, :math:`h'` the same without its first symbol, :math:`N` counts in ``text``, and
    :math:`T(h)` is how many different symbols follow :math:`h` there. A context that never occurs leaves
    :math:`p(c \mid h')`. Without any context, :math:`p` is interpolated with equal probabilities for all.

    Args:
        text: symbols as whole numbers, from 0 to below ``symbols``.
        order: symbols of context, at least 0; order 3 looks at four symbols at a time.
        symbols: how many there are.

    Raises:
        ValueError: no text, a symbol out of range, or an order whose counts need keys of over 63 bits.

    Example:
        >>> model = NGrams([0, 1, 0, 1], order=1, symbols=2)
        >>> model.probabilities([0, 1])  # 2/3 (1/2) + 1/3 (1/2), then 2/3 (1) + 1/3 (1/2)
        array([0.5       , 0.83333333])

    Source: Witten and Bell, The zero-frequency problem, 1991, method C; interpolated as in Chen and Goodman,
    An empirical study of smoothing techniques for language modeling, 1998.
    """

    def __init__(self, text: ArrayLike, order: int, symbols: int):
        if order < 0 or symbols ** (order + 1) >= 2**63:
            raise ValueError(
                f"order must be at least 0, and so low that keys have 63 bits; got {order}, {symbols} symbols"
            )
        self.symbols = symbols
        codes = self._checked(text)
        if len(codes) <= order:
            raise ValueError(f"text must be longer than the order {order}, got {len(codes)} symbols")
        self._counts = [_Counts(self._keys(codes, length), symbols) for length in range(1, order + 2)]

    def probabilities(self, text: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each symbol of ``text`` after those before it, as far as they go back."""
        codes = self._checked(text)
        p = np.full(len(codes), 1 / self.symbols)
        for length, counts in enumerate(self._counts[: len(codes)], start=1):
            p[length - 1 :] = counts.interpolated(self._keys(codes, length), p[length - 1 :])
        return p

    def bits(self, text: ArrayLike) -> float:
        """Return the mean of -log2 p over the symbols of ``text``."""
        return float(-np.log2(self.probabilities(text)).mean())

    def _checked(self, text: ArrayLike) -> Codes:
        codes = np.asarray(text, dtype=np.int64)
        if codes.size and not (codes.min() >= 0 and codes.max() < self.symbols):
            raise ValueError(
                f"text has symbols from {codes.min()} to {codes.max()}; they must be 0 to {self.symbols - 1}"
            )
        return codes

    def _keys(self, codes: Codes, length: int) -> Codes:
        """Return one number for each run of ``length`` symbols, whose last digit is the last symbol."""
        keys = np.zeros(len(codes) - length + 1, dtype=np.int64)
        for start in range(length):
            keys = keys * self.symbols + codes[start : start + len(keys)]
        return keys


class _Counts:
    """How often each run of one length occurs, and what follows its context."""

    def __init__(self, keys: Codes, symbols: int):
        self.symbols = symbols
        self.runs, self.occurrences = np.unique(keys, return_counts=True)
        self.contexts, which = np.unique(self.runs // symbols, return_inverse=True)
        self.total = np.bincount(which, weights=self.occurrences)
        self.kinds = np.bincount(which)

    def interpolated(self, keys: Codes, shorter: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of each run's last symbol, given what a ``shorter`` context says."""
        count = _found(self.runs, self.occurrences, keys)
        total = _found(self.contexts, self.total, keys // self.symbols)
        kinds = _found(self.contexts, self.kinds, keys // self.symbols)
        with np.errstate(invalid="ignore"):  # 0 / 0 where the context is new
            return np.where(total > 0, (count + kinds * shorter) / (total + kinds), shorter)


def _found(known: Codes, values: NDArray, keys: Codes) -> NDArray:
    """Return the value of each key, 0 of those that are not ``known``."""
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[at] == keys, values[at], 0)
