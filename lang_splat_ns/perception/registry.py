"""Encoders and segmenters by name: built in, named in an environment variable, or installed as a plug-in."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from lang_splat_ns.errors import UserError


@dataclass(frozen=True)
class Registry:
    """Where the implementations of one protocol are found.

    The environment variable comes first, because whoever sets it means it. Built-in names come next, so that an
    installed package cannot take the place of `sam` or `open_clip` unnoticed; entry points come last.

    Attributes:
        kind: what is found here, in one word for messages.
        group: entry-point group of installed plug-ins.
        variable: environment variable of the form `name=module:attribute,...` (nerfstudio's own form).
        builtin: name -> `module:attribute` of the built-in ones. Targets are strings, so that listing the names
            imports no network.
    """

    kind: str
    group: str
    variable: str
    builtin: Mapping[str, str]

    def names(self) -> list[str]:
        """All names that `load` knows at this moment."""
        return sorted({*self.builtin, *self._from_environment(), *self._from_entry_points()})

    def load(self, name: str) -> Callable[..., Any]:
        """The class or function registered as `name`.

        Raises:
            UserError: the name is unknown, or the plug-in cannot be imported.
        """
        target = self._from_environment().get(name) or self.builtin.get(name) or self._from_entry_points().get(name)
        if target is None:
            raise self._unknown(name)
        module, separator, attribute = target.partition(":")
        if not separator or not module or not attribute:
            raise UserError(f"{self.kind} {name!r} points to {target!r}, which is not of the form module:attribute")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise UserError(f"cannot import {self.kind} {name!r} from {target!r}: {error}") from error
        return found

    def _from_environment(self) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for item in os.environ.get(self.variable, "").split(","):
            if not item.strip():
                continue
            name, separator, target = item.partition("=")
            if not separator or not name.strip() or ":" not in target:
                raise UserError(f"{self.variable} has {item.strip()!r}; each item must read name=module:Class")
            pairs[name.strip()] = target.strip()
        return pairs

    def _from_entry_points(self) -> dict[str, str]:
        # Only names and targets are read here. A broken plug-in must not harm those who do not ask for it.
        return {point.name: point.value for point in entry_points(group=self.group)}

    def _unknown(self, name: str) -> UserError:
        names = self.names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return UserError(
            f"unknown {self.kind} {name!r}{hint} Known: {', '.join(names)}. Add your own with "
            f'{self.variable}="name=module:Class" or the entry-point group {self.group}.'
        )


def takes(factory: Callable[..., Any], argument: str) -> bool:
    """Whether `factory` can be called with a keyword argument of this name."""
    parameters = inspect.signature(factory).parameters.values()
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD
        or (parameter.name == argument and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY)
        for parameter in parameters
    )


def call_with_known_arguments(factory: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    """Call `factory` with those of the `offered` keyword arguments that its signature takes.

    A plug-in may be as plain as a class without constructor arguments; one that wants the device or a weights
    file names the argument. Offers that are None stand for "not given" and are left out.
    """
    return factory(**{key: value for key, value in offered.items() if value is not None and takes(factory, key)})
