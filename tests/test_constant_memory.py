"""A corpus larger than memory must do no harm: peak memory does not grow with the text."""

import json
import subprocess
import sys

MEASURE = """
import json, re, resource, sys
import charlm
charlm.train(sys.argv[1], out=sys.argv[2], steps=30, size="tiny", batch=4, bptt=16, eval_every=1000, threads=1,
             device="cpu", precision="fp32")
try:  # ru_maxrss of a child begins at what its parent had
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_megabytes(folder, megabytes):
    path = folder / f"{megabytes}.txt"
    block = ("".join(f"line {i}: the cat sat on the mat, naïve as ever\n" for i in range(25_000))).encode()
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(block[: 10**6].rpartition(b"\n")[0] + b"\n")
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, path, folder / f"run{megabytes}"], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def test_twenty_times_longer_text_takes_no_more_memory(tmp_path):
    small, large = (peak_megabytes(tmp_path, megabytes) for megabytes in (3, 60))
    # The text alone would be 60 MB, its code points 240, its ids 120.
    assert large - small < 50
