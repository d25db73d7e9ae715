"""`make sim SEEDS=1000`: runs many seeds; for a failing one it prints the command that replays it."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.sim.simulator import STORMY, STORMY_PAIR, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--brokers", type=int, choices=(1, 2), default=1, help="number of brokers: 2 for a leader and a standby"
    )
    options = parser.parse_args()
    started, virtual_s, failed = time.monotonic(), 0.0, 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            virtual_s += (
                run_seed(seed, STORMY_PAIR, workers=2 + seed % 2, brokers=2)
                if options.brokers == 2
                else run_seed(seed, STORMY)
            ).now
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"replay: make sim SEEDS=1 ARGS='--first {seed} --brokers {options.brokers}'", file=sys.stderr)
    took_s = time.monotonic() - started
    print(f"{options.seeds} seeds, {failed} failed, {virtual_s:.0f} virtual s in {took_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
