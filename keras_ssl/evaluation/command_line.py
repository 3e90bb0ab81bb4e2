"""The settings of a study as options of a command line, the same in every script."""

import argparse
import dataclasses
import re
from collections.abc import Mapping
from typing import get_args

from keras_ssl.evaluation.protocol import Arm, Protocol


def add_protocol_arguments(parser: argparse._ActionsContainer) -> None:
    """Add an option for each field of `Protocol` that is chosen from study to study.

    None of them has a default of its own: what is not given stays as the protocol of the script has it,
    see `chosen_protocol`.

    Args:
        parser: an `argparse.ArgumentParser`, or a group of one.

    >>> parser = argparse.ArgumentParser()
    >>> add_protocol_arguments(parser)
    >>> chosen_protocol(parser.parse_args(["--folds", "3"]), Protocol(steps=200)).folds
    3
    """
    parser.add_argument("--arms", nargs="+", choices=get_args(Arm), help="what is compared")
    parser.add_argument("--fractions", type=float, nargs="+", help="of the labels, such as 0.05 0.1 1")
    parser.add_argument("--folds", type=int, help="of the cross-validation; 1 holds out one test part")
    parser.add_argument("--repetitions", type=int, help="of everything, with other subsets and starts")
    parser.add_argument("--steps", type=int, help="optimizer steps of every run, warm-up included")
    parser.add_argument("--validations", type=int, help="how often in a run the curves are taken")
    parser.add_argument("--warmup-share", type=float, help="share of the steps with a frozen encoder")
    parser.add_argument("--batch-size", type=int)
    # None where it is not given: what the protocol says then holds, as with the others.
    parser.add_argument(
        "--tune", action="store_true", default=None, help="choose learning rates on validation"
    )
    parser.add_argument(
        "--tune-by", help="validation metric that --tune chooses by, such as macro_auc or loss"
    )
    parser.add_argument(
        "--select-by", help="validation metric by which the weights of the best validation are kept"
    )
    parser.add_argument(
        "--pretrain-on",
        choices=("fold", "all"),
        help='"all": every image, test ones included, as in older work; flatters the results',
    )
    parser.add_argument("--seed", type=int)


def one_line(error: BaseException, names: Mapping[str, str] | None = None) -> str:
    r"""Return the message of an error in one line, with arguments that are `True` as options.

    Args:
        error: the error.
        names: name of the option where it is not that of the argument.

    >>> one_line(ValueError("Two files\nare there. Pass overwrite=True to replace them."))
    'Two files are there. Pass --overwrite to replace them.'
    """
    text = " ".join(str(error).split()) or f"{type(error).__name__} without a message"

    def option(match: re.Match[str]) -> str:
        return "--" + (names or {}).get(match[1], match[1]).replace("_", "-")

    return re.sub(r"\b([a-z_]+)=True\b", option, text)


def chosen_protocol(arguments: argparse.Namespace, default: Protocol) -> Protocol:
    """Return `default` with what the command line changes in it.

    Args:
        arguments: what a parser with `add_protocol_arguments` found; other arguments are passed over.
        default: the protocol of the script.

    Raises:
        ValueError: a value is out of range.

    >>> chosen_protocol(argparse.Namespace(steps=50, folds=None, output="here"), Protocol()).steps
    50
    """
    names = {field.name for field in dataclasses.fields(Protocol)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    return dataclasses.replace(default, **given)
