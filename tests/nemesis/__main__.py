"""`make nemesis MINUTES=5 SEED=7`: injects seeded faults into real processes with paced sessions and checks promises.

Exit code 1 if a promise was broken. The command that repeats the run is printed. Processes do not run in virtual time:
a seed gives the same faults at the same moments, not the same interleaving.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import importlib.util
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from asr_client.dialects import DIALECTS
from tests.nemesis import schedule, timeline
from tests.nemesis.checker import Limits, check
from tests.nemesis.clients import Manner
from tests.nemesis.gaps import gaps
from tests.nemesis.history import NATIVE
from tests.nemesis.pool import FAKETIME, Shape
from tests.nemesis.run import SHORT_S, Outcome, Plan, run, shaped, without_jumps
from tests.nemesis.schedule import JumpClock
from tests.nemesis.summary import summary
from tests.nemesis.violation import Violation

HAS_WEBRTC = importlib.util.find_spec("aiortc") is not None

CLOCK_SHARE = 0.2
"""Share of the time of profile `all` for jumps of the clock and their control run."""
SHORT_LIMITS = Limits(growth_share_max=0.01, growth_mb_max=0.0, growth_s_min=20.0)
"""Strict limits: after ten thousand sessions, growth of memory is not random any more."""


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    violations = [violation for part in _parts(options) for violation in _perform(part)]
    print(f"repeat: python -m tests.nemesis {shlex.join(sys.argv[1:] if argv is None else argv)}")
    return 1 if violations else 0


def _parts(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The runs of a profile: `all` ends with jumps of the clock, which need a pool of their own."""
    if options.profile != "all" or options.only:
        return [options]
    main, clock = copy.copy(options), copy.copy(options)
    main.minutes, clock.minutes = (1 - CLOCK_SHARE) * options.minutes, CLOCK_SHARE / 2 * options.minutes
    clock.profile = "clock"
    clock.picture = options.picture and options.picture.with_stem(f"{options.picture.stem}-clock")
    clock.keep_log = options.keep_log and options.keep_log.with_stem(f"{options.keep_log.stem}-clock")
    return [main, clock]


def _perform(options: argparse.Namespace) -> list[Violation]:
    """Perform one run. Where clocks jump, a run without the jumps comes first: only differences are violations."""
    plan = planned(options)
    jumps = any(isinstance(one.fault, JumpClock) for one in plan.timed)
    if jumps and not FAKETIME:
        print("skipped: no jumps of the clock, because the package libfaketime is not installed")
        return []
    if not jumps:
        return _run_and_tell(options, plan, options.profile)
    control = _run_and_tell(options, without_jumps(plan), "control run without jumps of the clock")
    violations = _run_and_tell(options, plan, options.profile)
    print(attribution(control, violations))
    return caused(control, violations)


def _run_and_tell(options: argparse.Namespace, plan: Plan, name: str) -> list[Violation]:
    print(f"nemesis: {name}, seed {options.seed}, {plan.sessions} sessions, {len(plan.timed)} faults due", flush=True)
    outcome = uvloop.run(_run(plan))
    history = outcome.history
    violations = check(history, _limits(options, plan))
    print(summary(history, violations, gaps(history), outcome.lateness_s, outcome.log))
    if options.picture:
        title = f"{name}, seed {options.seed}, {plan.sessions} sessions"
        options.picture.write_text(timeline.page(title, history, violations), encoding="utf-8")
        print(f"picture: {options.picture}")
    if options.keep_log:
        options.keep_log.write_text("\n".join(outcome.log) + "\n", encoding="utf-8")
    return violations


