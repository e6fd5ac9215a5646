"""A pickle reader that can build plain data and nothing else.

Python's own unpickler calls what the file names. This one is a small stack machine over pickletools' decoding: the
only callables are `Safe` functions the caller lists by global name; every other global is refused by name when seen.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from jaxformers.core.errors import CheckpointError, UnsafePickleError

ADVICE = "Load it where you trust it and save only the tensors, best as safetensors."
PLAIN_KEYS = (str, int, float, bytes, type(None))  # hashing nested tuples could exhaust the C stack
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NO_EFFECT = {"PROTO", "FRAME"}
VALUES = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)


@dataclass(frozen=True, slots=True)
class Safe:
    """A function a pickle may call."""

    call: Callable[..., object]


def load(
    file: IO[bytes], allowed: Mapping[str, object], persistent: Callable[[object], object], path: object
) -> object:
    """The object a pickle describes. Raises UnsafePickleError for a global not in `allowed`, else CheckpointError."""
    machine = Machine(allowed, persistent, path)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except CheckpointError:
        raise
    # Damaged bytes fail in as many ways as there are opcodes; the caller needs one error.
    except Exception as error:
        found = f"a damaged pickle ({type(error).__name__}: {str(error)[:100]})"
        raise CheckpointError(f"{path}: {found}; expected pickled tensors. Download or save the file again.") from error


class Machine:
    """The pickle stack machine, one method per opcode that plain data need."""

    def __init__(self, allowed: Mapping[str, object], persistent: Callable[[object], object], path: object):
        self.allowed, self.persistent, self.path = allowed, persistent, path
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}

    def step(self, name: str, argument: object) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name not in NO_EFFECT:
            method = getattr(self, "do_" + name.lower(), None)
            if method is None:
                raise UnsafePickleError(f"{self.path}: pickle opcode {name} builds no part of a tensor. {ADVICE}")
            method(argument)

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError("stack underflow")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def do_stop(self, _) -> None:
        if len(self.stack) != 1 or self.marks:
            raise ValueError("more or less than one object")

    def do_mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def do_pop(self, _) -> None:
        self.stack.pop()

    def do_pop_mark(self, _) -> None:
        self.since_mark()

    def do_dup(self, _) -> None:
        self.stack.append(self.stack[-1])

    def do_empty_dict(self, _) -> None:
        self.stack.append({})

    def do_empty_list(self, _) -> None:
        self.stack.append([])

    def do_empty_tuple(self, _) -> None:
        self.stack.append(())

    def do_tuple1(self, _) -> None:
        self.stack.append(tuple(self.pop(1)))

    def do_tuple2(self, _) -> None:
        self.stack.append(tuple(self.pop(2)))

    def do_tuple3(self, _) -> None:
        self.stack.append(tuple(self.pop(3)))

    def do_tuple(self, _) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def do_list(self, _) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def do_dict(self, _) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.update(items)

    def do_append(self, _) -> None:
        self.extend(self.pop(1))

    def do_appends(self, _) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("append to something that is not a list")
        self.stack[-1].extend(items)

    def do_setitem(self, _) -> None:
        self.update(self.pop(2))

    def do_setitems(self, _) -> None:
        self.update(self.since_mark())

    def update(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items set on something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, PLAIN_KEYS):
                raise ValueError(f"dictionary key of type {type(key).__name__}")
            target[key] = value

    def do_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    do_binget = do_long_binget = do_get

    def do_global(self, name: str) -> None:
        self.stack.append(self.find(name))

    def do_stack_global(self, _) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global whose name is not text")
        self.stack.append(self.find(f"{module} {name}"))

    def do_inst(self, name: str) -> None:
        raise self.refusal(name)

    def find(self, name: str) -> object:
        if name not in self.allowed:
            raise self.refusal(name)
        found = self.allowed[name]
        if isinstance(found, CheckpointError):
            raise CheckpointError(f"{self.path}: {found}")
        return found

    def refusal(self, name: str) -> UnsafePickleError:
        dotted = name.replace(" ", ".", 1)
        return UnsafePickleError(f"{self.path}: the pickle asks for {dotted}, which is no part of a tensor. {ADVICE}")

    def do_reduce(self, _) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Safe) or type(arguments) is not tuple:
            raise UnsafePickleError(f"{self.path}: the pickle calls a {type(function).__name__}. {ADVICE}")
        self.stack.append(function.call(*arguments))

    def do_build(self, _) -> None:
        target, state = self.pop(2)
        # Only the `_metadata` that modules hang on their state dict: it holds versions, no weights.
        if type(target) is not dict or type(state) is not dict:
            raise UnsafePickleError(f"{self.path}: the pickle sets the state of a {type(target).__name__}. {ADVICE}")
        self.stack.append(target)

    def do_binpersid(self, _) -> None:
        self.stack.append(self.persistent(*self.pop(1)))
