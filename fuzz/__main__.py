"""``python -m fuzz TARGET [FILE ...] [-OPTION=VALUE ...]``: search for an input that breaks a target's law.

With files, each is tried once; without, the search goes on until a finding, or for ``-max_total_time`` seconds. Options
are libFuzzer's. What was learnt and what was found stay in ``.cache/fuzz/TARGET``. ``make fuzz`` calls this with a parser
whose C is instrumented too.
"""

import hashlib
import logging
import sys
from pathlib import Path

import atheris
import structlog

with atheris.instrument_imports(include=["edif", "fuzz"]):
    from fuzz import client_envelope, packed_results, pipe_messages, seat_messages, worker_link

TARGETS = {
    **pipe_messages.TARGETS,
    **client_envelope.TARGETS,
    **worker_link.TARGETS,
    **packed_results.TARGETS,
    **seat_messages.TARGETS,
}


def main() -> None:
    names, arguments = sys.argv[1:2], sys.argv[2:]
    if not names or names[0] not in TARGETS:
        sys.exit(f"usage: python -m fuzz TARGET [FILE ...] [-OPTION=VALUE ...]\ntargets: {' '.join(TARGETS)}")
    # The replica's own log would be most of what is written.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    target = TARGETS[names[0]]
    folder = Path(".cache/fuzz", names[0])
    options = [
        f"-max_len={target.most_bytes}",
        f"-artifact_prefix={folder}/",
        "-len_control=0",  # long inputs at once, not only when short ones teach nothing any more
        "-detect_leaks=0",  # Python frees late
        "-timeout=10",  # seconds for one input
        "-malloc_limit_mb=64",  # for one allocation
        "-rss_limit_mb=800",
        *arguments,
    ]
    corpus = _corpus(folder / "corpus", target.seeds())
    if all(argument.startswith("-") for argument in arguments):
        options.append(str(corpus))
    atheris.Setup([sys.argv[0], *options], target.check)
    atheris.Fuzz()


def _corpus(folder: Path, seeds: list[bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    return folder


main()
