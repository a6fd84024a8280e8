"""Instructions of a compiled kernel, read from its machine code: how many there are, and how many a program executes.

The second is derived, not measured: a loop is a branch backwards, its body counts once for every round, and the rounds
of the loops are given by the caller, outermost first. Both arms of a branch forwards count. What a pipeliner moves out
of a loop counts where it stands.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?);")


def listing(cubin: bytes) -> list[tuple[int, str]]:
    """(address, instruction) of the kernel, by the disassembler that comes with Triton; without the padding."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-sass", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [(int(address, 16), code) for address, code in LINE.findall(text)]
    while lines and lines[-1][1].split()[-1] == "NOP":
        lines.pop()
    return lines


def loops(lines: Sequence[tuple[int, str]]) -> list[tuple[int, int]]:
    """(first, last) address of every loop, outer ones first; two ways back to one place are one loop."""
    found: dict[int, int] = {}
    for address, code in lines:
        match = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", code)
        # The trap after the end of a kernel branches to itself.
        if match and int(match.group(1), 16) < address:
            start = int(match.group(1), 16)
            found[start] = max(found.get(start, 0), address)
    return sorted(found.items(), key=lambda loop: (loop[0], -loop[1]))


def count(cubin: bytes, rounds: Sequence[int] = ()) -> dict:
    """Static instructions, those of every loop's body, and the derived number that one warp executes.

    Args:
        cubin: the compiled kernel.
        rounds: of a loop at each depth, outermost first; a deeper loop counts once.
    """
    lines = listing(cubin)
    nest = loops(lines)
    executed = 0
    for address, _ in lines:
        depth = sum(first <= address <= last for first, last in nest)
        times = 1
        for n in rounds[:depth]:
            times *= n
        executed += times
    bodies = [sum(first <= address <= last for address, _ in lines) for first, last in nest]
    return {"instructions": len(lines), "loops": bodies, "executed": executed}
