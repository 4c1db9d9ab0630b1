"""What a worker asks of a scheduler, and how many such workers a cluster has room for."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.runners import Resources


def asks(resources: Resources) -> dict[str, float]:
    """Return what is asked for, under the names that Ray gives to what a cluster has."""
    amounts = {
        "CPU": resources.num_cpus,
        "GPU": resources.num_gpus,
        "memory": float(resources.memory_bytes),
    }
    return {name: amount for name, amount in amounts.items() if amount}


def places(resources: Resources, have: Mapping[str, float]) -> int:
    """Return how many workers fit into what all nodes have together, at least one."""
    fits = [int(have.get(name, 0.0) // amount) for name, amount in asks(resources).items()]
    return max(1, min(fits, default=int(have.get("CPU", 1.0))))


def no_place(
    resources: Resources, have: Mapping[str, float], free: Mapping[str, float], waited_s: float
) -> str:
    """Return the message of a run that not a single worker could be placed for."""
    wanted = ", ".join(f"{name} {amount:g}" for name, amount in asks(resources).items())
    # Ray also lists what only marks a node, as node:10.0.0.1.
    shown = {name: amount for name, amount in sorted(have.items()) if ":" not in name}
    listed = ", ".join(f"{k} {v:g} ({free.get(k, 0.0):g} free)" for k, v in shown.items())
    return (
        f"no worker could be placed for {waited_s:.0f} s: each asks for {wanted or 'nothing'}, "
        f"and the cluster has {listed or 'no node'}. Add a node, end other jobs, or ask for "
        "less (--set run.resources.STEP.num_cpus, .num_gpus, .memory_bytes)"
    )
