"""Compiles every kernel for GPUs that are not here, and tells what each uses: registers, memory, instructions.

    python -m fastdmt_kernels.aot --target sm_90 --gpu "NVIDIA H100 80GB HBM3"

The launchers themselves, run on tensors without storage, say which arguments, specialisations and configurations a
real launch has. One JSON object a line. Not under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import backend, loss, masks, mil, similarity, tuning
from .consensus import agree
from .ema import Kernel

TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64", torch.int32: "i32",
    torch.int16: "i16", torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip
#: A line of the disassembler: address and instruction.
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?);")
TENSOR_CORE = re.compile(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_mfma\w*")


#: Cells a side of the map and pixels a side of the frame that the options allow, and pairs that once spilled.
CELLS, PIXELS = (1, 4, 7, 14, 16, 20, 28, 32), (64, 128, 224, 256, 320, 448, 512, 1024)
LAUNCH = ("num_warps", "num_stages", "maxnreg")
HARD = [(7, 448), (16, 1024), (224, 224)]


def empty(*shape, dtype=torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def feature_cases(every: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls of the launchers that read features, on meta tensors."""
    last, plain = torch.channels_last, torch.contiguous_format
    features = [(torch.bfloat16, last), (torch.float32, plain)]
    if every:
        features += [(torch.bfloat16, plain), (torch.float32, last), (torch.float16, last)]
    for dtype, layout in features:
        name = f"{TYPES[dtype]} {'channels_last' if layout == last else 'contiguous'}"
        v, a = empty(128, 512, 16, 16, dtype=dtype).contiguous(memory_format=layout), empty(128, 512, dtype=dtype)
        s, ra = empty(128, 16, 16), empty(128)
        logits, best = empty(128, 128), empty(128, 128, dtype=torch.int16)
        yield name, partial(similarity.forward, v, a, 1e-6)
        yield name, partial(similarity.backward, s, v, a, s, s, ra, True, True)
        for what, own in ((name, None), (f"{name}, with map", 0)):
            yield what, partial(mil.forward, v, a, 0.03, 1e-6, own)
            saved = (s, logits, best, s.flatten(1), ra)
            yield what, partial(mil.backward, s, logits, v, a, *saved, 0.03, own, True, True)
    # Cells of NCHW that do not fill a load of 16 bytes.
    v, a, s = empty(128, 512, 14, 14, dtype=torch.bfloat16), empty(128, 512, dtype=torch.bfloat16), empty(128, 14, 14)
    yield "bf16 contiguous 14x14", partial(similarity.forward, v, a, 1e-6)
    yield "bf16 contiguous 14x14", partial(similarity.backward, s, v, a, s, s, empty(128), True, True)
    tensors = [empty(512, 512, 3, 3), empty(512)]
    yield "any types", lambda: Kernel([(t, t) for t in tensors]).step(empty())


