"""Everything that depends on internals of Parsl or CPython. Each such trick is a hook, which can be switched off.

:mod:`~taskvine_exec.parsl_hooks.switches` lists the hooks. The rest of the package only calls functions of these
modules.
"""

from taskvine_exec.parsl_hooks.switches import hooks

__all__ = ["hooks"]
