"""One-file HTML pages: a template, values, and plots as SVG that follow the reader's light or dark theme."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("model_build.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """The page made of `templates/<template>.html.j2`; nothing in it is loaded from elsewhere."""
    return _ENVIRONMENT.get_template(f"{template}.html.j2").render(**values)
