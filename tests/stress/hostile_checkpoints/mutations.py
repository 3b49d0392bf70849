"""Makes the mutant of each number."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from stress.hostile_checkpoints import files, json_files, tensors, vocabularies
from stress.hostile_checkpoints.mutant import Mutant, seal
from stress.hostile_checkpoints.templates import Template

# The first kinds have many variants and are used more often.
_KINDS: tuple[Callable[[Mutant, random.Random], None], ...] = (
    *[json_files.change_value] * 6, *[files.flip] * 2, *[json_files.enlarge] * 2, *[files.link] * 2,
    *[files.put_special_file] * 2, *[files.put_foreign_format] * 2, *[vocabularies.change_pieces] * 2,
    *[tensors.change_values] * 2, *[tensors.change_gradients] * 2, *[tensors.change_ids] * 2,
    files.overwrite, files.truncate, files.extend, files.swap, files.delete, files.add_leftovers,
    json_files.change_keys, json_files.replace_whole, json_files.nest, json_files.repeat_key,
    json_files.change_manifest, json_files.corrupt_metrics, tensors.change_type, tensors.change_shape,
    tensors.change_names, tensors.change_header, vocabularies.change_byte_fallback,
)  # fmt: skip


def make_mutant(number: int, templates: list[Template], folder: Path) -> Mutant:
    """Mutant ``number``: every kind of mutation in turn, raw in one round and resealed in the next."""
    draw = random.Random(number)
    template = draw.choice(templates)
    round_, which = divmod(number, len(_KINDS))
    mutant = Mutant(template.files, template.step, round_ % 2 == 1, folder / "marker")
    _KINDS[which](mutant, draw)
    if mutant.sealed:
        seal(mutant, draw)
    return mutant
