"""A signal to end is noted, and the handlers of before come back."""

import os
import signal
import subprocess
import sys
import threading

from jaxformers.training.preemption import EXIT_STATUS, Preemption


def test_a_signal_sets_the_flag() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached(2) and preemption.told is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_signals() -> None:
    with Preemption((signal.SIGTERM, signal.SIGUSR1)) as preemption:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert preemption.reached(1) and preemption.told is signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_the_second_signal_ends_at_once() -> None:
    probe = (
        "import os, signal\nfrom jaxformers.training.preemption import Preemption\n"
        "with Preemption() as preemption:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(preemption.reached(1), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still there')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] and done.returncode == -signal.SIGTERM


def test_in_another_thread_nothing_is_set() -> None:
    """Python lets the main thread alone set handlers; a Trainer in a thread still runs."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def run() -> None:
        with Preemption() as preemption:
            seen.extend([signal.getsignal(signal.SIGTERM), preemption.reached(1)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before, False]


def test_the_status_is_a_shells() -> None:
    assert EXIT_STATUS == 143