def map_cases(cells: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls of the launchers that read maps."""
    affine, weight, s, words = empty(2), empty(128), empty(128, *cells), -(-size[1] // 32)
    name = f"{cells[0]}x{cells[1]} to {size[0]}x{size[1]}"
    for probability, soft, band in (("minmax", "product", 0.25), ("sigmoid", "none", None)):
        call = partial(agree, s, s, affine, affine, None, 0.6, 0.7, *size, probability, soft, band)
        yield f"{name} {probability}", call
    mask = empty(128, size[0], words, dtype=torch.int32)
    for kind, target in (("mask", mask), ("uint8", empty(128, *size, dtype=torch.uint8))):
        yield f"{name} {kind}", partial(loss.forward, s, affine, target, weight, mask, None, *size, True)
    yield name, partial(loss.backward, weight, s, affine, s, empty(128, 2), weight)
    yield f"boxes {size[0]}x{size[1]}", partial(masks.rasterize, empty(128, 3, 4), *size, 1)


def cases(what: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name -> a call: "one" size of each kernel, the map kernels at the hardest "sizes", or "every" size and type."""
    if what != "sizes":
        yield from feature_cases(what == "every")
    pairs = {"one": [(16, 256)], "sizes": HARD}.get(what) or [*itertools.product(CELLS, PIXELS), (224, 224)]
    for c, pixels in pairs:
        yield from map_cases((c, c), (pixels, pixels))
    if what == "every":
        yield from map_cases((33, 47), (224, 224))


def rounds(kernel: str, args: dict, options: dict) -> list[int]:
    """How often a kernel's loops run, outermost first, at the sizes of its case."""
    blocks = {key: options.get(key, 1) for key in ("BLOCK_P", "BLOCK_D", "BLOCK_M", "BLOCK_N", "CHUNKS")}
    cells, channels = (backend.cdiv(options.get(key, 0), blocks[f"BLOCK_{key}"]) for key in ("P", "D"))
    return {
        "similarity_forward": [channels],
        "similarity_backward": [cells],
        "mil_forward": [cells, channels],
        "mil_backward_v": [backend.cdiv(args.get("M", 0), blocks["BLOCK_M"])],
        "mil_backward_a": [backend.cdiv(args.get("N", 0), blocks["BLOCK_N"])],
        "consensus_kernel": [options.get("h", 0) + 1, blocks["CHUNKS"]],
        "loss_forward": [options.get("h", 0) + 1, blocks["CHUNKS"]],
        "rasterize_kernel": [args.get("K", 0)],
    }.get(kernel, [])


def source(kernel, args: tuple, options: dict):
    """What Triton's launcher would make of this call: types, divisibility by 16, ones folded in."""
    from triton.compiler import ASTSource

    signature, constexprs, attrs = {}, {}, {}
    values = {**dict(zip(kernel.arg_names, args, strict=False)), **options}
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = "constexpr"
            constexprs[(i,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
            attrs[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attrs[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constexprs, attrs)


def nvidia_resources(ptx: str, arch: int) -> dict[str, int]:
    """Registers a thread and bytes spilled, from the assembler that comes with Triton."""
    from triton import knobs

    tool = knobs.nvidia.ptxas_blackwell if arch >= 100 and hasattr(knobs.nvidia, "ptxas_blackwell") else None
    tool = tool or knobs.nvidia.ptxas
    name = re.search(r"\.target (\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        command = [tool.path, "-v", f"--gpu-name={name}", str(file), "-o", str(file.with_suffix(".cubin"))]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", report))
    return {"registers": int(re.search(r"Used (\d+) registers", report).group(1)), "spilled": spilled}


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


def compile_all(target: str, gpu: str, what: str, kernels: tuple[str, ...] = ("",)) -> Iterator[dict]:
    """A row for each case: kernel, case, warps, shared memory, spills, and on NVIDIA registers and instructions."""
    import triton
    from triton.backends.compiler import GPUTarget

    hip = target.startswith("gfx")
    machine = GPUTarget("hip", target, 64) if hip else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    done = set()
    for case, call in cases(what):
        with tuning.pretending(gpu), backend.recording() as calls:
            call()
        for kernel, args, options in calls:
            if (kernel, case) in done or not kernel.__name__.startswith(kernels):
                continue
            if hip and options.get("PRECISION") == "tf32x3":
                options = {**options, "PRECISION": "ieee"}  # as mil_logits does there
            done.add((kernel, case))
            launch = {key: options[key] for key in LAUNCH if key in options and not (hip and key == "maxnreg")}
            compiled = triton.compile(source(kernel, args, options), target=machine, options=launch)
            text = compiled.asm["amdgcn" if hip else "ptx"]
            row = {"target": target, "kernel": kernel.__name__, "case": case, "warps": compiled.metadata.num_warps}
            row["shared"] = compiled.metadata.shared
            row["tensor_core"] = sorted(set(TENSOR_CORE.findall(text)))
            row["widest_load"] = max((int(n) for n in re.findall(r"ld\.global\S*\.v(\d)\.\w+", text)), default=1)
            if hip:
                # Scalar registers spill into vector ones, not into memory.
                row["spilled"] = sum(int(n) for n in re.findall(r"vgpr_spill_count:\s*(\d+)", text))
            else:
                row |= nvidia_resources(text, machine.arch)
                named = dict(zip(kernel.arg_names, args, strict=False))
                row |= count(compiled.asm["cubin"], rounds(kernel.__name__, named, options))
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", nargs="+", default=["sm_90"], help="any of sm_80 sm_90 sm_100 gfx942")
    parser.add_argument("--gpu", default="", help="name of the GPU whose shipped configuration is compiled")
    choice = parser.add_mutually_exclusive_group()
    for name, text in (("every", "every type, layout and size"), ("sizes", "the map kernels at their hardest sizes")):
        choice.add_argument(f"--{name}", dest="what", action="store_const", const=name, default="one", help=text)
    parser.add_argument("--kernels", nargs="+", default=[""], help="beginnings of their names; all when not given")
    arguments = parser.parse_args()
    if backend.triton is None or backend.INTERPRET:
        raise SystemExit("error: needs Triton and no TRITON_INTERPRET")
    for target in arguments.target:
        for row in compile_all(target, arguments.gpu, arguments.what, tuple(arguments.kernels)):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
