"""Workers on this machine: threads that each wait for one sandboxed process.

With isolation `zygote`, all jobs are children of one warm process, and those with a bare site (programs that candidates
wrote) of another, which starts with the first of them; a job with any other site than the engine's runs cold. With
`bwrap`, every job starts an interpreter of its own. An accelerator belongs to one job at a time, of the engine's site.
"""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, Self

from harness.errors import CanonicalError, SandboxError
from harness.isolation import bwrap
from harness.isolation.client import Zygote
from harness.sandbox import Isolation, Job, Outcome, Site, cuda_devices, run_cold, run_in

__all__ = ["LocalEngine"]


class LocalEngine:
    """Runs up to `count` jobs at a time in sandboxes of this machine. Safe to use from many threads."""

    def __init__(
        self,
        count: int = 2,
        isolation: Isolation = "zygote",
        site: Site | None = None,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
    ) -> None:
        """Prepare the workers; the warm process starts with the first job, or with `warm`.

        site: what jobs can import, the minimal site if not given. device: `auto` takes accelerators where there are
        any; `cuda` refuses where there are none. Raises SandboxError.
        """
        if count < 1:
            raise SandboxError("an engine needs at least one worker")
        found = cuda_devices() if device != "cpu" else []
        if device == "cuda" and not found:
            raise SandboxError("there is no CUDA device", remedy="set workers.device to cpu or auto")
        if isolation == "bwrap":
            bwrap.require()
        self.count = min(count, len(found)) if found else count
        self.isolation = isolation
        self.site = site or Site.minimal()
        self.device = "cuda" if found else "cpu"
        self._devices: queue.SimpleQueue[str] = queue.SimpleQueue()
        for index in range(self.count):
            self._devices.put(found[index] if found else "cpu")
        self._zygote = Zygote(self.site) if isolation == "zygote" else None
        self._bare: Zygote | None = None
        self._lock = threading.Lock()
        self._cancel = os.pipe()  # nobody reads it: once readable, it cancels every cold job
        self._closed = False
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="worker")

    def warm(self) -> None:
        """Start the warm process now, so that the first job does not wait for it; raise SandboxError."""
        if self._zygote is not None:
            self._zygote.start()

    def submit(self, job: Job) -> Future[Outcome]:
        """Queue a job; its device is the worker's."""
        return self._pool.submit(self._run, job)

    def _run(self, job: Job) -> Outcome:
        device = self._devices.get()
        chosen: Literal["auto", "zygote", "bwrap"]
        try:
            site = job.site or self.site
            job = replace(job, device=device if site == self.site else "cpu", site=site)
            if (warm := self._warm_of(site)) is not None:
                return run_in(warm, job)
            chosen = "auto" if self._zygote is not None else self.isolation
            return run_cold(job, chosen, cancel_fd=self._cancel[0])
        except (SandboxError, CanonicalError, OSError) as error:
            return Outcome(status="unavailable", message=str(error)[:2000])
        finally:
            self._devices.put(device)

    def _warm_of(self, site: Site) -> Zygote | None:
        """The warm process for a site, if it has one."""
        if self._zygote is None or site == self.site:
            return self._zygote
        if site != Site.bare():
            return None
        with self._lock:
            if self._bare is None and not self._closed:
                self._bare = Zygote(site)
            return self._bare

    def close(self) -> None:
        """Cancel what waits and what runs, end the warm processes. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        os.write(self._cancel[1], b"!")
        for warm in (self._zygote, self._bare):
            if warm is not None:
                warm.close()
        self._pool.shutdown(wait=True)
        for descriptor in self._cancel:
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Close it."""
        self.close()
