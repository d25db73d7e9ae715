"""`make nemesis MINUTES=5 SEED=7`: real processes, paced sessions, a seeded schedule of faults, and promises checked.

Exit code 1 if a promise was broken; the command that repeats the run is printed. Processes do not run in virtual time:
a seed gives the same faults at the same moments, not the same interleaving.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from tests.nemesis import schedule, timeline
from tests.nemesis.checker import Limits, check
from tests.nemesis.clients import Manner
from tests.nemesis.gaps import gaps
from tests.nemesis.pool import Shape
from tests.nemesis.run import SHORT_S, Outcome, Plan, run, shaped
from tests.nemesis.summary import summary

SHORT_LIMITS = Limits(growth_share_max=0.01, growth_mb_max=0.0, growth_s_min=20.0)
"""After ten thousand sessions growth is no longer a matter of chance."""


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    plan = planned(options)
    print(f"nemesis: {options.profile}, seed {options.seed}, {plan.sessions} sessions, {len(plan.timed)} faults due")
    outcome = uvloop.run(_run(plan))
    history = outcome.history
    violations = check(history, _limits(options, plan))
    print(summary(history, violations, gaps(history), outcome.lateness_s, outcome.log))
    if options.picture:
        title = f"{options.profile}, seed {options.seed}, {plan.sessions} sessions"
        options.picture.write_text(timeline.page(title, history, violations), encoding="utf-8")
        print(f"picture: {options.picture}")
    if options.keep_log:
        options.keep_log.write_text("\n".join(outcome.log) + "\n", encoding="utf-8")
    print(f"repeat: python -m tests.nemesis {shlex.join(sys.argv[1:] if argv is None else argv)}")
    return 1 if violations else 0


async def _run(plan: Plan) -> Outcome:
    """To its end, or until SIGTERM: no process of the pool is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(plan)


def parser() -> argparse.ArgumentParser:
    """The options, all with defaults."""
    made = argparse.ArgumentParser("python -m tests.nemesis", description=__doc__)
    made.add_argument("--profile", choices=sorted(schedule.PROFILES), default="mixed", help="what to do to the pool")
    made.add_argument(
        "--minutes", type=float, default=5.0, help="how long faults strike; a profile with a count ignores it"
    )
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--sessions", type=int, default=50, help="how many are under way at any time")
    made.add_argument("--count", type=int, help="how many faults (workers), rounds (rolling) or sessions (short)")
    made.add_argument("--every-s", type=float, help="how far apart, where the profile counts its faults")
    made.add_argument("--only", action="append", metavar="KIND", help="only faults of this kind; repeatable")
    made.add_argument("--engine", default="fake", help="fake is exact; with others the undisturbed run is the truth")
    made.add_argument("--workers", type=int, help="worker processes")
    made.add_argument("--frontends", type=int, default=2)
    made.add_argument("--shortest-s", type=float, default=5.0, help="the shortest session")
    made.add_argument("--longest-s", type=float, default=40.0)
    made.add_argument("--frame-ms", type=int, default=100)
    made.add_argument("--no-resume", action="store_true", help="clients that are cut do not come back")
    made.add_argument("--must-resume", action="store_true", help="a client that is cut for good is a violation")
    made.add_argument("--grace-s", type=float, default=30.0, help="how long a lost client's slot may be kept")
    made.add_argument("--notice-s", type=float, default=0.5, help="after what time a death must be known")
    made.add_argument("--hang-s", type=float, default=2.5, help="after what time standing still must be known")
    made.add_argument("--log", type=Path, help="send the pool's log there, as to /dev/full")
    made.add_argument("--keep-log", type=Path, help="keep a copy of the log")
    made.add_argument("--serve-arg", action="append", default=[], help="passed on to `asr serve`")
    made.add_argument("--picture", type=Path, default=Path("nemesis.html"), help="the timeline")
    return made


def planned(options: argparse.Namespace) -> Plan:
    """What the options ask for."""
    profile = _profile(options)
    workers = options.workers or profile.workers
    stretch_s = schedule.length_s(profile, workers, options.frontends) or options.minutes * 60
    timed = schedule.schedule(profile, options.seed, stretch_s, workers, options.frontends)
    short = bool(profile.short_sessions)
    shape = Shape(workers, options.frontends, options.engine, log=options.log, args=tuple(options.serve_arg))
    manner = Manner(options.frame_ms / 1000, paced=not short, resume=not options.no_resume)
    shortest_s, longest_s = (SHORT_S, SHORT_S) if short else (options.shortest_s, options.longest_s)
    plan = Plan(options.seed, profile, timed, shape, options.sessions, shortest_s, longest_s, manner)
    return shaped(plan)


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
