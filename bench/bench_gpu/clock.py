"""How a call on the GPU is timed: by the clock of the host, over many calls, synchronised once."""

from time import perf_counter

import cupy


def milliseconds(call, seconds=0.4, parts=7):
    """The median time of a call, after a warm-up, over parts of many calls each.

    The device works while the host prepares the next call, as in training; so a call takes the
    longer of what it costs the host and the device.
    """
    for _ in range(3):
        call()
    cupy.cuda.runtime.deviceSynchronize()
    began = perf_counter()
    call()
    cupy.cuda.runtime.deviceSynchronize()
    each = max(perf_counter() - began, 1e-6)
    count = max(1, min(1000, int(seconds / parts / each)))
    times = []
    for _ in range(parts if each < 1 else 1):
        began = perf_counter()
        for _ in range(count):
            call()
        cupy.cuda.runtime.deviceSynchronize()
        times.append((perf_counter() - began) / count)
    return 1e3 * sorted(times)[len(times) // 2]


def graph_of(call):
    """The call as a CUDA graph, so that its launches cost next to nothing."""
    stream = cupy.cuda.Stream()
    with stream:
        for _ in range(2):
            call()  # compiles, and fills the memory pool, from which a capture may take
        stream.synchronize()
        stream.begin_capture()
        result = call()
        graph = stream.end_capture()

    def replay():
        graph.launch(stream)
        return result

    return replay
