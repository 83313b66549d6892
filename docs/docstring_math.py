"""Extension of mkdocstrings: formulas of docstrings, written for Sphinx, as MathJax reads them."""

import re

import griffe

BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")


class Math(griffe.Extension):
    """Replaces ``.. math::`` by ``$$`` and ``:math:`` by ``$``."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            text = BLOCK.sub(r"\1$$\n\1\2\n\1$$", obj.docstring.value)
            obj.docstring.value = INLINE.sub(r"$\1$", text)
