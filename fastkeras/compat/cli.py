"""The command `fastkeras convert-crf`."""

import argparse
import os
import sys

from fastkeras.compat.convert import TRANSITIONS, convert_crf

DESCRIPTION = "Write the CRF of another library as the weights of a fastkeras.layers.CRF."
DETAILS = """\
sources, and the names by which they are detected:
  tfa            layers.CRF of TensorFlow Addons     chain_kernel, with a Dense layer or none
  keras-contrib  layers.CRF of keras-contrib         chain_kernel beside kernel; signs change
  bert4keras     ConditionalRandomField, or the      trans, crf_trans
                 article's CRF
  pytorch-crf    torchcrf.CRF, alone or in a model   transitions, start_transitions, ...

files: HDF5 of Keras 2 or 3, .keras, .npz, a state_dict written by torch.save, the prefix of a
TensorFlow checkpoint.

example:
  fastkeras convert-crf tagger.h5 crf.weights.h5
"""


def main(arguments=None):
    """Run `fastkeras convert-crf`.

    Args:
        arguments: list of strings; None takes those of the process.

    Returns:
        The exit status: 0; 1 after an error, printed to standard error.
    """
    parser = argparse.ArgumentParser(
        prog="fastkeras convert-crf",
        description=DESCRIPTION,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", metavar="OLD", help="the checkpoint, which is only read")
    parser.add_argument("new", metavar="NEW", help="the file to be written, *.weights.h5")
    parser.add_argument("--from", dest="source", choices=TRANSITIONS, help="default: detected")
    parser.add_argument("--layer", help="the CRF's layer, where OLD has several")
    parser.add_argument(
        "--lr-multiplier",
        type=float,
        metavar="M",
        help="bert4keras: that of the layer, default: what OLD says, else 1",
    )
    parser.add_argument(
        "--no-right-boundary",
        action="store_true",
        help="keras-contrib: set the last tag's scores to 0, which it ignored where it had a mask",
    )
    given = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # for an OLD of TensorFlow
    try:
        weights = convert_crf(
            given.old,
            given.new,
            given.source,
            given.layer,
            given.lr_multiplier,
            right_boundary=not given.no_right_boundary,
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"fastkeras convert-crf: error: {error}", file=sys.stderr)
        return 1
    num_tags = len(weights.transitions)
    boundaries, kernel = (a is not None for a in (weights.start_transitions, weights.kernel))
    size = f"a kernel for {len(weights.kernel)} channels" if kernel else "no kernel"
    print(
        f"{given.old}: the CRF of {weights.source}: {num_tags} tags, {size}, "
        f"{'' if boundaries else 'no '}scores of first and last tags"
    )
    print(f"{given.new}: written; to load it into a layer that is built:")
    print(f"    crf = CRF({num_tags}, use_boundaries={boundaries}, use_kernel={kernel})")
    print(f'    keras.saving.load_weights(crf, "{given.new}")')
    return 0
