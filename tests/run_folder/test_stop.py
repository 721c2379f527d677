"""A stop is a request; a run in a thread is not refused for want of signals."""

import os
import signal
import threading

import pytest

from dearkd.run_folder.stop import StopRequest


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_stops(kind):
    before = signal.getsignal(kind)
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), kind)
        assert stop.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), kind)
    assert signal.getsignal(kind) is before


def test_a_thread_trains_without_hearing_signals():
    raised = []

    def train():
        try:
            with StopRequest().listening():
                pass
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert raised == []
