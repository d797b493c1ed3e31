"""A Griffe extension: the comment behind a field or a constant is its description, where it has no docstring."""

from typing import Any

import griffe


class Comments(griffe.Extension):
    """`count: Array  # shape=(), dtype=int32` is documented by what stands behind the mark."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        lines = attr.lines
        comment = lines[-1].partition("  # ")[2] if lines else ""
        if attr.docstring is None and comment and not comment.startswith(("pyright:", "type:", "noqa")):
            # Docstrings are Markdown, comments are not: <g, xi> is no tag.
            attr.docstring = griffe.Docstring(comment.replace("<", "&lt;"), parent=attr)
