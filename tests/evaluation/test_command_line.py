"""A protocol from a command line: what is given changes it, what is not stays."""

import argparse
import dataclasses

import pytest

from keras_ssl.evaluation import Protocol
from keras_ssl.evaluation.command_line import add_protocol_arguments, chosen_protocol

pytestmark = pytest.mark.no_backend

DEFAULT = Protocol(steps=60, validations=4, seed=7)


def parsed(line):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default="here")
    add_protocol_arguments(parser.add_argument_group("protocol"))
    return chosen_protocol(parser.parse_args(line.split()), DEFAULT)


def test_nothing_given_changes_nothing():
    assert parsed("") == DEFAULT


def test_what_is_given_changes_the_field_of_its_name():
    line = (
        "--arms frozen random --fractions 0.1 1 --folds 3 --repetitions 2 --steps 80 --validations 8 "
        "--warmup-fraction 0.5 --batch-size 4 --tune --tune-by macro_auc "
        "--select-by loss --pretrain-on all --seed 0 --learning-rate 0.1 --encoder-learning-rate 0.2 "
        "--layer-decay 0.5 --weight-decay 0.3 --ema-momentum 0.9"
    )
    changed = {
        "arms": ("frozen", "random"),
        "fractions": (0.1, 1.0),
        "folds": 3,
        "repetitions": 2,
        "steps": 80,
        "validations": 8,
        "warmup_fraction": 0.5,
        "batch_size": 4,
        "tune": True,
        "tune_by": "macro_auc",
        "select_by": "loss",
        "learning_rate": 0.1,
        "encoder_learning_rate": 0.2,
        "layer_decay": 0.5,
        "weight_decay": 0.3,
        "ema_momentum": 0.9,
        "pretrain_on": "all",
        "seed": 0,
    }
    assert parsed(line) == dataclasses.replace(DEFAULT, **changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [("--steps 0", "`steps` must be at least 1"), ("--fractions 2", "`fractions` must be")],
)
def test_values_out_of_range_are_refused(line, message):
    with pytest.raises(ValueError, match=message):
        parsed(line)
