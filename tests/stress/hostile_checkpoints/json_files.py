"""Mutations of JSON: values, keys, nesting, sizes, the manifest, the lines of metrics."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from charlm.checkpoint.step import CONFIG, MANIFEST, STATE
from stress.hostile_checkpoints.mutant import CORPUS, METRICS, Mutant, entry

_HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**4000, 0.0, 0.5, -0.5,
    1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf, "", "inf", "nan", "x", "cuda", "a\nb", "\x1b[2J", "\0",
    "\ud800", "\udce9", "1" * 5000, "x" * 300_000, "../../../etc/passwd", "/dev/zero", [], {}, [[]], [1, 2], ["a"] * 9,
    {"a": 1}, [{}], {"": {"": None}}, [0.5] * 1000,
)  # fmt: skip


def _places(values: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else []
    return [(values, key) for key in keys] + [place for key in keys for place in _places(values[key])]


def _is_rejected_by_strict_json(value: Any) -> bool:
    """Whether strict JSON rejects the number: NaN, infinities, integers too large for a float."""
    if type(value) is float:
        return not math.isfinite(value)
    return type(value) is int and abs(value) > 10**400


def change_value(mutant: Mutant, draw: random.Random) -> None:
    name = draw.choice([CONFIG, CONFIG, CONFIG, STATE, STATE, MANIFEST, CORPUS])
    path = name if name == CORPUS else mutant.path(name)
    values = mutant.json(path)
    holder, key = draw.choice(_places(values))
    value = draw.choice(_HOSTILE)
    if key == "sources" or (isinstance(holder, list) and name == CORPUS):
        value = draw.choice([None, 5, "x", [], [5], [[5]], [["/dev/zero"]], [["\0"]], [["\ud800"]], [[]], {"a": 1},
                             [["/usr"]], [["/"]]])  # fmt: skip
    holder[key] = value
    if key == "device" and isinstance(value, str):
        mutant.codes.add(2)  # a device that this machine lacks
    resealed_away = name == MANIFEST and holder is values
    mutant.put_json(path, values, refused=_is_rejected_by_strict_json(value) and not resealed_away)
    mutant.what.append(f"{key} = {value!r:.40}")


def change_keys(mutant: Mutant, draw: random.Random) -> None:
    path = draw.choice([mutant.path(CONFIG), mutant.path(STATE), mutant.path(MANIFEST), CORPUS])
    values = mutant.json(path)
    holder, key = draw.choice([place for place in _places(values) if isinstance(place[0], dict)])
    mutant.what.append(f"key {key}")
    if draw.random() < 0.7:
        value = holder.pop(key)
        if draw.random() < 0.3:
            holder[draw.choice(["", "\0", "\n", "\ud800", key.upper(), "x" * 10_000])] = value
    else:
        holder[draw.choice(["more", "__class__", "step", "self", "vocabulary_size"])] = draw.choice(_HOSTILE)
    mutant.put_json(path, values)


def replace_whole(mutant: Mutant, draw: random.Random) -> None:
    """JSON that is not an object, or nested too deeply to parse."""
    path = draw.choice([mutant.path(CONFIG), mutant.path(STATE), mutant.path(MANIFEST), CORPUS])
    deep = 100_000
    whole = draw.choice(
        [
            b"[" * deep, b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep, b"null", b"[]", b"{}", b'""',
            b"0", b"NaN", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{} {}", b'"' + b"x" * 999_990 + b'"', b"1" * 999_999,
            b"-", b"[" + b"0," * 400_000 + b"0]", b'{"format": 1e999}', b'{"a": "\\ud800"}', b"{" * 900_000,
            b'{"format": 1, "step": 1}', b" " * 2_000_000, b"[" * 900 + b"]" * 900,
        ]
    )  # fmt: skip
    mutant.put(path, whole, refused=True)


def nest(mutant: Mutant, draw: random.Random) -> None:
    """Nesting that a parser's stack just holds, in an otherwise whole file."""
    path = draw.choice([mutant.path(CONFIG), mutant.path(STATE), CORPUS, mutant.path(MANIFEST)])
    depth = draw.choice([40, 200, 480, 900, 970, 985, 990, 100_000])
    nested = (b"[" * depth + b"]" * depth) if draw.random() < 0.5 else (b'{"a":' * depth + b"1" + b"}" * depth)
    mutant.put(path, mutant.files[path].replace(b"{", b'{"more": ' + nested + b",", 1), refused=True)


