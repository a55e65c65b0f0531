"""The walls of the sandbox: one room for each mechanism of the kernel, and those that combine them.

    kernel     system calls that Python does not wrap
    seccomp    the filter of system calls, assembled here          landlock   what may be opened, and signalled
    limits     rlimits, and the memory of a tree of processes      site       the few packages that candidates see
    room       the root file system of one job                     inside     what runs between the walls and the code
    warden     deadlines, memory, output: watched from outside     zygote     a warm process that forks jobs
    client     the launcher's end of a zygote                      bwrap      the same walls, built by bubblewrap

Everything but `client` and `bwrap` needs the standard library only: it also runs where no package is mounted.
"""

from __future__ import annotations
