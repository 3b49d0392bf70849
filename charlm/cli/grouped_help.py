"""Help whose options stand under several headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from typer.core import TyperCommand


class GroupedCommand(TyperCommand):
    """A command that lists its options under the headings of ``groups``: heading to the names of parameters.

    Options in no group come last, under "Other options".
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options group by group."""
        records = {
            "help" if "--help" in parameter.opts else parameter.name: record
            for parameter in self.get_params(ctx)
            if (record := parameter.get_help_record(ctx)) is not None
        }
        arguments = tuple(p.name for p in self.get_params(ctx) if p.param_type_name == "argument" and p.name in records)
        grouped = {name for names in self.groups.values() for name in names}
        others = tuple(name for name in records if name not in grouped and name not in arguments)
        for heading, names in {"Arguments": arguments, **self.groups, "Other options": others}.items():
            if shown := [records[name] for name in names if name in records]:
                with formatter.section(heading):
                    formatter.write_dl(shown)
