"""Damage: bytes of any file, tokens of texts, values of JSON."""

import json

import numpy as np

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)
VALUES = (
    None, True, -1, 0, 1, 3.5, 10**30, -(2**63), 1e308, "", "x", "../x", "a\x00b", "\ud800", "\udcff", [], [[]], {},
    {"a": 1}, [1] * 5, ["a", 2],
)  # fmt: skip
TOKENS = (
    b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"null", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b",",
    b";", b"\t", b"\n", b"\r", b"#", b"<", b"]]>", b"&#0;", b"<!ENTITY a 'b'>", b"[" * 5000, b"{", b"}", b"\\ud800",
    b"\xe2\x80\xa8", b"/", b"..", b"%s", b"id", b"video,audio,label",
)  # fmt: skip


def _place(rng: np.random.Generator, size: int) -> int:
    """Half of the damage lies in the head, where formats keep their promises; a quarter in the tail."""
    near = min(size, 4096)
    where = rng.random()
    if where < 0.5:
        return int(rng.integers(near))
    return size - 1 - int(rng.integers(near)) if where < 0.75 else int(rng.integers(size))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to four faults."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        at, kind = _place(rng, len(out)), rng.integers(9)
        length = int(min(len(out) - at, 2 ** rng.integers(0, 12)))
        if kind <= 1:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            out[at] = int(rng.integers(256))
        elif kind == 3:
            width, order = int(rng.choice([1, 2, 4, 8])), str(rng.choice(["little", "big"]))
            value = int(INTERESTING[rng.integers(len(INTERESTING))]) % 256**width
            out[at : at + width] = value.to_bytes(width, order)
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            del out[at : at + length]
        elif kind == 6:
            out[at:at] = out[at : at + length]
        elif kind == 7:
            out[at : at + length] = bytes(length)
        else:
            out[at : at + length] = rng.bytes(length)
    return bytes(out)


def reworded(data: bytes, rng: np.random.Generator) -> bytes:
    """A text with a token put in, lines swapped, dropped, doubled, or plain damage."""
    kind = rng.integers(5)
    if kind == 0:
        return damaged(data, rng)
    if kind == 1:
        lines = data.split(b"\n")
        i, j = rng.integers(len(lines), size=2)
        if rng.random() < 0.5:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines[i : i + 1] = [lines[i]] * int(rng.integers(3))
        return b"\n".join(lines)
    at = int(rng.integers(len(data) + 1))
    end = at if kind == 2 else min(len(data), at + int(rng.integers(1, 12)))
    return data[:at] + TOKENS[rng.integers(len(TOKENS))] + data[end:]


def revalued(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON with another value, or without one, somewhere; half of the time reworded."""
    if rng.random() < 0.4:
        return reworded(data, rng)
    content = json.loads(data)
    places = []

    def walk(node) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(content)
    value = VALUES[rng.integers(len(VALUES))]
    if not places or rng.random() < 0.05:
        return json.dumps(value).encode()
    node, key = places[rng.integers(len(places))]
    kind = rng.random()
    if kind < 0.15:
        del node[key]
    elif kind < 0.25 and isinstance(node, dict):
        node[str(VALUES[rng.integers(9, 15)])] = node.pop(key)
    else:
        node[key] = value
    return json.dumps(content).encode()
