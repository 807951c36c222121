"""``instancersr doctor``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from instancersr.errors import UserError
from instancersr.installation import how_to_install
from instancersr.presets import Device, EngineName

from .app import app
from .messages import as_line, fail, one_line_errors


@app.command(epilog="Example:  instancersr doctor")
def doctor(
    model: Annotated[str, typer.Option(help="What to try: 'builtin', a folder, or a hub id.")] = "builtin",
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
    engine: Annotated[EngineName, typer.Option(help="What computes.")] = "auto",
) -> None:
    """Show what this installation consists of, try the model on a 16x16 picture, and say what could be better."""
    from rich.table import Table

    with one_line_errors():
        try:
            from instancersr.doctor import examine
        except ImportError as error:
            raise UserError(f"a package is missing or broken ({error}); install again, {how_to_install()}") from error
        table = Table("", "what", "found")
        findings = list(examine(model, device, engine))
        for finding in findings:
            mark = Text("ok", "green") if finding.works else Text("BROKEN", "red")
            table.add_row(mark, finding.name, as_line(finding.found))
        out = Console()
        # Off a terminal a table of 80 columns would cut what has to be pasted into a report.
        out = out if out.is_terminal else Console(width=160)
        out.print(table)
        for finding in findings:
            if finding.advice:
                out.print(as_line(f"{finding.name}: {finding.advice}"), soft_wrap=True)
        broken = sum(not finding.works for finding in findings)
        if broken:
            fail(Console(stderr=True), f"{broken} of {len(findings)} checks failed", 1)
