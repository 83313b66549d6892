"""Extensions of mkdocstrings for the reference: public names, and formulas that MathJax reads."""

import re

import griffe

import spikecdl

BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")


class PublicNames(griffe.Extension):
    """Makes what `spikecdl` imports on first use known as ``spikecdl.NAME``."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Add an alias for every public name that is defined elsewhere."""
        if pkg.name == "spikecdl":
            homes = {name: f"{home}.{name}" for name, home in spikecdl._HOME.items()}
            for name, target in (homes | spikecdl._MODULES).items():
                if name not in pkg.members:
                    pkg.set_member(name, griffe.Alias(name, f"spikecdl.{target}"))


class Math(griffe.Extension):
    """Replaces ``.. math::`` by ``$$`` and ``:math:`` by ``$``."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            text = BLOCK.sub(r"\1$$\n\1\2\n\1$$", obj.docstring.value)
            obj.docstring.value = INLINE.sub(r"$\1$", text)
