"""A process whose options depend on --engine: the options of the process and of the engine's configuration.

The command line is parsed twice: first only to find the engine, then with that engine's options. An option of another
engine is refused on the command line. In a variable or a config file it is ignored, because workers with different
engines may share those.
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
"""The engine's name during the first parsing. With it, all options are options of other engines and are not checked."""
IGNORED = "asr_workers.ignored"
"""Key under which a context holds the names of ignored settings of other engines."""


def chosen(ctx: click.Context) -> str:
    """The name of the engine whose options the context has."""
    return str(ctx.meta.get(ENGINE, registry.DEFAULT))


def own_options(ctx: click.Context) -> list[click.Option]:
    """The options of the chosen engine."""
    engine = chosen(ctx)
    return [] if engine == NOT_CHOSEN_YET else registry.find(engine).options()


class EngineProcess(settings.Process):
    """A command with an option --engine. Its function receives the options of that engine, named as its fields."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ENGINE] = self._engine(ctx, args)
        ctx.meta[IGNORED] = []
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = own_options(ctx)
        return [*super().get_params(ctx), *own, *others_options(own)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the process, then the options of the engine in a separate section."""
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
        """The engine that the command line, the environment or a config file names. All other settings are ignored.

        A config file that cannot be read is reported by the second parse.
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
    """An option of another engine, which this worker's engine does not have."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """The value unchecked: only the option's own engine can check it."""
        return value


def _refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    assert param.name
    if ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        raise SetupError(registry.refusal(chosen(ctx), param.opts[0]))
    if value is not None:
        ctx.meta[IGNORED].append(param.name)


def others_options(own: Sequence[click.Option]) -> Iterator[click.Option]:
    """The options of all engines, without those that the chosen engine has (`own`)."""
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
