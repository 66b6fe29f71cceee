"""Pickles as data: an interpreter of the opcodes that PyTorch's files are made of.

Written after the standard library's `pickletools`. Nothing is imported and nothing
that a file names is called: a name stands for a `Maker` of ours, or the file is
refused. What a file can make of time and memory is bounded by its size: opcodes are
counted, each makes no more than a few hundred bytes of its own, lengths are checked
before they are used, and results are never compared, hashed, copied or shown whole.
"""

import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown

# A tensor takes 35 opcodes, its optimizer's state as many again. Files with few bytes
# for each are small ones; larger floods cost no more than files of their size do.
_FEW, _MOST, _BYTES_EACH = 50_000, 500_000, 32
MAX_KEY = 1024
_MAX_TEXT = 1 << 16  # of one text
_MAX_TEXTS = 4 << 20  # of all texts
_MAX_LINE = 256
_MAX_INTEGER = 32  # bytes: twice what NumPy's random states hold
_MAX_NAMES = 10_000  # Python's pickler writes each once; others may repeat them
_UINT8, _UINT16, _UINT32, _UINT64, _INT32 = map(
    struct.Struct, ("B", "<H", "<I", "<Q", "<i")
)
_FLOAT64 = struct.Struct(">d")


class Maker(NamedTuple):
    """What a name in a pickle stands for: our own function of a tuple of arguments."""

    make: Callable[[tuple], Any]


class Inert(dict):
    """An object beside the tensors. It keeps its items and does nothing."""

    __slots__ = ()


