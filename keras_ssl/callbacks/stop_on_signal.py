"""Ctrl-C and SIGTERM end a run between two batches, where nothing is half written."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import keras

_KINDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopOnSignal(keras.callbacks.Callback):
    """Waits with Ctrl-C (SIGINT) and SIGTERM until a batch has ended, so that backups are whole.

    A second signal ends the run at once. Handlers that a program has set for itself are left alone, and
    threads other than the main one, which Python gives no signals.

    Args:
        advice: how to go on, told as the run ends.

    Raises:
        KeyboardInterrupt: at the end of the batch in which Ctrl-C was pressed.
        SystemExit: the same for SIGTERM, of code 143, as shells know it.

    >>> import signal
    >>> stop = StopOnSignal("Call it again.")
    >>> with stop.listening():
    ...     signal.getsignal(signal.SIGTERM) == stop.receive
    True
    """

    def __init__(self, advice: str) -> None:
        super().__init__()
        self.advice = advice
        self.received: int | None = None
        self.epoch = 0
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to signals inside."""
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in _KINDS}
            untouched = (signal.default_int_handler, signal.SIG_DFL)
            self._before = {number: handler for number, handler in before.items() if handler in untouched}
        for number in self._before:
            signal.signal(number, self.receive)
        try:
            yield
        finally:
            self._stop_listening()

    def receive(self, number: int, frame: Any) -> None:
        """Remember the signal; the next one has its usual effect."""
        self.received = number
        self._stop_listening()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End the run if it was asked for."""
        if self.received is None:
            return
        said = f"Stopped by {_KINDS[signal.Signals(self.received)]} in epoch {self.epoch + 1}. {self.advice}"
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt(said)
        print(said, file=sys.stderr, flush=True)
        raise SystemExit(128 + self.received)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End the run during validation, too."""
        self.on_train_batch_end(batch)

    def _stop_listening(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
