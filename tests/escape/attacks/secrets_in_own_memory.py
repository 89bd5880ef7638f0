"""Searches all memory that it inherited from the zygote for secrets."""

import re
from pathlib import Path

KIND = "secret"


def attack(canary):
    found = []
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            low, high = (int(end, 16) for end in span.split("-"))
            if not rights.startswith("rw") or high - low > 64 * 2**20:
                continue
            memory.seek(low)
            try:
                data = memory.read(high - low)
            except OSError:
                continue
            found += re.findall(rb"SECRET-[0-9a-f]{8,}", data)
    return repr(found)
