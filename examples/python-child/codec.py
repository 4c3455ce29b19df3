"""MessagePack, as much of it as a Millhand child needs: nil, booleans, integers, floats, text, bytes,
lists and maps. No extensions. What is read is not trusted: lengths are checked against what is there
before anything is made of them, and nesting is bounded."""

import struct

DEPTH = 64


class CodecError(ValueError):
    """These bytes, or this value, are not what this codec knows."""


def encode(value):
    """The value as bytes, each part in its shortest form."""
    out = bytearray()
    _write(out, value, DEPTH)
    return bytes(out)


def decode(data):
    """The one value that these bytes are."""
    reader = _Reader(data)
    value = reader.value(DEPTH)
    if reader.at != len(data):
        raise CodecError("bytes follow the value")
    return value


def _write(out, value, depth):
    if value is None:
        out.append(0xC0)
    elif value is True or value is False:
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _write_int(out, value)
    elif isinstance(value, float):
        out += b"\xcb" + struct.pack(">d", value)
    elif isinstance(value, str):
        text = value.encode("utf-8")
        _write_head(out, len(text), (0xA0, 31), 0xD9, 0xDA, 0xDB)
        out += text
    elif isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        _write_head(out, len(value), None, 0xC4, 0xC5, 0xC6)
        out += value
    elif isinstance(value, (list, tuple)):
        _check_depth(depth)
        _write_head(out, len(value), (0x90, 15), None, 0xDC, 0xDD)
        for item in value:
            _write(out, item, depth - 1)
    elif isinstance(value, dict):
        _check_depth(depth)
        _write_head(out, len(value), (0x80, 15), None, 0xDE, 0xDF)
        for key, item in value.items():
            _write(out, key, depth - 1)
            _write(out, item, depth - 1)
    else:
        raise CodecError(f"a value of type {type(value).__name__} cannot be written")


def _check_depth(depth):
    if depth == 0:
        raise CodecError(f"values nest deeper than {DEPTH}")


def _write_head(out, length, fixed, one, two, four):
    if fixed and length <= fixed[1]:
        out.append(fixed[0] | length)
    elif one and length <= 0xFF:
        out += bytes((one, length))
    elif length <= 0xFFFF:
        out += struct.pack(">BH", two, length)
    elif length <= 0xFFFFFFFF:
        out += struct.pack(">BI", four, length)
    else:
        raise CodecError("the value is too long")


def _write_int(out, value):
    if 0 <= value < 0x80 or -0x20 <= value < 0:
        out.append(value & 0xFF)
        return
    forms = "\xccB\xcdH\xceI\xcfQ" if value >= 0 else "\xd0b\xd1h\xd2i\xd3q"
    for head, form in zip(forms[::2], forms[1::2]):
        try:
            out += struct.pack(">B" + form, ord(head), value)
            return
        except struct.error:
            continue
    raise CodecError("the number is too big")


# How integers and floats are read, by their first byte.
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
# Bytes of the length, by the first byte.
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


class _Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        end = self.at + count
        if end > len(self.data):
            raise CodecError("the value is cut off")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def length(self, size):
        return int.from_bytes(self.take(size), "big")

    def text(self, length):
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise CodecError("text is not UTF-8") from None

    def items(self, length, depth):
        _check_depth(depth)
        # Each takes a byte at least: a length that lies costs nothing.
        if length > len(self.data) - self.at:
            raise CodecError("the value is cut off")
        return [self.value(depth - 1) for _ in range(length)]

    def map(self, length, depth):
        parts = self.items(2 * length, depth)
        try:
            return dict(zip(parts[::2], parts[1::2]))
        except TypeError:
            raise CodecError("a key is a list or a map") from None

    def value(self, depth):
        head = self.take(1)[0]
        if head < 0x80:
            return head
        if head >= 0xE0:
            return head - 0x100
        if head < 0x90:
            return self.map(head & 15, depth)
        if head < 0xA0:
            return self.items(head & 15, depth)
        if head < 0xC0:
            return self.text(head & 31)
        if head in _NUMBERS:
            form = _NUMBERS[head]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if head in _TEXT:
            return self.text(self.length(_TEXT[head]))
        if head in _BYTES:
            return bytes(self.take(self.length(_BYTES[head])))
        if head in _LISTS:
            return self.items(self.length(_LISTS[head]), depth)
        if head in _MAPS:
            return self.map(self.length(_MAPS[head]), depth)
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        raise CodecError(f"byte 0x{head:02x} begins no value")
