"""Settings as a YAML file that explains itself."""

from __future__ import annotations

from pydantic import BaseModel

from facepipe.config import Settings


def as_yaml(settings: Settings) -> str:
    """Return settings as YAML, each with its meaning and limits as a comment."""
    lines: list[str] = []
    for name, field in type(settings).model_fields.items():
        group: BaseModel = getattr(settings, name)
        owner = field.annotation
        assert isinstance(owner, type)  # every group is a settings class
        lines += ["", f"# {(owner.__doc__ or '').splitlines()[0]}", f"{name}:"]
        lines += _group(group)
    return "\n".join(lines).lstrip("\n")


def _group(group: BaseModel) -> list[str]:
    import yaml

    lines = []
    for name, field in type(group).model_fields.items():
        value = group.model_dump(mode="json")[name]
        text = yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
        if field.description:
            lines.append(f"  # {field.description}")
        lines.append(f"  {name}: {text}")
    return lines
