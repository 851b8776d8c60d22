"""How the work of a parser grows with its input: CPU time of this process, so that a busy machine does not matter."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

FACTOR = 2.5
"""Doubling the input may multiply the work by no more."""
_SMALLEST, LARGEST = 16, 1 << 18
_ENOUGH_S = 0.05
"""Less than this is noise."""
_LONGEST_S = 4.0
"""CPU seconds for one input; linear parsers need a tenth of it."""
_TRIES = 3


class TooMuchWorkError(AssertionError):
    """The work grows faster than the input."""


@contextmanager
def cpu_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise in the middle of whatever holds the processor for too long, regular expressions included.

    Raises:
        TooMuchWorkError: After so many seconds of CPU time.
    """

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TooMuchWorkError(f"{what} took more than {seconds:g} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def check_growth(
    run: Callable[[bytes], object],
    begin: bytes,
    unit: bytes,
    end: bytes = b"",
    *,
    largest: int = LARGEST,
    longest_s: float = _LONGEST_S,
) -> None:
    """Run a parser on `begin`, many times `unit`, `end`; if that takes time, on all shorter inputs to compare.

    Args:
        run: The parser.
        begin: Stands before the repeated part.
        unit: Is repeated.
        end: Stands after it.
        largest: Bytes of the repeated part at most.
        longest_s: CPU seconds for one input at most.

    Raises:
        TooMuchWorkError: Twice the input took more than `FACTOR` times the work, three times in a row.
    """

    def work(size: int) -> float:
        data = begin + unit * max(1, size // len(unit)) + end
        with cpu_limit(longest_s, f"{size} bytes of {begin[:40]!r} {unit[:40]!r} {end[:40]!r}"):
            started = time.process_time()
            run(data)
            return time.process_time() - started

    if work(largest) <= _ENOUGH_S:
        return
    size, last = _SMALLEST, 0.0
    while size <= largest:
        now = work(size)
        # Short inputs are quick whatever they do, unless they are far from linear.
        if now > _ENOUGH_S and now > FACTOR * max(last, _ENOUGH_S / FACTOR):
            ratio = min(
                now / max(last, _ENOUGH_S / FACTOR),
                *(work(size) / max(work(size // 2), _ENOUGH_S / FACTOR) for _ in range(_TRIES)),
            )
            if ratio > FACTOR:
                raise TooMuchWorkError(
                    f"{ratio:.1f} times the work for twice the input, at {size} bytes: "
                    f"{begin[:40]!r} + {unit[:40]!r} * n + {end[:40]!r}"
                )
        last, size = now, 2 * size


UNITS = (
    *(bytes([byte]) for byte in b"\0 \n\t\"'\\/*{[(,;.=-#:%x1\x1e\x80\xff"),
    *(b"a ", b'"a",', b'{"a":', b"a=1\n", b"\r\n", b"../", b"\\n", b"1\r\nx\r\n", b"\xf0\x9f\x98\x80"),
)
"""What is repeated in the inputs of every parser, besides its seeds: ends, beginnings, separators, numbers."""
_ORACLE_BYTES = 1 << 15
_ORACLE_S = 2.0
"""CPU seconds; the slowest target needs a tenth for any input of so many bytes."""


def hostile_inputs(seeds: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """Yield beginnings of inputs of a parser, each with what to repeat after it."""
    halves = (seed[: len(seed) // 2] for seed in seeds)
    for begin in dict.fromkeys((b"", *seeds, *halves)):
        for unit in dict.fromkeys((*UNITS, *filter(None, seeds))):
            yield begin, unit


def check_time(run: Callable[[bytes], object], data: bytes) -> None:
    """Run a parser on an input repeated to 32 KiB: the time oracle of fuzzing.

    Raises:
        TooMuchWorkError: It takes far longer than any linear parser needs.
    """
    if data:
        repeated = data * (_ORACLE_BYTES // len(data) + 1)
        with cpu_limit(_ORACLE_S, f"32 KiB of {data[:80]!r}"):
            run(repeated[:_ORACLE_BYTES])