class Interpreter:
    """Reads one pickle.

    Args:
      data: the file.
      at: where the pickle starts; afterwards, where it ended.
      end: where it ends at the latest.
      find: (module, name) -> what that name stands for; raises `Refusal`.
      load: persistent id -> object; raises `Refusal`.
      limit: how many opcodes are read; by default what a file of this size may have.
    """

    def __init__(
        self,
        data: memoryview,
        at: int,
        end: int,
        find: Callable[[str, str], Any],
        load: Callable[[Any], Any] | None = None,
        limit: int | None = None,
    ):
        self._data = data
        self.at = at
        self._end = end
        self._find = find
        self._load = load
        self._limit = limit or min(_FEW + len(data) // _BYTES_EACH, _MOST)
        self._text_left = _MAX_TEXTS
        self._names_left = _MAX_NAMES
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._floor = 0  # the last mark: what lies below cannot be reached
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Returns the object.

        Raises:
          Refusal: naming the byte, for anything but data.
        """
        at = self.at
        try:
            for _ in range(self._limit):
                at = self.at
                if at >= self._end:
                    raise Refusal("a pickle without an end")
                self.at = at + 1
                code = self._data[at]
                if code == pickle.STOP[0]:
                    if len(self._stack) != 1 or self._marks:
                        raise Refusal("a pickle that does not end with one object")
                    return self._stack[0]
                act = _OPCODES.get(code)
                if act is None:
                    raise Refusal(
                        f"pickle opcode {bytes([code])!r}, which no state dict needs",
                        remedy=RESAVE,
                    )
                act(self)
        except Refusal as refusal:
            if refusal.offset is None:
                refusal.offset = at
            raise
        raise Refusal(f"a pickle of over {self._limit:,} opcodes", self.at, RESAVE)

    def take(self, count: int) -> memoryview:
        """Returns the next bytes."""
        if not 0 <= count <= self._end - self.at:
            raise Refusal(f"{count:,} bytes wanted, {self._end - self.at:,} left")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, layout: struct.Struct) -> Any:
        """Returns the next number."""
        return layout.unpack(self.take(layout.size))[0]

    def line(self) -> str:
        """Returns the text up to the next newline."""
        limit = min(self.at + _MAX_LINE, self._end)
        text, newline, _ = bytes(self._data[self.at : limit]).partition(b"\n")
        if not newline or not text.isascii():
            raise Refusal("a line that is no name or number")
        self.at += len(text) + 1
        return text.decode()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if len(self._stack) <= self._floor:
            raise Refusal("takes from an empty stack")
        return self._stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < self._floor:
            raise Refusal("takes from an empty stack")
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def top(self, kinds: type | tuple[type, ...] = object) -> Any:
        """Returns the top of the stack, left there, if it is of these types."""
        if len(self._stack) <= self._floor or not isinstance(self._stack[-1], kinds):
            raise Refusal("changes something that is not there")
        return self._stack[-1]

    def mark(self) -> None:
        self._floor = len(self._stack)
        self._marks.append(self._floor)

    def pop_mark(self) -> list[Any]:
        """Returns what was pushed since the last mark."""
        if not self._marks:
            raise Refusal("looks for a mark that is not there")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        self._floor = self._marks[-1] if self._marks else 0
        return values

    def pop_item(self) -> None:
        if self._marks and len(self._stack) == self._floor:
            self.pop_mark()
        else:
            self.pop()

    def text(self, layout: struct.Struct, encoding: str = "utf-8") -> None:
        """Pushes text whose length comes first."""
        raw = self.take(self.number(layout))
        self._text_left -= len(raw)
        if len(raw) > _MAX_TEXT or self._text_left < 0:  # a log, a NumPy array
            self.push(Inert())
            return
        try:
            self.push(str(raw, encoding, "surrogatepass"))
        except UnicodeDecodeError:
            raise Refusal("text that is not UTF-8") from None

    def skip(self, layout: struct.Struct) -> None:
        """Pushes nothing in place of bytes, which stand beside the tensors only."""
        self.take(self.number(layout))
        self.push(None)

    def put(self, index: int) -> None:
        self._memo[index] = self.top()

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise Refusal(f"recalls object {index:,}, which it never made")
        self._stack.append(self._memo[index])

    def items(self, values: list[Any]) -> None:
        """Puts key, value, key, value, ... into the dict on top of the stack."""
        target = self.top(dict)
        if len(values) % 2:
            raise Refusal("a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            # Names and counters. Others, such as the classes that Lightning keys its
            # callbacks with, name no tensor; hashing them could be made slow.
            if (type(key) is str and len(key) <= MAX_KEY) or (
                type(key) is int and abs(key) < 1 << 63
            ):
                target[key] = value

    def call(self, arguments: Any) -> None:
        maker = self.pop()
        if not isinstance(maker, Maker) or type(arguments) is not tuple:
            raise Refusal("calls something that is not a function", remedy=RESAVE)
        self._stack.append(maker.make(arguments))

    def new(self) -> None:
        """NEWOBJ_EX: class, arguments, keywords."""
        arguments, keywords = self.pop_many(2)
        if not isinstance(keywords, dict) or keywords:
            raise Refusal("makes an object with keywords", remedy=RESAVE)
        self.call(arguments)

    def build(self) -> None:
        """BUILD: the state of an OrderedDict (_metadata) or of an inert object."""
        self.pop()
        self.top(dict)

    def find_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refusal("a name that is not text")
        self._names_left -= 1
        if self._names_left < 0:
            raise Refusal(f"asks for over {_MAX_NAMES:,} names", remedy=RESAVE)
        self._stack.append(self._find(module, name))

    def protocol(self) -> None:
        if (version := self.number(_UINT8)) > pickle.HIGHEST_PROTOCOL:
            raise Refusal(f"pickle protocol {version}")

    def frame(self) -> None:
        length = self.number(_UINT64)
        if length > self._end - self.at:
            raise Refusal(f"a frame of {length:,} bytes")

    def integer(self) -> None:
        line = self.line()
        if not re.fullmatch(r"-?\d{1,20}", line):
            raise Refusal(f"the number {shown(line)}")
        self._stack.append({"00": False, "01": True}.get(line, int(line)))

    def long(self) -> None:
        if (length := self.number(_UINT8)) > _MAX_INTEGER:
            raise Refusal(f"an integer of {length} bytes", remedy=RESAVE)
        self._stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def persistent(self) -> None:
        if self._load is None:
            raise Refusal("asks for an object outside the pickle")
        self._stack.append(self._load(self.pop()))


def _tuple(length: int) -> Callable[[Interpreter], None]:
    return lambda on: on.push(tuple(on.pop_many(length)))


def _constant(value: Any) -> Callable[[Interpreter], None]:
    return lambda on: on.push(value)


def _append(on: Interpreter, values: list[Any]) -> None:
    on.top(list).extend(values)


def _as_items(on: Interpreter) -> None:
    values = on.pop_mark()
    on.push({})
    on.items(values)


_OPCODES: dict[int, Callable[[Interpreter], None]] = {
    code[0]: act
    for code, act in {
        pickle.PROTO: Interpreter.protocol,
        pickle.FRAME: Interpreter.frame,
        pickle.MARK: Interpreter.mark,
        pickle.POP: Interpreter.pop_item,
        pickle.POP_MARK: Interpreter.pop_mark,
        pickle.NONE: _constant(None),
        pickle.NEWTRUE: _constant(True),
        pickle.NEWFALSE: _constant(False),
        pickle.INT: Interpreter.integer,
        pickle.BININT: lambda on: on.push(on.number(_INT32)),
        pickle.BININT1: lambda on: on.push(on.number(_UINT8)),
        pickle.BININT2: lambda on: on.push(on.number(_UINT16)),
        pickle.LONG1: Interpreter.long,
        pickle.BINFLOAT: lambda on: on.push(on.number(_FLOAT64)),
        pickle.BINUNICODE: lambda on: on.text(_UINT32),
        pickle.SHORT_BINUNICODE: lambda on: on.text(_UINT8),
        pickle.BINUNICODE8: lambda on: on.text(_UINT64),
        # Python 2's text and bytes alike, so any byte may stand there.
        pickle.BINSTRING: lambda on: on.text(_INT32, "latin1"),
        pickle.SHORT_BINSTRING: lambda on: on.text(_UINT8, "latin1"),
        pickle.BINBYTES: lambda on: on.skip(_UINT32),
        pickle.SHORT_BINBYTES: lambda on: on.skip(_UINT8),
        pickle.BINBYTES8: lambda on: on.skip(_UINT64),
        pickle.BYTEARRAY8: lambda on: on.skip(_UINT64),
        pickle.EMPTY_LIST: lambda on: on.push([]),
        pickle.LIST: lambda on: on.push(on.pop_mark()),
        pickle.APPEND: lambda on: _append(on, [on.pop()]),
        pickle.APPENDS: lambda on: _append(on, on.pop_mark()),
        # Sets stand beside the tensors only: a list does, and is smaller.
        pickle.EMPTY_SET: lambda on: on.push([]),
        pickle.ADDITEMS: lambda on: _append(on, on.pop_mark()),
        pickle.FROZENSET: lambda on: on.push(on.pop_mark()),
        pickle.EMPTY_TUPLE: _constant(()),
        pickle.TUPLE: lambda on: on.push(tuple(on.pop_mark())),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.EMPTY_DICT: lambda on: on.push({}),
        pickle.DICT: _as_items,
        pickle.SETITEM: lambda on: on.items(on.pop_many(2)),
        pickle.SETITEMS: lambda on: on.items(on.pop_mark()),
        pickle.BINPUT: lambda on: on.put(on.number(_UINT8)),
        pickle.LONG_BINPUT: lambda on: on.put(on.number(_UINT32)),
        pickle.MEMOIZE: Interpreter.memoize,
        pickle.BINGET: lambda on: on.get(on.number(_UINT8)),
        pickle.LONG_BINGET: lambda on: on.get(on.number(_UINT32)),
        pickle.GLOBAL: lambda on: on.find_name(on.line(), on.line()),
        pickle.STACK_GLOBAL: lambda on: on.find_name(*on.pop_many(2)),
        pickle.REDUCE: lambda on: on.call(on.pop()),
        pickle.NEWOBJ: lambda on: on.call(on.pop()),
        pickle.NEWOBJ_EX: Interpreter.new,
        pickle.BUILD: Interpreter.build,
        pickle.BINPERSID: Interpreter.persistent,
    }.items()
}
