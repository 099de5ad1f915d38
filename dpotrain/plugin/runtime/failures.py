"""Names the component that raised an error: its name, its distribution and its method."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, TracebackType

from dpotrain.core.errors import DpotrainError, PluginError, describe_exception
from dpotrain.plugin.api import Component, Selection
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.plugin.runtime.manager import PluginManager


@contextmanager
def naming_components(selection: Selection, plugins: PluginManager) -> Iterator[None]:
    """Turn an exception of a component of the recipe into a PluginError that names it (see :func:`named`)."""
    try:
        yield
    except Exception as error:
        known = named(error, selection, plugins)
        if known is error:
            raise
        raise known from error


def named(error: BaseException, selection: Selection, plugins: PluginManager) -> BaseException:
    """Return a PluginError that says which plugin raised ``error``, and in which of its methods.

    The outermost method of a component in the traceback is what the core called. Other code of a plugin (a layer
    that an adapter put into the model, rows that a source returned) is recognised by the plugin's module. A
    DpotrainError is returned as it is, and so is an error that no plugin raised. What a method returned wrongly is
    named likewise.

    Notes added to the error (``add_note``) follow its line.
    """
    notes = getattr(error, "__notes__", ())
    if isinstance(error, WrongReturnError) and isinstance(error.component, Component):
        return PluginError("\n".join([failure(plugins.label(error.component), "", error), *notes]))
    if not isinstance(error, Exception) or isinstance(error, DpotrainError):
        return error
    frames = list(_frames(error.__traceback__))
    found = _component(frames, plugins) or _module(frames, selection, plugins)
    if found is None:
        return error
    who, phase, module = found
    return PluginError("\n".join([failure(who, phase, error, module), *notes]))


def failure(who: str, phase: str, error: BaseException, module: str = "") -> str:
    """Return the text for what ``who`` raised in ``phase``, a method or a hook; ``module`` is where its code is.

    What a method returned wrongly says itself which method it was.
    """
    if isinstance(error, WrongReturnError):
        return f"{who}: {error}"
    return f"{who} raised in {phase}: {describe_exception(error, module)}"


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _component(frames: list[FrameType], plugins: PluginManager) -> tuple[str, str, str] | None:
    """Return the component's label, the method that was called and the module of its class.

    A method that the kind keeps for itself (``Loss.losses``) only stands for the one that it calls.
    """
    found = None
    for frame in frames:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(first, Component) and plugins.offers(type(first)):
            method = _method(type(first), code)
            if method is not None:
                found = found or (plugins.label(first), method, type(first).__module__)
                if not getattr(inspect.getattr_static(type(first), method, None), "__final__", False):
                    return plugins.label(first), method, type(first).__module__
    return found


def _method(component: type[Component], code: CodeType) -> str | None:
    """Return the name of the method with this code; None for a function of the core that takes the component."""
    if hasattr(component, code.co_name):
        return code.co_name
    # A function may be a method under another name: a lambda, or an alias.
    named = (item for cls in component.__mro__ for item in vars(cls).items())
    return next((name for name, value in named if _code(value) is code), None)


def _code(value: object) -> CodeType | None:
    """Return the code of a method, also of one whose result is checked."""
    return getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)


def _module(
    frames: list[FrameType], selection: Selection, plugins: PluginManager
) -> tuple[str, str, str] | None:
    """Return the plugin's label, the function that was called and the plugin's module."""
    active = {
        getattr(plugin.module, "__name__", type(plugin.module).__module__): plugin
        for plugin in plugins.active(selection)
    }
    for frame in frames:
        running = str(frame.f_globals.get("__name__"))
        for module, plugin in active.items():
            if running == module or running.startswith(f"{module}."):
                return plugin.label, frame.f_code.co_name, module
    return None
