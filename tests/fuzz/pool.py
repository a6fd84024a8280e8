"""Workers that read mutants within limits of time and memory; a parent that notices when one dies.

`python tests/fuzz/pool.py NUMBER ...` makes the seeds anew and shows what becomes of single mutants.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATHS = [HERE.parents[1], HERE.parents[1] / "kernels", HERE.parents[1] / "loaders", HERE, HERE.parent / "loaders"]
SEED = 11
CPU_SECONDS, WALL_SECONDS = 10.0, 120.0  # the first is the promise; the second only ends what waits for nothing
MEMORY = 2 << 30  # bytes beyond what the worker holds before it reads


@dataclass
class Outcome:
    """What became of all mutants.

    Attributes:
        counts: target -> how many were refused, and how many gave a sane result.
        faults: (number, target, what went wrong).
    """

    counts: dict[str, Counter] = field(default_factory=dict)
    faults: list[tuple[int, str, str]] = field(default_factory=list)


def run(seeds: Path, numbers: list[int], workers: int = 2) -> Outcome:
    """Read mutants in some processes; each number is one mutant, always the same."""
    outcome, waiting = Outcome(), queue.Queue()
    for number in numbers:
        waiting.put(number)
    lock = threading.Lock()

    def serve() -> None:
        process = None
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                break
            process = process or start(seeds)
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if line:
                target, kind, detail = json.loads(line)
            else:
                code = process.wait()
                target, kind, detail = "?", "fault", ended(code)
                process = None
            with lock:
                if kind == "fault":
                    outcome.faults.append((number, target, detail))
                else:
                    outcome.counts.setdefault(target, Counter())[kind] += 1
        if process is not None:
            process.stdin.close()
            process.wait()

    threads = [threading.Thread(target=serve) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def start(seeds: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--serve", str(seeds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def ended(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"took more than {CPU_SECONDS:g} s of the processor"
    if code == -signal.SIGALRM:
        return f"took more than {WALL_SECONDS:g} s"
    return f"the process ended with {code}"


# -- in a worker --


def serve(seeds: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import readers  # noqa: F401  torch, before memory is limited

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, size + 2 * MEMORY))
    with tempfile.TemporaryDirectory() as work:
        for line in sys.stdin:
            answers.write(json.dumps(one(seeds, Path(work), int(line))) + "\n")
            answers.flush()


def one(seeds: Path, work: Path, number: int) -> tuple[str, str, str]:
    """(target, "refused" or "sane" or "fault", detail) of one mutant."""
    import numpy as np
    import readers

    from fastdmt.errors import FastDMTError
    from fastdmt_loaders.errors import DataError, MachineError

    readers.SEEDS, names = seeds, list(readers.TARGETS)
    name = names[number % len(names)]
    target, rng = readers.TARGETS[name], np.random.default_rng([SEED, number])
    files = sorted(seeds.glob(target.files))
    file = files[rng.integers(len(files))]
    folder = work / str(number)
    top = seeds / file.relative_to(seeds).parts[0]
    if target.whole:
        link_tree(top, folder)
        mutant = folder / file.relative_to(top)
        mutant.unlink()
    else:
        folder.mkdir()
        mutant = folder / file.name
    mutant.write_bytes(target.mutate(file.read_bytes(), rng))
    before = peak()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        target.read(folder if target.whole else mutant)
        kind, detail = "sane", ""
    except (FastDMTError, DataError) as error:
        kind, detail = "refused", str(error)
        if isinstance(error, MachineError) or "\n" in detail or str(folder) not in detail:
            kind, detail = "fault", f"{type(error).__name__} is not one line that names the file: {detail!r}"
    except BaseException as error:
        kind, detail = "fault", "".join(traceback.format_exception(error)[-4:])
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if peak() - before > MEMORY:
        kind, detail = "fault", f"took {(peak() - before) >> 20} MiB of memory"
    remove(folder)
    return name, kind, f"{file.relative_to(seeds)}: {detail}"


def peak() -> int:
    """Most memory that this process ever held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def link_tree(source: Path, target: Path) -> None:
    """The same files by hard links: nothing is copied, and what is replaced leaves the seeds alone."""
    for parent, _, files in os.walk(source):
        there = target / Path(parent).relative_to(source)
        there.mkdir(parents=True)
        for file in files:
            os.link(Path(parent, file), there / file)


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.path[:0] = map(str, PATHS)
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        from seeds import write_all

        with tempfile.TemporaryDirectory() as folder:
            write_all(Path(folder, "seeds"))
            Path(folder, "work").mkdir()
            for number in map(int, sys.argv[1:]):
                print(number, *one(Path(folder, "seeds"), Path(folder, "work"), number))
