"""The classes of a network: the layer with one unit for each class, and the names of the classes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dreamgram.activation_maximization.natural import natural, normalized_layers
from dreamgram.activation_maximization.objectives import Objective, check_units, log_odds, logit
from dreamgram.activation_maximization.options import ClassesOptions, is_range, parse_ranges
from dreamgram.image_optimization.checks import as_model
from dreamgram.image_optimization.input_shapes import default_shape
from dreamgram.image_optimization.layers import output_layer, reach_layers
from dreamgram.image_optimization.names import either, shorten
from dreamgram.image_optimization.state import unwrapped
from dreamgram.image_optimization.trial import blank_image
from dreamgram.workbench.options import Size

NEAREST = 5
"""Largest number of classes in an error message."""


@dataclass(frozen=True)
class Classes:
    """The classes of a network."""

    layer: str
    """Name of the layer with one unit for each class."""
    count: int
    """Number of units of the layer."""
    names: tuple[str, ...]
    """Names of the classes. They are used only if there is one for each unit. A name can consist of several synonyms
    that are separated by commas, such as "tabby, tabby cat"."""

    @classmethod
    def of(cls, model: nn.Module, layer: str | None = None, size: Size | None = None) -> Classes:
        """Return the classes of ``model``, whose names are in its attribute ``class_names``.

        The default of ``layer`` is the layer that :func:`output_layer` finds. ``size`` is the size of the images in
        pixels, by default the network's input size.

        Raises:
            ValueError: the layer does not exist, an image of this size does not pass through the network, or the
                attribute is not a list of texts.
        """
        image = blank_image(default_shape(model, size))
        found = output_layer(model, image) if layer is None else reach_layers(model, image, [layer])[0]
        names: Any = getattr(unwrapped(model), "class_names", ())
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"class_names must be a list with the name of each class, not {shorten(names)}")
        return cls(found.name, found.channels, tuple(names))

    def find(self, text: str) -> list[int]:
        """Return the numbers of the classes that are listed in ``text``, each once.

        ``text`` is ``all``, or a list of names, numbers and ranges, such as ``tabby,espresso,3,7-9``. Upper and lower
        case are distinguished only if this decides between several classes. If ``text`` is the default of the option
        ``classes``, classes that do not exist are left out.

        Raises:
            ValueError: a class does not exist, or several classes have the same name.
        """
        if text.strip() == "all":
            return list(range(self.count))
        numbers: list[int] = []
        for part in text.split(","):
            if is_range(part):
                [found] = parse_ranges(part) or []
                last = min(found[-1], self.count - 1) if text == ClassesOptions.classes else found[-1]
                check_units(self.layer, [last], self.count)
                numbers += range(found[0], last + 1)
            else:
                numbers.append(self._number_of(part.strip()))
        return list(dict.fromkeys(numbers))

    def label(self, number: int) -> str:
        """Return the caption of a class: the first synonym of its name, or its number if it has no name."""
        return _synonyms(self.names[number])[0] if len(self.names) == self.count else str(number)

    def _number_of(self, name: str) -> int:
        """Return the number of the class called ``name``."""
        if len(self.names) != self.count:
            known = f"layer {self.layer!r} has {self.count} units, and the network has {len(self.names)} class_names"
            raise ValueError(f"the class {shorten(name)} must be given by its number: {known}")
        same: Callable[[str], str]
        for same in (str, str.casefold):
            found = [number for number, full in enumerate(self.names) if same(name) in map(same, _synonyms(full))]
            if len(found) == 1:
                return found[0]
            if found:
                which = ", ".join(f"{number} ({self.names[number]})" for number in found[:NEAREST])
                raise ValueError(f"several classes are called {shorten(name)}; give the number of one: {which}")
        wanted = name.casefold()
        known_names = {synonym.casefold(): synonym for full in self.names for synonym in _synonyms(full)}
        containing = sorted((each for each in known_names if wanted in re.split(r"\W+", each)), key=len)
        near = dict.fromkeys([*containing, *difflib.get_close_matches(wanted, known_names, NEAREST)])
        hint = f"; did you mean {either([known_names[each] for each in near][:NEAREST])}?" if near else ""
        raise ValueError(f"no class {shorten(name)}{hint}")


def find_classes(model: nn.Module, classes: str, layer: str | None = None) -> list[int]:
    """Return the numbers of the classes of ``model`` that are listed in ``classes``, such as ``tabby,espresso,7-9``.

    The numbers are the indices of the units of ``layer``, by default the network's output. The names of the classes are
    in the attribute ``class_names`` of the network.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``, or ``classes`` is not a string.
        ValueError: the layer or a class does not exist, or several classes have the same name.
    """
    if not isinstance(classes, str):
        raise TypeError(f"classes must be text such as 'tabby,espresso,7-9', not {shorten(classes)}")
    return Classes.of(as_model(model), layer).find(classes)


def class_objective(model: nn.Module, classes: Sequence[int], layer: str, weight: float) -> Objective:
    """Return the objective that is maximized for pictures of classes.

    If ``model`` has batch normalizations and ``weight`` is not 0, the objective is the log-odds of each class plus
    ``weight`` times :func:`natural`. Otherwise, it is the logit of each class. Unlike the log-probability, the log-odds
    keep a gradient when the network is sure of the class, so that other networks become sure of it, too.
    """
    if weight and normalized_layers(model):
        return log_odds(classes, layer) + weight * natural(model)
    return logit(classes, layer)


def _synonyms(name: str) -> list[str]:
    return [part.strip() for part in name.split(",")]
