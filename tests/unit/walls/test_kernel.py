"""System calls that Python has no names for."""

import subprocess
import sys

PROGRAM = """
import os, threading
from edif.walls import kernel
pid = kernel.fork()
if not pid:
    done = []
    thread = threading.Thread(target=lambda: done.append(__import__("decimal").Decimal(os.getppid())))
    thread.start()
    thread.join()
    os._exit(7 if done == [os.getppid()] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_bare_fork_imports_and_starts_threads_as_others_do() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"
