"""Ctrl-C and SIGTERM end a run between two batches, and the same call goes on to the same weights."""

import signal

import keras
import numpy as np
import pytest
from tiny import assert_same, images, quick_model, weights

SETTINGS = {"epochs": 3, "batch_size": 4, "verbose": 0}


@pytest.fixture(autouse=True)
def usual_handlers():
    """Those of a program in the foreground; in the background, shells have Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Send(keras.callbacks.Callback):
    """Sends signals to this very process as a batch of the second epoch begins."""

    number, times = None, 1

    def on_train_begin(self, logs=None):
        self.ended = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.number and (self.epoch, batch) == (1, 1):
            for _ in range(self.times):
                signal.raise_signal(self.number)

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append((self.epoch, batch))


def sender(number, times=1):
    send = Send()
    send.number, send.times = number, times
    return send


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["int", "term"]
)
def test_it_ends_with_the_batch_and_the_same_call_resumes(number, end, tmp_path, capsys):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    send = sender(number)
    with pytest.raises(end) as ended:
        quick_model().fit_pretext(images(), callbacks=[send], backup_dir=tmp_path, **SETTINGS)
    # The sender, whose turn comes after, did not see the end of this batch any more.
    assert send.ended[-1] == (1, 0)
    said = str(ended.value) if end is KeyboardInterrupt else capsys.readouterr().err
    assert "in epoch 2. Earlier epochs are saved in" in said
    assert str(tmp_path) in said
    if end is SystemExit:
        assert ended.value.code == 143
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed, whole = quick_model(), quick_model()
    history = resumed.fit_pretext(images(), callbacks=[Send()], backup_dir=tmp_path, **SETTINGS).history
    expected = whole.fit_pretext(images(), **SETTINGS).history
    assert history == expected
    assert_same(weights(resumed), weights(whole))


def test_the_second_signal_does_not_wait():
    send = sender(signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt) as ended:
        quick_model().fit_pretext(images(), callbacks=[send], **SETTINGS)
    assert "Stopped by" not in str(ended.value)


def test_without_a_backup_it_says_so():
    with pytest.raises(KeyboardInterrupt, match="Nothing is saved, since `backup_dir` was not given"):
        quick_model().fit_pretext(images(), callbacks=[sender(signal.SIGINT)], **SETTINGS)


def test_it_ends_during_validation():
    class SendInValidation(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="Stopped by Ctrl-C in epoch 1"):
        quick_model().fit_pretext(
            images(), validation_data=images(), callbacks=[SendInValidation()], **SETTINGS
        )


def test_handlers_of_the_program_are_left_alone():
    received = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        history = quick_model().fit_pretext(images(), callbacks=[sender(signal.SIGINT)], **SETTINGS).history
    finally:
        signal.signal(signal.SIGINT, before)
    assert received == [signal.SIGINT]
    assert len(history["loss"]) == 3
    assert np.isfinite(history["loss"]).all()
