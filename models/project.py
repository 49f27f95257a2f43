"""Run a user's Python file, together with the modules in its folder, as a package of its own.

A project is a user's file together with the modules that it imports from its folder, its package or the current folder.
Each time a user's file is run, its project becomes a new package, such as ``_dreamgram_project_3``. If a file of the
project imports a module of the project, for example ``blocks``, Python imports ``_dreamgram_project_3.blocks`` instead.
As a result, two projects can have modules of the same name, and no project hides an installed package from other code.
An import inside a function, such as ``forward``, finds the same module as an import at the top of the file. When the
user's file is run again, all files of its project are read again.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_ALWAYS_INSTALLED = sys.stdlib_module_names | {"dreamgram"}
"""Names that are always imported from Python's standard library or from Dreamgram, never from a user's folder."""

_counter = itertools.count(1)


class Project(MetaPathFinder):
    """A user's Python file, with the modules that it imports from its folder, its package or the current folder.

    An absolute import in the file, or in one of these modules, searches in this order:

    1. Python's standard library and Dreamgram.
    2. The folder of the file. If this folder is a package (it has an ``__init__.py``), the folder that contains the
       outermost package is searched instead.
    3. The current folder, unless Python has already imported a module of the same name outside the project.
    4. Everything else that Python can import, such as installed packages.
    5. The folder of the file, if this folder is a package.
    6. Packages without an ``__init__.py`` in the folders of items 2, 3 and 5.

    Relative imports work, too. Only import statements search in this order. A call such as
    ``importlib.import_module("blocks")``, or loading a network that was pickled as a whole, searches Python's usual
    path (``sys.path``) instead. A module that is imported both by a statement and by such a call is loaded twice.
    """

    def __init__(self, path: Path) -> None:
        folder = path.parent.resolve()
        packages = _packages(folder)
        root = folder.parents[len(packages) - 1] if packages else folder
        stem = [] if packages and path.stem == "__init__" else [path.stem.replace(".", "_")]
        self._first, self._current, self._last = [str(root)], [str(Path.cwd())], [str(folder)]
        self._name = f"_dreamgram_project_{next(_counter)}"
        self._main = ".".join([self._name, *packages, *stem])
        self.path = folder / path.name
        """The absolute path of the user's file."""
        self.files: set[Path] = set()
        """The absolute paths of the user's file and of those modules of its project that have been imported so far."""
        self._builtins = {**vars(builtins), "__import__": self._import}

    def run(self) -> ModuleType:
        """Run the user's file as a module and return the module. An exception that the file raises is passed on."""
        importlib.invalidate_caches()  # The files might have been written a moment ago.
        package = ModuleType(self._name, "The modules of one project.")
        package.__path__ = list(dict.fromkeys(self._first + self._current + self._last))
        sys.modules[self._name] = package
        sys.meta_path.insert(0, self)
        return importlib.import_module(self._main)

    def explain(self, error: BaseException) -> str:
        """Describe, in one line, an error that the user's files raised: its type, its message and its location."""
        message = " ".join(str(error).replace(f"{self._name}.", "").split())
        places = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in self.files]
        if places and not isinstance(error, SyntaxError):  # The message of a SyntaxError names the line.
            message += f" ({Path(places[-1].filename).name}, line {places[-1].lineno})"
        return f"{type(error).__name__}: {message}"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the module ``fullname``, or None if the module is not in this project's package.

        Python's import system calls this method.
        """
        if not fullname.startswith(f"{self._name}."):
            return None
        main = fullname == self._main
        spec = spec_from_file_location(fullname, self.path) if main else PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self._builtins)
        if spec is not None and spec.origin is not None:
            self.files.add(Path(spec.origin))
        return spec

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Import a module from the user's folders if :meth:`_owns` finds it there, and otherwise as Python does.

        In the user's files, this method replaces the built-in function ``__import__``, which Python calls for every
        import statement.
        """
        top = name.partition(".")[0]
        if level or not self._owns(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = builtins.__import__(f"{self._name}.{name}", globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self._name}.{top}"]

    def _owns(self, top: str) -> bool:
        """Return whether an absolute import of the name ``top`` finds a module in the user's folders."""
        if top in _ALWAYS_INSTALLED or top == "__main__":
            return False
        if f"{self._name}.{top}" in sys.modules or _is_regular(top, self._first):
            return True
        if top in sys.modules:
            return False
        if _is_regular(top, self._current):
            return True
        return find_spec(top) is None and PathFinder.find_spec(top, sys.modules[self._name].__path__) is not None


class _Loader(SourceFileLoader):
    """A loader that replaces ``__import__`` in the user's modules with the import method of their :class:`Project`."""

    def __init__(self, name: str, path: str, namespace: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._namespace = namespace

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._namespace
        super().exec_module(module)


def _packages(folder: Path) -> list[str]:
    """Return the names of the nested packages that contain ``folder``, outermost first, ending with ``folder`` itself.

    The list is empty if ``folder`` has no ``__init__.py``, or if its name is not a Python identifier.
    """
    if not (folder / "__init__.py").is_file() or not folder.name.isidentifier():
        return []
    return [*_packages(folder.parent), folder.name]


def _is_regular(top: str, folders: list[str]) -> bool:
    """Return whether one of ``folders`` contains a module ``top``, or a package ``top`` that has an ``__init__.py``."""
    spec = PathFinder.find_spec(top, folders)
    return spec is not None and spec.origin is not None
