"""Command-line options for a protocol, the same in every script, and error messages that name them."""

import argparse
import dataclasses
import re
from collections.abc import Mapping
from typing import get_args

from keras_ssl.evaluation.protocol import Arm, Protocol

# Fields of `Protocol` with an option.
_OPTIONS = (
    *("arms", "fractions", "folds", "repetitions", "steps", "validations", "warmup_fraction", "batch_size"),
    *("learning_rate", "encoder_learning_rate", "layer_decay", "weight_decay", "ema_momentum"),
    *("tune", "tune_by", "select_by", "pretrain_on", "seed"),
)


def add_protocol_arguments(parser: argparse._ActionsContainer) -> None:
    """Add an option for each field of `Protocol` that varies between studies.

    The options have no defaults: see `chosen_protocol`.

    Args:
        parser: an `argparse.ArgumentParser`, or a group of one.

    >>> parser = argparse.ArgumentParser()
    >>> add_protocol_arguments(parser)
    >>> chosen_protocol(parser.parse_args(["--folds", "3"]), Protocol(steps=200)).folds
    3
    """
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=get_args(Arm),
        help='variants to compare: "initialized" (pretrained, fine-tuned), "frozen" (pretrained, only the '
        'head is trained), "random" (from scratch), "imagenet"',
    )
    parser.add_argument(
        "--fractions", type=float, nargs="+", help="fractions of the training labels, such as 0.05 0.1 1"
    )
    parser.add_argument("--folds", type=int, help="folds of the cross-validation; 1 for a single test set")
    parser.add_argument("--repetitions", type=int, help="repetitions with other labeled subsets and seeds")
    parser.add_argument("--steps", type=int, help="optimizer steps of every run, warm-up included")
    parser.add_argument("--validations", type=int, help="number of validations during a run")
    parser.add_argument(
        "--warmup-fraction", type=float, help="fraction of the steps with a frozen encoder, in [0, 1)"
    )
    parser.add_argument("--batch-size", type=int, help="images in a batch")
    parser.add_argument("--learning-rate", type=float, help="learning rate of AdamW")
    parser.add_argument("--encoder-learning-rate", type=float, help="learning rate of the encoder")
    parser.add_argument(
        "--layer-decay", type=float, help="decay of the encoder's rate from layer to layer, in (0, 1]"
    )
    parser.add_argument("--weight-decay", type=float, help="weight decay of kernels")
    parser.add_argument(
        "--ema-momentum", type=float, help="momentum of moving averages of the weights, in [0, 1)"
    )
    # The default is None rather than False, so that the protocol decides if the option is not given.
    parser.add_argument(
        "--tune", action="store_true", default=None, help="choose the learning rate on the validation set"
    )
    parser.add_argument(
        "--tune-by", help="validation metric by which --tune chooses, such as macro_auc or loss"
    )
    parser.add_argument(
        "--select-by", help="validation metric by which the weights of the best validation are kept"
    )
    parser.add_argument(
        "--pretrain-on",
        choices=("fold", "all"),
        help='images to pretrain on: "fold" (training set of the fold) or "all" (including test images, as '
        "in older work, which makes results too optimistic)",
    )
    parser.add_argument("--seed", type=int, help="seed of splits, labeled subsets and weights")


def chosen_protocol(arguments: argparse.Namespace, default: Protocol) -> Protocol:
    """Return `default` with the fields that were given on the command line replaced.

    Args:
        arguments: parsed arguments of a parser with `add_protocol_arguments`; others are ignored.
        default: the protocol of the script.

    Raises:
        ValueError: a value is out of range.

    >>> chosen_protocol(argparse.Namespace(steps=50, folds=None, output="here"), Protocol()).steps
    50
    """
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name, None)) is not None}
    return dataclasses.replace(default, **given)


def error_message(error: BaseException, options: Mapping[str, str] | None = None) -> str:
    r"""Return the message of an error in one line, with options in place of Python arguments.

    Args:
        error: the error.
        options: names of options by the names of further arguments, such as `{"output_dir": "--output"}`.

    >>> error_message(ValueError("`warmup_fraction` must be\nbelow 1. Received 2."))
    '--warmup-fraction must be below 1. Received 2.'
    >>> error_message(ValueError("Two files are there. Pass overwrite=True to replace them."))
    'Two files are there. Pass --overwrite to replace them.'
    """
    text = " ".join(str(error).split()) or f"{type(error).__name__} without a message"
    known = {name: _option(name) for name in _OPTIONS} | dict(options or {})
    text = re.sub(r"\b([a-z_]+)=True\b", lambda match: known.get(match[1], _option(match[1])), text)
    return re.sub(
        r"`([a-z_.]+)`", lambda match: known.get(match[1].removeprefix("protocol."), match[0]), text
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
