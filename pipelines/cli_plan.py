"""The command that says, from a sample, what a job will find and take."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.options import (
    DEFAULT_PACK,
    Config,
    Json,
    LabelsOption,
    Models,
    Quiet,
    SetOption,
    Sources,
    explained,
    pack_of,
    print_json,
    settings_of,
)

SIMULATED_PHOTOS = (10**6, 10**8, 10**9)
SIMULATED_WORKERS = (16, 256, 4096)


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command(rich_help_panel="Pipeline")(explained(plan))


def plan(
    sources: Sources,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DATASET",
            help="Keep the plan in the dataset to be: curate then says how right it was.",
        ),
    ] = None,
    models: Models = DEFAULT_PACK,
    labels: LabelsOption = None,
    sample: Annotated[int, typer.Option("--sample", min=2, help="Photos to try.")] = 200,
    hours: Annotated[
        float | None,
        typer.Option("--hours", min=0, help="Say how many workers are done in that time."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Of the run; by default one a core of this machine."),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Also what such photos take by the million, and by how many workers."
        ),
    ] = False,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say from a sample how many faces, drops, hours and GB a job makes, with 95 % intervals.

    Takes a random sample through curate's steps on one worker, in a temporary folder. Nothing
    is kept but, with --out, the plan.
    """
    from pipelines import plan as plans
    from pipelines import plan_text
    from pipelines.engines import usable_cores
    from pipelines.progress import Progress

    request = plans.PlanRequest(
        sources=sources,
        settings=settings_of(config, set_, labels),
        pack=pack_of(models),
        out=out,
        sample=sample,
        workers=workers or usable_cores(),
        hours=hours,
    )
    with Progress(quiet=quiet) as progress:
        forecast = plans.plan_job(request, progress)
    texts = [plan_text.format_forecast(forecast)]
    if simulate:
        text, forecast["simulation"] = _simulated(forecast)
        texts.append(text)
    print_json(forecast) if json else typer.echo("\n\n".join(texts))


def _simulated(forecast: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    from facepipe.simulation import simulate
    from pipelines.plan import costs_of, machine_memory_bytes
    from pipelines.plan_text import format_simulation, simulation_json

    workers = sorted({*SIMULATED_WORKERS, forecast["workers"]})
    runs, memory = simulate(costs_of(forecast), SIMULATED_PHOTOS, workers), machine_memory_bytes()
    return format_simulation(runs, memory), simulation_json(runs, memory)
