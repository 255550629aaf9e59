"""An interpreter for pickles that knows only arrays and plain containers; it runs, imports and allocates nothing else.

Python's unpickler calls the functions that the file names. This one interprets the few instructions that checkpoints
need. A function name becomes a constant of `Callee`, and a call becomes an inert record. The bytes of an array stay in
the file until its type, shape and length have been checked against each other.
"""

import pickletools
import struct
from collections.abc import Callable
from functools import partial

from ppsolo.checkpoint.checked_file import Source, quoted
from ppsolo.checkpoint.pickle_records import Callee, PickledArray, PickledType, Span, Text
from ppsolo.errors import CheckpointError

MOST_NUMBER_KEYS = 1000
_MAX_STEPS = 200_000  # an array takes about 25 instructions: enough for 8 000 arrays
_MAX_TEXT = 4096  # a longer text is the content of an array and stays in the file
_MAX_GLOBAL = 256
_LATIN1 = ("latin1", "latin-1", "latin_1", "iso-8859-1")


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): Callee.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Callee.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): Callee.FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): Callee.FROM_BUFFER,
    ("numpy", "ndarray"): Callee.NDARRAY,
    ("numpy", "dtype"): Callee.DTYPE,
    ("_codecs", "encode"): Callee.ENCODE,
    ("__builtin__", "bytes"): Callee.BYTES,
    ("builtins", "bytes"): Callee.BYTES,
    ("__builtin__", "tuple"): Callee.TUPLE,
    ("builtins", "tuple"): Callee.TUPLE,
    ("collections", "OrderedDict"): Callee.ORDERED_DICT,
}


def read_pickle(source: Source) -> object:
    """Read a pickle of protocol 2 to 5 from the position to the end of the file.

    The result consists of dicts (keys are unique texts or numbers), lists, tuples, numbers, texts, None and the records
    of `pickle_records`. Raises CheckpointError for everything else; nothing that the file names is imported or called.
    """
    return _Machine(source).run()


