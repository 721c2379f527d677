"""A stop is a request; a run in a thread is not refused for want of signals."""

import os
import signal
import threading

import pytest

from dearkd.run_folder.stop import REQUEUE, UNDER, RequeueSignal, StopRequest, raising_on_signals


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


@pytest.mark.parametrize("kinds", [["USR1", "USR1", "TERM"], ["TERM", "USR1"]])
def test_sigusr1_may_come_twice_and_before_or_after_sigterm(kinds):
    stop = StopRequest()
    with stop.listening():
        for kind in kinds:
            os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])
    assert stop.interrupted().code == 75


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_scheduler_gets_another_exit_code_than_a_person(kind, code):
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), kind)
    assert stop.interrupted().code == code


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
def test_where_nothing_is_to_be_saved_the_signal_is_raised(kind):
    before = signal.getsignal(kind)
    with raising_on_signals(), pytest.raises(RequeueSignal):
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


def test_a_command_stops_when_the_one_is_gone_that_it_works_for(monkeypatch):
    monkeypatch.setenv(UNDER, str(os.getppid()))
    assert not StopRequest().made
    monkeypatch.setenv(UNDER, "1" if os.getppid() != 1 else "2")
    stop = StopRequest()
    assert stop.made
    assert stop.interrupted().code == REQUEUE
