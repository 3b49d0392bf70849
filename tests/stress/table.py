"""The README's table of the stress tests: the newest line of each in ``results.jsonl``, in words."""

import json
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).parent / "results.jsonl"

# The stress test, what was tried, what was found. Figures of the stress test are in braces.
ROWS = (
    (
        "kill",
        "SIGKILL at {kills} random moments of real trainings (streams and documents; native, torch, bf16), and before "
        "and after each call of a save ({kills_at_calls} kills)",
        "{ends_that_differ} resumed runs end with other weights, {acknowledged_lost} reported steps lost; each of "
        "{dropped_parts_noticed} parts of the state, left out, is noticed",
    ),
    (
        "processes",
        "SIGKILL of a random process under torchrun, {kills} times in {trainings} trainings with restarts, and SIGTERM "
        "or Ctrl-C to torchrun at {signals} random moments",
        "{ends_that_differ} end with other weights, {hangs} hang for {max_seconds} s; each signal saves the run once "
        "or comes before its first step",
    ),
    (
        "power",
        "{states} simulated power cuts in recorded saves: what was not synced may be gone, cut or zero",
        "{acknowledged_lost} reported steps lost, {corrupt_loaded} damaged ones loaded; without syncing folders "
        "{without_directory_sync_lost} of {without_directory_sync_states} would be lost",
    ),
    (
        "disk",
        "no space, I/O error and quota at every call of a save ({injected} times), and a real full disk",
        "{previous_lost} earlier checkpoints lost, {left_half_made} left incomplete, {ends_that_differ} resumed or "
        "continued runs end with other weights; after three failures in a row exit 74",
    ),
    (
        "signals",
        "Ctrl-C and SIGTERM at {moments} random moments of trainings and {moments_of_others} of other commands, and "
        "twice in {stopped_twice}",
        "130 or 143 within {max_seconds} s, trainings saved; a second trainer on a run gets "
        "{second_trainer_exit_code}",
    ),
    (
        "hostile_checkpoints",
        "{mutations} mutations of every file of a checkpoint, each opened by generate, info, resume and eval",
        "{crashes} crashes, {hangs} hangs over 2 s, {code_run} times code run, at most {peak_megabytes_over_start} MB "
        "over the start; {bits_flipped} single flipped bits, {flips_unnoticed} unnoticed",
    ),
    (
        "hostile_text",
        "{inputs} hostile texts and options through train, eval, score and generate",
        "{other_exceptions} exceptions that are not one line; a prompt of {prompt_mb} MB takes {peak_long_prompt_mb} "
        "MB, a short one {peak_short_prompt_mb}",
    ),
    (
        "hostile_requests",
        "{requests} requests to `charlm serve` with fields, sizes and encodings at random, and broken HTTP, beside "
        "{slow_clients} clients that send or read in small parts, or half of a body",
        "{failures} answered with 500, {status_400} with 400, {status_200} with 200; memory grew by {grown_kilobytes} "
        "kB, of these {grown_second_half_kilobytes} in the second half; the same text is served afterwards",
    ),
    (
        "divergence",
        "non-finite losses and gradients in {poisoned_steps} steps, one and many in a row",
        "{weights_changed_by_them} changed a weight; {rollbacks} rollbacks, {clear_stops} clear stops (70), "
        "{checkpoints_not_finite} of {checkpoints} checkpoints not finite",
    ),
    (
        "sanitizers",
        "the native engine with each of {instruction_sets} instruction sets under the address, undefined-behaviour and "
        "thread sanitizers",
        "{reports} reports",
    ),
    (
        "scale",
        "a text of {large_mb} MB compared with one of {small_mb} MB, {steps} steps on each",
        "peak memory {peak_large_mb} and {peak_small_mb} MB; prepared at {prepare_mb_per_s} MB/s",
    ),
    (
        "endurance",
        "{seconds_trained} seconds of training, a save every 20 s",
        "memory {memory_second_quarter_mb} MB in the second quarter, {memory_last_quarter_mb} in the last; open files "
        "always {descriptors}, at most {most_checkpoints} checkpoints",
    ),
)  # fmt: skip


def table(results: Path = RESULTS) -> str:
    """Markdown, one row for each stress test that has been run."""
    newest = _newest(json.loads(line) for line in results.read_text("utf-8").splitlines())
    rows = [
        f"| `{name}` | {tried.format(**newest[name])} | {found.format(**newest[name])} | {newest[name]['date']} |"
        for name, tried, found in ROWS
        if name in newest
    ]
    return "\n".join(["| stress test | tried | found | run on |", "|---|---|---|---|", *rows]) + "\n"


def _newest(entries: Iterable[dict[str, object]]) -> dict[str, dict[str, object]]:
    return {str(entry["campaign"]): {key: _shown(value) for key, value in entry.items()} for entry in entries}


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
