"""The worker process of a model: opens one package, then answers one job after another until the agent ends.

It is the only process that parses the model. It has one thread, no descriptor but its socket, and limits on
memory and files; it yields to the agent.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference import gate_process
from agent.inference.decoders import ModelError
from agent.inference.isolation import worker_wire
from agent.inference.isolation.worker_wire import Answer, Job, Opened, Opening
from agent.inference.package import load_package
from agent.inference.session import Model
from wire.child_process import become_nicer
from wire.printable import printable

_NICER = 5  # than the agent: telemetry goes first


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.inference.isolation.worker_process DESCRIPTOR PARENT MEMORY`, by `worker`."""
    descriptor, parent, memory = map(int, arguments)
    gate_process.limit(parent, memory)
    become_nicer(_NICER)  # than the agent
    with socket.socket(fileno=descriptor) as channel:
        opening = worker_wire.opening.decode(channel.recv(worker_wire.MAX_PACKET))
        try:
            model = _open(opening)
            opened = Opened(
                provider=model.provider, fields=model.fields(), stateful=model.stateful, wide=model.wide
            )
            channel.send(worker_wire.packet(opened))
        except (ModelError, MemoryError) as error:
            channel.send(worker_wire.packet(Opened(why=printable(str(error) or "no memory", 2_000))))
            os._exit(0)
        _serve(channel, model)
    os._exit(0)  # skips the shutdown of the interpreter, where a hostile model could still act


def _open(opening: Opening) -> Model:
    package = load_package(Path(os.fsdecode(opening.folder)))
    if package.manifest.hash != opening.hash:
        raise ModelError(f"{package.path}: the manifest has changed since the model was checked")
    return Model(package, providers=opening.providers, scanned=opening.scanned)


def _serve(channel: socket.socket, model: Model) -> None:
    """Answer jobs until the agent closes the socket."""
    parts: OrderedDict[int, mmap.mmap] = OrderedDict()
    of_pictures = model.manifest.input.kind == "frame"
    while True:
        body, descriptors, _, _ = socket.recv_fds(channel, worker_wire.MAX_PACKET, 1)
        if not body:
            return
        job = worker_wire.job.decode(body)
        try:
            data = _input(job, descriptors, parts)
            if of_pictures:
                result = model.run_frame(data, tuned=job.tuned)
            else:
                result = model.run_window(data, job.stream, job.end, tuned=job.tuned)
            answer = worker_wire.packet(Answer(job.number, result=result))
        except Exception as error:  # noqa: BLE001 - one bad run must not end the worker
            name = "" if isinstance(error, ModelError) else f"{type(error).__name__}: "
            answer = worker_wire.packet(Answer(job.number, why=printable(f"{name}{error}", 1_000)))
        try:
            channel.send(answer)
        except OSError as error:  # the kernel's buffer is smaller than usual
            channel.send(worker_wire.packet(Answer(job.number, why=f"its result: {error.strerror}")))


def _input(job: Job, descriptors: list[int], parts: OrderedDict[int, mmap.mmap]) -> NDArray[Any]:
    """The picture or the window of a job; one in shared memory cannot be written to."""
    body: bytes | mmap.mmap = job.data
    if job.part:
        for descriptor in descriptors:
            parts[job.part] = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            os.close(descriptor)
            if len(parts) > worker_wire.KEPT:
                parts.popitem(last=False)
        parts.move_to_end(job.part)
        body = parts[job.part]
    count = int(np.prod(job.shape))
    return np.frombuffer(body, job.dtype, count).reshape(job.shape)


if __name__ == "__main__":
    main(sys.argv[1:])