class _Machine:
    """Stack, marks and memo of one pickle; every entry costs an instruction, so `_MAX_STEPS` bounds them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(_MAX_STEPS):
            code = self.source.take(1)
            if code == b".":
                return self._result()
            step = _STEPS.get(code)
            if step is None:
                raise self._unknown(code)
            step(self)
        raise self.source.fail(
            f"has more than {_MAX_STEPS} pickle instructions, more than weights need; save only the weights"
        )

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack:
            raise self.source.damaged("a pickle instruction lacks its operand")
        return self.stack.pop()

    def top(self) -> object:
        self.push(value := self.pop())
        return value

    def pop_to_mark(self) -> list[object]:
        if not self.marked:
            raise self.source.damaged("a pickle instruction lacks its mark")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def number(self, layout: str) -> int:
        """Read the next number, in a layout of `struct`."""
        return struct.unpack(layout, self.source.take(struct.calcsize(layout)))[0]

    def _result(self) -> object:
        if len(self.stack) != 1 or self.marked:
            raise self.source.damaged("the pickle ends with the wrong number of values")
        if self.source.left:
            raise self.source.damaged(f"{self.source.left} bytes follow the end of the pickle")
        return self.stack[0]

    def _unknown(self, code: bytes) -> CheckpointError:
        if code not in _NAMES:
            return self.source.damaged(f"{code.hex()} is not a pickle instruction")
        return _forbidden(self, f"uses the pickle instruction {_NAMES[code]}")


def _forbidden(machine: _Machine, deed: str) -> CheckpointError:
    return machine.source.fail(
        f"{deed}, which weights never need; nothing was run: get the file from a source that you trust, "
        "or save the weights again as a plain dict of arrays"
    )


# Instructions that push a value


def _constant(machine: _Machine, value: object) -> None:
    machine.push(value)


def _number(machine: _Machine, layout: str) -> None:
    machine.push(machine.number(layout))


def _long(machine: _Machine) -> None:
    length = machine.number("<B")
    machine.push(int.from_bytes(machine.source.take(length), "little", signed=True))


def _empty(machine: _Machine, container: type) -> None:
    machine.push(container())


def _span(machine: _Machine, layout: str, is_text: bool) -> Span:
    length = machine.number(layout)
    return Span(start=machine.source.position, length=length, is_text=is_text)


def _text(machine: _Machine, layout: str, encoding: str) -> None:
    """Read a text, or a byte string of Python 2, which may be a text or the content of an array."""
    span = _span(machine, layout, is_text=encoding == "utf-8")
    if span.length > _MAX_TEXT:
        machine.source.skip(span.length)
        machine.push(span)
        return
    try:
        text = Text(machine.source.take(span.length).decode(encoding))
    except UnicodeDecodeError:
        raise machine.source.damaged("a text is not UTF-8") from None
    text.span = span
    machine.push(text)


def _bytes(machine: _Machine, layout: str) -> None:
    span = _span(machine, layout, is_text=False)
    machine.source.skip(span.length)
    machine.push(span)


# Instructions that build containers


def _mark(machine: _Machine) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _tuple_of(machine: _Machine, count: int) -> None:
    items = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(items)))


def _tuple_to_mark(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.push(tuple(items))


def _extend(machine: _Machine, items: list[object]) -> None:
    target = machine.top()
    if not isinstance(target, list):
        raise machine.source.damaged("items are appended to something that is not a list")
    target.extend(items)


def _append(machine: _Machine) -> None:
    _extend(machine, [machine.pop()])


def _appends(machine: _Machine) -> None:
    _extend(machine, machine.pop_to_mark())


def _update(machine: _Machine, items: list[object]) -> None:
    target = machine.top()
    if not isinstance(target, dict) or len(items) % 2:
        raise machine.source.damaged("keys and values are stored into something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Real files have few integer keys; many chosen ones could make a dict very slow.
        if not isinstance(key, str) and not (isinstance(key, int) and len(target) < MOST_NUMBER_KEYS):
            raise machine.source.damaged("a key is not a text")
        if key in target:
            raise machine.source.fail(f"holds the key {quoted(key)} twice; save it again")
        target[key] = value


def _setitem(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine, [key, value])


def _setitems(machine: _Machine) -> None:
    _update(machine, machine.pop_to_mark())


# The memo and the frame


def _put(machine: _Machine, layout: str) -> None:
    machine.memo[machine.number(layout)] = machine.top()


def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _get(machine: _Machine, layout: str) -> None:
    index = machine.number(layout)
    if index not in machine.memo:
        raise machine.source.damaged(f"memo entry {index} was never stored")
    machine.push(machine.memo[index])


def _protocol(machine: _Machine) -> None:
    version = machine.number("<B")
    if not 2 <= version <= 5:
        raise machine.source.damaged(f"there is no pickle protocol {version}")


def _frame(machine: _Machine) -> None:
    if machine.number("<Q") > machine.source.left:
        raise machine.source.damaged("a frame reaches beyond the end of the file")


# Named functions, and the records that calls of them build


def _global_line(machine: _Machine) -> str:
    line = b""
    while not line.endswith(b"\n"):
        line += machine.source.take(1)
        if len(line) > _MAX_GLOBAL:
            raise machine.source.damaged("the name of a function does not end")
    return line[:-1].decode("latin-1")


def _global(machine: _Machine) -> None:
    module, name = _global_line(machine), _global_line(machine)
    _push_global(machine, module, name)


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    _push_global(machine, module, name)


def _push_global(machine: _Machine, module: object, name: object) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
        raise machine.source.damaged("the name of a function is not a text")
    callee = _GLOBALS.get((module, name))
    if callee is None:
        if module == "torch" or module.startswith("torch."):
            raise machine.source.fail("is a PyTorch file; give a PaddlePaddle .pdparams or a .safetensors file")
        raise _forbidden(machine, f"asks for the function {quoted(f'{module}.{name}')}")
    machine.push(callee)


def _reduce(machine: _Machine) -> None:
    arguments, callee = machine.pop(), machine.pop()
    if not isinstance(callee, Callee) or not isinstance(arguments, tuple):
        raise _forbidden(machine, "calls something that is not a function")
    machine.push(_called(machine, callee, arguments))


def _called(machine: _Machine, callee: Callee, arguments: tuple[object, ...]) -> object:
    match callee, arguments:
        case Callee.RECONSTRUCT, (Callee.NDARRAY, _, _):
            return PickledArray()
        case Callee.FROM_BUFFER, (data, kind, shape, ("C" | "F") as order):
            return PickledArray(kind=kind, shape=shape, fortran=order == "F", data=data)
        case Callee.DTYPE, (str() as code, _, _):
            return PickledType(code=code)
        case Callee.ENCODE, (Text() as text, codec) if codec in _LATIN1:
            return text.span
        case Callee.ENCODE, (Span() as span, codec) if codec in _LATIN1:
            return span
        case Callee.BYTES, ():
            return Span(start=machine.source.position, length=0, is_text=False)
        case Callee.TUPLE, (tuple() as items,):
            return items
        case Callee.ORDERED_DICT, ():
            return {}
    raise _forbidden(machine, f"calls {callee.name} with unusual arguments")


def _build(machine: _Machine) -> None:
    state, target = machine.pop(), machine.top()
    match target, state:
        case PickledArray(data=None), (_, shape, kind, fortran, data):
            target.shape, target.kind, target.fortran, target.data = shape, kind, fortran, data
        case PickledType(order=""), (_, str() as order, *fields) if len(fields) >= 3:
            target.order = order
            target.is_plain = all(field is None for field in fields[:3])
        case _:
            raise _forbidden(machine, "changes an object in an unusual way")


_NAMED_STEPS: dict[str, Callable[[_Machine], None]] = {
    "PROTO": _protocol,
    "FRAME": _frame,
    "NONE": partial(_constant, value=None),
    "NEWTRUE": partial(_constant, value=True),
    "NEWFALSE": partial(_constant, value=False),
    "BININT": partial(_number, layout="<i"),
    "BININT1": partial(_number, layout="<B"),
    "BININT2": partial(_number, layout="<H"),
    "BINFLOAT": partial(_number, layout=">d"),
    "LONG1": _long,
    "SHORT_BINUNICODE": partial(_text, layout="<B", encoding="utf-8"),
    "BINUNICODE": partial(_text, layout="<I", encoding="utf-8"),
    "BINUNICODE8": partial(_text, layout="<Q", encoding="utf-8"),
    "SHORT_BINSTRING": partial(_text, layout="<B", encoding="latin-1"),
    "BINSTRING": partial(_text, layout="<I", encoding="latin-1"),
    "SHORT_BINBYTES": partial(_bytes, layout="<B"),
    "BINBYTES": partial(_bytes, layout="<I"),
    "BINBYTES8": partial(_bytes, layout="<Q"),
    "BYTEARRAY8": partial(_bytes, layout="<Q"),
    "EMPTY_DICT": partial(_empty, container=dict),
    "EMPTY_LIST": partial(_empty, container=list),
    "EMPTY_TUPLE": partial(_empty, container=tuple),
    "MARK": _mark,
    "TUPLE": _tuple_to_mark,
    "TUPLE1": partial(_tuple_of, count=1),
    "TUPLE2": partial(_tuple_of, count=2),
    "TUPLE3": partial(_tuple_of, count=3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "BINPUT": partial(_put, layout="<B"),
    "LONG_BINPUT": partial(_put, layout="<I"),
    "MEMOIZE": _memoize,
    "BINGET": partial(_get, layout="<B"),
    "LONG_BINGET": partial(_get, layout="<I"),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}
_NAMES = {info.code.encode("latin-1"): info.name for info in pickletools.opcodes}
_STEPS = {code: _NAMED_STEPS[name] for code, name in _NAMES.items() if name in _NAMED_STEPS}
