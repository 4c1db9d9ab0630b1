"""Settings as a YAML file that explains itself."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

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


def _allowed(field: FieldInfo) -> str:
    """Return a setting's limits or choices."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(m, name)}"
        for m in field.metadata
        for name, sign in signs.items()
        if getattr(m, name, None) is not None
    ]
    if get_origin(field.annotation) is Literal:
        limits.append(" | ".join(map(str, get_args(field.annotation))))
    return ", ".join(limits)


def _group(group: BaseModel, indent: str = "  ") -> list[str]:
    import yaml

    lines = []
    for name, field in type(group).model_fields.items():
        below = getattr(group, name)
        if isinstance(below, BaseModel):
            lines += [f"{indent}{name}:", *_group(below, indent + "  ")]
            continue
        value = group.model_dump(mode="json")[name]
        text = yaml.safe_dump(value, default_flow_style=True, width=1_000).splitlines()[0]
        about = [field.description or "", _allowed(field)]
        if any(about):
            lines.append(f"{indent}# {'; '.join(a for a in about if a)}")
        lines.append(f"{indent}{name}: {text}")
    return lines
