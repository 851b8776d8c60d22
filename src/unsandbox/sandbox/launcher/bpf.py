"""Programs of classic BPF: instructions that the kernel runs on a system call (seccomp) or on a packet.

Source: `linux/bpf_common.h`, `linux/filter.h`. Standard library only: the launcher loads this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip when true, when false, constant."""

LD_W_ABS, LD_H_ABS, LD_B_ABS = 0x20, 0x28, 0x30
"""Load the word, half word or byte at the constant's offset."""
LD_H_IND, LDX_B_MSH = 0x48, 0xB1
"""Load the half word at X and the offset; load X with the length of the IPv4 header at the offset."""
AND, JA, JEQ, JGE, JSET, RET = 0x54, 0x05, 0x15, 0x35, 0x45, 0x06
"""Mask; skip always, when equal, when not less, when any bit is set; return the constant."""
LONGEST_JUMP = 255
"""The maximum number of instructions that a condition can skip; `JA` can skip any number."""


def encode(program: Iterable[Instruction]) -> bytes:
    """Return a program as the kernel's array of `struct sock_filter`."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
