"""The command `asr`. It imports a subcommand's module only when that subcommand runs."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "serve": ("asr_ops.serve:serve", "Serve speech recognition on this machine."),
    "transcribe": ("asr_client.transcribe:transcribe", "Turn a file or the microphone into text, live."),
    "client": ("asr_client.client_command:client", "Send a file in any dialect and print the session's figures."),
    "warmup": ("asr_client.client_command:warmup", "Warm up a running service and check that it answers."),
    "key": ("asr_ops.key:key", "Make an API key for a client."),
    "bench": ("asr_ops.bench.command:bench", "Measure latencies under load and what serving costs."),
    "status": ("asr_ops.status:status", "Show the workers, frontends and sessions of a running pool."),
}


class Lazy(click.Group):
    """A group that lists its commands' names and purposes without importing their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in COMMANDS.items()])


@click.command(cls=Lazy, name="asr")
@click.version_option(package_name="asr-pool", prog_name="asr")
def main() -> None:
    """Streaming speech recognition for many speakers at the same time.

    \b
        asr serve                    start a whole pool on this machine
        asr transcribe speech.wav    print its words as they are recognized
        asr status                   show the workers, frontends and sessions
    """


if __name__ == "__main__":
    main(prog_name="asr")
