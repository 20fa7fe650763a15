"""Room for the requests of which Triton puts more on the stack than a thread has by default.

Triton 24.10 takes twice the size of a body that is sent as a form (what `curl -d` does unless told otherwise), and up
to 270 bytes for each level of nested JSON, from the stack of the thread that reads the request. Of the usual 8 MiB,
4.2 MB of a form, or 30,000 levels, were the end of the server. A thread's stack is as large as the soft limit that its
program was started with, and takes memory only where it was written to: so a large limit costs nothing before it is
needed. `python _limits.py tritonserver ...` is the same for an image that has no Slipway.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

# Bodies of 2 GiB and more end Triton by an overflow of their size; a form below that takes less than this.
LARGEST = (4 << 30) + (64 << 20)
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def stack_size() -> int | None:
    """Bytes that each of Triton's threads is given; None where this machine grants no more than it uses."""
    always_counted = "2"  # every stack in full, also what was never touched: there the threads would not start
    if OVERCOMMIT.read_text().strip() == always_counted:
        return None
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return None
    # The kernel refuses a mapping that is larger than the memory; of half of it, the rest still holds the request.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    size = min(LARGEST, memory // 2, *(limit for limit in (hard,) if limit != resource.RLIM_INFINITY))
    # Without any limit, glibc gives a thread 2 MiB.
    return size if soft == resource.RLIM_INFINITY or size > soft else None


def raise_stack_limit(size: int | None) -> None:
    """Set what a program that this process becomes, or starts, gives its threads; None leaves it."""
    if size is not None:
        resource.setrlimit(resource.RLIMIT_STACK, (size, resource.getrlimit(resource.RLIMIT_STACK)[1]))


if __name__ == "__main__":
    raise_stack_limit(stack_size())
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the program that the image names
