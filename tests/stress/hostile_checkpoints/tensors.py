"""Mutations of the files of tensors."""

from __future__ import annotations

import io
import json
import math
import random
import struct
from typing import Any

import numpy as np

from charlm.checkpoint.step import GRADIENTS, MODEL, STATE_TENSORS
from stress.hostile_checkpoints.mutant import Mutant

Tensors = dict[str, tuple[str, list[int], bytes]]
"""Name -> dtype, shape and bytes, for files that the safetensors library would not write."""
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
          "F8_E4M3": 1, "F4": 1, "F33": 4, "": 4}  # fmt: skip


def unpack(data: bytes) -> Tensors:
    """The tensors of a valid file."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def pack(tensors: Tensors) -> bytes:
    """The file for ``tensors``, which may be invalid."""
    header: dict[str, Any] = {}
    payload = io.BytesIO()
    for name, (dtype, shape, data) in tensors.items():
        begin = payload.tell()
        payload.write(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, payload.tell()]}
    return _framed(json.dumps(header).encode(), payload.getvalue())


def _framed(header: bytes, payload: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + payload


def _tensor_file(mutant: Mutant, draw: random.Random) -> tuple[str, Tensors, str]:
    """The path of a file of tensors, its tensors, and the name of one that is checked."""
    path = mutant.path(draw.choice([MODEL, STATE_TENSORS]))
    tensors = unpack(mutant.files[path])
    name = draw.choice(sorted(name for name in tensors if name != "generator"))
    mutant.what.append(name)
    return path, tensors, name


def change_type(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    if draw.random() < 0.1 and "generator" in tensors:
        name = "generator"
    dtype = draw.choice([dtype for dtype in _SIZES if dtype != tensors[name][0]])
    shape = tensors[name][1]
    data = draw.choice([bytes, draw.randbytes])(math.prod(shape) * _SIZES[dtype])
    tensors[name] = dtype, shape, data
    half = dtype == "F16" and path.endswith(MODEL)
    mutant.put(path, pack(tensors), refused=name.startswith(("optimizer", "embedding", "lstm", "dec")) and not half)


def change_shape(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    dtype, shape, data = tensors[name]
    count = math.prod(shape)
    shapes = [[count], [1, *shape], [*shape, 1], shape[::-1], [2 * count], [0], [], [count // 2], [2**31, 2**31],
              [2**62, 4], [0, 2**63], [2**64, 0], [0] * 60, [1] * 70, [-1], [count + 0.5], ["x"], None]  # fmt: skip
    shape_now: Any = draw.choice([one for one in shapes if one != shape])
    numbers = [n for n in shape_now or [] if isinstance(n, int)]
    wanted = 4 * math.prod(numbers) if shape_now is not None and 0 <= math.prod(numbers) < 10**6 else len(data)
    tensors[name] = dtype, shape_now, (data + bytes(wanted))[:wanted]
    mutant.put(path, pack(tensors), refused=True)
    mutant.what.append(f"shape {shape_now}")


def change_names(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    how = draw.choice(["missing", "renamed", "more", "many"])
    if how in ("missing", "renamed"):
        gone = tensors.pop(name)
        if how == "renamed":
            tensors[
                draw.choice(["", "a\nb", "\ud800", "../x", "__class__", name.upper(), "optimizer.", "x" * 9999])
            ] = gone
    elif how == "more":
        tensors[draw.choice(["more", "optimizer.99.exp_avg", "state.7.h", "embedding", "a\nb"])] = tensors[name]
    else:
        count = draw.choice([2_000, 15_000, 200_000])
        tensors.update({f"{number}": ("F32", [0], b"") for number in range(count)})
    mutant.put(path, pack(tensors), refused=path.endswith(MODEL))


def change_values(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    dtype, shape, data = tensors[name]
    array = np.frombuffer(data, np.float32).copy()
    if draw.random() < 0.5:
        array[draw.randrange(len(array))] = draw.choice([math.nan, math.inf, -math.inf])
        mutant.put(path, pack({**tensors, name: (dtype, shape, array.tobytes())}), refused=True)
        return
    everywhere = draw.random() < 0.5
    for name_ in tensors if everywhere else [name]:
        if name_ != "generator":
            dtype, shape, data = tensors[name_]
            array = np.frombuffer(data, np.float32).copy()
            array[:] = draw.choice([3.4e38, -3.4e38, 1e20, -1e20, 1e-45, 0.0, -1.0, 100.0])
            tensors[name_] = dtype, shape, array.tobytes()
    mutant.put(path, pack(tensors))


def change_gradients(mutant: Mutant, draw: random.Random) -> None:
    """Sizes of gradients, which only dynamic evaluation reads: all zero, negative, huge, valid ones."""
    shapes = {name: shape for name, (_, shape, _) in unpack(mutant.files[mutant.path(MODEL)]).items()}
    value = draw.choice([0.0, -0.0, -1.0, -1e-30, 3.4e38, math.inf, math.nan, 1e-45, 1e-3])
    arrays = {name: np.full(math.prod(shape), value, np.float32) for name, shape in shapes.items()}
    is_valid = 0 < value < 1
    if is_valid and draw.random() < 0.5:
        draw.choice(list(arrays.values()))[0] = -value
        is_valid = False
    data = pack({name: ("F32", shapes[name], array.tobytes()) for name, array in arrays.items()})
    # Without an entry in the manifest the file is ignored.
    mutant.put(mutant.path(GRADIENTS), data, refused=mutant.sealed and not is_valid)


def change_ids(mutant: Mutant, draw: random.Random) -> None:
    """Ids beyond the vocabulary and positions beyond the ids in the corpus."""
    path = draw.choice(sorted(path for path in mutant.files if path.endswith((".ids", ".ends"))))
    data = mutant.files[path]
    start = draw.choice([0, 0, len(data) // 2])
    mutant.put(path, data[:start] + draw.choice([b"\xff", b"\x7f", b"\0"]) * (len(data) - start))


def change_header(mutant: Mutant, draw: random.Random) -> None:
    path, _, name = _tensor_file(mutant, draw)
    whole = mutant.files[path]
    size = int.from_bytes(whole[:8], "little")
    header, payload = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    how = draw.choice(["length", "length", "offsets", "offsets", "entry", "text", "metadata"])
    if how == "length":
        length = draw.choice([2**63, 2**64 - 1, 2**32, 100_000_000, 0, 1, 2, size - 1, size + 1, len(whole), 10**6 + 1])
        mutant.put(path, struct.pack("<Q", length) + whole[8:], refused=True)
        return
    if how == "offsets":
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = draw.choice([[0, 2**63], [2**64 - 4, 2**64], [end, begin], [begin + 1, end + 1],
                                                    [-4, 0], [begin], [], None, [begin, end + 4], [0.5, 4], "x",
                                                    [begin, begin]])  # fmt: skip
    elif how == "entry":
        header[name] = draw.choice([None, [], 5, "x", {}, {"dtype": "F32"}, {**header[name], "more": 1}])
    elif how == "metadata":
        header["__metadata__"] = draw.choice([5, [], {"a": 5}, {"a": "x" * 2_000_000}, {"a": {"b": {}}}])
    text = json.dumps(header).encode()
    if how == "text":
        twice = text[:-1] + b", " + json.dumps({name: header[name]}).encode()[1:]
        text = draw.choice([b"", b"{}", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff" * 64, text[:-1], twice])
    # The library accepts some of these: unknown keys and duplicate keys.
    mutant.put(path, _framed(text, payload))
