"""Restricted unpickler: an interpreter of the opcodes that data sets and weights need.

Follows the standard library's `pickletools`. Nothing is imported and no function named
by a file is called: each reader maps the names it allows to its own objects, among them
inert ones without behaviour, and every other name is refused. Time and memory are
bounded by the size of the file: opcodes are counted, each allocates at most a few
hundred bytes, lengths are checked before they are used, and results are never compared,
hashed, copied or printed in full.

Damaged bytes raise `pickle.UnpicklingError`; its subclass `UnsafePickle` marks requests
beyond data. The functions of a reader may raise other errors.
"""

import codecs
import pickle
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pickle import UnpicklingError
from types import FunctionType
from typing import Any, NamedTuple

# A tensor takes 35 opcodes and its optimizer state 35 more, so a weight file has at
# least 32 bytes per opcode, apart from small files, which may have 50,000 opcodes.
_MIN_OPCODES, _MAX_OPCODES, _BYTES_PER_OPCODE = 50_000, 500_000, 32
_MAX_KEY = 1024
_MAX_TEXT = 1 << 16  # bytes of one text
_MAX_TEXTS = 4 << 20  # bytes of all texts
_MAX_LINE = 256
_CHUNK = 1 << 16  # bytes searched at once for the end of a text line
_MAX_INTEGER = 32  # bytes, twice the size of NumPy's random states
_MAX_NAMES = 10_000  # Python's pickler writes each name once; others may repeat names


class UnsafePickle(UnpicklingError):
    """A pickle that requests more than data."""


class InertClass(NamedTuple):
    """Replaces a class or function beside the data. Calls of it give `Inert` objects.

    `name` is the dotted name in the file, never imported.
    """

    name: str


class Inert(dict):
    """Replaces an object of a class that is not data.

    Items that the pickle sets are kept, as in a subclass of dict; appended values are
    dropped. `held` has arguments and states of the object.
    """

    __slots__ = ("held", "origin")

    def __init__(self, origin: InertClass, arguments: Any):
        self.origin = origin
        self.held = [arguments]


