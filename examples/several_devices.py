"""Pretrain an encoder data-parallel on all devices of one machine or of several machines.

    python several_devices.py                                       # one machine: TensorFlow or JAX
    torchrun --nproc_per_node=4 several_devices.py                  # one machine of four GPUs: PyTorch
    python several_devices.py --machines a:9000,b:9000 --index 0    # on machine a, any backend
    python several_devices.py --machines a:9000,b:9000 --index 1    # on machine b
    torchrun --nnodes=2 --nproc_per_node=4 --rdzv-endpoint=a:9000 several_devices.py    # on each: PyTorch

Each batch is split across the devices. All machines must access the output folder, where the process of
rank 0 writes backups, from which the same command resumes, also with another number of devices, and
encoder.keras, an ordinary Keras model. `--simulate 2` simulates two devices on one CPU.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    arguments = parse_arguments()
    machines = arguments.machines.split(",") if arguments.machines else []
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={arguments.simulate}"
    )
    import keras

    import keras_ssl
    from keras_ssl.evaluation.command_line import error_message

    devices = {"tensorflow": tensorflow_devices, "jax": jax_devices, "torch": torch_devices}
    with devices[keras.backend.backend()](machines, arguments.index, arguments.simulate):
        output = Path(arguments.output)
        if (output / "encoder.keras").exists() and not (output / "backup").exists():
            sys.exit(f"--output must not hold an encoder.keras of another run. Received {output}.")
        try:
            images = load(arguments)
        except (ValueError, OSError, MemoryError) as error:
            sys.exit(error_message(error, {"path": "--npz"}))
        # The same initial weights in every process, and when the run is resumed.
        keras.utils.set_random_seed(0)
        encoder = keras_ssl.encoders.small_encoder(images.shape[1:], value_range=(0, 255))
        model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, seed=0)
        # A constant rate: with one that falls until the last epoch, a run could not be made longer.
        model.compile(keras.optimizers.AdamW(1e-3))
        try:
            history = model.fit_pretext(
                images,
                batch_size=arguments.batch_size,
                epochs=arguments.epochs,
                backup_dir=output / "backup",
                verbose=2,
            )
        except (ValueError, OSError, KeyboardInterrupt) as error:
            sys.exit(error_message(error, {"epochs": "--epochs", "backup_dir": "--output"}))
        rank, world_size = keras_ssl.distribution.rank_and_world_size()
        # Every process saves, since TensorFlow workers read the weights together; that of rank 0 is kept.
        with tempfile.TemporaryDirectory() as aside:
            model.encoder.save((output if rank == 0 else Path(aside)) / "encoder.keras")
        print(f"process {rank + 1} of {world_size}: loss {history.history['loss'][-1]:.4f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--machines", metavar="HOST:PORT,...", help="one process per machine; the same list on all"
    )
    parser.add_argument("--index", type=int, default=0, help="number of this machine in the list, from 0")
    parser.add_argument(
        "--simulate", type=int, metavar="N", default=1, help="number of devices to simulate on the CPU"
    )
    parser.add_argument("--npz", metavar="FILE", help="MedMNIST file (default: synthetic images)")
    parser.add_argument("--batch-size", type=int, default=64, help="global batch size, over all devices")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of pretraining (default: 5)")
    parser.add_argument(
        "--output", default="devices_output", help="folder that all machines access (default: devices_output)"
    )
    return parser.parse_args()


def load(arguments: argparse.Namespace):
    """Return images from 0 to 255, the same in every process."""
    import keras_ssl

    if arguments.npz:
        images, _ = keras_ssl.data.load_medmnist(arguments.npz)
    else:
        images, _ = keras_ssl.data.synthetic_fundus(256, size=32)
    return images


def tensorflow_devices(machines: list[str], index: int, simulated: int):
    import tensorflow as tf

    if simulated > 1:
        (processor,) = tf.config.list_physical_devices("CPU")
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(processor, [device] * simulated)
    if machines:
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": machines}, "task": task})
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()


def jax_devices(machines: list[str], index: int, simulated: int):
    import keras

    if machines:
        keras.distribution.initialize(machines[0], len(machines), index)
    # keras-ssl gives every process its part of each batch.
    return keras.distribution.DataParallel(auto_shard_dataset=False).scope()


@contextlib.contextmanager
def torch_devices(machines: list[str], index: int, simulated: int):
    import torch

    kind = "nccl" if torch.cuda.is_available() else "gloo"
    if machines:
        torch.distributed.init_process_group(kind, f"tcp://{machines[0]}", None, len(machines), index)
    elif "RANK" in os.environ:  # started by torchrun
        torch.distributed.init_process_group(kind)
    if kind == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
