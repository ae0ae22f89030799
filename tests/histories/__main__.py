"""Play one history and print it, or write the vector files."""

from __future__ import annotations

import argparse
import sys

import msgspec
from tests.histories import node, vectors
from tests.histories.world import World


def main() -> int:
    """Return the exit status: 0 it agrees."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    play = verbs.add_parser("play", help="play the history of a seed through both clients, and print each input")
    play.add_argument("seed", type=int)
    play.add_argument("--cut-at", type=int)
    files = verbs.add_parser("vectors", help="the committed histories")
    files.add_argument("--write", action="store_true", help="instead of checking that they are as the seeds make them")
    options = parser.parse_args()
    if options.verb == "play":
        return _play(options.seed, options.cut_at)
    made = vectors.make()
    if options.write:
        vectors.MADE.write_bytes(made)
    is_same = vectors.MADE.read_bytes() == made
    print(f"{len(made.splitlines())} histories, {len(made)} bytes: {'as committed' if is_same else 'they differ'}")
    return 0 if is_same else 1


def _play(seed: int, cut_at: int | None) -> int:
    world = World(seed, cut_at=cut_at)
    try:
        world.live()
    except Exception as error:  # whatever it is: the inputs up to it are what one wants to see
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    else:
        status = 0
    for number, step in enumerate(world.transcript):
        print(number, msgspec.json.encode(step).decode())
    for difference in node.differences(node.play([world.recording(str(seed))])):
        print(f"the JavaScript client differs: {difference}", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