@dataclass
class Unpickler:
    """Reads one pickle.

    Args:
      data: the file.
      find: (module, name) -> the object that replaces this name. If it is a plain
        function, the pickle may call it with one tuple of arguments; nothing else is
        called. An `InertClass` may be called too, which makes an `Inert` object.
      start: offset of the pickle.
      end: upper bound of its end; by default, the end of the file.
      load: persistent id -> object.
      build: (object, state) -> None, for objects other than dicts; the state of a dict
        is ignored.
      max_opcodes: by default, the limit of a weight file of this size.
      keep_bytes: return bytes, Python 2's text as bytes, and text of any length. By
        default bytes and long text become None: in weight files they are logs and
        settings.

    Attributes:
      at: offset of the next byte; after `run`, the end of the pickle.
      opcode_at: offset of the last opcode.
    """

    data: memoryview
    find: Callable[[str, str], Any]
    _: KW_ONLY
    start: int = 0
    end: int | None = None
    load: Callable[[Any], Any] | None = None
    build: Callable[[Any, Any], None] | None = None
    max_opcodes: int | None = None
    keep_bytes: bool = False

    def __post_init__(self):
        size = len(self.data)
        self.at = self.opcode_at = self.start
        self._end = size if self.end is None else self.end
        default = min(_MIN_OPCODES + size // _BYTES_PER_OPCODE, _MAX_OPCODES)
        self._max_opcodes = self.max_opcodes or default
        self._max_text = size if self.keep_bytes else _MAX_TEXT
        self._text_left = size if self.keep_bytes else _MAX_TEXTS
        self._names_left = _MAX_NAMES
        self._stack: list[Any] = []
        self._marks = [0]  # sizes of the stack; objects below the last are out of reach
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Returns the unpickled object."""
        for _ in range(self._max_opcodes):
            self.opcode_at = self.at
            code = bytes(self.take(1))
            if code == pickle.STOP:
                if len(self._stack) != 1 or len(self._marks) > 1:
                    raise UnpicklingError("the pickle does not end with one object")
                return self._stack[0]
            act = _OPCODES.get(code)
            if act is None:
                raise UnsafePickle(f"pickle opcode {code!r}, which data does not need")
            act(self)
        raise UnsafePickle(f"a pickle of over {self._max_opcodes:,} opcodes")

    def take(self, count: int) -> memoryview:
        """Returns the next `count` bytes."""
        left = self._end - self.at
        if not 0 <= count <= left:
            raise UnpicklingError(f"{count:,} bytes expected, {left:,} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        """Returns the next integer, of `size` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        """Returns the text up to the next newline."""
        limit = min(self.at + _MAX_LINE, self._end)
        text, newline, _ = bytes(self.data[self.at : limit]).partition(b"\n")
        if not newline or not text.isascii():
            raise UnpicklingError("a line that is no name or number")
        self.at += len(text) + 1
        return text.decode()

    def text_line(self) -> bytes:
        """Returns the bytes up to the next newline, up to the limit of a text."""
        start = self.at
        while self.at < self._end and self.at - start <= self._max_text:
            chunk = bytes(self.data[self.at : min(self.at + _CHUNK, self._end)])
            head, newline, _ = chunk.partition(b"\n")
            self.at += len(head) + len(newline)
            if newline:
                return bytes(self.data[start : self.at - 1])
        raise UnpicklingError("text without an end")

    def index(self) -> int:
        """Returns the decimal index of an object in the memo."""
        if not (line := self.line()).isdecimal() or len(line) > 10:
            raise UnpicklingError(f"the memo index {line[:60]!a}")
        return int(line)

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self.pop_many(1)[0]

    def pop_many(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < self._marks[-1]:
            raise UnpicklingError("takes from an empty stack")
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def top(self, kind: type = object) -> Any:
        """Returns the top of the stack without popping it; it must be of this type."""
        empty = len(self._stack) <= self._marks[-1]
        if empty or not isinstance(self._stack[-1], kind):
            raise UnpicklingError("changes an object that is missing")
        return self._stack[-1]

    def pop_mark(self) -> list[Any]:
        """Pops and returns all objects above the last mark."""
        if len(self._marks) == 1:
            raise UnpicklingError("pops to a mark that is missing")
        return self.pop_many(len(self._stack) - self._marks.pop())

    def pop_item(self) -> None:
        if len(self._marks) > 1 and len(self._stack) == self._marks[-1]:
            self.pop_mark()
        else:
            self.pop()

    def text(self, length: int, encoding: str = "utf-8") -> None:
        """Pushes text of `length` bytes."""
        self.push_text(self.take(length), encoding)

    def push_text(self, raw: bytes | memoryview, encoding: str) -> None:
        """Pushes text, as bytes if they are Python 2's; None beyond the limits."""
        self._text_left -= len(raw)
        if len(raw) > self._max_text or self._text_left < 0:
            self.push(None)
        elif encoding == "latin1" and self.keep_bytes:
            self.push(bytes(raw))
        else:
            errors = "surrogatepass" if encoding == "utf-8" else "strict"
            try:
                self.push(str(raw, encoding, errors))
            except UnicodeDecodeError:
                raise UnpicklingError("text that is not UTF-8") from None

    def string(self) -> None:
        """STRING: Python 2's text and bytes, quoted and escaped, in protocol 0."""
        line = self.text_line().strip()
        if len(line) < 2 or line[0] not in b"'\"" or line[-1] != line[0]:
            raise UnpicklingError("a string without quotes")
        try:
            with warnings.catch_warnings(action="ignore"):  # about unknown escapes
                raw, _ = codecs.escape_decode(line[1:-1])
        except ValueError:
            raise UnpicklingError("a string with a damaged escape") from None
        self.push_text(raw, "latin1")

    def decimal(self) -> None:
        """FLOAT, in protocol 0."""
        try:
            self.push(float(line := self.line()))
        except ValueError:
            raise UnpicklingError(f"the number {line[:60]!a}") from None

    def binary(self, length: int) -> None:
        """Pushes `length` bytes."""
        raw = self.take(length)
        self.push(bytes(raw) if self.keep_bytes else None)

    def put(self, index: int) -> None:
        self._memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise UnpicklingError(f"recalls object {index:,}, which is not in the memo")
        self.push(self._memo[index])

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.top(), Inert):
            self.top(list).extend(values)

    def items(self, values: list[Any]) -> None:
        """Adds [key, value, key, value, ...] to the dict on top of the stack."""
        target = self.top(dict)
        if len(values) % 2:
            raise UnpicklingError("a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            # Names and counters. Other keys, such as the classes in Lightning's state
            # of callbacks, name no tensor, and hashing them may be slow by design.
            if (type(key) is str and len(key) <= _MAX_KEY) or (
                type(key) is int and abs(key) < 1 << 63
            ):
                target[key] = value

    def as_dict(self) -> None:
        values = self.pop_mark()
        self.push({})
        self.items(values)

    def as_set(self) -> None:
        self.pop_mark()
        self.push({})

    def call(self, arguments: Any) -> None:
        function = self.pop()
        if isinstance(function, InertClass) and type(arguments) is tuple:
            self.push(Inert(function, arguments))
        elif type(function) is FunctionType and type(arguments) is tuple:
            self.push(function(arguments))
        else:
            raise UnsafePickle("calls something that is not a function")

    def new(self) -> None:
        """NEWOBJ_EX: class, arguments, keywords."""
        arguments, keywords = self.pop_many(2)
        inert = isinstance(self.top(), InertClass)
        if not isinstance(keywords, dict) or (keywords and not inert):
            raise UnsafePickle("makes an object with keywords")
        self.call(arguments)
        if keywords:
            self.top(Inert).held.append(keywords)

    def old_object(self) -> None:
        """OBJ: an instance of a class of Python 2."""
        kind, *arguments = self.pop_mark() or [None]
        self.push(kind)
        self.call(tuple(arguments))

    def set_state(self) -> None:
        """BUILD: sets the state of an object."""
        state = self.pop()
        if self.build and not isinstance(self.top(), dict):
            self.build(self.top(), state)
        elif isinstance(self.top(dict), Inert):
            self.top().held.append(state)

    def find_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnpicklingError("a name that is not text")
        self._names_left -= 1
        if self._names_left < 0:
            raise UnsafePickle(f"asks for over {_MAX_NAMES:,} names")
        self.push(self.find(module, name))

    def protocol(self) -> None:
        if (version := self.number(1)) > pickle.HIGHEST_PROTOCOL:
            raise UnpicklingError(f"pickle protocol {version}")

    def frame(self) -> None:
        if (length := self.number(8)) > self._end - self.at:
            raise UnpicklingError(f"a pickle frame of {length:,} bytes is cut short")

    def integer(self, suffix: str = "") -> None:
        line = self.line().removesuffix(suffix)
        if not re.fullmatch(r"-?[0-9]{1,20}", line):
            raise UnpicklingError(f"the number {line[:60]!a}")
        self.push({"00": False, "01": True}.get(line, int(line)))

    def long(self) -> None:
        if (length := self.number(1)) > _MAX_INTEGER:
            raise UnsafePickle(f"an integer of {length} bytes")
        self.push(self.number(length, signed=True))

    def persistent(self) -> None:
        if self.load is None:
            raise UnsafePickle("asks for an object outside the pickle")
        self.push(self.load(self.pop()))


_OPCODES: dict[bytes, Callable[[Unpickler], Any]] = {
    pickle.PROTO: Unpickler.protocol,
    pickle.FRAME: Unpickler.frame,
    pickle.MARK: lambda on: on._marks.append(len(on._stack)),
    pickle.POP: Unpickler.pop_item,
    pickle.POP_MARK: Unpickler.pop_mark,
    pickle.NONE: lambda on: on.push(None),
    pickle.NEWTRUE: lambda on: on.push(True),
    pickle.NEWFALSE: lambda on: on.push(False),
    pickle.INT: Unpickler.integer,
    pickle.BININT: lambda on: on.push(on.number(4, signed=True)),
    pickle.BININT1: lambda on: on.push(on.number(1)),
    pickle.BININT2: lambda on: on.push(on.number(2)),
    pickle.LONG: lambda on: on.integer("L"),
    pickle.LONG1: Unpickler.long,
    pickle.FLOAT: Unpickler.decimal,
    pickle.BINFLOAT: lambda on: on.push(struct.unpack(">d", on.take(8))[0]),
    pickle.BINUNICODE: lambda on: on.text(on.number(4)),
    pickle.SHORT_BINUNICODE: lambda on: on.text(on.number(1)),
    pickle.BINUNICODE8: lambda on: on.text(on.number(8)),
    pickle.UNICODE: lambda on: on.push_text(on.text_line(), "raw-unicode-escape"),
    # Both text and bytes of Python 2, so every byte is valid.
    pickle.STRING: Unpickler.string,
    pickle.BINSTRING: lambda on: on.text(on.number(4, signed=True), "latin1"),
    pickle.SHORT_BINSTRING: lambda on: on.text(on.number(1), "latin1"),
    pickle.BINBYTES: lambda on: on.binary(on.number(4)),
    pickle.SHORT_BINBYTES: lambda on: on.binary(on.number(1)),
    pickle.BINBYTES8: lambda on: on.binary(on.number(8)),
    pickle.BYTEARRAY8: lambda on: on.binary(on.number(8)),
    pickle.EMPTY_LIST: lambda on: on.push([]),
    pickle.LIST: lambda on: on.push(on.pop_mark()),
    pickle.APPEND: lambda on: on.extend([on.pop()]),
    pickle.APPENDS: lambda on: on.extend(on.pop_mark()),
    # Sets hold no data, and hashing may be slow by design: an empty dict replaces
    # them.
    pickle.EMPTY_SET: lambda on: on.push({}),
    pickle.ADDITEMS: Unpickler.pop_mark,
    pickle.FROZENSET: Unpickler.as_set,
    pickle.EMPTY_TUPLE: lambda on: on.push(()),
    pickle.TUPLE: lambda on: on.push(tuple(on.pop_mark())),
    pickle.TUPLE1: lambda on: on.push(tuple(on.pop_many(1))),
    pickle.TUPLE2: lambda on: on.push(tuple(on.pop_many(2))),
    pickle.TUPLE3: lambda on: on.push(tuple(on.pop_many(3))),
    pickle.EMPTY_DICT: lambda on: on.push({}),
    pickle.DICT: Unpickler.as_dict,
    pickle.SETITEM: lambda on: on.items(on.pop_many(2)),
    pickle.SETITEMS: lambda on: on.items(on.pop_mark()),
    pickle.PUT: lambda on: on.put(on.index()),
    pickle.BINPUT: lambda on: on.put(on.number(1)),
    pickle.LONG_BINPUT: lambda on: on.put(on.number(4)),
    pickle.MEMOIZE: lambda on: on.put(len(on._memo)),
    pickle.GET: lambda on: on.get(on.index()),
    pickle.BINGET: lambda on: on.get(on.number(1)),
    pickle.LONG_BINGET: lambda on: on.get(on.number(4)),
    pickle.GLOBAL: lambda on: on.find_name(on.line(), on.line()),
    pickle.STACK_GLOBAL: lambda on: on.find_name(*on.pop_many(2)),
    pickle.REDUCE: lambda on: on.call(on.pop()),
    pickle.NEWOBJ: lambda on: on.call(on.pop()),
    pickle.NEWOBJ_EX: Unpickler.new,
    pickle.OBJ: Unpickler.old_object,
    pickle.BUILD: Unpickler.set_state,
    pickle.BINPERSID: Unpickler.persistent,
}
