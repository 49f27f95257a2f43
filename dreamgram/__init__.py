"""Dreamgram: activation maximization and style transfer, by gradient-based optimization of a network's input image.

Everything public is an attribute of this package: ``import dreamgram as dg``. A name is imported when it is first used,
so that ``import dreamgram`` is fast. To publish a name, add it to ``_HOMES`` and to ``__init__.pyi``.
"""

from pathlib import Path as _Path

# In a checkout that is not installed, the other packages are beside this folder and not inside it.
_checkout = _Path(__file__).parent.parent
if (_checkout / "image_optimization").is_dir() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_HOMES = {
    "workbench.version": ("__version__",),
    "models": ("load",),
    "image_optimization": ("images",),
    "image_optimization.capture": ("capture",),
    "image_optimization.layers": ("list_layers",),
    "image_optimization.memory": ("keep_freed_memory",),
    "image_optimization.optimize": ("OPTIMIZERS", "StopRun", "optimize"),
    "image_optimization.parameterizations": ("FourierImage", "PhaseImage", "PixelImage", "PyramidImage"),
    "image_optimization.transforms": ("robust",),
    "activation_maximization.classes": ("find_classes",),
    "activation_maximization.deep_dream": ("amplify",),
    "activation_maximization.examples": ("Example", "top_examples"),
    "activation_maximization.expressions": ("parse_objective", "parse_transform"),
    "activation_maximization.folder": ("make_each",),
    "activation_maximization.dreams": ("Dreams",),
    "activation_maximization.gradient_ascent": ("accentuate", "activations", "evaluate", "maximize"),
    "activation_maximization.objectives": (
        *("IMAGE", "NUMBER", "PHOTO", "PROGRESS", "SCALE"),
        *("Objective", "caricature", "channel", "deepdream", "direction", "diversity"),
        *("feature", "log_odds", "log_probability", "logit", "match", "neuron", "objective", "ramp", "share"),
    ),
    "activation_maximization.natural": ("distribution", "natural"),
    "activation_maximization.regularizers": (
        *("blur", "border", "l1", "l2", "pixel_sum", "regularizer", "sparing", "total_variation"),
    ),
    "workbench.sheets": ("contact_sheet",),
    "style_transfer.presets": ("PRESETS", "Preset"),
    "style_transfer.stylizer": ("Stylized", "Stylizer", "stylize"),
    "style_transfer.losses": ("STYLE_LOSSES", "StyleLoss", "style_loss"),
    "style_transfer.options": ("StyleOptions",),
    "style_transfer.drawn_styles": ("draw_style",),
    "workbench.console": ("progress",),
}
"""Public names, by the module of this package from which they are imported."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    """Import the public name ``name`` when it is first used."""
    if name not in _HOME_OF:
        from dreamgram.image_optimization.names import did_you_mean

        hint = did_you_mean(name, __all__).strip()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint and f'; {hint}'}")
    # This is ``from home import name``, which also finds a name that is a module.
    value: object = getattr(__import__(f"{__name__}.{_HOME_OF[name]}", fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the names in this package, including public names that have not been imported yet."""
    return sorted({*globals(), *__all__})
