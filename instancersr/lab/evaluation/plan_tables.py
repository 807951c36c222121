"""A plan as JSON and as tables."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.table import Table

from .plan import MEMORY_SHARE, Plan


def as_json(plan: Plan) -> str:
    """Everything, in the units of the attributes."""
    derived = ("flops_per_image", "images_per_second", "cores_per_gpu", "seconds", "kilowatt_hours", "bandwidth",
               "fits")
    values = asdict(plan) | {name: getattr(plan, name) for name in derived}
    values["memory"]["total"] = plan.memory.total
    return json.dumps(values, indent=2)


def as_tables(plan: Plan) -> list[Table]:
    """For a person: networks, memory, the run."""
    return [_parts_table(plan), _memory_table(plan), _run_table(plan)]


def _parts_table(plan: Plan) -> Table:
    table = Table("network", "parameters", "trained", "forward", "backward", "recomputed",
                  title="For one image, in GFLOP", title_justify="left")
    for part in plan.parts:
        trained = f"{part.trained / 1e6:,.2f} M" if part.trained else "no"
        table.add_row(part.name, f"{part.parameters / 1e6:,.2f} M", trained,
                      *(f"{flops / 1e9:,.1f}" for flops in (part.forward, part.backward, part.recomputed)))
    table.add_section()
    all_trained = sum(part.trained for part in plan.parts)
    sums = (sum(getattr(part, kind) for part in plan.parts) for kind in ("forward", "backward", "recomputed"))
    parameters = sum(part.parameters for part in plan.parts)
    table.add_row("together", f"{parameters / 1e6:,.2f} M", f"{all_trained / 1e6:,.2f} M",
                  *(f"{flops / 1e9:,.1f}" for flops in sums))
    return table


def _memory_table(plan: Plan) -> Table:
    setup = plan.setup
    layout = "sharded" if setup.sharded and setup.gpus > 1 else "a copy on every GPU" if setup.gpus > 1 else "one GPU"
    table = Table("of one GPU's memory", "GB", title=f"Micro-batches of {setup.micro_batch}, {layout}",
                  title_justify="left")
    names = {"weights": "weights trained", "frozen": "frozen networks", "gradients": "gradients",
             "optimizer": "AdamW's moments", "average": "moving average", "copies": "bf16 copies of the weights",
             "activations": "activations", "scratch": "the largest matrix's new gradient",
             "workspace": "or, before these three, the encoder's work"}
    for key, name in names.items():
        table.add_row(name, f"{getattr(plan.memory, key) / 1e9:,.2f}")
    table.add_section()
    verdict = "" if plan.fits else f"  does not fit in {MEMORY_SHARE:.0%} of {setup.gpu.memory:g}"
    table.add_row("together, at the fullest", f"{plan.memory.total / 1e9:,.2f}{verdict}",
                  style=None if plan.fits else "red")
    return table


def _run_table(plan: Plan) -> Table:
    setup = plan.setup
    table = Table("the run", "", title=f"{setup.gpus} x {setup.gpu.name} ({setup.gpu.tflops:g} TFLOP/s bf16, "
                  f"{setup.gpu.watts:g} W) at {setup.utilisation:.0%} of the peak", title_justify="left")
    table.add_row("FLOPs for one image", f"{plan.flops_per_image / 1e12:,.2f} T")
    table.add_row("images/s", f"{plan.images_per_second:,.1f}")
    if setup.gpus > 1:
        table.add_row("to send from each GPU", f"at least {plan.bandwidth / 1e9:,.1f} GB/s")
    table.add_row("CPU cores for each GPU", f"{plan.cores_per_gpu:,.1f}, to make its samples")
    table.add_row("images", f"{plan.images:,} ({plan.images / plan.batch:,.0f} steps of {plan.batch})")
    table.add_row("days", f"{plan.seconds / 86400:,.2f}")
    table.add_row("energy of the GPU boards", f"{plan.kilowatt_hours:,.0f} kWh")
    return table
