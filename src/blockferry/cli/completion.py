"""`completion`: the script that makes bash, zsh or fish know commands, VMs, datastores and moves."""

from __future__ import annotations

import os

import click
from click import shell_completion

from blockferry.cli.command import PROGRAM, VARIABLE, Command


@shell_completion.add_completion_class
class BashComplete(shell_completion.BashComplete):
    """click's, corrected for `--disk vdb=archive` and `--to=ssd`.

    bash breaks words at `=` (COMP_WORDBREAKS), hands the parts over one by one, and puts the completion in place
    of the last part only.
    """

    _before_equals = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        typed = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
        words: list[str] = []
        joining = False
        for at, part in enumerate(typed):
            if words and (joining or part == "="):
                words[-1] += part
                joining = part == "="
                if joining or at == len(typed) - 1:
                    self._before_equals = words[-1][: words[-1].rindex("=") + 1]
            else:
                words.append(part)
                joining = False
                self._before_equals = ""
        return words[1:-1], words[-1]

    def format_completion(self, item: shell_completion.CompletionItem) -> str:
        value = item.value.removeprefix(self._before_equals)
        return super().format_completion(shell_completion.CompletionItem(value, item.type, item.help))


@click.command(
    cls=Command,
    examples=(
        "blockferry completion bash > /etc/bash_completion.d/blockferry",
        "blockferry completion zsh > /usr/share/zsh/vendor-completions/_blockferry",
        "blockferry completion fish > ~/.config/fish/completions/blockferry.fish",
    ),
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root().command
    click.echo(kind(root, {}, PROGRAM, VARIABLE).source())
