"""Thread pools: sharing, sleeping, fork, interpreter exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_programs import four_in_two_out, reverse_scaled

from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.runtime import Executable, artifact
from ds_compiler.runtime import threads as pools
from ds_compiler.runtime.cpu import host_features, missing_features, required_features, thread_count

C = np.array([0.5, -1.0, 3.0, 8.0], np.float32)
X = np.arange(1000, dtype=np.float32)
TASKS = Path("/proc/self/task")
WANT = (2 * X + C[np.arange(1000) % 4])[::-1]


def load(threads: int) -> Executable:
    return Executable(*reverse_scaled(), {"c": C}, pool_object=pool_object(), threads=threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("threads") / "model.dsa"
    program, manifest = reverse_scaled()
    artifact.save(path, program, manifest, {"c": C}, pool_object())
    return path


def native_threads() -> int:
    return len(list(TASKS.iterdir()))


def test_programs_share_a_pool() -> None:
    load(3)(X)
    before = native_threads()
    for _ in range(3):
        np.testing.assert_array_equal(load(3)(X)["y"], WANT)
    assert native_threads() == before


def test_idle_workers_use_no_cpu() -> None:
    executable = load(3)
    executable(X)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
    np.testing.assert_array_equal(executable(X)["y"], WANT)  # and they wake up again


def test_calls_after_sleeps_of_any_length() -> None:
    # Around the moment when workers go to sleep a lost wake-up would hang.
    executable = load(2)
    for call in range(300):
        time.sleep((call % 30) * 5e-6)
        assert np.array_equal(executable(X)["y"], WANT)


@pytest.mark.parametrize("threads", [2, 7, 16])
def test_late_workers_see_and_disturb_nothing(threads: int) -> None:
    executable, pool = load(threads), pools.pool(pools.pool_code(pool_object()), threads)
    pool.stress(100e-6)
    try:
        for call in range(400):
            n = 1 + call * 37 % 1000
            want = (2 * X[:n] + C[np.arange(n) % 4])[::-1]
            np.testing.assert_array_equal(executable(X[:n])["y"], want)
    finally:
        pool.stress(None)


def test_calls_need_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the system never let them run.
    pool = pools.ThreadPool(pools.pool_code(pool_object()), 5)
    pool.stop()
    pool.lock.release()
    monkeypatch.setitem(pools._pools, 5, pool)
    executable = load(5)
    for _ in range(20):
        np.testing.assert_array_equal(executable(X)["y"], WANT)


def test_small_programs_wake_nobody() -> None:
    executable = Executable(*four_in_two_out(), pool_object=pool_object(), threads=2)
    x = np.ones((2, 2), np.float32)

    def switches() -> int:
        texts = [(task / "status").read_text() for task in TASKS.iterdir() if task.name != str(os.getpid())]
        return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in texts)

    load(2)(X)
    time.sleep(0.05)
    before = switches()
    for _ in range(20):
        executable(x, x, x, x)
        time.sleep(1e-3)
    assert switches() == before
    for _ in range(20):
        load(2)(X)
        time.sleep(1e-3)
    assert switches() >= before + 10  # and the measure is one


def test_several_callers_of_one_pool() -> None:
    executable, pool = load(3), pools.pool(pools.pool_code(pool_object()), 3)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = X + seed
        want = (2 * x + C[np.arange(1000) % 4])[::-1]
        wrong.extend(call for call in range(200) if not np.array_equal(executable(x)["y"], want))

    pool.stress(20e-6)
    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    pool.stress(None)
    assert wrong == []


def test_workers_keep_their_affinity() -> None:
    executable = load(2)
    for _ in range(50):
        executable(X)
        time.sleep(1e-3)  # let it sleep, so that the next call wakes it
    assert {os.sched_getaffinity(int(task.name)) == os.sched_getaffinity(0) for task in TASKS.iterdir()} == {True}


def test_fork() -> None:
    executable = load(2)
    executable(X)
    child = os.fork()
    if child == 0:
        ok = all(np.array_equal(executable(X)["y"], WANT) for _ in range(20))
        os._exit(0 if ok else 1)
    deadline = time.monotonic() + 20
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status[1]) == 0
    np.testing.assert_array_equal(executable(X)["y"], WANT)


def test_fork_while_another_thread_calls() -> None:
    executable = load(2)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            executable(X)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # a hang ends the child, and shows below
                os._exit(0 if np.array_equal(executable(X)["y"], WANT) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        worker.join()


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_exit_stops_the_workers(saved: Path) -> None:
    done = run_python(f"""
        import atexit, numpy as np, os
        atexit.register(lambda: print(len(os.listdir("/proc/self/task"))))  # registered first: runs last
        from ds_compiler.runtime import artifact
        x = np.arange(1000, dtype="f4")
        before = len(os.listdir("/proc/self/task"))
        artifact.load({str(saved)!r}, threads=3)(x)
        print(before, len(os.listdir("/proc/self/task")))
    """)
    assert done.returncode == 0, done.stderr
    before, during, after = map(int, done.stdout.split())
    assert (during, after) == (before + 2, before)


def test_exit_during_a_daemon_threads_calls(saved: Path) -> None:
    done = run_python(f"""
        import numpy as np, threading, time
        from ds_compiler.runtime import artifact
        exe, x = artifact.load({str(saved)!r}, threads=2), np.arange(1000, dtype="f4")
        def work():
            while True:
                exe(x)
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
    """)
    assert done.returncode == 0, done.stderr


def test_signals_go_to_python(saved: Path) -> None:
    done = run_python(f"""
        import numpy as np, os, signal, time
        from ds_compiler.runtime import artifact
        artifact.load({str(saved)!r}, threads=3)(np.arange(1000, dtype="f4"))
        masks = [line.split()[1] for task in os.listdir("/proc/self/task")
                 for line in open(f"/proc/self/task/{{task}}/status") if line.startswith("SigBlk")]
        print(sum(int(mask, 16) >> 1 & 1 for mask in masks))  # threads that block SIGINT
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
        time.sleep(0.5)
    """)
    assert done.stdout.split() == ["2", "alarm"], done.stderr


def test_pool_sizes_are_checked() -> None:
    code = pools.pool_code(pool_object())
    for tasks in (1, 0, 1_000_000):
        with pytest.raises(ValueError, match="threads must be between 1 and 1024"):
            pools.pool(code, tasks)


def test_ticks_are_calibrated() -> None:
    code = pools.pool_code(pool_object())
    start, first = time.perf_counter(), code.ticks()
    time.sleep(0.05)
    seconds = (code.ticks() - first) / code.ticks_per_second
    assert seconds == pytest.approx(time.perf_counter() - start, rel=0.05)


def test_cpu() -> None:
    assert 1 <= thread_count() <= (os.cpu_count() or 1)
    assert {"sse2", "cx16"} <= host_features()
    assert required_features("x86-64-v2", "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe") == required_features(
        "x86-64-v3", ""
    )
    assert required_features("znver3", "+avx2,-xop,+64bit,+sse4.1") == ("avx2", "sse4.1")
    assert missing_features(["sse2", "zzz", "aaa"]) == ["aaa", "zzz"]
