"""`make fuzz CASES=1000000`: gives changed bytes to everything that reads what other processes and clients send.

Prints the number of cases of each target. For an input that raises an error that it may not raise, it prints the
command that repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback

from tests.fuzz.targets import Target, targets


def fuzz(target: Target, seed: int, first: int, cases: int) -> tuple[int, list[int]]:
    """Run inputs until there were so many `cases`. Returns their number, and the runs that failed."""
    done, number, failed = 0, first, list[int]()
    while done < cases:
        try:
            done += target.run(random.Random(seed << 48 | number))
        except Exception:
            traceback.print_exc()
            failed.append(number)
            done += 1
        number += 1
    return done, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many inputs, in equal parts for all targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--first", type=int, default=0, help="the first run, to repeat a failure")
    options = parser.parse_args()
    chosen = [target for target in targets() if options.target in (None, target.name)]
    total, failures = 0, 0
    for target in chosen:
        begun = time.perf_counter()
        done, failed = fuzz(target, options.seed, options.first, -(-options.cases // len(chosen)))
        total, failures = total + done, failures + len(failed)
        print(
            f"{target.name:22} {done:10} cases, {len(failed)} failed, {time.perf_counter() - begun:7.1f} s", flush=True
        )
        for number in failed[:3]:
            again = f"--target='{target.name}' --seed={options.seed} --first={number}"
            print(f'  repeat: make fuzz CASES=1 ARGS="{again}"')
    print(f"{total} cases, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
