"""``python -m edif.executor FD``: a replica's zygote on the pipe at descriptor FD."""

import sys

from edif.executor.zygote import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