def repeat_key(mutant: Mutant, draw: random.Random) -> None:
    """Repeat a key."""
    path = draw.choice([mutant.path(CONFIG), mutant.path(STATE), CORPUS, mutant.path(MANIFEST)])
    lines = mutant.files[path].decode().splitlines()
    places = [number for number, line in enumerate(lines) if '": ' in line and line[-1] not in "{["]
    place = draw.choice(places)
    lines.insert(place, lines[place].rstrip(",") + ",")
    mutant.put(path, "\n".join(lines).encode(), refused=True)


def enlarge(mutant: Mutant, draw: random.Random) -> None:
    """Sizes that need more memory than any machine has, and some that almost do."""
    path = mutant.path(CONFIG)
    values = mutant.json(path)
    sizes = [64, 300, 4096, 8192, 65_535, 65_536, 65_537, 10**6, 1_200_000, 2**31 - 1, 10**9, 2**40, 2**62]
    if draw.random() < 0.6:
        names = draw.choice([["layers"], ["hidden"], ["hidden", "embedding"], ["vocabulary_size"], ["embedding"],
                             ["layers", "hidden", "embedding"]])  # fmt: skip
        values["model"].update({name: draw.choice(sizes) for name in names})
        if len(names) == 2:
            values["model"]["embedding"] = values["model"]["hidden"]
        mutant.put_json(path, values, refused=True)
    else:
        names = draw.choice([["batch"], ["bptt"], ["batch", "bptt"], ["threads"], ["eval_every"], ["warmup"], ["seed"]])
        values["training"].update({name: draw.choice(sizes) for name in names})
        mutant.put_json(path, values)
    mutant.what.append(str({name: {**values["model"], **values["training"]}[name] for name in names}))


def change_manifest(mutant: Mutant, draw: random.Random) -> None:
    """Invalid entries of the manifest: names outside of the folder, invalid sizes."""
    path = mutant.path(MANIFEST)
    values = mutant.json(path)
    entries = values["files"]
    name = draw.choice(sorted(entries))
    passwd = entry(Path("/etc/passwd").read_bytes())
    if draw.random() < 0.5:
        for odd in draw.sample(["../../../../etc/passwd", "/etc/passwd", "..", "", ".", "\0", "a\nb", "\ud800"], 3):
            entries[odd] = draw.choice([passwd, {}, None, entries[name]])
    else:
        sizes = [-1, 0, 2**62, 1.0, float(entries[name]["bytes"]), True, "1", None, [], {}, math.nan]
        digests = ["", None, 0, [], "0" * 64, entries[name]["sha256"].upper(), passwd["sha256"]]
        wrong = [*({"bytes": size} for size in sizes), *({"sha256": digest} for digest in digests)]
        entries[name] = draw.choice([*({**entries[name], **one} for one in wrong), None, [], "x", 0, {}])
    values["files"] = draw.choice([entries, entries, entries, list(entries), [], None, "x"])
    mutant.put_json(path, values)


def corrupt_metrics(mutant: Mutant, draw: random.Random) -> None:
    lines = [
        b'{"step": 1e999, "kind": "train"}', b'{"step": NaN, "kind": "train"}', b"[" * 100_000, b"null", b"[]", b"5",
        b'{"step": "5", "kind": []}', b'{"step": 5}', b"\xff\xfe\0", b'{"step": ' + b"9" * 5000 + b', "kind": "valid"}',
        b'{"step": [], "kind": 1}', b'{"a":' * 1500, b'{"step": 3, "kind": "train", "more": "' + b"x" * 100_000 + b'"}',
        b"\x0b\x1c\xe2\x80\xa8", b"", b'{"step": 1, "kind": "train"}' * 1000,
    ]  # fmt: skip
    chosen = [draw.choice(lines) for _ in range(draw.randint(1, 5))]
    mutant.put(METRICS, mutant.files.get(METRICS, b"") + b"\n".join(chosen) + draw.choice([b"", b"\n"]))
