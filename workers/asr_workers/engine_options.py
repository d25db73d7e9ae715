"""A process whose options depend on its --engine: those of the process, and those of the engine's configuration.

The command line is parsed twice: first only to find the engine, then with that engine's options. Options of the other
engines are known, too: on the command line they are refused, in a variable or a config file they are left alone, since
workers of several engines may share those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import click
from click.core import ParameterSource

from asr_process import settings
from asr_proto.errors import SetupError
from asr_workers.engines import registry

ENGINE = "asr_workers.engine"
"""Key under which a context holds the name of the chosen engine."""
NOT_CHOSEN_YET = ""
"""In its place while the engine is looked for: then every engine's options are those of others, and are not checked."""
LEFT_ALONE = "asr_workers.left_alone"
"""Key under which a context holds settings of other engines that it ignored."""


def chosen(ctx: click.Context) -> str:
    """The name of the engine whose options a context has."""
    return str(ctx.meta.get(ENGINE, registry.DEFAULT))


def own_options(ctx: click.Context) -> list[click.Option]:
    """The options of the chosen engine."""
    engine = chosen(ctx)
    return [] if engine == NOT_CHOSEN_YET else registry.find(engine).options()


class EngineProcess(settings.Process):
    """A process with an option --engine; its function receives the options of that engine by their fields' names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ENGINE] = self._engine(ctx, args)
        ctx.meta[LEFT_ALONE] = []
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = own_options(ctx)
        return [*super().get_params(ctx), *own, *others_options(own)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the process, then the engine's in a section of their own."""
        own = (f"Options of the engine {chosen(ctx)}", own_options(ctx))
        for heading, params in (("Options", super().get_params(ctx)), own):
            with formatter.section(heading):
                formatter.write_dl([record for param in params if (record := param.get_help_record(ctx))])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        others = ", ".join(name for name in registry.ENGINES if name != chosen(ctx))
        with formatter.section("Options of another engine"):
            formatter.write_text(f"{self.name} --engine NAME --help, where NAME is one of {others}.")
        super().format_epilog(ctx, formatter)

    def _engine(self, ctx: click.Context, args: list[str]) -> str:
        """The engine that the command line, the environment or a config file names; nothing else of them is looked at.

        A config file that cannot be used is reported when the whole command line is parsed.
        """
        probe = click.Context(self, ctx.parent, ctx.info_name, **self.context_settings)
        probe.meta[ENGINE] = NOT_CHOSEN_YET
        given, _, _ = self.make_parser(probe).parse_args(list(args))
        config, engine = (next(param for param in self.params if param.name == name) for name in ("config", "engine"))
        with suppress(SetupError):
            config.handle_parse_result(probe, given, [])
        name, _ = engine.handle_parse_result(probe, given, [])
        return str(name)


class OthersOption(click.Option):
    """An option that this worker's engine does not have, but another engine has."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As it is: only its own engine can check it."""
        return value


def _refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    assert param.name
    if ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        raise SetupError(registry.refusal(chosen(ctx), param.opts[0]))
    if value is not None:
        ctx.meta[LEFT_ALONE].append(param.name)


def others_options(own: Sequence[click.Option]) -> Iterator[click.Option]:
    """Every option that engines have beside these of the chosen one."""
    names, known = {option.name for option in own}, {spelled for option in own for spelled in option.opts}
    for other in registry.ENGINES:
        for option in registry.find(other).options():
            unknown = [spelled for spelled in option.opts if spelled not in known]
            known.update(unknown)
            if unknown:
                yield _others(option, unknown, is_second_name=option.name in names)


def _others(option: click.Option, spelled: list[str], *, is_second_name: bool) -> OthersOption:
    declared = [f"{spelled[0]}/{option.secondary_opts[0]}"] if option.secondary_opts else spelled
    name = [] if is_second_name else [option.name or ""]
    return OthersOption(
        [*name, *declared],
        is_flag=option.is_flag,
        default=None,
        hidden=True,
        expose_value=False,
        callback=_refuse,
    )