async def _run(plan: Plan) -> Outcome:
    """Run the plan to its end or until SIGTERM; both end all processes of the pool."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(plan)


def parser() -> argparse.ArgumentParser:
    """The options, all with defaults."""
    made = argparse.ArgumentParser("python -m tests.nemesis", description=__doc__)
    made.add_argument(
        "--profile", choices=sorted(schedule.PROFILES), default="mixed", help="which faults to inject into the pool"
    )
    made.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        help="how long faults are injected; a profile with a count of faults ignores it",
    )
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--sessions", type=int, default=50, help="how many sessions run at the same time")
    made.add_argument("--count", type=int, help="how many faults (workers), rounds (rolling) or sessions (short)")
    made.add_argument("--every-s", type=float, help="seconds between faults, for a profile with a count of faults")
    made.add_argument(
        "--dialect", action="append", choices=sorted(DIALECTS), help="sessions of this dialect only; repeatable"
    )
    made.add_argument("--only", action="append", metavar="KIND", help="only faults of this kind; repeatable")
    made.add_argument(
        "--engine", default="fake", help="fake has exact expected texts; others are compared with an undisturbed run"
    )
    made.add_argument("--workers", type=int, help="worker processes")
    made.add_argument("--frontends", type=int, default=2)
    made.add_argument("--brokers", type=int, default=2, help="2: a leader and its standby")
    made.add_argument("--shortest-s", type=float, default=5.0, help="the shortest session")
    made.add_argument("--longest-s", type=float, default=40.0)
    made.add_argument("--frame-ms", type=int, default=100)
    made.add_argument("--no-resume", action="store_true", help="clients do not resume after a broken connection")
    made.add_argument("--must-resume", action="store_true", help="a client that could not resume is a violation")
    made.add_argument("--grace-s", type=float, default=30.0, help="how long a lost client's slot may be kept")
    made.add_argument("--notice-s", type=float, default=0.5, help="within what time a death must be detected")
    made.add_argument("--hang-s", type=float, default=2.5, help="within what time a hang must be detected")
    made.add_argument("--log", type=Path, help="write the pool's log to this file, such as /dev/full")
    made.add_argument("--keep-log", type=Path, help="write a copy of the log to this file")
    made.add_argument("--serve-arg", action="append", default=[], help="extra argument for `asr serve`; repeatable")
    made.add_argument("--asr", type=Path, help="the `asr` of another installation, whose pool is tested")
    made.add_argument("--picture", type=Path, default=Path("nemesis.html"), help="write the timeline to this file")
    return made


def planned(options: argparse.Namespace) -> Plan:
    """The plan that the options describe."""
    profile = _profile(options)
    workers = options.workers or profile.workers
    names = schedule.Names(workers, options.frontends, options.brokers)
    stretch_s = schedule.length_s(profile, names) or options.minutes * 60
    timed = schedule.schedule(profile, options.seed, stretch_s, names)
    short = bool(profile.short_sessions)
    shape = Shape(
        workers,
        options.frontends,
        options.brokers,
        options.engine,
        log=options.log,
        args=tuple(options.serve_arg),
        asr=options.asr,
    )
    manner = Manner(options.frame_ms / 1000, paced=not short, resume=not options.no_resume)
    shortest_s, longest_s = (SHORT_S, SHORT_S) if short else (options.shortest_s, options.longest_s)
    dialects = [NATIVE] if short or options.engine != "fake" else options.dialect or spoken()
    plan = Plan(options.seed, profile, timed, shape, options.sessions, shortest_s, longest_s, manner, dialects)
    return shaped(plan)


def spoken() -> list[str]:
    """The dialects of the sessions: all, the native one for every second session. WebRTC needs its extra."""
    others = [name for name, one in DIALECTS.items() if name != NATIVE and (one.channel != "webrtc" or HAS_WEBRTC)]
    return [dialect for other in others for dialect in (NATIVE, other)]


def caused(control: Sequence[Violation], jumped: Sequence[Violation]) -> list[Violation]:
    """The violations that jumps of the clock caused: those of promises that the control run kept."""
    also = {violation.invariant for violation in control}
    return [violation for violation in jumped if violation.invariant not in also]


def attribution(control: Sequence[Violation], jumped: Sequence[Violation]) -> str:
    """What the jumps of the clock caused, and what the library that sets the clocks had caused without them."""
    by_jumps = sorted({violation.invariant for violation in caused(control, jumped)})
    without = sorted({violation.invariant for violation in control})
    words = f"broken by jumps of the clock: {', '.join(by_jumps) or 'nothing'}"
    return words + (f"; also without them: {', '.join(without)}" if without else "")


def _limits(options: argparse.Namespace, plan: Plan) -> Limits:
    if plan.profile.short_sessions:
        return SHORT_LIMITS
    resumes = options.must_resume or plan.profile.rolling > 0
    return Limits(notice_s=options.notice_s, hang_s=options.hang_s, grace_s=options.grace_s, resumes=resumes)


def _profile(options: argparse.Namespace) -> schedule.Profile:
    profile = schedule.PROFILES[options.profile]
    if options.only:
        profile = schedule.only(profile, options.only)
    if options.every_s:
        profile = replace(profile, every_s=options.every_s)
    if options.count and profile.rolling:
        profile = replace(profile, rolling=options.count)
    elif options.count and profile.short_sessions:
        profile = replace(profile, short_sessions=options.count)
    elif options.count:
        profile = replace(profile, counts=dict.fromkeys(profile.counts, options.count))
    return profile


if __name__ == "__main__":
    sys.exit(main())
